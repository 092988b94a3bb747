"""What replicas say to each other, byte for byte where an original listens.

C1 to CE4 are the recordings of WIRE, "Between replicas".
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from clinfra.blob.peers import HOP
from clinfra.blob.stamps import stamp_at
from clinfra.web.heads import Field
from clinfra.web.pool import Origin, Pool
from tests.blob.support import NOW
from tests.blob.test_faults_cluster import ClusterFaultCase
from tests.sim.cluster import CLIENT, Answer, Cluster, Host
from tests.sim.original import Original

T = stamp_at(NOW)
LATER = stamp_at(NOW + 60)


class WireCase(ClusterFaultCase):
    """A cluster, and clients that send fields of their own."""

    def start(self, *layout: list[int], **config: Any) -> list[Host]:
        """Start a cluster; return its replicas."""
        hosts = super().start(*layout, **config)
        self.addCleanup(self.cluster.close)
        return hosts

    def ask(
        self,
        host: Host,
        method: str,
        target: str | bytes,
        body: bytes | None = None,
        *fields: Field,
        source: str = CLIENT,
    ) -> Answer:
        """Send a request from some address; return the answer."""
        clock, network = self.cluster.clock, self.cluster.network
        pool = Pool(clock, None, network.connector(source))
        raw = target if isinstance(target, bytes) else target.encode()

        async def ask() -> Answer:
            response = await pool.request(
                Origin(host.ip, 80), method.encode(), raw, fields, body
            )
            told = {name.lower(): value for name, value in response.head.fields}
            whole = await response.read_all(1 << 24)
            return Answer(response.head.status, whole, told)

        answer: Answer = self.cluster.finish(Deferred.fromCoroutine(ask()))
        pool.close()
        return answer


def fields_of(request: bytes) -> dict[bytes, bytes]:
    """Return the header fields of a request."""
    lines = request.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]
    pairs = [line.partition(b": ") for line in lines]
    return {name: value for name, _, value in pairs}


class SentTests(WireCase):
    """To an original peer, and to an original in another cluster."""

    def setUp(self) -> None:
        self.first, peer, other = self.start([2], [1])
        self.peer, self.other = self.original(peer), self.original(other)
        # The first contact finds out what they are; then it is seen what they have.
        self.put(self.first, "/first")
        self.cluster.run(10)

    def sent(self, method: str, target: str, body: bytes | None = None) -> list[bytes]:
        """Ask the first replica; return the lines the peer and the other got."""
        for original in (self.peer, self.other):
            original.asked.clear()
        answer = self.ask(self.first, method, target, body)
        self.assertEqual(200, answer.status, answer.body)
        self.cluster.run(5)
        return self.peer.changes() + self.other.changes()

    def test_c1(self) -> None:
        """C1: a PUT goes to the peer and to the other cluster."""
        sent = self.sent("PUT", f"/L-basic-0?modified={T}", b"hello")
        state = f"modified={T}&deleted=0&modified_deleted={T}"
        self.assertEqual(
            [
                f"PUT /00000_L-basic-0?{state}&replicate={far}&encoded=True HTTP/1.1"
                for far in ("replica", "cluster")
            ],
            [line.decode() for line in sent],
        )
        (request,) = self.peer.asked
        self.assertTrue(request.endswith(b"\r\n\r\nhello"))
        fields = fields_of(request)
        self.assertEqual(b"10.0.0.1:80", fields[b"Host"])
        self.assertEqual(b"5", fields[b"Content-Length"])
        self.assertNotIn(b"Transfer-Encoding", fields)

    def test_c2(self) -> None:
        """C2, CE3: a DELETE has only the end, and no body."""
        self.sent("PUT", "/a", b"x")
        sent = self.sent("DELETE", f"/00000_a?deleted=7&modified_deleted={LATER}")
        told = f"deleted=7&modified_deleted={LATER}"
        self.assertEqual(
            [
                f"DELETE /00000_a?{told}&replicate={far} HTTP/1.1"
                for far in ("replica", "cluster")
            ],
            [line.decode() for line in sent],
        )
        self.assertTrue(self.peer.asked[0].endswith(b"\r\n\r\n"))

    def test_c6_c7(self) -> None:
        """C6, C7: large and empty bodies have their length, and are whole."""
        for body in (b"", bytes(range(256)) * 800):
            self.sent("PUT", "/a", body)
            (request,) = self.peer.asked
            length = fields_of(request)[b"Content-Length"]
            self.assertEqual(b"%d" % len(body), length)
            self.assertEqual(body, request.partition(b"\r\n\r\n")[2])

    def test_c8_c9(self) -> None:
        """C8, C9: names travel as raw UTF-8, and escaped where raw would harm."""
        for given, line in (
            ("u%C3%BC", "uü"),
            ("que%3Fst", "que%3Fst"),
            ("a%20b", "a%20b"),
            ("per%25cent", "per%25cent"),
            ("%23", "%23"),
        ):
            sent = self.sent("PUT", f"/{given}", b"x")
            self.assertEqual(2, len(sent))
            for each in sent:
                self.assertTrue(each.startswith(f"PUT /00000_{line}?".encode()), each)

    def test_c10_c11(self) -> None:
        """C10, C11: replicate=cluster goes to peers only, other words go nowhere."""
        for word, peers in (("replica", 0), ("", 0), ("odd", 0), ("cluster", 1)):
            sent = self.sent("PUT", f"/a?replicate={word}", b"x")
            self.assertEqual(peers, len(sent), word)
            for line in sent:
                self.assertIn(b"&replicate=replica&", line)

    def test_c13(self) -> None:
        """C13, C13b: what loses is not sent; what wins only its end goes as DELETE."""
        self.sent("PUT", f"/a?modified={T}", b"x")
        for line in self.sent("PUT", "/a?modified=5", b"y"):
            # At most what won goes once more, to be sure of its copies.
            self.assertIn(b"?modified=%d&" % T, line)
        query = f"modified=5&deleted=9&modified_deleted={LATER}"
        told = f"deleted=9&modified_deleted={LATER}"
        self.assertEqual(
            [
                f"DELETE /00000_a?{told}&replicate={far} HTTP/1.1"
                for far in ("replica", "cluster")
            ],
            [line.decode() for line in self.sent("PUT", f"/a?{query}", b"y")],
        )

    def test_nothing_else(self) -> None:
        """An original is asked for nothing that it does not know, but its status."""
        self.sent("PUT", "/a", b"x")
        self.sent("DELETE", "/00000_a")
        for original in (self.peer, self.other):
            original.asked.clear()
        self.cluster.run(2000)
        for original in (self.peer, self.other):
            lines = {request.partition(b" HTTP")[0] for request in original.asked}
            self.assertLessEqual(lines, {b"GET /_status"})

    def test_not_a_hair_sent_twice(self) -> None:
        """What an original has acknowledged is not sent again."""
        self.sent("PUT", "/a", b"x")
        self.cluster.run(600)
        self.assertEqual(1, len(self.peer.changes()))


class ForwardedTests(WireCase):
    """To an original that is in charge of a name."""

    def setUp(self) -> None:
        self.first, owner = self.start([1, 1])
        self.owner = self.original(owner)
        self.cluster.run(5)

    def lines(self) -> list[str]:
        """Return the first lines it got, names only once."""
        lines = [request.partition(b"\r\n")[0].decode() for request in self.owner.asked]
        return [line for line in lines if "_status" not in line]

    def test_put(self) -> None:
        """CE2: stamps and end are fixed by whoever is asked first."""
        answer = self.ask(self.first, "PUT", "/001_R?encoded=1&ttl=60", b"hello")
        self.assertEqual(200, answer.status, answer.body)
        (line,) = self.lines()
        matched = re.fullmatch(
            r"PUT /001_R\?modified=(\d+)&deleted=(\d+)&modified_deleted=(\d+)"
            r"&replicate=all&encoded=True HTTP/1\.1",
            line,
        )
        assert matched is not None, line
        self.assertEqual(matched[1], matched[3])
        self.assertLessEqual(abs(int(matched[2]) - NOW - 60), 10)
        self.assertEqual(b"hello", self.owner.blobs["001_R"][3])
        request = self.owner.asked[-1]
        self.assertEqual(b"5", fields_of(request)[b"Content-Length"])

    def test_get(self) -> None:
        """C4: GET asks for data or info, and gets what is there."""
        self.owner.blobs["001_R"] = T, 0, T, b"hello"
        got = self.ask(self.first, "GET", "/001_R")
        self.assertEqual((200, b"hello"), (got.status, got.body))
        told = self.ask(self.first, "GET", "/001_R?response=info").told
        self.assertEqual(T, told["modified"])
        self.assertEqual(
            [
                "GET /001_R?response=data HTTP/1.1",
                "GET /001_R?response=info HTTP/1.1",
            ],
            self.lines(),
        )
        self.assertEqual(404, self.ask(self.first, "GET", "/001_no").status)

    def test_delete(self) -> None:
        """C5: DELETE likewise."""
        self.owner.blobs["001_R"] = 5, 0, 5, b"hello"
        self.assertEqual(200, self.ask(self.first, "DELETE", "/001_R").status)
        (line,) = self.lines()
        self.assertRegex(
            line,
            r"DELETE /001_R\?deleted=\d+&modified_deleted=\d+&replicate=all HTTP",
        )

    def test_words_of_replicate(self) -> None:
        """Whatever a client writes for replicate, the line stays a line."""
        for word in ("%0D%0AX:%20y", "é", "cluster", "replica", "a=b"):
            target = f"/001_w?encoded=1&replicate={word}".encode()
            answer = self.ask(self.first, "PUT", target, b"x")
            self.assertEqual(200, answer.status, (word, answer.body))
        for request in self.owner.asked:
            self.assertNotIn(b"X", fields_of(request))


class UnescapedTests(WireCase):
    """Names that an original cannot send on: it would try for ever (fault 32).

    Seen with a real one between two of ours: after two such names it sent its peers
    nothing any more.
    """

    NAMES = ("sp%20ace", "que%3Fst", "per%25cent", "ha%23sh", "%C3%BC")

    def sent_to(self, original: Original) -> list[str]:
        """Return the first lines of what an original was told to keep."""
        return [line.decode() for line in original.changes()]

    def test_ours_in_the_other_cluster(self) -> None:
        """They go to one of ours, which sends them on escaped, and no further."""
        first, host, _ = self.start([1], [2])
        original = self.original(host)
        self.put(first, "/first")
        self.cluster.run(5)
        original.asked.clear()
        for n in range(5):
            for name in self.NAMES:
                self.put(first, f"/{name}{n}")
        self.cluster.run(30)
        lines = self.sent_to(original)
        self.assertEqual(25, len(set(original.blobs)) - 1)
        for line in lines:
            self.assertIn("&replicate=replica&", line)

    def test_originals_only(self) -> None:
        """Where there are only originals each of them gets it from us."""
        first, *hosts = self.start([1], [2])
        originals = [self.original(host) for host in hosts]
        self.put(first, "/first")
        self.cluster.run(5)
        for name in self.NAMES:
            self.put(first, f"/{name}?modified={T}")
        self.cluster.run(30)
        for original in originals:
            lines = [line for line in self.sent_to(original) if "first" not in line]
            state = f"modified={T}&deleted=0&modified_deleted={T}"
            rest = f"?{state}&replicate=replica&encoded=True HTTP/1.1"
            names = (*self.NAMES[:-1], "ü")
            self.assertEqual({f"PUT /00000_{name}{rest}" for name in names}, set(lines))

    def test_forwarded(self) -> None:
        """A change for another bucket goes to one of ours there."""
        first, host, _ = self.start([1, 2])
        original = self.original(host)
        self.cluster.run(5)
        for n in range(30):
            self.put(first, f"/001_sp%20ace{n}?encoded=1")
        self.cluster.run(5)
        lines = self.sent_to(original)
        self.assertEqual(30, len(lines))
        for line in lines:
            self.assertIn("&replicate=replica&", line)


class ReceivedTests(WireCase):
    """From originals: their very bytes."""

    def test_c1(self) -> None:
        """C1: an original's PUT is kept, answered in its words, and fans out."""
        first, second, other = self.start([2], [1])
        self.cluster.run(1)
        query = f"modified={T}&deleted=0&modified_deleted={T}"
        identity = (b"Accept-Encoding", b"identity")
        for name, far in (("a", "replica"), ("b", "cluster")):
            target = f"/00000_{name}ü?{query}&replicate={far}&encoded=True".encode()
            answer = self.ask(first, "PUT", target, b"hello", identity)
            self.assertEqual(200, answer.status, answer.body)
            five = {
                "name": f"00000_{name}ü",
                "modified": T,
                "deleted": 0,
                "modified_deleted": T,
                "buckets": {"0": 0, "1": 0},
            }
            self.assertEqual(five, {key: answer.told[key] for key in five})
        # Before they compare for the first time.
        self.cluster.run(2)
        self.assertEqual({"00000_bü"}, set(second.rows()))
        self.assertEqual({}, other.rows())

    def test_list(self) -> None:
        """The list an original syncs from, with the parameters it sends."""
        first, _ = self.start([2])
        self.put(first, f"/a?modified={T}")
        asked = "/_list/c0b0r0?checksum=True&checksum_modulo=86400"
        windows: Any = self.ask(first, "GET", asked).told
        size = 86400 << 32
        start = T // size * size
        self.assertEqual([start, start + size, 1], windows[0][:3])
        query = f"modified_start={T}&modified_stop={T + 1}&checksum=False"
        rows = self.ask(first, "GET", f"/_list/c0b0r0?{query}").told
        self.assertEqual([["000_a", T, 0, T]], rows)

    def test_sync_from_original(self) -> None:
        """Sync asks for windows, lists, and blobs; and then is equal."""
        first, peer = self.start([2])
        original = self.original(peer)
        for n in range(5):
            name, stamp = f"000_{n}", T - n * (86400 << 32)
            original.blobs[name] = stamp, 0, stamp, b"%d" % n
        for _ in range(2):
            original.asked.clear()
            self.ask(first, "POST", "/_sync?source=c0b0r1", b"", source="127.0.0.1")
            self.cluster.run(20)
        self.assertEqual(set(original.blobs), set(first.rows()))
        status = self.ask(first, "GET", "/_status").told["sync_status"]
        self.assertEqual("synced  c0b0r1:skipped=5", status)
        lines = [line.partition(b" HTTP")[0] for line in original.asked]
        listed = b"GET /_list/c0b0r1?checksum=True&checksum_modulo=86400"
        self.assertEqual([listed], [line for line in lines if b"_status" not in line])

    def test_status_texts(self) -> None:
        """Texts begin as the original's console expects them."""
        (first,) = self.start([1])
        self.cluster.run(5)
        told = self.ask(first, "GET", "/_status").told
        for key, known in (
            ("buffer_status", r"start delay|buffered|get_|failed \("),
            ("purge_status", r"start delay|purged|get_expired|delete|failed \("),
            ("sync_status", r"start delay|synced|failed \("),
            ("logstatus_status", r"start delay|logged|failed \("),
        ):
            self.assertRegex(told[key], f"^({known})", key)


class StrangerTests(WireCase):
    """What only replicas may ask, asked by others."""

    def test_replicate(self) -> None:
        """Batches are taken from replicas' addresses only, and not by proxy."""
        first, second = self.start([2])
        via = (b"Via", b"1.1 proxy")
        page = (b"Origin", b"http://evil.example")
        for source, fields, status in (
            (CLIENT, (), 403),
            ("127.0.0.1", (via,), 403),
            (second.ip, (via,), 403),
            ("127.0.0.1", (page,), 403),
            ("127.0.0.1", ((b"Sec-Fetch-Site", b"cross-site"),), 403),
            (second.ip, (), 400),
        ):
            for body in (b"garbage", b"\0" * 5000):
                answer = self.ask(
                    first, "POST", "/_replicate", body, *fields, source=source
                )
                self.assertEqual(status, answer.status, (source, fields))
        got = self.ask(first, "GET", "/_replicate", source=second.ip)
        self.assertEqual(405, got.status)
        big = self.ask(first, "POST", "/_replicate", bytes(5 << 20), source=second.ip)
        self.assertIn(big.status, (400, 413))
        self.assertEqual({}, first.rows())

    def test_tree(self) -> None:
        """Trees are not told through a proxy; bad questions are refused."""
        first, second = self.start([2])
        self.cluster.run(30)
        via = self.ask(first, "GET", "/_tree", None, (b"Via", b"1.1 proxy"))
        self.assertEqual(403, via.status)
        for query in (
            *("branch=256", "branch=-1", "branch=x", "first=0", "first=5&last=99999"),
            *("first=-1&last=2", "place=9:9", "place=a", "place=0", "branch"),
        ):
            answer = self.ask(first, "GET", f"/_tree?{query}", source=second.ip)
            self.assertEqual(400, answer.status, (query, answer.body))
        self.assertEqual(200, self.ask(first, "GET", "/_tree?first=9&last=3").status)

    def test_hop(self) -> None:
        """What was passed on once is not passed on again."""
        first, second = self.start([1, 1])
        for method in ("GET", "PUT", "DELETE"):
            body = b"x" if method == "PUT" else None
            target = "/001_a?encoded=1" if body else "/001_a"
            answer = self.ask(first, method, target, body, HOP)
            self.assertEqual(421, answer.status, method)
        self.assertEqual({}, second.rows())

    def test_another_configuration(self) -> None:
        """Replicas that disagree on who keeps what do not go round in circles."""
        first, second = self.start([1, 1])
        file = self.cluster._file
        text = file.read_text()
        swapped = text.replace("c0b0r0", "?").replace("c0b1r0", "c0b0r0")
        swapped = swapped.replace("?", "c0b1r0")
        told = json.loads(swapped)
        # The buckets are swapped, not the addresses.
        told["clblob"]["client"]["replicas"] = json.loads(text)["clblob"]["client"][
            "replicas"
        ]
        file.write_text(json.dumps(told))
        self.cluster.crash(second)
        self.cluster.start(second)
        before = self.cluster.clock.seconds()
        put = self.ask(first, "PUT", "/001_a?encoded=1", b"x")
        # Kept where it was put, until the two agree.
        self.assertEqual(b"1", put.fields[b"x-clblob-handoff"])
        for host in (first, second):
            got = self.ask(host, "GET", "/001_a")
            self.assertEqual((200, b"x"), (got.status, got.body))
            self.assertEqual(503, self.ask(host, "GET", "/001_b").status)
        self.assertLess(self.cluster.clock.seconds() - before, 5)
        self.assertEqual({}, first.rows() | second.rows())
        file.write_text(text)
        self.cluster.crash(second)
        self.cluster.start(second)
        self.cluster.run(60)
        self.assertEqual({"001_a"}, set(second.rows()))


class _Garbler(Protocol):
    """Answers whatever comes with the same bytes."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(self._said)


class _Garbage(Factory):
    """A peer that says always the same."""

    def __init__(self, said: bytes) -> None:
        self._said = said

    def buildProtocol(self, addr: object) -> Protocol:
        """Answer one more connection."""
        return _Garbler(self._said)


def ok(body: bytes) -> bytes:
    """Return a whole answer of status 200."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d"
    return head % len(body) + b"\r\n\r\n" + body


class GarbageTests(WireCase):
    """Peers gone mad."""

    def garbled(self, said: bytes) -> tuple[Host, Callable[[], None]]:
        """Start a pair of which one says always the same; return the other."""
        self.cluster = Cluster(([2], [1]))
        first, second, other = self.cluster.hosts.values()
        for host in (second, other):
            self.cluster.crash(host)
            self.cluster.network.listeners[Origin(host.ip, 80)] = _Garbage(said)
        return first, self.cluster.close

    def test_garbage(self) -> None:
        """Whatever peers answer, clients are answered, and all is well later."""
        deep = b"[" * 100_000
        ours = b'{"features":["clinfra-1"]'
        for said in (
            b"\0\xff" * 1000,
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 999 ?\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 204 No\r\n\r\n",
            b"HTTP/1.1 302 F\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx",
            ok(b""),
            ok(b"null"),
            ok(deep),
            ok(b'{"features":' + deep),
            ok(ours + b"}"),
            ok(ours + b',"rows":[[1,2]],"next":1e999}'),
            ok(ours + b',"name":3,"modified":"x","deleted":[],"buckets":9}'),
            ok(ours + b',"modified":null,"deleted":0,"modified_deleted":0,"name":"a",'
               b'"buckets":{"0":0}}'),
            ok(b"\0" * 4096),
        ):  # fmt: skip
            first, close = self.garbled(said)
            before = self.cluster.clock.seconds()
            put = self.ask(first, "PUT", "/a", b"hello")
            self.assertEqual(200, put.status, said[:60])
            name = put.told["name"]
            self.assertEqual(b"hello", self.ask(first, "GET", f"/{name}").body)
            self.cluster.get(first, "/00000_no")
            self.assertLess(self.cluster.clock.seconds() - before, 65, said[:60])
            self.ask(first, "POST", "/_sync", b"", source="127.0.0.1")
            self.cluster.run(700)
            for host in list(self.cluster.hosts.values())[1:]:
                self.cluster.network.crash(host.ip)
                self.cluster.start(host)
            hosts = list(self.cluster.hosts.values())
            for _ in range(30):
                self.cluster.run(300)
                if all(name in host.rows() for host in hosts):
                    break
            else:
                self.fail(f"not everybody has it, after {said[:60]!r}")
            close()
            self.flushLoggedErrors()


del ClusterFaultCase

"""Any server answers for any name: forwarding, falling back, healing."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob import topology
from clinfra.blob.peers import HOP
from clinfra.blob.router_service import RouterService
from clinfra.config import BlobConfig
from clinfra.errors import NotFound
from clinfra.web.exchange import IExchange, Response
from clinfra.web.heads import Fields, RequestHead
from clinfra.web.pool import Origin, Pool
from clinfra.web.resource import Resource
from clinfra.web.site import Site
from tests.blob.support import LIMITS
from tests.sim.cluster import Answer, Cluster, Host, cluster_file

LARGE = random.Random(5).randbytes((3 << 20) + 17)


class Chunks:
    """A body of unknown length."""

    length = None

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [*pieces, b""]

    async def read(self) -> bytes:
        """Return the next piece."""
        return self._pieces.pop(0)


class RouterCase(SynchronousTestCase):
    """Two clusters: of two buckets of two, and of one bucket of two."""

    def setUp(self) -> None:
        self.cluster = Cluster([[2, 2], [2]])
        self.addCleanup(self.cluster.close)
        self.pool = Pool(
            self.cluster.clock, connect=self.cluster.network.connector("192.0.2.9")
        )
        self.addCleanup(self.pool.close)
        self.first = self.cluster.hosts["c0b0r0"]

    def ask(
        self,
        host: Host | str,
        method: str,
        target: str,
        body: Any = None,
        fields: Fields = (),
    ) -> Answer:
        """Ask as a client with fields of its own."""

        async def ask() -> Answer:
            ip = host if isinstance(host, str) else host.ip
            response = await self.pool.request(
                Origin(ip, 80), method.encode(), target.encode(), fields, body
            )
            whole = await response.read_all(1 << 24)
            told = {name.lower(): value for name, value in response.head.fields}
            return Answer(response.head.status, whole, told)

        found: Answer = self.cluster.finish(Deferred.fromCoroutine(ask()))
        return found

    def elsewhere(self, count: int = 1) -> list[str]:
        """Return plain names that do not live where `self.first` is."""
        place = self.cluster.topology.place
        wanted = []
        for n in range(1000):
            if place(f"n{n}.txt", encoded=False).buckets[0] == 1:
                wanted.append(f"n{n}.txt")
        return wanted[:count]

    def keepers(self, stored: str) -> list[Host]:
        """Return those of our own cluster that keep a name."""
        return self.cluster.keepers(stored)[:2]


class ForwardTests(RouterCase):
    """Requests for names of another bucket of the cluster."""

    def test_whole_life(self) -> None:
        """PUT, GET, info, HEAD and DELETE work through a server not in charge."""
        (name,) = self.elsewhere()
        put = self.ask(self.first, "PUT", f"/{name}?ttl=50", b"hello")
        stored = put.told["name"]

        self.assertEqual(200, put.status)
        self.assertEqual(b"2/2", put.fields[b"X-Clblob-Copies".lower()])
        self.assertNotIn(stored, self.first.rows())
        for host in self.keepers(stored):
            self.assertIn(stored, host.rows())
        self.assertEqual(put.told["deleted"], int(self.cluster.clock.seconds()) + 50)
        got = self.ask(self.first, "GET", f"/{stored}")
        self.assertEqual((200, b"hello"), (got.status, got.body))
        self.assertEqual(b"text/plain", got.fields[b"content-type"])
        self.assertEqual(b"nosniff", got.fields[b"x-content-type-options"])
        info = self.ask(self.first, "GET", f"/{stored}?response=info")
        self.assertEqual(put.told["modified"], info.told["modified"])
        head = self.ask(self.first, "HEAD", f"/{stored}")
        self.assertEqual((200, b""), (head.status, head.body))
        self.assertEqual(b"5", head.fields[b"content-length"])
        self.assertEqual(200, self.ask(self.first, "DELETE", f"/{stored}").status)
        self.assertEqual(404, self.ask(self.first, "GET", f"/{stored}").status)

    def test_ranges_and_conditions(self) -> None:
        """Ranges and conditions mean the same through any server."""
        (name,) = self.elsewhere()
        stored = self.ask(self.first, "PUT", f"/{name}", b"0123456789").told["name"]
        part = self.ask(
            self.first, "GET", f"/{stored}", fields=((b"Range", b"bytes=2-4"),)
        )
        self.assertEqual((206, b"234"), (part.status, part.body))
        etag = part.fields[b"etag"]
        same = self.ask(
            self.first, "GET", f"/{stored}", fields=((b"If-None-Match", etag),)
        )
        self.assertEqual(304, same.status)
        kept = self.ask(
            self.first, "PUT", f"/{name}", b"x", ((b"If-None-Match", b"*"),)
        )
        self.assertEqual(412, kept.status)

    def test_large_and_chunked(self) -> None:
        """Large and length-less bodies arrive whole, as do empty ones."""
        names = self.elsewhere(3)
        bodies: list[tuple[Any, bytes]] = [
            (LARGE, LARGE),
            (Chunks(LARGE[:99], LARGE[99:]), LARGE),
            (Chunks(), b""),
        ]
        for name, (sent, whole) in zip(names, bodies, strict=True):
            put = self.ask(self.first, "PUT", f"/{name}", sent)
            self.assertEqual(200, put.status, put.body)
            got = self.ask(self.first, "GET", f"/{put.told['name']}")
            self.assertEqual(whole, got.body)

    def test_digest(self) -> None:
        """A body that is not what was announced is refused, and kept nowhere."""
        (name,) = self.elsewhere()
        wrong = ((b"Content-MD5", b"1B2M2Y8AsgTpgAmY7PhCfg=="),)
        put = self.ask(self.first, "PUT", f"/{name}", b"hello", wrong)
        self.assertEqual(400, put.status)
        self.cluster.run(1)
        self.assertFalse(any(host.rows() for host in self.cluster.hosts.values()))

    def test_one_dead(self) -> None:
        """With one keeper dead, reads and writes go through the other."""
        names = self.elsewhere(20)
        stored = [
            self.ask(self.first, "PUT", f"/{n}", b"a").told["name"] for n in names
        ]
        self.cluster.crash(self.cluster.hosts["c0b1r0"])
        for name, each in zip(names, stored, strict=True):
            self.assertEqual(b"a", self.ask(self.first, "GET", f"/{each}").body)
            put = self.ask(self.first, "PUT", f"/{name}", LARGE[:70_000])
            self.assertEqual(200, put.status)
            got = self.ask(self.first, "GET", f"/{each}")
            self.assertEqual(LARGE[:70_000], got.body)
            self.cluster.run(1)
        self.assertFalse(self.first_health("c0b1r0"))

    def first_health(self, name: str) -> bool:
        assert self.first.service is not None
        return self.first.service.peers.health.is_up(name)

    def test_bucket_dead(self) -> None:
        """With every keeper of our cluster dead, the other cluster serves and keeps."""
        name, other = self.elsewhere(2)
        stored = self.ask(self.first, "PUT", f"/{name}", b"a").told["name"]
        self.cluster.run(5)
        dead = self.keepers(stored)
        for host in dead:
            self.cluster.crash(host)
        self.assertEqual(b"a", self.ask(self.first, "GET", f"/{stored}").body)
        put = self.ask(self.first, "PUT", f"/{other}", b"later")
        self.assertEqual(200, put.status)
        for host in dead:
            self.cluster.start(host)
        self.cluster.run(90)
        for host in dead:
            got = self.ask(host, "GET", f"/{put.told['name']}", fields=(HOP,))
            self.assertEqual(b"later", got.body)

    def test_all_dead(self) -> None:
        """With nobody to ask, the answer is 503, not that there is nothing."""
        (name,) = self.elsewhere()
        stored = self.ask(self.first, "PUT", f"/{name}", b"a").told["name"]
        for host in self.cluster.keepers(stored):
            self.cluster.crash(host)
        for method in ("GET", "PUT", "DELETE"):
            target = f"/{stored}"
            if method == "PUT":
                target += "?encoded=true"
            if method != "GET":
                target += "&require" if "?" in target else "?require"
            answer = self.ask(
                self.first, method, target, b"b" if method == "PUT" else None
            )
            self.assertEqual(503, answer.status, method)
            self.assertIn(b"retry-after", answer.fields)

    def test_handed_off(self) -> None:
        """With nobody to take it a write is kept, and delivered when somebody is."""
        first, second, third = self.elsewhere(3)
        old = self.ask(self.first, "PUT", f"/{third}", b"old").told["name"]
        self.cluster.run(5)
        away = self.cluster.keepers(old)
        for host in away:
            self.cluster.crash(host)
        small = self.ask(self.first, "PUT", f"/{first}?ttl=500", b"small")
        large = self.ask(self.first, "PUT", f"/{second}", LARGE)
        gone = self.ask(self.first, "DELETE", f"/{old}")
        self.assertEqual([200] * 3, [each.status for each in (small, large, gone)])
        self.assertEqual(b"0/2", small.fields[b"x-clblob-copies"])
        self.assertEqual(b"1", small.fields[b"x-clblob-handoff"])
        self.cluster.run(30)
        for host in away:
            self.cluster.start(host)
        self.cluster.run(60)
        for host in away:
            got = self.ask(host, "GET", f"/{small.told['name']}", fields=(HOP,))
            self.assertEqual((200, b"small"), (got.status, got.body))
            row = host.rows()[small.told["name"]]
            self.assertEqual(small.told["deleted"], row.expiry.deleted)
            got = self.ask(host, "GET", f"/{large.told['name']}", fields=(HOP,))
            self.assertEqual(LARGE, got.body)
            self.assertEqual(404, self.ask(host, "GET", f"/{old}").status)
        assert self.first.service is not None
        told = self.first.service.report()["handoff"]
        self.assertEqual((0, 3), (told["waiting"], told["delivered"]))

    def test_nowhere(self) -> None:
        """What nobody has is 404, also when one keeper cannot say."""
        self.cluster.run(2)
        (name,) = self.elsewhere()
        stored = self.cluster.topology.place(name, encoded=False).stored
        self.assertEqual(404, self.ask(self.first, "GET", f"/{stored}").status)
        self.cluster.crash(self.keepers(stored)[0])
        self.assertEqual(404, self.ask(self.first, "GET", f"/{stored}").status)
        self.assertTrue(self.first_health("c0b1r1"))

    def test_slow_clock(self) -> None:
        """A PUT through a server whose clock is behind wins all the same."""
        (name,) = self.elsewhere()
        self.ask(self.cluster.hosts["c0b1r0"], "PUT", f"/{name}", b"old")
        self.first.offset = -120.0
        put = self.ask(self.first, "PUT", f"/{name}", b"new")
        stored = put.told["name"]
        self.assertEqual(b"new", self.ask(self.first, "GET", f"/{stored}").body)
        self.assertEqual(200, self.ask(self.first, "DELETE", f"/{stored}").status)
        self.assertEqual(404, self.ask(self.first, "GET", f"/{stored}").status)

    def test_cut_off_keeper(self) -> None:
        """A keeper that says nothing delays a read by a moment, not by its time-out."""
        (name,) = self.elsewhere()
        stored = self.ask(self.first, "PUT", f"/{name}", b"a").told["name"]
        silent = self.keepers(stored)[0]
        self.cluster.network.cut(self.first.ip, silent.ip)
        began = self.cluster.clock.seconds()
        for _ in range(30):
            self.assertEqual(b"a", self.ask(self.first, "GET", f"/{stored}").body)
        self.assertLess(self.cluster.clock.seconds() - began, 6)

    def test_in_process(self) -> None:
        """Other products in the process reach every blob by `IBlobs`."""
        (name,) = self.elsewhere()
        assert self.first.service is not None
        blobs = self.first.service.blobs
        finish = self.cluster.finish

        info = finish(Deferred.fromCoroutine(blobs.put(name, b"hello")))
        got, body = finish(Deferred.fromCoroutine(blobs.get(info.name)))
        self.assertEqual((b"hello", info.modified), (body, got.modified))
        finish(Deferred.fromCoroutine(blobs.delete(info.name)))
        with self.assertRaises(NotFound):
            finish(Deferred.fromCoroutine(blobs.get(info.name)))


class RescueTests(RouterCase):
    """Names that should be here and are not."""

    def lost(self) -> tuple[str, Host]:
        """Put a blob; return its name and a keeper that has lost it."""
        put = self.ask(self.first, "PUT", "/kept.txt", b"hello")
        stored = put.told["name"]
        self.cluster.run(5)
        host = self.keepers(stored)[1]
        self.cluster.wipe(host)
        self.cluster.start(host)
        return stored, host

    def test_missing(self) -> None:
        """A keeper without the blob serves it from a peer, and has it afterwards."""
        stored, host = self.lost()
        got = self.ask(host, "GET", f"/{stored}")
        self.assertEqual((200, b"hello"), (got.status, got.body))
        self.cluster.run(1)
        peer = self.keepers(stored)[0]
        self.assertEqual(peer.rows()[stored].state, host.rows()[stored].state)
        self.assertEqual(
            b"hello", self.ask(host, "GET", f"/{stored}", fields=(HOP,)).body
        )

    def test_missing_in_our_cluster(self) -> None:
        """When no peer has it, another cluster does."""
        stored, host = self.lost()
        self.cluster.crash(self.keepers(stored)[0])
        self.assertEqual(b"hello", self.ask(host, "GET", f"/{stored}").body)

    def test_back_for_all(self) -> None:
        """What comes back from another cluster goes on to the peers that lack it."""
        stored, host = self.lost()
        peer = self.keepers(stored)[0]
        self.cluster.wipe(peer)
        self.cluster.start(peer)
        self.assertEqual(b"hello", self.ask(host, "GET", f"/{stored}").body)
        self.cluster.run(5)
        self.assertEqual(host.rows()[stored].state, peer.rows()[stored].state)

    def test_deleted_stays_deleted(self) -> None:
        """A keeper that knows of the delete asks nobody, and settles it for others."""
        put = self.ask(self.first, "PUT", "/kept.txt", b"hello")
        stored = put.told["name"]
        self.cluster.run(5)
        one, other = self.keepers(stored)
        self.cluster.network.cut(one.ip, other.ip)
        for away in self.cluster.keepers(stored)[2:]:
            self.cluster.network.cut(one.ip, away.ip)
        self.assertEqual(200, self.ask(one, "DELETE", f"/{stored}").status)
        self.assertEqual(404, self.ask(one, "GET", f"/{stored}").status)
        told = self.ask(one, "GET", f"/{stored}", fields=(HOP,)).fields
        stamp = one.rows()[stored].expiry.modified_deleted
        self.assertEqual(b"%d" % stamp, told[b"x-clblob-gone"])

    def test_damaged(self) -> None:
        """Damaged bytes are never served: the peer's are, and take their place."""
        put = self.ask(self.first, "PUT", "/kept.txt", b"hello, world")
        stored = put.told["name"]
        self.cluster.run(5)
        host = self.keepers(stored)[0]
        assert host.service is not None
        host.flip(stored)
        host.service.replica.hot.drop(stored)
        with_hop = self.ask(host, "GET", f"/{stored}", fields=(HOP,))
        self.assertEqual(404, with_hop.status)
        self.assertEqual(b"hello, world", self.ask(host, "GET", f"/{stored}").body)
        self.cluster.run(1)
        host.service.replica.hot.drop(stored)
        healed = self.ask(host, "GET", f"/{stored}", fields=(HOP,))
        self.assertEqual((200, b"hello, world"), (healed.status, healed.body))


class RouterOnlyTests(RouterCase):
    """A process without a replica."""

    def setUp(self) -> None:
        super().setUp()
        self.service = self.start()

    def start(self) -> RouterService:
        """Start it; a second time, with what it kept."""
        cluster = topology.read(cluster_file([[2, 2], [2]]), None, "cluster.json")
        service = RouterService(
            BlobConfig(),
            cluster,
            reactor=self.cluster.clock,
            data_dir=self.cluster._file.parent,
            threads=False,
            rng=random.Random(3),
            connect=self.cluster.network.connector("192.0.2.7"),
        )
        service.open()
        service.startService()
        self.addCleanup(service.stopService)
        site: Any = Site(service.resource, reactor=self.cluster.clock, limits=LIMITS)
        self.cluster.network.listeners[Origin("192.0.2.7", 80)] = site
        return service

    def test_restart_with_kept_changes(self) -> None:
        """What was kept survives a restart; what was not answered leaves nothing."""
        for host in self.cluster.hosts.values():
            self.cluster.crash(host)
        for name, body in (("a", b"small"), ("b", LARGE)):
            self.assertEqual(200, self.ask("192.0.2.7", "PUT", f"/{name}", body).status)
        kept = self.cluster._file.parent / "blob" / "handoff"
        (kept / "77.body").write_bytes(b"never answered")
        self.service.stopService()
        self.service = self.start()
        self.assertEqual(2, self.service.report()["handoff"]["waiting"])
        self.assertFalse((kept / "77.body").exists())
        for host in self.cluster.hosts.values():
            self.cluster.start(host)
        self.cluster.run(60)
        self.assertEqual([], list(kept.iterdir()))
        for name, body in (("a", b"small"), ("b", LARGE)):
            stored = self.cluster.topology.place(name, encoded=False).stored
            self.assertEqual(body, self.ask("192.0.2.7", "GET", f"/{stored}").body)

    def test_answers_for_all(self) -> None:
        """It answers for every name, and keeps none."""
        for name in ("a", "b", "a/b", "ü", "sp ace", "per%25cent", "que%3Fst"):
            path = name.replace(" ", "%20").encode().decode("latin-1")
            put = self.ask("192.0.2.7", "PUT", f"/{path}", LARGE)
            self.assertEqual(200, put.status, put.body)
            stored = put.told["name"]
            path = f"/{stored[:6]}{path}"
            self.assertEqual(LARGE, self.ask("192.0.2.7", "GET", path).body)
            self.assertEqual(200, self.ask("192.0.2.7", "DELETE", path).status)
            self.assertEqual(404, self.ask("192.0.2.7", "GET", path).status)

    def test_admin(self) -> None:
        """It tells its configuration, and sends on what is for a replica."""
        self.assertEqual(200, self.ask("192.0.2.7", "GET", "/_config").status)
        status = self.ask("192.0.2.7", "GET", "/_status/c0b0r0")
        self.assertEqual("c0b0r0", status.told["replica"])
        self.assertEqual(404, self.ask("192.0.2.7", "GET", "/_status").status)


class Original(Resource):
    """A server that speaks no more than the original's protocol, and keeps a record."""

    def __init__(self, script: Callable[[RequestHead, bytes], Response]) -> None:
        super().__init__()
        self._script = script
        self.asked: list[tuple[bytes, bytes, bytes]] = []

    async def respond(self, exchange: IExchange) -> Response | None:
        """Read the whole body, then do as scripted."""
        body = b""
        while piece := await exchange.body.read():
            body += piece
        self.asked.append((exchange.head.method, exchange.head.target, body))
        answer = self._script(exchange.head, body)
        if answer.status == 0:
            exchange.abort()
            return None
        return answer


class ResendTests(RouterCase):
    """The original's worst fault: half-eaten bodies sent on (WIRE 4, fault 1)."""

    def listen(self, host: Host, server: Original) -> None:
        """Let a scripted server be at a replica's address."""
        self.cluster.crash(host)
        site: Any = Site(server, reactor=self.cluster.clock, limits=LIMITS)
        made: Factory = site
        self.cluster.network.listeners[Origin(host.ip, 80)] = made

    def test_every_try_is_whole(self) -> None:
        """Whatever a replica does with a body, the next one gets all of it."""

        def eat_and_hang_up(head: RequestHead, body: bytes) -> Response:
            return Response(0 if head.method == b"PUT" else 404)

        def fail(head: RequestHead, body: bytes) -> Response:
            return Response(500)

        names = self.elsewhere(4)
        for script in (eat_and_hang_up, fail):
            server = Original(script)
            self.listen(self.cluster.hosts["c0b1r0"], server)
            for name in names:
                for body in (b"", b"small", LARGE[: 1 << 20], LARGE):
                    put = self.ask(self.first, "PUT", f"/{name}", body)
                    self.assertEqual(200, put.status)
                    got = self.ask(self.first, "GET", f"/{put.told['name']}")
                    self.assertEqual(body, got.body)
                self.cluster.run(40)
            eaten = [body for method, _, body in server.asked if method == b"PUT"]
            self.assertTrue(eaten)
            self.assertLessEqual(set(eaten), {b"", b"small", LARGE[: 1 << 20], LARGE})

    def test_names_that_harm_originals(self) -> None:
        """An original never sees a name that keeps it from starting (fault 27)."""
        server = Original(
            lambda head, body: (
                Response(200, (), b'{"replica":"x"}')
                if head.target == b"/_status"
                else Response(0)
            )
        )
        for host in ("c0b1r0", "c0b1r1", "c1b0r0", "c1b0r1"):
            self.listen(self.cluster.hosts[host], server)
        (name,) = [
            name
            for name in (f"a/b{n}" for n in range(9))
            if self.cluster.topology.place(name, encoded=False).buckets[0] == 1
        ][:1]
        put = self.ask(self.first, "PUT", f"/{name}", b"x")
        self.assertEqual(400, put.status, put.body)
        self.assertFalse([each for each in server.asked if each[0] == b"PUT"])

    def test_tries_are_idempotent(self) -> None:
        """Every try carries the same stamps and end: two that arrive are one."""
        server = Original(lambda head, body: Response(0))
        for host in ("c0b1r0", "c0b1r1", "c1b0r0", "c1b0r1"):
            self.listen(self.cluster.hosts[host], server)
        (name,) = self.elsewhere()
        put = self.ask(self.first, "PUT", f"/{name}?ttl=9&require", b"x")
        self.assertEqual(503, put.status)
        targets = {target for method, target, _ in server.asked if method == b"PUT"}
        self.assertEqual(1, len(targets))
        (target,) = targets
        query = target.partition(b"?")[2]
        self.assertEqual(
            [
                b"modified",
                b"deleted",
                b"modified_deleted",
                b"replicate",
                b"encoded",
                b"require",
            ],
            [pair.partition(b"=")[0] for pair in query.split(b"&")],
        )

"""Admin requests in a cluster: sent on, allowed or not, configcheck, and sync."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.stamps import stamp_at
from clinfra.errors import NotFound
from clinfra.web.exchange import IExchange, Response
from clinfra.web.pool import Origin, Pool
from clinfra.web.site import Site
from tests.blob.support import LIMITS, NOW, Rig
from tests.sim.cluster import CLIENT, Answer, Cluster, Host
from tests.web.clients import Handled


class ClusterCase(SynchronousTestCase):
    """A simulated cluster and how to ask it."""

    def start(self, *layout: list[int], **config: Any) -> None:
        """Start a cluster."""
        self.cluster = Cluster(layout, **config)
        self.addCleanup(self.cluster.close)
        connect = self.cluster.network.connector(CLIENT)
        self.pool = Pool(self.cluster.clock, None, connect)
        self.addCleanup(self.pool.close)
        self.first = self.cluster.hosts["c0b0r0"]

    def ask(
        self,
        target: str,
        method: str = "GET",
        body: bytes = b"",
        host: Host | None = None,
    ) -> Answer:
        """Ask a replica, the first unless told."""
        asked = self.cluster.ask(host or self.first, method, target, body or None)
        answer: Answer = self.cluster.finish(asked)
        return answer

    def told(self, target: str, method: str = "GET", body: bytes = b"") -> Any:
        """Return what an answer of status 200 says."""
        answer = self.ask(target, method, body)
        self.assertEqual(200, answer.status, answer.body)
        return json.loads(answer.body)


class ConsoleTests(ClusterCase):
    """The page for browsers, where the original has it."""

    def test_page(self) -> None:
        """It and its files are there, and nothing else below it."""
        self.start([1])
        page = self.ask("/_console")

        self.assertEqual(200, page.status)
        self.assertIn(b'src="/_console/console.js"', page.body)
        self.assertEqual(200, self.ask("/_console/cluster.js").status)
        self.assertEqual(404, self.ask("/_console/c0b0r0").status)
        self.assertEqual(404, self.ask("/_console/page.py").status)
        self.assertEqual(405, self.ask("/_console", "POST").status)

    def test_off(self) -> None:
        """It is not there when it is not wanted."""
        self.start([1], console=False)

        self.assertEqual(404, self.ask("/_console").status)
        self.assertEqual(200, self.ask("/_status").status)


class SendingOnTests(ClusterCase):
    """/_COMMAND/REPLICA."""

    def test_other_replica(self) -> None:
        """[1329] Whoever is asked, the replica that is named answers."""
        self.start([2], [1])
        for name in self.cluster.hosts:
            self.assertEqual(name, self.told(f"/_status/{name}")["replica"])
        self.cluster.put(self.cluster.hosts["c1b0r0"], "/x?replicate=replica", b"1")

        ((stored, *_),) = self.told("/_list/c1b0r0?checksum=false&modified_start=0")

        self.assertEqual("00000_x", stored)
        self.assertEqual([], self.told("/_list?checksum=false"))

    def test_changing(self) -> None:
        """What sets something off is sent on as a POST, and set off there."""
        self.start([2])
        for command in ("_purge", "_sync", "_buffer", "_logstatus"):
            self.assertEqual(
                {"queued": True}, self.told(f"/{command}/c0b0r1", "POST"), command
            )
        self.assertEqual("synced", self.told("/_status/c0b0r1")["sync_status"])
        self.assertEqual("logged", self.told("/_status/c0b0r1")["logstatus_status"])

    def test_unknown(self) -> None:
        """[1331] An unknown replica is 404, and so is anything behind a name."""
        self.start([2])
        for target in ("/_status/bad", "/_status/c0b0r1/x", "/_config/c0b0r1"):
            self.assertEqual(404, self.ask(target).status, target)

    def test_not_sent_on_twice(self) -> None:
        """Replicas that disagree on who is who do not send a request in circles."""
        self.start([2])
        asked = self.pool.request(
            Origin(self.first.ip, 80),
            b"GET",
            b"/_status/c0b0r1",
            ((b"X-Clblob-Hop", b"1"),),
        )

        async def status() -> int:
            async with await asked as response:
                return response.head.status

        self.assertEqual(404, self.cluster.finish(Deferred.fromCoroutine(status())))

    def test_dead(self) -> None:
        """A replica that does not answer is a 502, and soon."""
        self.start([2])
        self.cluster.crash(self.cluster.hosts["c0b0r1"])

        answer = self.ask("/_status/c0b0r1")

        self.assertEqual(502, answer.status)
        self.assertIn("last_failed", self.told("/_status")["replicas"]["c0b0r1"])

    def test_status(self) -> None:
        """Status has a place for each peer of the bucket and each other cluster."""
        self.start([3, 1], [1])
        told = self.told("/_status")

        self.assertEqual({"c0b0r1", "c0b0r2"}, set(told["replicas"]))
        self.assertEqual({"1"}, set(told["clusters"]))
        for each in (*told["replicas"].values(), *told["clusters"].values()):
            self.assertEqual((0, 0), (each["events"], each["buffer_events"]))
        self.assertEqual("buffered replica=0 cluster=0", told["buffer_status"])
        self.assertIn("clinfra-1", told["features"])

    def test_backlog(self) -> None:
        """What waits for a dead peer is told."""
        self.start([2], [1])
        for name in ("c0b0r1", "c1b0r0"):
            self.cluster.crash(self.cluster.hosts[name])
        self.cluster.put(self.first, "/x", b"1")
        self.cluster.run(5)
        told = self.told("/_status")

        self.assertEqual(1, told["replicas"]["c0b0r1"]["events"])
        self.assertEqual(1, told["clusters"]["1"]["events"])
        self.assertGreater(told["replicas"]["c0b0r1"]["lag_seconds"], 3)
        self.assertEqual("buffered replica=1 cluster=1", told["buffer_status"])


class RecordedStatusTests(SynchronousTestCase):
    """_status of a replica with real files, as recorded [1275]."""

    def test_keys(self) -> None:
        """Every key the original tells is told, with the original's types."""
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        rig = Rig(Path(directory.name))
        self.addCleanup(rig.close)
        rig.put("/x")
        told = json.loads(rig.ask("GET", "/_status").body)

        self.assertEqual({"current": 0, "max": 1, "total": 1}, told["events"]["start"])
        for key in ("buffer_status", "purge_status", "sync_status", "logstatus_status"):
            self.assertIsInstance(told[key], str)
        for table, keys in (
            (
                "index_sqlite",
                "page_size freelist_size queue_size cache_size max_size size",
            ),
            (
                "store_disk",
                "total_space total_inodes free_space queue_size free_inodes",
            ),
        ):
            for key in keys.split():
                self.assertIsInstance(told[table][key], int, key)
        self.assertIsInstance(told["index_sqlite"]["database"], str)
        self.assertRegex(told["store_disk"]["device_id"], r"\A\S+:\d+\Z")
        # Fault 47: never negative.
        self.assertGreaterEqual(told["index_sqlite"]["cache_size"], 0)


class AllowedTests(ClusterCase):
    """Who may set something off."""

    def test_get(self) -> None:
        """Fault 29: a GET from another machine sets nothing off."""
        self.start([1])
        for command in ("_purge", "_sync", "_buffer", "_logstatus"):
            self.assertEqual(403, self.ask(f"/{command}").status, command)
            self.assertEqual(200, self.ask(f"/{command}", "POST").status, command)
        for command in ("_status", "_list", "_config"):
            self.assertEqual(200, self.ask(f"/{command}").status, command)

    def test_compatible(self) -> None:
        """Where the original's tools need it, it can be allowed."""
        self.start([1], compat_admin_get=True)

        self.assertEqual({"queued": True}, self.told("/_purge"))

    def test_other_sites(self) -> None:
        """A page of another site cannot POST from somebody's browser."""
        self.start([1])

        async def post(origin: bytes) -> int:
            request = self.pool.request(
                Origin(self.first.ip, 80), b"POST", b"/_purge", ((b"Origin", origin),)
            )
            async with await request as response:
                return response.head.status

        for origin, status in (
            (b"http://evil.example", 403),
            (b"null", 403),
            (b"http://10.0.0.0:80", 200),
        ):
            found = self.cluster.finish(Deferred.fromCoroutine(post(origin)))
            self.assertEqual(status, found, origin)


class ConfigcheckTests(ClusterCase):
    """_configcheck."""

    def setUp(self) -> None:
        self.start([2], [1])
        self.running = self.told("/_config")

    def check(self, query: str = "") -> Answer:
        body = json.dumps(self.running).encode()
        return self.ask(f"/_configcheck{query}", "PUT", body)

    def test_own(self) -> None:
        """[1334, 1335] What runs changes nothing, also told by and to another."""
        answer = self.check("?brief=true")

        self.assertEqual((200, b"OK"), (answer.status, answer.body))
        self.assertEqual(b"application/octet-stream", answer.fields[b"content-type"])
        self.assertEqual([], self.check().told["reconfig"])
        self.assertIn(b"client.replica", self.check("/c0b0r1?brief=true").body)

    def test_cluster_file(self) -> None:
        """A cluster file is compared as it is: what is set elsewhere stays."""
        client = self.running["clblob"]["client"]
        kept = ("clusters", "replicas")
        self.running = {"clblob": {"client": {key: client[key] for key in kept}}}
        self.assertEqual(b"OK", self.check("?brief=true").body)

        client["replicas"]["c1b0r0"]["port"] = 81
        self.assertEqual(
            b'replica "c1b0r0" port changed: new_config: "81" old_config: "80"\n',
            self.check("?brief=true").body,
        )
        self.assertEqual(b"OK", self.check("?brief=1&tolerance=reconfig").body)

    def test_refusals(self) -> None:
        """[1320-1322, 1328] What makes no sense is 400."""
        for query, body in (
            ("", b""),
            ("", b"{bad"),
            ("", b"\xff"),
            ("", b"[" * 100_000),
            ("", b"[]"),
            ("?brief=bad", b"{}"),
            ("?brief", b"{}"),
            ("?tolerance=none", b"{}"),
        ):
            answer = self.ask(f"/_configcheck{query}", "PUT", body)
            self.assertEqual(400, answer.status, (query, body[:9], answer.body))
        big = self.ask("/_configcheck", "PUT", b" " * (1 << 21))
        self.assertEqual(413, big.status)


class SyncTests(ClusterCase):
    """_sync, from replicas of our kind."""

    def setUp(self) -> None:
        self.start([3])
        self.second = self.cluster.hosts["c0b0r1"]
        self.cluster.run(1)
        for host in self.cluster.hosts.values():
            # It would bring everything before anybody asks for it.
            assert host.service is not None
            host.service.repair.stop()

    def put(self, host: Host, target: str, body: bytes = b"x") -> None:
        mark = "&" if "?" in target else "?"
        answer = self.cluster.put(host, f"{target}{mark}replicate=replica", body)
        self.assertEqual(200, answer.status, answer.body)

    def sync(self, query: str = "") -> str:
        """Sync the first replica; return the status it ends with."""
        self.assertEqual({"queued": True}, self.told(f"/_sync{query}", "POST"))
        self.cluster.run(30)
        status: str = self.told("/_status")["sync_status"]
        return status

    def test_missing(self) -> None:
        """Data and expiry of what is missing are pulled, and only that."""
        big = bytes(range(256)) * 8192
        self.put(self.first, "/old?modified=5000000000")
        self.put(self.second, "/old?modified=6000000000", b"newer")
        self.put(self.second, "/%C3%BC%20%3F%25?ttl=99", b"1")
        self.put(self.second, "/big.jpg", big)
        self.put(self.first, "/mine")

        status = self.sync()

        self.assertEqual("synced  c0b0r1:put=3", status)
        for name, row in self.second.rows().items():
            self.assertEqual(row.state, self.first.rows()[name].state)
        self.assertEqual(4, len(self.first.rows()))
        self.assertEqual(big, self.ask("/000_big.jpg").body)
        self.assertEqual(0, self.first.rows()["000_big.jpg"].fanout & 3)

    def test_deletes(self) -> None:
        """What ended there ends here; what ended before it was seen stays away."""
        for host in (self.first, self.second):
            self.put(host, f"/a?modified={stamp_at(NOW)}")
        self.put(self.second, "/b")
        for name in ("a", "b"):
            self.cluster.delete(self.second, f"/000_{name}?replicate=replica")

        status = self.sync()

        self.assertEqual("synced  c0b0r1:delete=2", status)
        self.assertEqual(404, self.ask("/000_a").status)
        self.assertIsNone(self.first.rows()["000_b"].data)
        self.assertEqual("synced  c0b0r1:skipped=2", self.sync())

    def test_equal(self) -> None:
        """Equal windows are passed over."""
        for host in (self.first, self.second):
            for n in range(5):
                self.put(host, f"/{n}?modified={stamp_at(NOW) + n}")

        self.assertEqual("synced  c0b0r1:skipped=5", self.sync("?source=c0b0r1"))

    def test_same_stamp(self) -> None:
        """Fault 10: two names with one stamp do not hide each other."""
        stamp = stamp_at(NOW)
        self.put(self.first, f"/a?modified={stamp}")
        self.put(self.second, f"/b?modified={stamp}", b"bb")
        self.sync()
        # Count and stamps are all that checksums know: tell apart, then.
        self.put(self.second, f"/c?modified={stamp + 1}")
        self.sync()

        self.assertEqual(b"bb", self.ask("/000_b").body)

    def test_span(self) -> None:
        """Only the stamps asked for are compared."""
        stamp = stamp_at(NOW) - (1000 << 32)
        for n in range(3):
            self.put(self.second, f"/{n}?modified={stamp + (n << 32)}")
        stop = stamp + (2 << 32)
        self.sync(f"?modified_start={stamp + 1}&modified_stop={stop}")

        self.assertEqual({"000_1"}, set(self.first.rows()))

    def test_many(self) -> None:
        """A window of many blobs is divided until few enough are listed."""
        stamp = stamp_at(NOW) - (50_000 << 32)
        for n in range(1100):
            for host in (self.first, self.second):
                if n % 100 or host is self.second:
                    self.put(host, f"/{n}?modified={stamp + (n * 40 << 32)}")

        status = self.sync("?source=c0b0r1")

        self.assertIn("put=11", status)
        self.assertEqual(set(self.second.rows()), set(self.first.rows()))

    def test_unknown_source(self) -> None:
        """[1312] An unknown source is found out later, as ever, and told."""
        self.put(self.second, "/x")

        status = self.sync("?source=bad,c0b0r1")

        self.assertEqual("failed (Unknown replica: bad)", status)
        self.assertIn("000_x", self.first.rows())

    def test_dead_source(self) -> None:
        """A dead source does not keep us from the next."""
        self.put(self.cluster.hosts["c0b0r2"], "/x")
        self.cluster.crash(self.second)

        self.assertTrue(self.sync().startswith("failed (c0b0r1: "))
        self.assertIn("000_x", self.first.rows())

    def test_source_dies(self) -> None:
        """A source that dies half-way ends its part soon, whatever it had listed."""
        for n in range(900):
            self.put(self.second, f"/{n}")
        self.told("/_sync?source=c0b0r1", "POST")
        while not self.first.rows():
            self.cluster.run(0.001)
        self.cluster.crash(self.second)
        self.cluster.run(60)

        status = self.told("/_status")["sync_status"]
        self.assertRegex(status, r"failed \(c0b0r1: ")
        self.assertLess(0, len(self.first.rows()))
        self.assertLess(len(self.first.rows()), 900)

    def test_full(self) -> None:
        """A full disk ends a sync, and says so."""
        self.put(self.second, "/x", b"12345")
        assert self.first.service is not None
        self.first.service.replica._min_free_bytes = 1 << 60

        self.assertIn("Not enough space", self.sync())

    def test_stopped(self) -> None:
        """A process that stops does not wait for a sync."""
        self.cluster.network.cut(self.first.ip, self.second.ip)
        self.told("/_sync", "POST")
        self.cluster.run(0.5)
        self.cluster.crash(self.first)

        self.assertIsNone(self.first.service)

    def test_bad_numbers(self) -> None:
        """[1311] A bad stamp is refused."""
        self.assertEqual(400, self.ask("/_sync?modified_start=abc", "POST").status)

    def test_waiting(self) -> None:
        """One sync runs, one may wait, more are refused."""
        self.cluster.network.cut(self.first.ip, self.second.ip)
        answers = [self.told("/_sync", "POST")["queued"] for _ in range(3)]

        self.assertEqual([True, True, False], answers)
        self.cluster.network.join()
        self.cluster.run(60)
        self.assertEqual("synced", self.told("/_status")["sync_status"])


class OriginalSourceTests(ClusterCase):
    """_sync, from something that knows no more than the original did."""

    def setUp(self) -> None:
        self.start([2])
        other = self.cluster.hosts["c0b0r1"]
        self.cluster.crash(other)
        self.rows: list[Any] = []
        self.bodies: dict[str, bytes] = {}
        self.infos: dict[str, int] = {}
        self.asked: list[bytes] = []
        site = Site(Handled(self.answer), reactor=self.cluster.clock, limits=LIMITS)
        self.cluster.network.listeners[Origin(other.ip, 80)] = cast(Factory, site)

    async def answer(self, exchange: IExchange) -> Response:
        """Answer as the original does."""
        target = exchange.head.target
        self.asked.append(target)
        if target.startswith(b"/_list/c0b0r1?"):
            if b"checksum=False" in target:
                return self.json(self.rows)
            window = 86400 << 32
            start = self.rows[0][1] // window * window
            return self.json([[start, start + window, len(self.rows), 1024]])
        name = exchange.head.path.decode()[1:]
        if name not in self.bodies:
            raise NotFound("404 Not Found")
        if exchange.head.query == b"response=info":
            return self.json(
                {
                    "name": name,
                    "modified": self.infos[name],
                    "deleted": 0,
                    "modified_deleted": self.infos[name],
                    "buckets": {"0": 0},
                }
            )
        return Response(200, ((b"Content-Type", b"text/plain"),), self.bodies[name])

    def json(self, told: Any) -> Response:
        body = json.dumps(told).encode()
        return Response(200, ((b"Content-type", b"application/json"),), body)

    def sync(self) -> str:
        self.told("/_sync", "POST")
        self.cluster.run(30)
        status: str = self.told("/_status")["sync_status"]
        return status

    def test_pull(self) -> None:
        """What can be had is pulled; what cannot be is counted and passed over."""
        t = stamp_at(NOW)
        self.rows = [
            ["000_a.txt", t, 0, t],
            ["000_gone", t + 1, 0, t + 1],
            ["000_newer", t + 2, 0, t + 2],
            ["001_elsewhere", t + 3, 0, t + 3],
            ["000_deleted", t + 4, int(NOW) - 9, t + 5],
            ["000_future", t + (9999 << 32), 0, t],
            ["../x", t + 6, 0, t + 6],
        ]
        self.bodies = {"000_a.txt": b"a", "000_newer": b"n", "000_future": b"f"}
        self.infos = {
            "000_a.txt": t,
            "000_newer": t + 4096,
            "000_future": t + (9999 << 32),
        }

        status = self.sync()

        self.assertEqual(
            "synced  c0b0r1:delete=1 c0b0r1:failed=4 c0b0r1:put=1 c0b0r1:skipped=1",
            status,
        )
        self.assertEqual({"000_a.txt", "000_deleted"}, set(self.first.rows()))
        self.assertEqual(b"a", self.ask("/000_a.txt").body)
        self.assertIn(b"/_list/c0b0r1?checksum=True&checksum_modulo=86400", self.asked)

    def test_nonsense(self) -> None:
        """A list that makes no sense is a failure, and nothing is changed."""
        t = stamp_at(NOW)
        for rows in ([["000_a", t, 0]], [[1, t, 0, t]], [["000_a", t, 0, None]]):
            self.rows = cast(list[Any], rows)
            self.assertEqual(
                "failed (c0b0r1: A list of blobs makes no sense)", self.sync()
            )
        self.assertEqual({}, self.first.rows())


del ClusterCase

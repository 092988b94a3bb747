"""Changes that nobody can take now: kept, read all the same, and delivered."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from clinfra.blob.errand import Errand
from clinfra.blob.handoff import ASIDE_SECONDS, Handoff
from clinfra.blob.peers import HOP
from clinfra.blob.replay import Replay
from clinfra.blob.replica import Write
from clinfra.errors import NotFound
from clinfra.web.exchange import Response
from clinfra.web.pool import Origin
from clinfra.web.site import Site
from tests.blob.support import LIMITS
from tests.blob.test_router import LARGE, Original, RouterCase
from tests.sim.cluster import Host


class HandoffCase(RouterCase):
    """A bucket that is away in every cluster, and two servers that are there."""

    def setUp(self) -> None:
        super().setUp()
        assert self.first.service is not None
        self.topology = self.first.service.topology
        self.second = self.cluster.hosts["c0b0r1"]
        self.names = self.elsewhere(20)
        stored = self.topology.place(self.names[0], encoded=False).stored
        self.away = self.cluster.keepers(stored)
        for host in self.away:
            self.cluster.crash(host)
        self.cluster.run(5)

    def put(self, name: str, body: bytes, host: Host | None = None) -> str:
        """Put a blob that is only kept; return its stored name."""
        put = self.ask(host or self.first, "PUT", f"/{name}?ttl=90000", body)
        self.assertEqual((200, b"1"), (put.status, put.fields[b"x-clblob-handoff"]))
        stored: str = put.told["name"]
        return stored

    def get(self, host: Host, stored: str, *fields: tuple[bytes, bytes]) -> Any:
        """Return the status and the body of a GET."""
        got = self.ask(host, "GET", f"/{stored}", fields=fields)
        return got.status, got.body

    def handoff(self, host: Host) -> Handoff:
        assert host.service is not None
        return host.service._handoff

    def come_back(self) -> None:
        """Start those who were away."""
        for host in self.away:
            self.cluster.start(host)


class ReadTests(HandoffCase):
    """What is kept can be read, from any server of the cluster."""

    def test_read(self) -> None:
        """GET, HEAD, ranges, conditions and info, small blobs and large ones."""
        for name, body in zip(self.names, (b"", b"0123456789", LARGE), strict=False):
            stored = self.put(name, body)
            for host in (self.first, self.second):
                self.assertEqual((200, body), self.get(host, stored))
                head = self.ask(host, "HEAD", f"/{stored}")
                self.assertEqual((200, b""), (head.status, head.body))
                self.assertEqual(b"%d" % len(body), head.fields[b"content-length"])
                self.assertEqual(b"text/plain", head.fields[b"content-type"])
                info = self.ask(host, "GET", f"/{stored}?response=info").told
                self.assertEqual((stored, len(body)), (info["name"], info["size"]))
                same = self.get(host, stored, (b"If-None-Match", head.fields[b"etag"]))
                self.assertEqual(304, same[0])
                if body:
                    part = self.get(host, stored, (b"Range", b"bytes=2-4"))
                    self.assertEqual((206, body[2:5]), part)

    def test_replaced_and_deleted(self) -> None:
        """The last change counts, whichever server took it."""
        for one, other in ((self.first, self.first), (self.first, self.second)):
            name = self.names.pop()
            stored = self.put(name, b"old", one)
            self.put(name, b"new", other)
            for host in (self.first, self.second):
                self.assertEqual((200, b"new"), self.get(host, stored))
            self.assertEqual(200, self.ask(one, "DELETE", f"/{stored}").status)
            for host in (self.first, self.second):
                self.assertEqual(404, self.get(host, stored)[0])
            self.put(name, b"again", other)
            self.assertEqual((200, b"again"), self.get(other, stored))

    def test_delivered_in_order(self) -> None:
        """What was read before the delivery is what is read after it."""
        kept, gone = self.put(self.names[0], b"old"), self.put(self.names[1], b"old")
        self.put(self.names[0], b"new", self.second)
        self.ask(self.second, "DELETE", f"/{gone}")
        self.come_back()
        for _ in range(60):
            self.cluster.run(0.5)
            self.assertNotEqual((200, b"old"), self.get(self.second, kept))
            self.assertEqual(404, self.get(self.second, gone)[0])
        for host in self.away:
            self.assertEqual((200, b"new"), self.get(host, kept, HOP))
            self.assertEqual(404, self.get(host, gone, HOP)[0])

    def test_merged(self) -> None:
        """What keepers know counts as much as what is kept for them."""
        older, newer, gone, only = map(self.put, self.names, [b"kept"] * 4)
        self.handoff(self.first).stop()
        self.come_back()
        keeper = self.away[0]
        clock = int(self.cluster.clock.seconds())
        for name, stamp in ((older, clock - 500 << 32), (newer, clock + 9 << 32)):
            self.ask(keeper, "PUT", f"/{name}?encoded=1&modified={stamp}", b"theirs")
        self.ask(keeper, "DELETE", f"/{gone}")
        self.cluster.run(40)
        self.assertEqual((200, b"kept"), self.get(self.first, older))
        self.assertEqual((200, b"theirs"), self.get(self.first, newer))
        self.assertEqual(404, self.get(self.first, gone)[0])
        self.assertEqual((200, b"kept"), self.get(self.first, only))

    def test_in_process(self) -> None:
        """Other products in the process read and delete what is kept."""
        assert self.first.service is not None and self.second.service is not None
        finish = self.cluster.finish
        for service in (self.first.service, self.second.service):
            stored = self.put(self.names.pop(), b"hello")
            blobs = service.blobs
            info, body = finish(Deferred.fromCoroutine(blobs.get(stored)))
            self.assertEqual((b"hello", 5), (body, info.size))
            finish(Deferred.fromCoroutine(blobs.delete(stored)))
            with self.assertRaises(NotFound):
                finish(Deferred.fromCoroutine(blobs.get(stored)))

    def test_nothing_known(self) -> None:
        """What no server keeps and no keeper can be asked for is 503, not 404."""
        stored = self.topology.place(self.names[0], encoded=False).stored
        self.assertEqual(503, self.get(self.first, stored)[0])

    def test_damaged(self) -> None:
        """Kept bytes that have changed on the disk are neither served nor delivered."""
        stored = self.put(self.names[0], b"hello")
        for path in self.handoff(self.first).files.directory.glob("*.body"):
            path.write_bytes(b"hullo")
        self.assertEqual(500, self.get(self.first, stored)[0])
        self.come_back()
        self.cluster.run(60)
        self.assertEqual(1, self.handoff(self.first).report()["aside"])
        self.assertFalse(any(host.rows() for host in self.away))


class DeliveryTests(HandoffCase):
    """Whatever happens to one change, the others are delivered."""

    def test_told(self) -> None:
        """How many wait, and for how long, is told in the status."""
        self.put(self.names[0], b"x")
        self.cluster.run(60)
        self.put(self.names[1], b"x")
        told = self.ask(self.first, "GET", "/_status").told["handoff"]
        self.assertEqual(2, told["waiting"])
        self.assertLess(abs(told["oldest_seconds"] - 60), 5)
        self.come_back()
        self.cluster.run(60)
        told = self.ask(self.first, "GET", "/_status").told["handoff"]
        self.assertEqual(
            (0, 0, 2), (told["waiting"], told["oldest_seconds"], told["delivered"])
        )

    def test_become_ours(self) -> None:
        """A change that a new configuration gives to this server itself is taken."""
        assert self.first.service is not None
        router = self.first.service.blobs.forwarder.router
        for name, body in (("mine-s", b"small"), ("mine-l", LARGE), ("mine-g", None)):
            name = next(
                each
                for each in (f"{name}{n}" for n in range(99))
                if router.topology.is_here(router.topology.place(each, encoded=False))
            )
            place = router.topology.place(name, encoded=False)
            replay = Replay.of(body) if body is not None else None
            method = b"PUT" if body is not None else b"DELETE"
            errand = Errand(router, method, place, "all", replay)
            settled = router.settle(Write(), None if body is not None else 0)
            keeping = self.handoff(self.first).keep(errand, settled)
            self.cluster.finish(Deferred.fromCoroutine(keeping))
            self.cluster.run(5)
            for host in (self.first, self.second):
                got = self.ask(host, "GET", f"/{place.stored}", fields=(HOP,))
                wanted = (200, body) if body is not None else (404, got.body)
                self.assertEqual(wanted, (got.status, got.body))
                self.assertIn(place.stored, host.rows())
        self.assertEqual(0, self.handoff(self.first).report()["waiting"])

    def test_refused(self) -> None:
        """What is refused is put aside, readable, and delivered when that changes."""
        bad = self.put(self.names[0], b"bad")
        good = [self.put(name, b"good") for name in self.names[1:4]]
        refused = {"status": 400}

        def answer(head: Any, body: bytes) -> Response:
            if head.method != b"PUT":
                return Response(404)
            if body == b"bad" and refused["status"] != 200:
                return Response(refused["status"], (), b"never\n")
            name = head.path.decode()[1:]
            told = (
                b'{"name":"%s","modified":1,"deleted":0,"modified_deleted":1,'
                b'"buckets":{}}' % name.encode()
            )
            return Response(200, (), told)

        server = Original(answer)
        site: Any = Site(server, reactor=self.cluster.clock, limits=LIMITS)
        for host in self.away:
            self.cluster.network.listeners[Origin(host.ip, 80)] = site
        self.cluster.run(60)
        report = self.handoff(self.first).report()
        self.assertEqual((0, 1, 3), self.told(report))
        self.assertEqual((200, b"bad"), self.get(self.first, bad))
        for stored in good:
            self.assertEqual(404, self.get(self.first, stored)[0])
        tries = sum(body == b"bad" for _, _, body in server.asked)
        self.assertEqual(1, tries)
        self.cluster.run(ASIDE_SECONDS)
        self.assertEqual(2, sum(body == b"bad" for _, _, body in server.asked))
        refused["status"] = 200
        self.cluster.run(ASIDE_SECONDS + 5)
        self.assertEqual((0, 0, 4), self.told(self.handoff(self.first).report()))

    def test_poison(self) -> None:
        """What is answered with 500, while others are taken, holds nobody up."""
        self.put(self.names[0], b"bad")

        def answer(head: Any, body: bytes) -> Response:
            if body == b"bad":
                return Response(500)
            told = b'{"name":"x","modified":1,"deleted":0,"modified_deleted":1,'
            return Response(200, (), told + b'"buckets":{}}')

        for name in self.names[1:9]:
            self.put(name, b"good")
        site: Any = Site(Original(answer), reactor=self.cluster.clock, limits=LIMITS)
        for host in self.away:
            self.cluster.network.listeners[Origin(host.ip, 80)] = site
        self.cluster.run(60)
        self.assertEqual((1, 0, 8), self.told(self.handoff(self.first).report()))

    def told(self, report: Any) -> tuple[int, int, int]:
        return report["waiting"], report["aside"], report["delivered"]


class TooLateTests(HandoffCase):
    """What waited for longer than deletes are remembered."""

    def test_given_up(self) -> None:
        """It is not delivered: what was deleted meanwhile would come back."""
        stored = self.put(self.names[0], b"late")
        self.cluster.crash(self.first)
        self.come_back()
        self.cluster.clock.advance(11 * 86400)
        self.cluster.start(self.first)
        self.cluster.run(60)

        for host in (self.first, *self.away):
            self.assertEqual(404, self.get(host, stored)[0])
        report = self.handoff(self.first).report()
        self.assertEqual((0, 1), (report["waiting"], report["aside"]))
        self.cluster.run(2 * ASIDE_SECONDS)
        self.assertEqual(0, self.handoff(self.first).report()["delivered"])

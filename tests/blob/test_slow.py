"""Peers that take their time: as long as it goes on, and not a moment longer."""

from __future__ import annotations

from typing import Any
from unittest import mock

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob import repair
from clinfra.blob.batch import MAX_RECORD_BYTES
from clinfra.blob.concern import (
    DURABLE_BYTES_PER_SECOND,
    PATIENCE_SECONDS,
    SLOWEST_BYTES_PER_SECOND,
    Patience,
)
from clinfra.blob.delivery import RETRY_SECONDS
from clinfra.blob.info import to_json
from clinfra.blob.sending import SEND_SECONDS
from clinfra.interfaces import BlobInfo
from clinfra.web.exchange import IExchange, Response
from clinfra.web.pool import Origin
from clinfra.web.resource import Resource
from clinfra.web.site import Site
from tests.blob.support import LIMITS
from tests.sim.cluster import Answer, Cluster, Host

SMALL, LARGE = b"x", bytes(48 << 20)
DURABLE_SECONDS = PATIENCE_SECONDS + len(LARGE) / DURABLE_BYTES_PER_SECOND


class Slow(Resource):
    """A replica that takes all of a body, and says so much later."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        super().__init__()
        self._clock, self._seconds = clock, seconds
        self.took: list[int] = []

    async def respond(self, exchange: IExchange) -> Response:
        """Answer a change."""
        size = 0
        while piece := await exchange.body.read():
            size += len(piece)
        if exchange.head.method == b"GET":
            return Response(404)
        await deferLater(self._clock, self._seconds)
        self.took.append(size)
        return Response(200, (), to_json(BlobInfo("x", 1 << 62, 0, 1 << 62)))


class SilentProtocol(Protocol):
    """Takes what comes; says nothing, or a bit at once, and a byte now and then."""

    def __init__(self, clock: Clock, said: bytes, at_once: int) -> None:
        self._clock, self._said, self._next = clock, said, at_once

    def dataReceived(self, data: bytes) -> None:
        """Say what comes next."""
        if self._said and self.transport is not None:
            self.transport.write(self._said[: self._next])
            self._said, self._next = self._said[self._next :], 1
            self._clock.callLater(1.0, self.dataReceived, b"")


class Silent(Factory):
    """A replica that accepts connections and never answers any request whole."""

    def __init__(self, clock: Clock, said: bytes = b"", at_once: int = 1) -> None:
        self._clock, self._said, self._at_once = clock, said, at_once

    def buildProtocol(self, addr: object) -> Protocol:
        """Take one more connection."""
        return SilentProtocol(self._clock, self._said, self._at_once)


class HangingUp(Factory):
    """A replica that takes connections and lets them go.

    Attributes:
        connections: so far.
    """

    connections = 0

    def buildProtocol(self, addr: object) -> Protocol | None:
        """Hang up."""
        self.connections += 1
        return None


class SlowCase(SynchronousTestCase):
    """Simulated clusters."""

    def start(self, *layout: list[int]) -> list[Host]:
        """Start a cluster."""
        self.cluster = Cluster(layout)
        self.addCleanup(self.cluster.close)
        return list(self.cluster.hosts.values())

    def replace(self, host: Host, by: Any) -> None:
        """Let something else be at a replica's address."""
        self.cluster.crash(host)
        if isinstance(by, Resource):
            by = Site(by, reactor=self.cluster.clock, limits=LIMITS)
        self.cluster.network.listeners[Origin(host.ip, 80)] = by

    def put(self, host: Host, target: str, body: bytes) -> tuple[Answer, float]:
        """PUT; return the answer and how long it took, seconds."""
        began = self.cluster.clock.seconds()
        asking = self.cluster.ask(host, "PUT", target, body)
        answer: Answer = self.cluster.finish(asking, 120)
        return answer, self.cluster.clock.seconds() - began


class PatienceTests(SlowCase):
    """Waiting for the copies of large blobs."""

    def test_from_the_last_byte(self) -> None:
        """It counts from the last byte that moved, and ends all the same."""
        clock, size = Clock(), 300 << 20
        patience = Patience(clock, size)
        wait = PATIENCE_SECONDS + size / DURABLE_BYTES_PER_SECOND
        longest = PATIENCE_SECONDS + size / SLOWEST_BYTES_PER_SECOND
        self.assertAlmostEqual(wait, patience.left_seconds)
        clock.advance(wait - 0.1)
        patience.moved()
        self.assertAlmostEqual(wait, patience.left_seconds)
        while patience.left_seconds > 0:
            clock.advance(0.5)
            patience.moved()
        self.assertLess(abs(clock.seconds() - longest), 0.6)
        self.assertAlmostEqual(PATIENCE_SECONDS, Patience(Clock(), 0).left_seconds)

    def test_large_is_waited_for(self) -> None:
        """A large body may take its time to become durable; a small one may not."""
        one, other = self.start([2])
        self.replace(other, Slow(self.cluster.clock, PATIENCE_SECONDS + 0.5))
        answer, _ = self.put(one, "/small", SMALL)
        self.assertEqual(b"1/2", answer.fields[b"x-clblob-copies"])
        answer, _ = self.put(one, "/large", LARGE)
        self.assertEqual(b"2/2", answer.fields[b"x-clblob-copies"])

    def test_stuck(self) -> None:
        """A peer that takes all of it and never answers is let go of."""
        one, other = self.start([2])
        self.replace(other, Silent(self.cluster.clock))
        answer, took = self.put(one, "/large", LARGE)
        self.assertEqual(b"1/2", answer.fields[b"x-clblob-copies"])
        self.assertLess(took, DURABLE_SECONDS + 0.5)

    def test_forwarded(self) -> None:
        """Who forwards a large body waits longer for the answer than for a small."""
        hosts = self.start([1, 1])
        first, second = hosts
        slow = Slow(self.cluster.clock, 12.0)
        self.replace(second, slow)
        answer, took = self.put(first, "/001_large?encoded=1", LARGE)
        self.assertEqual(200, answer.status)
        self.assertNotIn(b"x-clblob-handoff", answer.fields)
        self.assertEqual([len(LARGE)], slow.took)
        self.replace(second, Silent(self.cluster.clock))
        answer, took = self.put(first, "/001_stuck?encoded=1", LARGE)
        self.assertEqual(b"1", answer.fields[b"x-clblob-handoff"])
        self.assertLess(took, 40)


class BoundedTests(SlowCase):
    """No change is under way for ever."""

    def test_answers_without_end(self) -> None:
        """A peer that goes on answering is let go of, and is sent it again."""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n"
        said = head + SMALL * 9999
        for body in (SMALL, bytes(2 * MAX_RECORD_BYTES)):
            one, other = self.start([2])
            self.cluster.run(1)
            self.replace(other, Silent(self.cluster.clock, said, len(head)))
            self.put(one, "/n", body)
            self.cluster.run(5)
            # Its old connections go on as before.
            self.cluster.start(other)
            self.cluster.run(SEND_SECONDS + 5)
            assert one.service is not None
            (report,) = one.service.replication.report().values()
            self.assertEqual((0, 1), (report["under_way"], report["sent"]))
            self.assertEqual(body, self.cluster.get(other, "/000_n").body)

    def test_broken_down(self) -> None:
        """When reading the feed fails, what was under way is sent again."""
        # Comparing would send it again, too.
        self.patch(repair, "FIRST_SECONDS", 1e9)
        one, other = self.start([2])
        self.cluster.run(1)
        self.replace(other, Silent(self.cluster.clock))
        for n in range(3):
            self.put(one, f"/n{n}", SMALL)
        # Until the feed has it: nobody waits for it any more.
        self.cluster.run(30)
        assert one.service is not None
        (delivery,) = one.service.replication.deliveries.values()
        with mock.patch.object(one.index, "changes", side_effect=LookupError):
            self.put(one, "/n3", SMALL)
            self.cluster.run(1)
        self.assertEqual(1, len(self.flushLoggedErrors(LookupError)))
        report = delivery.report()
        self.assertEqual((0, 0), (report["cursor"], report["under_way"]))
        self.cluster.start(other)
        self.cluster.run(RETRY_SECONDS + 5)
        report = delivery.report()
        self.assertEqual((4, 0), (report["cursor"], report["under_way"]))
        self.assertEqual({f"000_n{n}" for n in range(4)}, set(other.rows()))


class NobodyWaitsTests(SlowCase):
    """A slow peer costs nobody else anything."""

    def test_other_destinations(self) -> None:
        """Feeds to others, reads and writes go on as if it were not there."""
        for said in (
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + SMALL * 99,
        ):
            one, other, slow = self.start([3])
            self.cluster.run(1)
            self.replace(slow, Silent(self.cluster.clock, said))
            began = self.cluster.clock.seconds()
            for n in range(40):
                answer, took = self.put(one, f"/n{n}", b"hello")
                self.assertEqual(200, answer.status)
                self.assertEqual(b"2/3", answer.fields[b"x-clblob-copies"])
                self.assertLess(took, 0.5)
                self.assertEqual(b"hello", self.cluster.get(other, f"/000_n{n}").body)
                self.cluster.run(0.5)
            # A few waited for it at first; then the other one was preferred.
            self.assertLess(self.cluster.clock.seconds() - began, 40 * 0.5 + 4)
            self.assertEqual(40, len(other.rows()))
            assert one.service is not None
            report = one.service.replication.report()
            self.assertLess(report[f"peer:{other.name}"]["lag_seconds"], 1)

    def test_forwarded_reads(self) -> None:
        """Reads through any server find a replica that answers, soon."""
        for said in (
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n" + SMALL * 99,
        ):
            first, _, slow = self.start([1, 2])
            for n in range(20):
                self.put(first, f"/001_{n}?encoded=1", b"hello")
            self.cluster.run(2)
            self.replace(slow, Silent(self.cluster.clock, said))
            began = self.cluster.clock.seconds()
            for n in range(20):
                got = self.cluster.get(first, f"/001_{n}")
                self.assertEqual((200, b"hello"), (got.status, got.body))
            self.assertLess(self.cluster.clock.seconds() - began, 20)


class BackAgainTests(SlowCase):
    """A peer that starts is served at once, however long it was away."""

    def test_hello(self) -> None:
        """What waits for it is sent as soon as it says hello, not when a pause ends."""
        for away in (2.0, 20.0, 200.0):
            one, other = self.start([2])
            self.cluster.crash(other)
            for n in range(50):
                self.put(one, f"/n{n}", b"hello")
            self.cluster.run(away)
            self.cluster.start(other)
            self.cluster.run(0.5)
            self.assertEqual(50, len(other.rows()))

    def test_anybody_may_say_so(self) -> None:
        """A hello of a stranger, or of one who is not there, has no consequences."""
        one, other = self.start([2])
        gone = HangingUp()
        self.replace(other, gone)
        self.cluster.run(60)
        assert one.service is not None
        peers = one.service.peers
        before = gone.connections
        for _ in range(100):
            peers.heard(b"c0b0r1")
            peers.heard(b"nobody")
            self.cluster.run(0.05)
        self.assertLess(gone.connections - before, 20)
        self.assertFalse(peers.is_up("c0b0r1"))

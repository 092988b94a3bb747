"""The exam that every `IBlobs` passes: in this process, and over HTTP."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import ClientFactory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from clinfra.blob.client import BlobClient
from clinfra.config import Bytes
from clinfra.errors import (
    ConfigProblems,
    InvalidRequest,
    NotFound,
    Overloaded,
    StorageFull,
    TooLarge,
)
from clinfra.interfaces import IBlobs, ILendsBlobs
from clinfra.web.exchange import FileBody
from clinfra.web.pool import Origin, Pool
from tests.blob.support import NOW, Rig
from tests.web.clients import Client
from tests.web.origins import Dial, Line

T = TypeVar("T")


class BlobsContract(SynchronousTestCase):
    """What blobs must do; hidden from test runners below."""

    blobs: IBlobs

    def make(self, rig: Rig) -> IBlobs:
        """Return blobs kept by a rig."""
        raise NotImplementedError

    def setUp(self) -> None:
        self.rig = Rig(max_blob_bytes=Bytes(1 << 21))
        self.addCleanup(self.rig.close)
        self.blobs = self.make(self.rig)

    def run_now(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns, letting time pass."""
        return self.successResultOf(self.started(coroutine))

    def fails(self, kind: type[Exception], coroutine: Coroutine[Any, Any, Any]) -> str:
        """Return the sentence a coroutine fails with."""
        failure = self.failureResultOf(self.started(coroutine), kind)
        return str(failure.value)

    def started(self, coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
        running = Deferred.fromCoroutine(coroutine)
        for _ in range(50):
            if running.called:
                break
            self.turn()
        return running

    def turn(self) -> None:
        """Let a little time pass."""
        self.rig.clock.advance(0.01)

    def test_interface(self) -> None:
        """It has everything the interface says."""
        self.assertTrue(verifyObject(IBlobs, self.blobs))

    def test_put_and_get(self) -> None:
        """What was put comes back, with what is known of it."""
        put = self.run_now(
            self.blobs.put("ü?&#.jpg", b"hello", ttl_seconds=60, content_type="a/b")
        )
        info, body = self.run_now(self.blobs.get("000_ü?&#.jpg"))

        self.assertEqual(b"hello", body)
        self.assertEqual(put, info)
        self.assertEqual("000_ü?&#.jpg", info.name)
        self.assertEqual((5, "a/b"), (info.size, info.content_type))
        self.assertEqual(hashlib.sha256(b"hello").hexdigest(), info.sha256)
        self.assertEqual({0: 0}, info.buckets)
        self.assertIn(info.deleted - int(NOW), (60, 61))
        self.assertEqual(put, self.run_now(self.blobs.info("000_ü?&#.jpg")))

    def test_encode(self) -> None:
        """A plain name is encoded once, and put under that."""
        stored = self.run_now(self.blobs.encode("x"))
        put = self.run_now(self.blobs.put(stored, b"1", encoded=True))

        self.assertEqual(("000_x", "000_x"), (stored, put.name))

    def test_large(self) -> None:
        """A body of more than a megabyte comes back whole."""
        body = bytes(range(256)) * 6000
        self.run_now(self.blobs.put("x", body))

        self.assertEqual(body, self.run_now(self.blobs.get("000_x"))[1])

    def test_delete(self) -> None:
        """A deleted blob is not found; deleting nothing is no error."""
        self.run_now(self.blobs.put("x", b"1"))
        told = self.run_now(self.blobs.delete("000_x"))
        never = self.run_now(self.blobs.delete("000_never"))

        self.assertGreater(told.deleted, 0)
        self.assertIsNone(never.modified)
        self.fails(NotFound, self.blobs.get("000_x"))
        self.assertEqual(told, self.run_now(self.blobs.info("000_x")))
        self.fails(NotFound, self.blobs.info("000_never"))

    def test_refusals(self) -> None:
        """Bad names, too much and no space are refused by their own errors."""
        for name in ("", "_x", "a\nb"):
            self.fails(InvalidRequest, self.blobs.put(name, b"1"))
        self.fails(InvalidRequest, self.blobs.get("10000_x"))
        self.fails(TooLarge, self.blobs.put("x", bytes((1 << 21) + 1)))
        self.rig.service.replica.free_bytes = 0
        self.fails(StorageFull, self.blobs.put("x", b"1"))
        self.fails(NotFound, self.blobs.info("000_x"))


class LocalBlobsTests(BlobsContract):
    """In this process."""

    def make(self, rig: Rig) -> IBlobs:
        return rig.service.blobs

    def test_lend(self) -> None:
        """A large body is lent as a piece of a file, and a small one given."""
        blobs = self.rig.service.blobs
        self.assertTrue(verifyObject(ILendsBlobs, blobs))
        large = bytes(range(256)) * 6000
        for body in (b"hello", large):
            put = self.run_now(blobs.put("x", body))
            info, lent = self.run_now(blobs.lend("000_x"))
            self.assertEqual(put, info)
            if isinstance(lent, FileBody):
                self.addCleanup(lent.close)
                self.assertEqual(large, os.pread(lent.fd, lent.length, lent.offset))
            else:
                self.assertEqual(body, lent)
        self.run_now(blobs.delete("000_x"))
        self.fails(NotFound, blobs.lend("000_x"))
        self.fails(NotFound, blobs.lend("000_never"))


class BlobClientTests(BlobsContract):
    """Over HTTP, to a real site, in memory."""

    def make(self, rig: Rig) -> IBlobs:
        self.lines: list[tuple[Line, Client]] = []
        self.reachable = True
        clock = _Reactor(rig.clock)
        pool = Pool(rig.clock, None, self.connect)
        client = BlobClient("http://blob.example:8081", reactor=clock, pool=pool)
        self.addCleanup(client.close)
        clock.run()
        for _ in range(5):
            self.turn()
        return client

    def connect(self, origin: Origin, factory: ClientFactory, timeout: float) -> Dial:
        self.assertEqual(Origin("blob.example", 8081), origin)
        dial = Dial(self.rig.clock, factory, timeout)
        if self.reachable:
            self.rig.clock.callLater(0, self.accept, dial)
        else:
            self.rig.clock.callLater(0, dial.refuse, ConnectionRefusedError())
        return dial

    def accept(self, dial: Dial) -> None:
        self.lines.append((dial.accept(), Client(self.rig.site, self.rig.clock)))

    def turn(self) -> None:
        """Carry bytes both ways."""
        super().turn()
        for line, client in self.lines:
            client.send(line.take())
            received = bytes(client.received)
            client.received.clear()
            if received:
                line.send(received)

    def test_not_reached(self) -> None:
        """Whoever encodes a name waits for the server to tell its cluster."""
        self.reachable = False
        reactor = _Reactor(self.rig.clock)
        pool = Pool(self.rig.clock, None, self.connect)
        client = BlobClient("http://blob.example:8081", reactor=reactor, pool=pool)
        self.addCleanup(client.close)
        reactor.run()
        asked = [Deferred.fromCoroutine(client.encode("x")) for _ in range(2)]
        for _ in range(5):
            self.turn()
        for each in asked:
            self.failureResultOf(each, Overloaded)
        for _ in range(5):
            self.turn()
        self.reachable = True
        left, asked = (
            Deferred.fromCoroutine(client.encode("x")),
            [Deferred.fromCoroutine(client.encode("x")) for _ in range(2)],
        )
        left.cancel()
        self.failureResultOf(left, CancelledError)
        for _ in range(5):
            self.turn()

        for each in asked:
            self.assertEqual("000_x", self.successResultOf(each))
        self.assertEqual("000_x", self.run_now(client.encode("x")))

    def test_bad_url(self) -> None:
        """What is no http URL is a configuration error."""
        for url in ("blob:8081", "https://x", "http://"):
            with self.assertRaises(ConfigProblems):
                BlobClient(url, reactor=_Reactor(Clock()), pool=Pool(Clock()))


class _Reactor:
    """The part of a reactor that a BlobClient uses, on a clock."""

    def __init__(self, clock: Clock) -> None:
        self._waiting: list[Callable[[], object]] = []

    def callWhenRunning(self, function: Callable[[], object]) -> None:
        self._waiting.append(function)

    def run(self) -> None:
        for function in self._waiting:
            function()


del BlobsContract  # no test of its own

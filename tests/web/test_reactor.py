"""The lean reactor: what Twisted's does, in fewer steps."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.trial.unittest import SynchronousTestCase

from clinfra.web.reactor import LeanEPollReactor


class Descriptor:
    """Something that can be read and written."""

    def __init__(self) -> None:
        self.ours, self.peer = socket.socketpair()
        self.ours.setblocking(False)
        self.events: list[str] = []
        self.on_read: Callable[[], Any] = lambda: None

    def fileno(self) -> int:
        return self.ours.fileno()

    def logPrefix(self) -> str:
        return "test"

    def doRead(self) -> Any:
        self.events.append("read")
        self.ours.recv(100)
        return self.on_read()

    def doWrite(self) -> Any:
        self.events.append("write")

    def connectionLost(self, reason: Any) -> None:
        self.events.append(type(reason.value).__name__)

    def close(self) -> None:
        self.ours.close()
        self.peer.close()


class ReactorTests(SynchronousTestCase):
    """Events of descriptors."""

    def setUp(self) -> None:
        self.reactor = LeanEPollReactor()
        self.addCleanup(self.close)
        self.descriptor = self.make()

    def make(self) -> Descriptor:
        descriptor = Descriptor()
        self.addCleanup(descriptor.close)
        return descriptor

    def close(self) -> None:
        for waker in tuple(self.reactor._internalReaders):
            waker.connectionLost(None)
        self.reactor._poller.close()

    def turn(self) -> None:
        self.reactor.doPoll(0)

    def test_read(self) -> None:
        """A readable descriptor is read, once for each turn."""
        self.reactor.addReader(self.descriptor)
        self.turn()
        self.descriptor.peer.send(b"a")
        self.turn()
        self.turn()

        self.assertEqual(["read"], self.descriptor.events)

    def test_read_and_write(self) -> None:
        """One that is both is read first."""
        self.reactor.addReader(self.descriptor)
        self.reactor.addWriter(self.descriptor)
        self.descriptor.peer.send(b"a")
        self.turn()

        self.assertEqual(["read", "write"], self.descriptor.events)

    def test_read_says_lost(self) -> None:
        """What doRead returns ends the connection."""
        for why, name in (
            (CONNECTION_DONE, "ConnectionDone"),
            (CONNECTION_LOST, "ConnectionLost"),
        ):
            descriptor = self.make()
            descriptor.on_read = lambda why=why: why  # type: ignore[misc] # bound now
            self.reactor.addReader(descriptor)
            descriptor.peer.send(b"a")
            self.turn()
            self.assertEqual(["read", name], descriptor.events)
            self.assertNotIn(descriptor, self.reactor.getReaders())

    def test_read_raises(self) -> None:
        """A bug in one connection is logged and ends it, and no other."""
        other = self.make()

        def fail() -> None:
            raise LookupError

        self.descriptor.on_read = fail
        for descriptor in (self.descriptor, other):
            self.reactor.addReader(descriptor)
            descriptor.peer.send(b"a")
        self.turn()

        self.assertEqual(["read", "LookupError"], self.descriptor.events)
        self.assertEqual(["read"], other.events)
        self.assertEqual(1, len(self.flushLoggedErrors(LookupError)))

    def test_hang_up(self) -> None:
        """A descriptor that is not read learns that its peer has closed."""
        self.reactor.addWriter(self.descriptor)
        self.descriptor.peer.close()
        self.turn()

        self.assertEqual("ConnectionLost", self.descriptor.events[-1])

    def test_removed_meanwhile(self) -> None:
        """One removed by another in the same turn is not touched."""
        both = [self.make(), self.make()]

        def remove() -> None:
            for descriptor in both:
                self.reactor.removeReader(descriptor)

        for descriptor in both:
            descriptor.on_read = remove
            self.reactor.addReader(descriptor)
            descriptor.peer.send(b"a")
        self.turn()

        self.assertEqual(["read"], both[0].events + both[1].events)

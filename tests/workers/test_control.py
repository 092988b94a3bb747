"""The line between the main process and a worker."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from clinfra.workers.control import CallFailed, Control
from clinfra.workers.orders import Orders


class Wire(StringTransport):
    """Takes descriptors; the test brings them."""

    def sendFileDescriptor(self, descriptor: int) -> None:
        pass


class ControlTests(SynchronousTestCase):
    """Calls are answered, by whichever side they go to."""

    def setUp(self) -> None:
        self.told: list[Any] = []
        self.lost: list[str] = []
        self.closed: list[int] = []
        self.later: Deferred[int] = Deferred()
        handlers: dict[str, Callable[..., Any]] = {
            "note": self.told.append,
            "double": lambda number: number * 2,
            "wait": lambda: self.later,
            "break": lambda: 1 // 0,
            "take": lambda descriptor, said: self.told.append((descriptor, said)),
        }
        self.ours = Control({}, lambda: self.lost.append("ours"))
        self.theirs = Control(handlers, lambda: self.lost.append("theirs"))
        self.wires = Wire(), Wire()
        self.ours.makeConnection(self.wires[0])
        self.theirs.makeConnection(self.wires[1])

    def exchange(self) -> None:
        """Carry what is on the wire, both ways, a byte at a time."""
        ends = ((self.wires[0], self.theirs), (self.wires[1], self.ours))
        while any(wire.value() for wire, _ in ends):
            for wire, end in ends:
                data = wire.value()
                wire.clear()
                for byte in data:
                    end.dataReceived(bytes([byte]))

    def test_hand(self) -> None:
        """A descriptor goes with its call; here it is closed when that is answered."""
        self.hand(3)
        self.assertEqual([], self.closed)
        self.theirs.fileDescriptorReceived(13)
        self.exchange()
        self.assertEqual([(13, "said")], self.told)
        self.assertEqual([3], self.closed)

    def test_hand_to_nobody(self) -> None:
        """A descriptor is closed, too, when the other side is gone before or after."""
        self.hand(3)
        self.ours.connectionLost()
        self.assertEqual([3], self.closed)
        self.hand(4)
        self.assertEqual([3, 4], self.closed)

    def test_handed_but_not_called(self) -> None:
        """A descriptor whose call never came is closed."""
        self.patch(os, "close", self.closed.append)
        self.patch(os, "set_inheritable", lambda descriptor, inheritable: None)
        self.theirs.fileDescriptorReceived(13)
        self.theirs.connectionLost()
        self.assertEqual([13], self.closed)

    def hand(self, descriptor: int) -> None:
        """Hand one over whose arrival is up to the test."""
        self.patch(os, "close", self.closed.append)
        self.patch(os, "set_inheritable", lambda descriptor, inheritable: None)
        self.ours.hand(descriptor, "take", "said")

    def test_tell(self) -> None:
        """What is told arrives, and nothing comes back."""
        self.ours.tell("note", {"a": [1, None]})
        self.exchange()
        self.assertEqual([{"a": [1, None]}], self.told)

    def test_ask(self) -> None:
        """Answers go to whom they are for."""
        first, second = self.ours.ask("wait"), self.ours.ask("double", 21)
        self.exchange()
        self.assertEqual(42, self.successResultOf(second))
        self.assertNoResult(first)
        self.later.callback(1)
        self.exchange()
        self.assertEqual(1, self.successResultOf(first))

    def test_large(self) -> None:
        """A frame may be larger than any line."""
        self.ours.tell("note", "x" * 200_000)
        self.exchange()
        self.assertEqual(["x" * 200_000], self.told)

    def test_broken(self) -> None:
        """What goes wrong there is told here, and logged there."""
        answer = self.ours.ask("break")
        self.exchange()
        failure = self.failureResultOf(answer, CallFailed)
        self.assertIn("ZeroDivisionError", str(failure.value))
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))

    def test_unknown(self) -> None:
        """A call that another version knows is refused, not obeyed or ignored."""
        answer = self.ours.ask("dance")
        self.exchange()
        self.failureResultOf(answer, CallFailed)
        self.assertEqual(1, len(self.flushLoggedErrors(KeyError)))

    def test_lost(self) -> None:
        """Whoever waits when the other side dies is told so, and so is whoever asks."""
        answer = self.ours.ask("wait")
        self.ours.connectionLost()
        self.failureResultOf(answer, ConnectionDone)
        self.failureResultOf(self.ours.ask("double", 1), ConnectionDone)
        self.assertEqual(["ours"], self.lost)

    def test_orders(self) -> None:
        """Orders are read as they were given; what a later version adds is left out."""
        orders = Orders("proxy", 1, 2, {"proxy": {}}, {"tcp:80": 4}, {"blob": "h:1"})
        self.assertEqual(orders, Orders.decode(orders.encode()))
        later = orders.encode().replace(b"{", b'{"new": 1, ', 1)
        self.assertEqual(orders, Orders.decode(later))

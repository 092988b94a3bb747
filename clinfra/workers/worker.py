"""A worker's process, seen from itself: its orders, its line to the main process."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.protocol import Factory
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from clinfra.workers.control import Control, Handler
from clinfra.workers.orders import Orders

log = Logger()

_REPORT_SECONDS = 1.0
_LOOK_SECONDS = 0.01
_LENGTH = struct.Struct("!I")


def read_orders(descriptor: int) -> Orders:
    """Read the first frame on the line, before the reactor runs.

    Raises EOFError when the main process is gone already.
    """
    with socket.socket(fileno=os.dup(descriptor)) as line:
        line.setblocking(True)
        (length,) = _LENGTH.unpack(_exactly(line, _LENGTH.size))
        orders = Orders.decode(_exactly(line, length))
        line.setblocking(False)
    return orders


def _exactly(line: socket.socket, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        piece = line.recv(count - len(received))
        if not piece:
            raise EOFError("the main process is gone")
        received += piece
    return bytes(received)


@define(eq=False)
class Line:
    """Tells the main process how things are, and does what it asks.

    Args:
        reactor: Twisted's.
        descriptor: of the line.
        report: what to tell every second.
        retire: called with the seconds there are to finish: when that is asked for,
            and with none when the main process is gone.
        handlers: of further calls.
        calls: to be done before anything else, as names and arguments.
    """

    reactor: Any
    descriptor: int
    report: Callable[[], Mapping[str, Any]]
    retire: Callable[[float], object]
    handlers: Mapping[str, Handler]
    calls: Sequence[tuple[str, Sequence[Any]]] = ()
    _control: Control = field(init=False)
    _reporting: LoopingCall | None = field(default=None, init=False)

    def open(self) -> None:
        """Connect, and say that connections are accepted from now on."""
        Deferred.fromCoroutine(self._open()).addErrback(
            lambda why: log.failure("while opening the line", failure=why)
        )

    async def _open(self) -> None:
        for name, arguments in self.calls:
            with log.failuresHandled("while doing what lasts: {name}", name=name):
                await maybeDeferred(self.handlers[name], *arguments)
        handlers = {"retire": self.retire, **self.handlers}
        self._control = Control(handlers, self._lost)
        factory = Factory.forProtocol(lambda: self._control)
        self.reactor.adoptStreamConnection(self.descriptor, socket.AF_UNIX, factory)
        os.close(self.descriptor)
        self._control.tell("ready", self.report())
        self._reporting = LoopingCall(self._tell_report)
        self._reporting.clock = self.reactor
        self._reporting.start(_REPORT_SECONDS, now=False)

    def hand(self, descriptor: int, name: str, *arguments: Any) -> None:
        """Call with a descriptor, which is closed here."""
        self._control.hand(descriptor, name, *arguments)

    async def close(self) -> None:
        """Wait until what was handed over has arrived; tell how things were at the end.

        The main process does not wait for ever.
        """
        if self._reporting is None:
            return
        while self._control.waiting:
            await deferLater(self.reactor, _LOOK_SECONDS)
        if self._reporting.running:
            self._reporting.stop()
            self._tell_report()
            await deferLater(self.reactor, 0)  # it is sent in this turn

    def _tell_report(self) -> None:
        self._control.tell("report", self.report())

    def _lost(self) -> None:
        if self._reporting is not None and self._reporting.running:
            self._reporting.stop()
        self.retire(0.0)

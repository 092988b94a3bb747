"""A worker's process, seen from the main process."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IProcessTransport
from twisted.internet.protocol import Factory, ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from clinfra.workers.control import Control, Handler
from clinfra.workers.crew import Hire
from clinfra.workers.orders import Orders

log = Logger()

CONTROL_DESCRIPTOR = 3
FIRST_LISTENING_DESCRIPTOR = 4


class Child(ProcessProtocol):
    """Runs a worker, and talks to it.  See `crew.IWorker`.

    Args:
        reactor: starts the process.
        orders: what it is told; its descriptors are given numbers here.
        descriptors: of the listening sockets in this process, by endpoint string.
        reactor_name: as twistd's --reactor takes it.
        on_ready: called when it accepts connections.
        on_gone: called with how its process ended.
        handlers: of further calls.
    """

    def __init__(
        self,
        reactor: Any,
        orders: Orders,
        descriptors: Mapping[str, int],
        reactor_name: str,
        on_ready: Callable[[], None],
        on_gone: Callable[[str], None],
        handlers: Mapping[str, Handler] | None = None,
    ) -> None:
        self.report: Mapping[str, Any] = {}
        self._reactor = reactor
        self._on_ready = on_ready
        self._on_gone = on_gone
        self._control = Control(
            {"ready": self._ready, "report": self._reported, **(handlers or {})},
            lambda: None,
        )
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            listening = {
                endpoint: number
                for number, endpoint in enumerate(
                    descriptors, FIRST_LISTENING_DESCRIPTOR
                )
            }
            inherited: dict[int, int | str] = {0: "w", 1: 1, 2: 2}
            inherited[CONTROL_DESCRIPTOR] = theirs.fileno()
            for endpoint, descriptor in descriptors.items():
                inherited[listening[endpoint]] = descriptor
            factory = Factory.forProtocol(lambda: self._control)
            reactor.adoptStreamConnection(ours.fileno(), socket.AF_UNIX, factory)
            self._process: IProcessTransport = reactor.spawnProcess(
                self,
                sys.executable,
                [
                    *(sys.executable, "-m", "clinfra.workers", orders.product),
                    *(str(orders.number), reactor_name),
                ],
                env=None,
                childFDs=inherited,
            )
        self._process.closeStdin()
        told = evolve(orders, listening=listening)
        self._control.sendString(told.encode())

    def retire(self, grace_seconds: float) -> None:
        """Let it accept no more, finish what it has, and end."""
        self._control.tell("retire", grace_seconds)

    def kill(self) -> None:
        """End it now."""
        with suppress(ProcessExitedAlready):
            self._process.signalProcess("KILL")

    def ask(self, name: str, *arguments: Any) -> Deferred[Any]:
        """Call it."""
        return self._control.ask(name, *arguments)

    def hand(self, descriptor: int, name: str, *arguments: Any) -> None:
        """Call with a descriptor, which is closed here."""
        self._control.hand(descriptor, name, *arguments)

    def processEnded(self, reason: Failure) -> None:
        """The process is over, and reaped.

        What it said last is read in this turn of the reactor, so that comes first.
        """
        self._reactor.callLater(0, self._end, _told(reason))

    def _end(self, end: str) -> None:
        """Let go of the line, which leads back here (see `Crew`), and say so."""
        del self._control
        self._on_gone(end)

    def _ready(self, report: Mapping[str, Any]) -> None:
        self.report = report
        self._on_ready()

    def _reported(self, report: Mapping[str, Any]) -> None:
        self.report = report


def hiring(
    reactor: Any,
    orders: Callable[[], Orders],
    descriptors: Callable[[], Mapping[str, int]],
    reactor_name: str,
    handlers: Mapping[str, Handler] | None = None,
) -> Hire:
    """Return what starts workers with these orders, as they are then."""

    def hire(
        place: int, on_ready: Callable[[], None], on_gone: Callable[[str], None]
    ) -> Child:
        return Child(
            reactor,
            evolve(orders(), number=place),
            descriptors(),
            reactor_name,
            on_ready,
            on_gone,
            handlers,
        )

    return hire


def _told(reason: Failure) -> str:
    """Return how a process ended, for people."""
    if reason.check(ProcessDone):
        return "ended"
    number = getattr(reason.value, "signal", None)
    if number is not None:
        return f"was killed by {signal.Signals(number).name}"
    status = getattr(reason.value, "exitCode", None)
    if status is not None and os.WIFEXITED(status << 8):
        return f"ended with status {status}"
    return "ended"

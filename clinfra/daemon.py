"""The life of the process: what starts when, and what stops before what.

Start, all before the reactor runs, so that any trouble ends the process with status 1
and one sentence: bind every listener (still privileged), then open and start the
products, blob first.  Stop, on SIGTERM: last started first, each part stops listening
and lets its requests in flight finish (all together at most `stop_timeout`); then the
products flush and close, blob last; then the log.

Products that have workers (`workers.service`) are bound here as well, so that their
sockets outlive every worker; those start when all else has, and finish first.  A worker
is a daemon too, of one part; what it is told to do is in `workers`.

SIGINT stops as SIGTERM does.  So does SIGHUP when it says that the terminal is gone;
other signals do what `on_signal` says.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from attrs import define, field
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import (
    IReactorCore,
    IReactorFromThreads,
    IReactorTime,
)
from twisted.logger import ILogObserver, Logger, LogLevel
from twisted.python.components import Componentized
from twisted.python.log import ILogObserver as IApplicationLogObserver

from clinfra.errors import ConfigProblems, StartupFailed
from clinfra.listening import Listener
from clinfra.logs import LineWriter
from clinfra.systemd import Notifier
from clinfra.web.site import Site


class State(Enum):
    """Where in its life the process is."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


class IDaemonReactor(IReactorCore, IReactorTime, IReactorFromThreads):
    """What is needed of the reactor here."""


@define(eq=False)
class Part:
    """A product (or the admin pages) and where it listens.

    Attributes:
        site: what answers; None when workers do, and the product is their crew.
    """

    product: Any
    site: Site | None
    listeners: tuple[Listener, ...]

    @property
    def name(self) -> str:
        name: str = self.product.name
        return name

    @property
    def origin(self) -> str | None:
        """Where the proxy in this process reaches it, if it does."""
        return next((each.origin for each in self.listeners if each.origin), None)

    def bind(self, reactor: Any) -> None:
        """Bind every listener.  Raises StartupFailed."""
        for listener in self.listeners:
            if self.site is None:
                listener.hold(reactor)
            else:
                listener.bind(reactor, self.site)

    def held(self) -> Mapping[str, int]:
        """Return the descriptors of its sockets, by endpoint."""
        return {each.endpoint: each.held() for each in self.listeners}

    async def close(self) -> None:
        """Stop listening; connections made already go on."""
        for listener in self.listeners:
            await listener.close()

    async def finish(self, seconds: float) -> None:
        """Let requests in flight finish, accepting no others."""
        if self.site is None:
            await self.product.finish(seconds)
        else:
            self.site.stop_accepting()
            await self.site.drained(seconds)


@define(eq=False, repr=False)  # it holds everything; Python words handlers of signals
class Daemon(Service):
    """The root service.

    Args:
        reactor: for binding and time.
        data_dir: made, for our user alone, when it is not there.
        stop_timeout_seconds: how long requests in flight may take at stop.
        writer: of the log; started and closed here.
        observer: given to the application, so that twistd logs with it.
        announce: shows a line to whoever started us.
        refuse: says why the process cannot start, and ends it.
        hints: returns further lines to show, once everything listens.
        handle_signal: `signal.signal`, or None to leave signals alone.
        terminal: whether somebody started us in a terminal, so that SIGHUP says that
            it is gone.
        on_signal: what else is done for a signal, in the reactor's thread.
        life_level: how important it is when it stops; a worker's is not.
        notifier: tells systemd of it.

    Attributes:
        parts: in the order they start.
        opening: called before the products open, e.g. for stores they share.
        closing: called after the products stopped, e.g. for connections they shared.
        joining: called once the reactor runs, e.g. to start workers; the process is
            ready when all that they return have fired.
        ready: called when it is.
        state: where in its life the process is.
    """

    reactor: IDaemonReactor
    data_dir: Path
    stop_timeout_seconds: float
    writer: LineWriter
    observer: ILogObserver
    announce: Callable[[str], None]
    refuse: Callable[[StartupFailed | ConfigProblems], NoReturn]
    hints: Callable[[], Sequence[str]] = list
    handle_signal: Callable[[int, Any], object] | None = None
    terminal: bool = False
    on_signal: Mapping[int, Callable[[], object]] = field(factory=dict)
    life_level: LogLevel = LogLevel.info
    notifier: Notifier = field(factory=Notifier)
    parts: list[Part] = field(factory=list, init=False)
    opening: list[Callable[[], None]] = field(factory=list, init=False)
    closing: list[Callable[[], Awaitable[None]]] = field(factory=list, init=False)
    joining: list[Callable[[], Deferred[None]]] = field(factory=list, init=False)
    ready: list[Callable[[], None]] = field(factory=list, init=False)
    state: State = field(default=State.STARTING, init=False)
    log = Logger()
    name = "clinfra"

    def origins(self) -> Mapping[str, str]:
        """Return where the proxy in this process reaches the other parts, by name."""
        return {part.name: part.origin for part in self.parts if part.origin}

    def ports(self, name: str) -> list[int]:
        """Return the TCP ports a part listens on."""
        listeners = [
            each for part in self.parts if part.name == name for each in part.listeners
        ]
        return [port for each in listeners if (port := each.tcp_port)]

    def bound_to(self, name: str) -> list[str]:
        """Return the IP addresses a part is bound to."""
        listeners = [
            each for part in self.parts if part.name == name for each in part.listeners
        ]
        return [each.host for each in listeners if each.host is not None]

    def setServiceParent(self, parent: object) -> None:
        """Join the application; this is also where twistd learns of our log."""
        super().setServiceParent(parent)
        if isinstance(parent, Componentized):
            parent.setComponent(IApplicationLogObserver, self.observer)

    def privilegedStartService(self) -> None:
        """Bind every listener."""
        if self.handle_signal is not None:
            for number in (signal.SIGHUP, *self.on_signal):
                before = self.handle_signal(number, self._signalled)
                if before is signal.SIG_IGN:
                    self.handle_signal(number, before)  # as nohup wants it
        try:
            for part in self.parts:
                part.bind(self.reactor)
        except StartupFailed as error:
            self.refuse(error)
        super().privilegedStartService()

    def startService(self) -> None:
        """Open, then start, every product."""
        self.writer.start()
        try:
            self._make_data_dir()
            for open_it in self.opening:
                open_it()
            for part in self.parts:
                self._open(part)
            for part in self.parts:
                IService(part.product).startService()
        except (StartupFailed, ConfigProblems) as error:
            self.refuse(error)
        super().startService()
        self.reactor.callWhenRunning(self._run)

    def _make_data_dir(self) -> None:
        try:
            self.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise StartupFailed(
                f"cannot use the data directory {self.data_dir}: {error.strerror}"
            ) from error

    def _open(self, part: Part) -> None:
        try:
            part.product.open()
        except OSError as error:
            place = error.filename or self.data_dir
            raise StartupFailed(
                f"{part.name} cannot start: {place}: {error.strerror}"
            ) from error

    def _run(self) -> None:
        if self.handle_signal is not None:
            # Twisted's own handlers would have the process die of the signal after
            # stopping in order; an order obeyed is status 0.
            for number in (signal.SIGTERM, signal.SIGINT):
                self.handle_signal(number, self._signalled)
        joined = Deferred.fromCoroutine(self._join())
        joined.addErrback(lambda why: self.log.failure("while starting", failure=why))

    async def _join(self) -> None:
        for waited_for in [join() for join in self.joining]:
            await waited_for
        if self.state is not State.STARTING:
            return
        for part in self.parts:
            for listener in part.listeners:
                self.announce(f"{part.name:<6} {listener.address}")
        self.announce(f"data   {self.data_dir}")
        for hint in self.hints():
            self.announce(hint)
        self.announce("clinfra is ready")
        self.state = State.RUNNING
        for call in self.ready:
            call()
        self.notifier.ready(self.status())
        self.notifier.feed_watchdog(self.reactor)
        # What start-up made stays for good: no later collection need look at it.
        gc.collect()
        gc.freeze()
        # Requests leave hardly any cycles behind.  Looking for them after 700 objects,
        # Python's default, finds only requests that are being answered, and costs a
        # fifth of a busy process's time.
        gc.set_threshold(50_000, 10, 10)

    def _signalled(self, number: int, frame: object) -> None:
        action = self.on_signal.get(number)
        if number == signal.SIGHUP and self.terminal:
            action = None
        self.reactor.callFromThread(action or self._end)

    def status(self) -> str:
        """Return in a line what runs."""
        return "serving " + ", ".join(part.name for part in self.parts)

    async def retire(self, seconds: float) -> None:
        """Let others take over: accept no more, finish what there is, and end.

        Connections that are idle stay open until their next answer, or the end.
        """
        for part in self.parts:
            await part.close()
            if part.site is not None:
                part.site.retire()
        for part in self.parts:
            if part.site is not None:
                await part.site.drained(seconds)
        self._end()

    def _end(self) -> None:
        if self.state is not State.STOPPING:
            self.state = State.STOPPING
            self.reactor.stop()

    def stopService(self) -> Deferred[None]:
        """Stop in order; fires when everything is flushed and closed."""
        self.state = State.STOPPING
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.notifier.stopping()
        self.log.emit(self.life_level, "stopping; requests in flight may finish")
        deadline = self.reactor.seconds() + self.stop_timeout_seconds
        for part in reversed(self.parts):
            with self.log.failuresHandled(
                "while {part} stopped listening", part=part.name
            ):
                await part.close()
                await part.finish(max(0.0, deadline - self.reactor.seconds()))
        for part in reversed(self.parts):
            with self.log.failuresHandled("while {part} closed", part=part.name):
                await maybeDeferred(IService(part.product).stopService)
        for close in self.closing:
            with self.log.failuresHandled("while closing"):
                await close()
        self.log.emit(self.life_level, "stopped")
        self.notifier.close()
        self.writer.close()

"""The life of the process: what starts when, and what stops before what.

Start, all before the reactor runs, so that any trouble ends the process with status 1
and one sentence: bind every listener (still privileged), then open and start the
products, blob first.  Stop, on SIGTERM: last started first, each part stops listening
and lets its requests in flight finish (all together at most `stop_timeout`); then the
products flush and close, blob last; then the log.

SIGINT stops as SIGTERM does.  So does SIGHUP when it says that the terminal is gone;
elsewhere it changes nothing and is answered in the log, since the configuration is
read at start only and rotated log files are noticed without it.
"""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn

from attrs import define, field
from twisted.application.service import IService, Service
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IReactorCore,
    IReactorFromThreads,
    IReactorTime,
)
from twisted.logger import ILogObserver, Logger
from twisted.python.components import Componentized
from twisted.python.failure import Failure
from twisted.python.log import ILogObserver as IApplicationLogObserver

from clinfra.errors import ConfigProblems, StartupFailed
from clinfra.interfaces import IProduct
from clinfra.logs import LineWriter
from clinfra.web.site import Site
from clinfra.web.transport import make_eager

_PLAIN = ("tcp", "tcp6", "unix", "systemd")
"""Endpoints whose bytes are HTTP as it is: no TLS, no PROXY header before it."""


class State(Enum):
    """Where in its life the process is."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


class IDaemonReactor(IReactorCore, IReactorTime, IReactorFromThreads):
    """What is needed of the reactor here."""


def _address_text(scheme: str, address: object) -> str:
    if isinstance(address, IPv6Address):
        return f"{scheme}://[{address.host}]:{address.port}/"
    if isinstance(address, IPv4Address):
        return f"{scheme}://{address.host}:{address.port}/"
    if isinstance(address, UNIXAddress) and address.name:
        return f"unix:{address.name.decode('utf-8', 'backslashreplace')}"
    return str(address)


@define(eq=False)
class Listener:
    """One place where a part listens: an endpoint string, and its port once bound."""

    endpoint: str
    _port: IListeningPort | None = None

    @property
    def kind(self) -> str:
        return self.endpoint.partition(":")[0].lower()

    @property
    def address(self) -> str:
        """Where it listens, as a URL where there is one."""
        if self._port is None:
            return self.endpoint
        secure = self.kind in ("tls", "ssl") or "haproxy:tls" in self.endpoint
        return _address_text("https" if secure else "http", self._port.getHost())

    @property
    def origin(self) -> str | None:
        """How the proxy in this process reaches it: "host:port" or "unix:/path"."""
        if self._port is None or self.kind not in _PLAIN:
            return None
        address = self._port.getHost()
        if isinstance(address, IPv6Address):
            host = "::1" if address.host in ("::", "") else address.host
            return f"[{host}]:{address.port}"
        if isinstance(address, IPv4Address):
            host = "127.0.0.1" if address.host in ("0.0.0.0", "") else address.host
            return f"{host}:{address.port}"
        if isinstance(address, UNIXAddress) and address.name:
            return "unix:" + address.name.decode("utf-8", "surrogateescape")
        return None

    @property
    def tcp_port(self) -> int | None:
        """Its port number, if it has one."""
        if self._port is None:
            return None
        return getattr(self._port.getHost(), "port", None)

    def bind(self, reactor: IDaemonReactor, factory: IProtocolFactory) -> None:
        """Listen.  Raises StartupFailed, naming the endpoint."""
        outcome: list[IListeningPort | Failure] = []
        try:
            listening = serverFromString(reactor, self.endpoint).listen(factory)
            listening.addBoth(outcome.append)
        except Exception as error:
            # Each kind of endpoint fails in its own way.
            raise self._failed(error) from error
        if not outcome:
            raise StartupFailed(f"{self.endpoint} does not listen at once")
        result = outcome[0]
        if isinstance(result, Failure):
            raise self._failed(result.value) from result.value
        if not IListeningPort.providedBy(result):
            raise StartupFailed(f"{self.endpoint} is not a place to listen at")
        self._port = result
        if self.kind in _PLAIN:
            make_eager(result)

    def _failed(self, error: BaseException | None) -> StartupFailed:
        if isinstance(error, CannotListenError):
            error = error.socketError
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, LookupError) and "systemd:" in self.endpoint:
            reason = "systemd passed no such socket"
        return StartupFailed(f"cannot listen on {self.endpoint}: {reason}")

    async def close(self) -> None:
        """Stop listening; connections made already go on."""
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)


@define(eq=False)
class Part:
    """A product (or the admin pages) and where it listens."""

    product: IProduct
    site: Site
    listeners: tuple[Listener, ...]

    @property
    def name(self) -> str:
        name: str = self.product.name
        return name

    @property
    def origin(self) -> str | None:
        """Where the proxy in this process reaches it, if it does."""
        return next((each.origin for each in self.listeners if each.origin), None)


@define(eq=False)
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

    Attributes:
        parts: in the order they start.
        opening: called before the products open, e.g. for stores they share.
        closing: called after the products stopped, e.g. for connections they shared.
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
    parts: list[Part] = field(factory=list, init=False)
    opening: list[Callable[[], None]] = field(factory=list, init=False)
    closing: list[Callable[[], Deferred[None]]] = field(factory=list, init=False)
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

    def setServiceParent(self, parent: object) -> None:
        """Join the application; this is also where twistd learns of our log."""
        super().setServiceParent(parent)
        if isinstance(parent, Componentized):
            parent.setComponent(IApplicationLogObserver, self.observer)

    def privilegedStartService(self) -> None:
        """Bind every listener."""
        if self.handle_signal is not None:
            before = self.handle_signal(signal.SIGHUP, self._signalled)
            if before is signal.SIG_IGN:
                self.handle_signal(signal.SIGHUP, before)  # as nohup wants it
        try:
            for part in self.parts:
                for listener in part.listeners:
                    listener.bind(self.reactor, part.site)
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
        self.reactor.callWhenRunning(self._started)

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

    def _started(self) -> None:
        for part in self.parts:
            for listener in part.listeners:
                self.announce(f"{part.name:<6} {listener.address}")
        self.announce(f"data   {self.data_dir}")
        for hint in self.hints():
            self.announce(hint)
        self.announce("clinfra is ready")
        self.state = State.RUNNING
        if self.handle_signal is not None:
            # Twisted's own handlers would have the process die of the signal after
            # stopping in order; an order obeyed is status 0.
            for number in (signal.SIGTERM, signal.SIGINT):
                self.handle_signal(number, self._signalled)
        # What start-up made stays for good: no later collection need look at it.
        gc.collect()
        gc.freeze()
        # Requests leave hardly any cycles behind.  Looking for them after 700 objects,
        # Python's default, finds only requests that are being answered, and costs a
        # fifth of a busy process's time.
        gc.set_threshold(50_000, 10, 10)

    def _signalled(self, number: int, frame: object) -> None:
        hung_up = number == signal.SIGHUP and not self.terminal
        self.reactor.callFromThread(self._stay if hung_up else self._end)

    def _stay(self) -> None:
        self.log.info(
            "SIGHUP changes nothing: the configuration is read at start, and rotated"
            " log files are noticed without it"
        )

    def _end(self) -> None:
        if self.state is State.RUNNING:
            self.state = State.STOPPING
            self.reactor.stop()

    def stopService(self) -> Deferred[None]:
        """Stop in order; fires when everything is flushed and closed."""
        self.state = State.STOPPING
        super().stopService()
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self.log.info("stopping; requests in flight may finish")
        deadline = self.reactor.seconds() + self.stop_timeout_seconds
        for part in reversed(self.parts):
            with self.log.failuresHandled(
                "while {part} stopped listening", part=part.name
            ):
                for listener in part.listeners:
                    await listener.close()
                part.site.stop_accepting()
                await part.site.drained(max(0.0, deadline - self.reactor.seconds()))
        for part in reversed(self.parts):
            with self.log.failuresHandled("while {part} closed", part=part.name):
                await maybeDeferred(IService(part.product).stopService)
        for close in self.closing:
            with self.log.failuresHandled("while closing"):
                await close()
        self.log.info("stopped")
        self.writer.close()

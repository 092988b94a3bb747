"""Where a part of the process listens."""

from __future__ import annotations

import re
from typing import Any

from attrs import define
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from clinfra.errors import StartupFailed
from clinfra.web.transport import make_eager
from clinfra.workers.adopting import AdoptingReactor

_PLAIN = ("tcp", "tcp6", "unix", "systemd")
"""Endpoints whose bytes are HTTP as it is: no TLS, no PROXY header before it."""


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
    """One place where a part listens: an endpoint string, and its port once bound.

    Args:
        endpoint: as in the configuration.
        descriptor: of a socket that is bound already, to listen on instead.
    """

    endpoint: str
    descriptor: int | None = None
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

    @property
    def host(self) -> str | None:
        """The IP address it is bound to; None for UNIX sockets."""
        if self._port is None or isinstance(self._port.getHost(), UNIXAddress):
            return None
        return str(getattr(self._port.getHost(), "host", ""))

    def hold(self, reactor: Any) -> None:
        """Bind, but leave it to others to accept.  Raises StartupFailed."""
        self.bind(reactor, Factory())
        port: Any = self._port
        port.stopReading()

    def held(self) -> int:
        """Return the descriptor of the socket that is bound."""
        port: Any = self._port
        descriptor: int = port.fileno()
        return descriptor

    def bind(self, reactor: Any, factory: IProtocolFactory) -> None:
        """Listen.  Raises StartupFailed, naming the endpoint."""
        outcome: list[IListeningPort | Failure] = []
        endpoint = self.endpoint
        if self.descriptor is not None:
            reactor = AdoptingReactor(reactor, self.descriptor)
            # What systemd passed, it passed to the process that bound this.
            endpoint = re.sub("systemd:.*", "tcp:0", endpoint)
        try:
            listening = serverFromString(reactor, endpoint).listen(factory)
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

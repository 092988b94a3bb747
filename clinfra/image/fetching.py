"""Fetch a picture from elsewhere into a file, within bounds.

The name of a host is resolved once for each connection, and the connection is made to
the very address that was checked: what a name stands for a moment later does not
matter.  Redirects are followed a few times, each checked like the first.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import define, field
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    wrapClientTLS,
)
from twisted.internet.error import ConnectError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import (
    IAddress,
    IHostResolution,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import optionsForClientTLS
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone, ResponseFailed
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IResponse
from zope.interface import implementer

from clinfra.errors import (
    InvalidRequest,
    NotFound,
    OriginFailed,
    OriginTimeout,
    StorageFull,
    Trouble,
)
from clinfra.image.elsewhere import Hosts, Url, check_public, parse_url
from clinfra.image.room import room
from clinfra.web.streams import Spooled, unnamed_file, write_all

MOST_REDIRECTS: Final = 3

_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_GONE: Final = frozenset((404, 410))
_TYPES: Final = ("image/", "application/octet-stream", "binary/octet-stream")

Resolve = Callable[[str], Awaitable[Sequence[str]]]
"""All addresses of a host; none when there is no such host."""

Connect = Callable[[Url, str], IStreamClientEndpoint]
"""How to connect for a URL to an address."""


@define(eq=False)
class Fetcher:
    """Fetches pictures.

    Args:
        reactor: for time-outs.
        hosts: from where.
        directory: where the files are, unnamed.
        max_bytes: of one picture.
        timeout_seconds: for all of one fetch.
    """

    _reactor: Any
    _hosts: Hosts
    _directory: Path
    _max_bytes: int
    _timeout_seconds: float
    _resolve: Resolve = field(kw_only=True)
    _connect: Connect = field(kw_only=True)

    @_resolve.default
    def _make_resolve(self) -> Resolve:
        return resolver(self._reactor)

    @_connect.default
    def _make_connect(self) -> Connect:
        return connector(self._reactor)

    async def fetch(self, url: Url) -> Spooled:
        """Return a picture in a file.

        Raises:
            Forbidden: it is not to be fetched from there.
            NotFound, OriginFailed, OriginTimeout: it cannot be.
        """
        with room():
            fd = unnamed_file(self._directory)
        work = Deferred.fromCoroutine(self._follow(url, fd))
        work.addTimeout(self._timeout_seconds, self._reactor)
        try:
            length = await work
        except TookTooLong as error:
            os.close(fd)
            raise OriginTimeout(f"{url.host} did not answer in time.") from error
        except BaseException:
            os.close(fd)
            raise
        return Spooled(fd, length, None)

    async def _follow(self, url: Url, fd: int) -> int:
        """Write what is at a URL into a file; return its length."""
        for _ in range(1 + MOST_REDIRECTS):
            response = await self._ask(url)
            if response.code not in _REDIRECTS:
                return await self._receive(url, response, fd)
            location = response.headers.getRawHeaders(b"location", [b""])[0]
            await _drop(response)
            try:
                url = parse_url(location.decode("latin-1"), url)
            except InvalidRequest as error:
                raise OriginFailed(f"{url.host} redirects to nowhere.") from error
        raise OriginFailed(f"{url.host} redirects too often.")

    async def _ask(self, url: Url) -> IResponse:
        self._hosts.check(url)
        if url.address is not None:
            addresses: Sequence[str] = [url.address]
        else:
            addresses = await self._resolve(url.host)
        check_public(url.host, addresses)
        endpoint = self._connect(url, addresses[0])
        agent = Agent.usingEndpointFactory(self._reactor, _Pinned(endpoint))
        headers = Headers({b"User-Agent": [b"clinfra"], b"Accept": [b"image/*"]})
        try:
            response: IResponse = await agent.request(
                b"GET", url.text.encode("ascii"), headers
            )
        except (
            ConnectError,
            ConnectionClosed,
            DNSLookupError,
            ResponseFailed,
            OSError,
        ) as error:
            raise OriginFailed(f"{url.host} cannot be reached.") from error
        return response

    async def _receive(self, url: Url, response: IResponse, fd: int) -> int:
        def field_of(name: bytes) -> str:
            values: list[bytes] = response.headers.getRawHeaders(name, [b""])
            return values[0].decode("latin-1").strip().lower()

        problem: Trouble | None = None
        if response.code in _GONE:
            problem = NotFound(f"{url.host} has no such picture.")
        elif response.code != 200:
            problem = OriginFailed(f"{url.host} answered {response.code}.")
        elif not (field_of(b"content-type") or "image/").startswith(_TYPES):
            problem = OriginFailed(f"What {url.host} has there is not a picture.")
        elif field_of(b"content-encoding") not in ("", "identity"):
            problem = OriginFailed(f"{url.host} sends a coding that was not asked for.")
        elif isinstance(response.length, int) and response.length > self._max_bytes:
            problem = OriginFailed(f"What {url.host} has is too large.")
        if problem is not None:
            await _drop(response)
            raise problem
        sink = _Sink(fd, self._max_bytes, url.host)
        response.deliverBody(sink)
        return await sink.done


def resolver(reactor: Any) -> Resolve:
    """Return how to resolve with a real reactor."""

    async def resolve(host: str) -> Sequence[str]:
        receiver = _Resolution()
        reactor.nameResolver.resolveHostName(receiver, host)
        return await receiver.done

    return resolve


def connector(reactor: Any) -> Connect:
    """Return how to connect with a real reactor."""

    def connect(url: Url, address: str) -> IStreamClientEndpoint:
        kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
        endpoint: Any = kind(reactor, address, url.port)
        if url.secure:
            # The certificate is for the name, whatever the address.
            endpoint = wrapClientTLS(optionsForClientTLS(url.host), endpoint)
        return endpoint  # type: ignore[no-any-return]  # as the kinds are

    return connect


@implementer(IResolutionReceiver)
class _Resolution:
    """Gathers the addresses of a host."""

    def __init__(self) -> None:
        self.done: Deferred[Sequence[str]] = Deferred()
        self._addresses: list[str] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        pass

    def addressResolved(self, address: IAddress) -> None:
        if isinstance(address, IPv4Address | IPv6Address):
            self._addresses.append(address.host)

    def resolutionComplete(self) -> None:
        if not self.done.called:
            self.done.callback(self._addresses)


@implementer(IAgentEndpointFactory)
class _Pinned:
    """Has an Agent connect to what was checked, and nowhere else."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def endpointForURI(self, uri: object) -> IStreamClientEndpoint:
        return self._endpoint


class _Sink(Protocol):
    """Writes a body into a file.

    Attributes:
        done: fires with its length.
    """

    def __init__(self, fd: int, max_bytes: int, host: str) -> None:
        self.done: Deferred[int] = Deferred(lambda _: self._stop())
        self._fd = fd
        self._max_bytes = max_bytes
        self._host = host
        self._length = 0

    def dataReceived(self, data: bytes) -> None:
        """Write a piece."""
        if self.done.called:
            return
        self._length += len(data)
        if self._length > self._max_bytes:
            self._fail(OriginFailed(f"What {self._host} has is too large."))
            return
        try:
            write_all(self._fd, data)
        except OSError:
            self._fail(StorageFull("There is no room for what is fetched."))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The body has ended, or broken off."""
        if self.done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.done.callback(self._length)
        else:
            self.done.errback(OriginFailed(f"{self._host} broke off."))

    def _fail(self, error: Exception) -> None:
        self.done.errback(error)
        self._stop()

    def _stop(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


async def _drop(response: IResponse) -> None:
    """Close the connection of a response without its body."""
    sink = _Sink(-1, -1, "")
    sink.done.addErrback(lambda failure: failure.trap(OriginFailed, CancelledError))
    response.deliverBody(sink)
    sink.done.cancel()

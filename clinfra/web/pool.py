"""Outbound HTTP/1.1: connections to origins and peers, kept open and used again.

Two forms over one core.  `Pool.request` is for coroutines; `Pool.start` calls a
receiver back and costs as little as can be, for the proxy.  Both stream both ways with
back-pressure.  A response that is cut short never looks complete, and a body of which a
piece has been sent is never sent again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Protocol as Shape

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConnector
from twisted.internet.protocol import ClientFactory

from clinfra.web.exchange import IBody
from clinfra.web.heads import Field, ResponseHead


@frozen
class Origin:
    """Where requests can be sent: a host (name or address) and port, or a UNIX path."""

    host: str = ""
    port: int = 0
    unix_path: str = ""

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read "host:port", "[v6]:port" or "unix:/path".  Raises ValueError."""
        raise NotImplementedError

    def __str__(self) -> str:
        raise NotImplementedError


@frozen
class PoolSettings:
    """How one pool treats each of its origins; times in seconds.

    Attributes:
        connect_timeout: to get a connection, name look-up or wait for a free one
            included.
        response_timeout: longest silence before the head (or while sending).
        read_timeout: longest silence inside the body.
        idle_timeout: how long an unused connection is kept.
        idle_connections: most unused connections kept.
        max_connections: most connections, used or not.
        waiting: most requests that wait for one.
        head_bytes: longest response head.
    """

    connect_timeout: float = 3.0
    response_timeout: float = 60.0
    read_timeout: float = 60.0
    idle_timeout: float = 4.0
    idle_connections: int = 64
    max_connections: int = 1024
    waiting: int = 1024
    head_bytes: int = 65536


Connect = Callable[[Origin, ClientFactory, float], IConnector]
"""Begins a connection: where to, what for, seconds it may take (see `connector`)."""


def connector(reactor: object) -> Connect:
    """Return the plain way to connect: the reactor's connectTCP and connectUNIX."""
    raise NotImplementedError


class Receiver(Shape):
    """Who hears of one response; called by the reactor, never from inside `start`.

    Either response_finished or response_failed comes last, once, unless the request was
    aborted: then nothing comes any more.
    """

    def response_started(self, head: ResponseHead) -> None:
        """The final head is in (1xx are skipped).

        Equal heads of one pool may be one object: what is derived from a head can be
        kept in a dict by the head itself.
        """

    def body_received(self, data: bytes) -> None:
        """A piece of the body; a last few may come after pauseProducing."""

    def response_finished(self) -> None:
        """The response is complete, exactly as long as its origin said."""

    def response_failed(self, reason: Exception) -> None:
        """There will be no (complete) response.

        `reason` is errors.OriginFailed or OriginTimeout, whose `replayable` says
        whether the request may be sent again; or what reading its body raised.
        """


class OriginRequest:
    """One request on its way; an IPushProducer of its response."""

    def pauseProducing(self) -> None:
        """Take no more of the response from the origin for now."""
        raise NotImplementedError

    def resumeProducing(self) -> None:
        """Go on after pauseProducing."""
        raise NotImplementedError

    def stopProducing(self) -> None:
        """Abort."""
        raise NotImplementedError

    def abort(self) -> None:
        """Forget the request: its connection is closed, its receiver hears no more."""
        raise NotImplementedError


class OriginResponse:
    """A response for a coroutine; whoever does not read it to its end must abort it.

    Attributes:
        head: the ResponseHead.
    """

    head: ResponseHead

    async def read(self) -> bytes:
        """Return the next piece of the body, b"" at its end.

        Raises errors.OriginFailed when it is cut short, errors.OriginTimeout.
        """
        raise NotImplementedError

    async def read_all(self, max_bytes: int) -> bytes:
        """Return the whole body.  Raises as `read`, and OriginFailed when longer."""
        raise NotImplementedError

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the pieces of the body: it can be a Response's body as it is."""
        raise NotImplementedError

    def abort(self) -> None:
        """Stop here and close the connection; no harm when it is complete."""
        raise NotImplementedError


def make_request_head(
    origin: Origin,
    method: bytes,
    target: bytes,
    fields: tuple[Field, ...],
    body: bytes | IBody | None,
) -> bytes:
    """Return the head to send with `Pool.start`.

    The connection and its framing are the pool's: Connection, Keep-Alive, TE, Trailer,
    Transfer-Encoding, Upgrade, Expect and Content-Length in `fields` are left out, the
    body's true framing is added, and Host when `fields` have none.  Without a body
    (None) the result depends on nothing else and can be kept for the next request.
    """
    raise NotImplementedError


class Pool:
    """Connections to any number of origins, kept open and used again.

    Args:
        reactor: connects, resolves names and tells the time.
        settings: limits and time-outs, the same for each origin.
        connect: how to connect, e.g. `transport`'s eager one; default `connector`.
    """

    def __init__(
        self,
        reactor: object,
        settings: PoolSettings | None = None,
        connect: Connect | None = None,
    ) -> None:
        raise NotImplementedError

    async def request(
        self,
        origin: Origin,
        method: bytes,
        target: bytes,
        fields: tuple[Field, ...] = (),
        body: bytes | IBody | None = None,
    ) -> OriginResponse:
        """Send a request; return when the head of its response is in.

        Cancelling aborts the request.

        Raises:
            errors.OriginFailed, errors.OriginTimeout: see their `replayable`.
            errors.Overloaded: too many requests wait for this origin already.
            Exception: what reading `body` raised.
        """
        raise NotImplementedError

    def start(
        self,
        origin: Origin,
        method: bytes,
        head: bytes,
        body: bytes | IBody | None,
        receiver: Receiver,
    ) -> OriginRequest:
        """Send a request whose head was made by `make_request_head`; call back.

        Raises errors.Overloaded: too many requests wait for this origin already.
        """
        raise NotImplementedError

    def load(self, origin: Origin) -> int:
        """Return how many requests are under way to `origin` (to choose the least)."""
        raise NotImplementedError

    def report(self) -> Mapping[str, Mapping[str, int]]:
        """Return origin → its active, idle and waiting numbers, for the admin pages."""
        raise NotImplementedError

    def close(self) -> Deferred[None]:
        """Abort everything; fires when the last connection is gone."""
        raise NotImplementedError

"""Outbound HTTP/1.1: connections to origins and peers, kept open and used again.

Two forms over one core.  `Pool.request` is for coroutines (see `responses`);
`Pool.start` calls a receiver back and costs as little as can be, for the proxy.  Both
stream both ways with back-pressure.  A response that is cut short never looks complete.

When a kept connection turns out to be dead before any byte of the response came, the
request is sent once more on a new one, if nothing of it had been sent, or if doing it
twice does no harm and all that was taken from its sender is still at hand.  A body is
never sent again from the middle or without its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConnector, IDelayedCall, IPushProducer
from twisted.internet.protocol import ClientFactory
from zope.interface import implementer

from clinfra.errors import InvalidRequest, Overloaded
from clinfra.web.chunked import LAST_CHUNK, encode_chunk
from clinfra.web.connection import HeadMemo, OriginConnection
from clinfra.web.exchange import IBody
from clinfra.web.headers import HOP_BY_HOP
from clinfra.web.heads import Field, ResponseHead, format_request_head
from clinfra.web.peer import Peer
from clinfra.web.responses import OriginResponse
from clinfra.web.tracing import carried
from clinfra.web.transport import connect_tcp, connect_unix


@frozen(cache_hash=True)
class Origin:
    """Where requests can be sent: a host (name or address) and port, or a UNIX path.

    A certificate must be for `tls_name`, else for `host`."""

    host: str = ""
    port: int = 0
    unix_path: str = ""
    tls_name: str = ""

    @classmethod
    def parse(cls, text: str) -> Origin:
        """Read "host:port", "[v6]:port" or "unix:/path".  Raises ValueError."""
        kind, _, path = text.partition(":")
        if kind == "unix" and path.startswith("/"):
            return cls(unix_path=path)
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            host = ""
        if not host or not (
            port.isascii() and port.isdigit() and 0 < int(port) < 65536
        ):
            raise ValueError(f"{text!r} is neither host:port nor unix:/path")
        return cls(host, int(port))

    def __str__(self) -> str:
        if self.unix_path:
            return f"unix:{self.unix_path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@frozen
class PoolSettings:
    """How one pool treats each of its origins; times in seconds.

    Attributes:
        connect_timeout: to connect, name look-up included.
        response_timeout, read_timeout: longest silence before the head (or while
            sending), and inside the body.
        idle_timeout, idle_connections: how long, and how many unused ones are kept.
        waiting, waiting_timeout: most requests that wait for one, and for how long.
        head_bytes: longest response head.
    """

    connect_timeout: float = 3.0
    response_timeout: float = 60.0
    read_timeout: float = 60.0
    idle_timeout: float = 4.0
    idle_connections: int = 64
    max_connections: int = 1024
    waiting: int = 1024
    waiting_timeout: float = 3.0
    head_bytes: int = 65536


Connect = Callable[[Origin, ClientFactory, float], IConnector]
"""Begins a connection: where to, what for, seconds it may take (see `connector`)."""


def connector(reactor: Any) -> Connect:
    """Return how to connect with a real reactor, by transports that write at once."""

    def connect(origin: Origin, factory: ClientFactory, timeout: float) -> IConnector:
        if origin.unix_path:
            made: Any = connect_unix(reactor, origin.unix_path, factory, timeout)
        else:
            made = connect_tcp(reactor, origin.host, origin.port, factory, timeout)
        return cast(IConnector, made)

    return connect


class Receiver(Protocol):
    """Who hears of one response; called by the reactor, never from inside `start`.

    Either response_finished or response_failed comes last, once, unless the request was
    aborted: then nothing comes any more.
    """

    def response_started(self, head: ResponseHead) -> None:
        """The final head is in (with `may_switch` true, 101; else 1xx are skipped, or
        handed to `interim_received`).

        Equal heads of one pool may be one object: a dict can have them as keys.
        """

    def body_received(self, data: bytes) -> None:
        """A piece of the body; a last few may come after pauseProducing."""

    def response_finished(self) -> None:
        """The response is complete, exactly as long as its origin said."""

    def response_failed(self, reason: Exception) -> None:
        """There will be no (complete) response.

        `reason` is errors.OriginFailed or OriginTimeout, whose `replayable` says
        whether the request may be sent again; errors.Overloaded when it waited for a
        connection for too long; or what reading its body raised.
        """


_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))


@implementer(IPushProducer)
class OriginRequest:
    """One request on its way; an IPushProducer of its response.

    The attributes are for the pool and its connections.

    Attributes:
        opening: what is sent first and can be sent again: the head with all of the body
            that has been taken from its sender; b"" when that is nothing yet.
        rest: where the body comes from, when it is not in `opening` from the start.
        body_complete: nothing more is to come from `rest`.
        patience: seconds that the origin may be silent for besides the usual ones, once
            it has all of the body.
        sent: something may have reached an origin.
        taken: bytes of the body that were taken from its sender.
    """

    __slots__ = (
        *("_beyond", "_done", "_head", "_peer", "_retried"),
        *("body_complete", "connection", "connector", "deadline", "method"),
        *("opening", "patience", "paused", "receiver", "rest", "sent", "taken"),
    )

    def __init__(
        self,
        peer: Peer,
        method: bytes,
        head: bytes,
        body: bytes | IBody | None,
        receiver: Receiver,
    ) -> None:
        self.method = method
        self.receiver = receiver
        self.connection: OriginConnection | None = None
        self.connector: IConnector | None = None
        self.deadline = 0.0
        self.patience = 0.0
        self.paused = False
        self.sent = False
        self.rest: IBody | None = None
        self.opening = head
        self.taken = 0
        self._peer = peer
        self._done = False
        self._retried = False
        if isinstance(body, bytes):
            self.opening = head + body
            self.taken = len(body)
        elif body is not None:
            self._head, self._beyond = head, False
            self.opening = b""
            self.rest, self.body_complete = body, False

    # What the receiver asks.

    def pauseProducing(self) -> None:
        """Take no more of the response from the origin for now."""
        if not self.paused and not self._done:
            self.paused = True
            if self.connection is not None:
                self.connection.set_paused(True)

    def resumeProducing(self) -> None:
        """Go on after pauseProducing."""
        if self.paused and not self._done:
            self.paused = False
            if self.connection is not None:
                self.connection.set_paused(False)

    def stopProducing(self) -> None:
        """Abort."""
        self.abort()

    def abort(self) -> None:
        """Forget the request: its connection is closed, its receiver hears no more."""
        if not self._done:
            self._end()
            if self.connection is not None:
                self.connection.drop()
            elif self.connector is not None:
                self.connector.disconnect()
            else:
                self._peer.leave_queue(self)

    # What the connection tells.

    def finished(self) -> None:
        """The response is complete."""
        if not self._done:
            self._end().response_finished()

    def failed(self, reason: Exception) -> None:
        """There will be no (complete) response."""
        if not self._done:
            self._end().response_failed(reason)

    def _end(self) -> Receiver:
        """Let go of the receiver: it likely knows us, and cycles cost the collector."""
        receiver = self.receiver
        self._done = True
        del self.receiver
        return receiver

    @property
    def replayable(self) -> bool:
        """The one who made the request may make it again."""
        return (not self.sent or self.method in _IDEMPOTENT) and (
            self.rest is None or not self.opening
        )

    @property
    def can_begin_again(self) -> bool:
        """The pool may send it again, once: all of what was taken is in `opening`."""
        return not self._retried and (
            not self.sent
            or (self.method in _IDEMPOTENT and (self.rest is None or not self._beyond))
        )

    def begin_again(self) -> None:
        """Send the request on a new connection: the kept one was dead."""
        self._retried = True
        self._peer.dispatch(self, fresh=True)

    def take_piece(self, piece: bytes) -> bytes:
        """Take the next piece of the body; return what to send for it.

        Raises errors.InvalidRequest when the body is not as long as announced.
        """
        length = cast(IBody, self.rest).length
        self.taken += len(piece)
        if length is None:
            data = encode_chunk(piece) or LAST_CHUNK
            self.body_complete = not piece
        else:
            self.body_complete = self.taken == length
            if self.taken > length or not (piece or self.body_complete):
                raise InvalidRequest("The body is not as long as was announced.")
            data = piece
        if self.opening:
            self._beyond = True
            return data
        self.opening = self._head + data
        return self.opening


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
    kept = [pair for pair in fields if pair[0].lower() not in _FRAMING]
    if not any(name.lower() == b"host" for name, _ in kept):
        host = "localhost" if origin.unix_path else str(origin)
        kept.insert(
            0, (b"Host", host.encode("idna" if not host.isascii() else "ascii"))
        )
    length = len(body) if isinstance(body, bytes) else None
    if body is None:
        length = 0 if method in _USUALLY_WITH_BODY else None
    elif length is None:
        length = cast(IBody, body).length
        if length is None:
            kept.append((b"Transfer-Encoding", b"chunked"))
    if length is not None:
        kept.append((b"Content-Length", b"%d" % length))
    return format_request_head(method, target, kept)


_FRAMING = HOP_BY_HOP | {b"content-length", b"expect"}
_USUALLY_WITH_BODY = frozenset((b"POST", b"PUT", b"PATCH"))


class Pool:
    """Connections to any number of origins, kept open and used again.

    Args:
        reactor: connects, resolves names and tells the time.
        settings: limits and time-outs, the same for each origin.
        connect: how to connect; default `connector`.

    Attributes:
        now: reactor seconds at the last sweep, for peers and connections; so are the
            other attributes.
    """

    def __init__(
        self,
        reactor: Any,
        settings: PoolSettings | None = None,
        connect: Connect | None = None,
    ) -> None:
        self.settings = settings = settings or PoolSettings()
        self.connect = connect or connector(reactor)
        self.memo = HeadMemo()
        self.closed = False
        self.reactor = reactor
        self._peers: dict[Origin, Peer] = {}
        self._sweeping: IDelayedCall | None = None
        self._gone: Deferred[None] | None = None
        shortest = min(
            *(settings.waiting_timeout, settings.response_timeout),
            *(settings.read_timeout, settings.idle_timeout),
        )
        self._sweep_seconds = max(0.02, min(0.5, shortest / 4))
        # `now` may be as old as one sweep: add one, and nothing is cut too early.
        self.now = 0.0
        self.waiting_wait = settings.waiting_timeout + self._sweep_seconds
        self.response_wait = settings.response_timeout + self._sweep_seconds
        self.read_wait = settings.read_timeout + self._sweep_seconds

    async def request(
        self,
        origin: Origin,
        method: bytes,
        target: bytes,
        fields: tuple[Field, ...] = (),
        body: bytes | IBody | None = None,
        patience: float = 0.0,
    ) -> OriginResponse:
        """Send a request; return when the head of its response is in.

        Cancelling aborts the request.

        Args:
            patience: see `OriginRequest`.

        Raises:
            errors.OriginFailed, OriginTimeout: see their `replayable`.
            errors.Overloaded: too many requests wait for this origin, or it too long.
            Exception: what reading `body` raised.
        """
        response = OriginResponse()
        head = make_request_head(origin, method, target, (*fields, *carried()), body)
        if not self.settings.idle_connections:
            head = head[:-2] + b"Connection: close\r\n\r\n"
        request = self.start(origin, method, head, body, response)
        request.patience = patience
        return await response.expect(request)

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
        if self.closed:
            raise Overloaded("This server is stopping.")
        peer = self._peers.get(origin)
        if peer is None:
            peer = self._peers[origin] = Peer(self, origin)
            if self._sweeping is None:
                self._sweep()
        request = OriginRequest(peer, method, head, body, receiver)
        peer.dispatch(request)
        return request

    def load(self, origin: Origin) -> int:
        """Return how many requests are under way to `origin` (to choose the least)."""
        peer = self._peers.get(origin)
        return 0 if peer is None else peer.load

    def report(self) -> Mapping[str, Mapping[str, int]]:
        """Return origin → its active, idle and waiting numbers, for the admin pages."""
        return {str(origin): peer.report() for origin, peer in self._peers.items()}

    def close(self) -> Deferred[None]:
        """Abort everything; fires when the last connection is gone."""
        self.closed = True
        for peer in list(self._peers.values()):
            peer.close()
        if not self._peers:
            return succeed(None)
        if self._gone is None:
            self._gone = Deferred()
        return self._gone

    def forget(self, origin: Origin) -> None:
        """An origin has neither connections nor requests any more."""
        self._peers.pop(origin, None)
        if not self._peers:
            if self._sweeping is not None:
                self._sweeping.cancel()
                self._sweeping = None
            gone, self._gone = self._gone, None
            if gone is not None:
                gone.callback(None)

    def _sweep(self) -> None:
        self._sweeping = self.reactor.callLater(self._sweep_seconds, self._sweep)
        self.now = self.reactor.seconds()
        for peer in list(self._peers.values()):
            peer.sweep(self.now)

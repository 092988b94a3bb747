"""The server's side of one HTTP/1.1 connection.

A channel finds the end of each request's head, has it parsed, frames its body, and
hands an `Exchange` to its site.  Requests are answered one at a time and in order; what
a client sends ahead waits unparsed, within bounds, and then the socket is not read.

Nothing here has a timer: each channel has a `deadline`, and its site looks at all of
them once a second (see `Site`).  An idle channel holds no buffer.

# Note [Clients that close their sending side]
A client that has closed cannot be told from one that has only shut down its sending
side.  Both are taken as gone while a request is being worked on, because work for
nobody is the more common and the more costly case; an answer already written is still
delivered.

# Note [Lingering close]
Closing a socket with unread bytes makes the kernel send a reset, and the client may
then never see the answer.  So when a request is refused while more is coming, our
sending side is shut down first, and what comes is dropped for a while (in bytes and in
time).
"""

from __future__ import annotations

import re
from math import inf
from typing import TYPE_CHECKING

from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from clinfra.errors import RequestTimeout
from clinfra.web.bodies import EMPTY_BODY, RequestBody
from clinfra.web.exchange import Exchange, status_line
from clinfra.web.heads import BadHead, RequestHead
from clinfra.web.transport import Wire, backlog

if TYPE_CHECKING:
    from clinfra.web.site import Site

_IMPOSSIBLE = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|(?<!\r)\n|\r(?=[^\n])", re.DOTALL
)
"""What no head may contain, however it goes on: refused before it is complete."""

_PIECE = 128 * 1024
"""Largest part of an answer given to the transport at once, in bytes."""

_LINGER_BYTES = 1 << 20
_LINGER_SECONDS = 2.0

# Where a connection stands.
_READY = 0  # between requests, or inside a head
_BUSY = 1  # a request is being answered, or the rest of its body dropped
_LINGERING = 2  # our side is shut down; what comes is dropped
_CLOSING = 3  # closes as soon as everything is sent
_GONE = 4


@implementer(IProtocol, IHalfCloseableProtocol, IPushProducer)
class Channel:
    """One client connection.

    Attributes:
        site: the listener it belongs to.
        transport: the socket, TLS or not.
        blocked: the transport has more to send than it should.
        deadline: reactor seconds when `late` is to be called.
    """

    __slots__ = (
        "__weakref__",
        "_allowance",
        "_body",
        "_exchange",
        "_held",
        "_in_head",
        "_looping",
        "_paused",
        "_peer",
        "_seen",
        "_seen_at",
        "_state",
        "_tail",
        "_waiting",
        "blocked",
        "deadline",
        "site",
        "transport",
    )

    transport: Wire

    def __init__(self, site: Site) -> None:
        self.site = site
        self.blocked = False
        self.deadline = inf
        self._state = _READY
        self._exchange: Exchange | None = None
        self._body: RequestBody | None = None
        self._held: bytearray | None = None
        self._waiting = 0
        self._in_head = False
        self._looping = False
        self._paused = False
        self._peer: tuple[str, int, bool] | None = None
        self._tail: memoryview | None = None
        self._allowance = 0
        self._seen: int | None = None
        self._seen_at = 0.0

    # Who is there.

    def _ends(self) -> tuple[str, int, bool]:
        if self._peer is None:
            self._peer = (
                getattr(self.transport.getPeer(), "host", "") or "",
                getattr(self.transport.getHost(), "port", 0) or 0,
                ISSLTransport.providedBy(self.transport),
            )
        return self._peer

    @property
    def client_ip(self) -> str:
        """Address of the peer; "" for UNIX sockets."""
        return self._ends()[0]

    @property
    def local_port(self) -> int:
        """Our port; 0 for UNIX sockets."""
        return self._ends()[1]

    @property
    def secure(self) -> bool:
        """True over TLS."""
        return self._ends()[2]

    @property
    def idle(self) -> bool:
        """Nothing has come of a next request."""
        return self._state == _READY and self._held is None

    # What the transport says.

    def makeConnection(self, transport: Wire) -> None:  # type: ignore[override] # Wire is more
        """Begin."""
        self.transport = transport
        no_delay = getattr(transport, "setTcpNoDelay", None)
        if no_delay is not None:
            no_delay(True)
        transport.registerProducer(self, True)
        self._ends()
        if self.site.opened(self):
            self.deadline = self.site.now + self.site.limits.idle_timeout
        else:
            self._refuse(503, "Too many connections.", (b"\r\nRetry-After: 1",))

    def connectionMade(self) -> None:
        """Part of IProtocol; `makeConnection` does it all."""

    def dataReceived(self, data: bytes) -> None:
        """Take what the client sent."""
        state = self._state
        if state == _READY:
            held = self._held
            if held is not None:
                held += data
                data = bytes(held)
                self._held = None
            self._requests(data)
        elif state == _BUSY:
            body = self._body
            if body is not None:
                self._looping = True
                data = body.feed(data)
                self._looping = False
                self._fed(body)
                self._regulate()
                if self._state == _READY:
                    self._requests(data)
                    return
            if data:
                if self._state == _BUSY:
                    self._hold(data)
                else:
                    self._drop(len(data))
        else:
            self._drop(len(data))

    def readConnectionLost(self) -> None:
        """The client will send no more; see Note [Clients that close ...]."""
        if self._exchange is not None:
            self.abort()
        elif self._state != _GONE:
            self._state = _CLOSING
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """Our sending side is shut down, as asked."""

    def connectionLost(self, reason: Failure) -> None:
        """The connection is no more."""
        self._state = _GONE
        self.deadline = inf
        self._held = self._tail = self._body = None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.lost()
        self.site.closed(self)

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self.blocked = True
        self._seen = None
        self.deadline = self.site.now
        if self._exchange is not None:
            self._exchange.pause()

    def resumeProducing(self) -> None:
        """The transport's buffer is empty again."""
        self.blocked = False
        if self._tail is not None:
            if not self._push_tail():
                return
            if self._exchange is not None:
                self._exchange.answered()
            return
        self._set_deadline()
        if self._exchange is not None:
            self._exchange.resume()
        elif self._state == _READY and not self._looping:
            self._go_on()

    def stopProducing(self) -> None:
        """The transport is lost; `connectionLost` follows."""

    # Requests.

    def _requests(self, data: bytes) -> None:
        """Handle every request that is complete in `data`, which is not held."""
        site = self.site
        memo = site.memo
        at = 0
        self._looping = True
        while data:
            end = data.find(b"\r\n\r\n", at) + 4
            if end == 3:
                break
            raw = data[at:end]
            head = memo.get(raw)
            if head is None:
                if raw.startswith(b"\r\n"):
                    # An empty line before a request is to be ignored (RFC 9112 §2.2).
                    at += 2
                    continue
                try:
                    head = site.read_head(raw)
                except BadHead as bad:
                    self._looping = False
                    self._refuse(bad.status, bad.sentence)
                    return
            at = end
            self._state = _BUSY
            self._in_head = False
            self.deadline = inf
            if head.content_length == 0:
                self._exchange = exchange = Exchange(
                    self, head, EMPTY_BODY, site.time()
                )
            else:
                exchange = self._with_body(head)
                self._exchange = exchange
                data = exchange.body.feed(data[at:])
                at = 0
                self._fed(exchange.body)
                self._regulate()
            site.dispatch(exchange)
            if self._state != _READY:
                break
            if self.blocked:
                break
        self._looping = False
        if at:
            data = data[at:]
        if self._state == _READY:
            if not data:
                self.deadline = site.now + site.limits.idle_timeout
            elif self.blocked:
                self._hold(data)
            else:
                self._partial_head(data)
        elif data:
            if self._state == _BUSY:
                self._hold(data)
            else:
                self._drop(len(data))

    def _partial_head(self, data: bytes) -> None:
        """Keep the beginning of a head, unless it can never become one."""
        limit = self.site.limits.head_bytes
        stripped = data.lstrip(b"\r\n")
        if _IMPOSSIBLE.search(data):
            self._refuse(400, "This is not an HTTP/1.1 request.")
        elif len(data) > limit:
            self._refuse(*self.site.too_long(data))
        elif stripped:
            self._held = bytearray(stripped if data[0] in b"\r\n" else data)
            if not self._in_head:
                self._in_head = True
                self.deadline = self.site.now + self.site.limits.head_timeout
        else:
            # Only line ends between requests: keep what a CRLF may begin with.
            self._held = bytearray(data[-1:]) if data.endswith(b"\r") else None

    def _with_body(self, head: RequestHead) -> Exchange:
        body = RequestBody(
            self, head.content_length, self.site.limits.body_bytes, head.expect_continue
        )
        self._body = body
        return Exchange(self, head, body, self.site.time())

    def _fed(self, body: RequestBody) -> None:
        """Act on what a piece of body has changed."""
        if self._state != _BUSY:
            return
        if body.complete:
            self._body = None
            self._set_deadline()
            if self._exchange is None:
                self._state = _READY
        elif body.broken and self._exchange is None:
            self.close()
        else:
            self._set_deadline()

    def answered(self, exchange: Exchange) -> None:
        """The exchange is over, whole; the next request may have come already."""
        self._exchange = None
        if self._state != _BUSY:
            return
        body = self._body
        if body is not None and body.complete:
            self._body = body = None
        if exchange.last:
            self.close()
        elif body is not None:
            if not body.droppable:
                self.close()
                return
            body.discard()
            self._set_deadline()
            self._regulate()
        else:
            self._state = _READY
            if not self._looping:
                self._go_on()

    def _go_on(self) -> None:
        """Handle what was held while the last request was answered."""
        held, self._held = self._held, None
        if self.blocked and held is not None:
            self._held = held
            return
        self._waiting = 0
        if held is not None:
            self._requests(bytes(held))
        elif self.site.draining:
            self.close()
        else:
            self.deadline = self.site.now + self.site.limits.idle_timeout
        self._regulate()

    def _hold(self, data: bytes) -> None:
        """Keep requests sent ahead."""
        if self._held is None:
            self._held = bytearray()
        before = len(self._held)
        self._held += data
        self._waiting += self._held.count(b"\r\n\r\n", max(before - 3, 0))
        self._regulate()

    def _regulate(self) -> None:
        """Read from the socket unless too much is waiting here."""
        limits = self.site.limits
        held = self._held
        body = self._body
        full = (
            held is not None
            and self._state == _BUSY
            and (
                len(held) > limits.buffer_bytes or self._waiting > limits.pipeline_depth
            )
        ) or (body is not None and body.waiting > limits.buffer_bytes)
        if full != self._paused:
            self._paused = full
            if full:
                self.transport.pauseProducing()
            else:
                self.transport.resumeProducing()

    # What exchanges and bodies ask for.

    def put(self, message: bytes) -> bool:
        """Send a message; False when the rest goes as the client takes it.

        A large message is not copied into the transport's buffer: a slow client costs
        its position in it.
        """
        if len(message) <= _PIECE:
            self.transport.write(message)
            return True
        self._tail = memoryview(message)
        return self._push_tail()

    def _push_tail(self) -> bool:
        while self._tail is not None and not self.blocked:
            tail = self._tail
            self._tail = tail[_PIECE:] if len(tail) > _PIECE else None
            self.transport.write(bytes(tail[:_PIECE]))
        return self._tail is None

    def send_continue(self) -> None:
        """Tell the client that its body is wanted."""
        exchange = self._exchange
        if exchange is not None and not exchange.status:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def body_wanted(self) -> None:
        """Somebody waits for a piece of the body."""
        self._set_deadline()

    def body_taken(self) -> None:
        """Somebody took a piece of the body."""
        if self._paused:
            self._regulate()

    def abort(self) -> None:
        """Cut the connection, whatever is under way."""
        if self._state == _GONE:
            return
        self._state = _CLOSING
        exchange, self._exchange = self._exchange, None
        self._tail = None
        self.transport.unregisterProducer()
        self.transport.abortConnection()
        if exchange is not None:
            exchange.lost()

    # The end.

    def _refuse(
        self, status: int, sentence: str, fields: tuple[bytes, ...] = ()
    ) -> None:
        """Answer what is not a request, and close."""
        self.site.refused += 1
        body = sentence.encode() + b"\n"
        self._held = None
        self.transport.write(
            b"%b%b%b\r\nContent-Type: text/plain; charset=utf-8"
            b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
            % (status_line(status), self.site.stamp, b"".join(fields), len(body), body)
        )
        self.close(lingering=True)

    def close(self, lingering: bool = False) -> None:
        """Close when everything is sent; see Note [Lingering close]."""
        if self._state > _BUSY:
            return
        more = lingering or self._body is not None or self._held is not None
        self._held = self._body = None
        self._seen = None
        self.transport.unregisterProducer()
        if more and ITCPTransport.providedBy(self.transport) and not self.secure:
            self._state = _LINGERING
            self._allowance = _LINGER_BYTES
            self.deadline = self.site.now + _LINGER_SECONDS
            self.transport.loseWriteConnection()
            if self._paused:
                self._paused = False
                self.transport.resumeProducing()
        else:
            self._state = _CLOSING
            self.deadline = self.site.now + _LINGER_SECONDS
            self.transport.loseConnection()

    def _drop(self, count: int) -> None:
        """Count what comes while lingering."""
        self._allowance -= count
        if self._allowance < 0 and self._state == _LINGERING:
            self._state = _CLOSING
            self.transport.loseConnection()

    # Time.

    def _set_deadline(self) -> None:
        """Choose what is waited for."""
        site = self.site
        body = self._body
        if self._state > _BUSY:
            return
        if self.blocked:
            self.deadline = site.now
        elif body is not None and body.read_wanted:
            self.deadline = site.now + site.limits.body_timeout
        elif self._state == _BUSY:
            self.deadline = inf

    def late(self, now: float) -> None:
        """The deadline has passed."""
        if self.blocked or self._state > _BUSY:
            waiting = backlog(self.transport)
            if self._seen is None or (waiting and waiting != self._seen):
                self._seen = waiting or 0
                self._seen_at = now
            elif now - self._seen_at >= (
                _LINGER_SECONDS if waiting == 0 else self.site.limits.write_timeout
            ):
                self.abort()
            self.deadline = now
        elif self._state == _READY:
            if self._in_head:
                self._refuse(408, "The request did not come in time.")
            else:
                self.close()
        elif self._body is not None:
            if self._exchange is None:
                self.close()
            else:
                self._body.fail(RequestTimeout("The body did not come in time."))

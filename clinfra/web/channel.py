"""The server's side of one HTTP/1.1 connection.

A channel finds the end of each request's head, has it parsed, frames its body, and
hands an `Exchange` to its site.  Requests are answered one at a time and in order; what
a client sends ahead waits unparsed, within bounds, and then the socket is not read.

Nothing here has a timer: each channel has a `deadline`, and its site looks at all of
them once a second (see `Site`).  An idle channel holds no buffer.

# Note [Clients that close their sending side]
A client that has closed cannot be told from one that has only shut down its sending
side and waits for its answer.  So both get a few seconds: an answer begun by then is
delivered (writing to who is gone fails soon enough), one that is not is not worth more
work.  A request whose body can never be whole any more is over at once.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from twisted.internet.interfaces import (
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from clinfra.errors import RequestTimeout
from clinfra.web.bodies import EMPTY_BODY, RequestBody, SwitchedBody
from clinfra.web.channel_exchange import Exchange
from clinfra.web.heads import BadHead, RequestHead, is_spoilt
from clinfra.web.link import (
    BUSY,
    ENDED_SECONDS,
    GONE,
    LINGERING,
    LOOK_SECONDS,
    READY,
    Link,
)
from clinfra.web.transport import Wire, read_at_a_time

if TYPE_CHECKING:
    from clinfra.web.site import Site

_USUAL_READ = 1 << 16
_LARGEST_READ = 1 << 20
"""Most bytes that are read at once, of a body that somebody waits for: every turn of
the reactor costs as much as reading 100 KB."""


@implementer(IProtocol, IHalfCloseableProtocol, IPushProducer)
class Channel(Link):
    """One client connection, and the requests on it."""

    __slots__ = (
        "__weakref__",
        "_body",
        "_ended",
        "_exchange",
        "_held",
        "_in_head",
        "_looked",
        "_looping",
        "_waiting",
    )

    def __init__(self, site: Site) -> None:
        super().__init__(site)
        self._exchange: Exchange | None = None
        self._body: RequestBody | None = None
        self._held: bytearray | None = None
        self._waiting = 0
        self._in_head = False
        self._looked = 0
        self._looping = False
        self._ended = False

    @property
    def idle(self) -> bool:
        """Nothing has come of a next request."""
        return self._state == READY and self._held is None

    @property
    def dispensable(self) -> bool:
        """Nobody waits for anything on it."""
        return self.idle or self._state == LINGERING

    # What the transport says.

    def makeConnection(self, transport: Wire) -> None:  # type: ignore[override] # Wire is more
        """Begin."""
        self.attach(transport)
        if self.site.opened(self):
            self.deadline = self.site.now + self.site.limits.idle_timeout
        else:
            self.refuse(503, "Too many connections.", (b"\r\nRetry-After: 1",))

    def connectionMade(self) -> None:
        """Part of IProtocol; `makeConnection` does it all."""

    def dataReceived(self, data: bytes) -> None:
        """Take what the client sent."""
        state = self._state
        if state == READY:
            if self.blocked:
                self._hold(data)
                return
            held = self._held
            if held is not None:
                held += data
                data = bytes(held)
                self._held = None
            self._requests(data)
        elif state == BUSY:
            body = self._body
            if body is not None:
                self._looping = True
                data = body.feed(data)
                self._looping = False
                self._fed(body)
                self._regulate()
                if self._state == READY:
                    self._requests(data)
                    return
            if data:
                if self._state == BUSY:
                    self._hold(data)
                else:
                    self.drop(len(data))
        else:
            self.drop(len(data))

    def readConnectionLost(self) -> None:
        """The client will send no more; see Note [Clients that close ...]."""
        self._ended = True
        if self._exchange is None:
            self.close_now()
        elif self._body is not None and not self._body.end():
            self.abort()
        else:
            self._set_deadline()

    def writeConnectionLost(self) -> None:
        """Our sending side is shut down, as asked."""

    def connectionLost(self, reason: Failure) -> None:
        """The connection is no more."""
        self._state = GONE
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
            if not self.push_tail():
                return
            if self._exchange is not None:
                self._exchange.answered()
            return
        self._set_deadline()
        if self._exchange is not None:
            self._exchange.resume()
        elif self._state == READY and not self._looping:
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
                    self.refuse(bad.status, bad.sentence)
                    return
            at = end
            if self._ends is None:
                self.ends()
            self._state = BUSY
            self._in_head = False
            self.deadline = site.now + ENDED_SECONDS if self._ended else inf
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
            if self._state != READY:
                break
            if self.blocked:
                break
        self._looping = False
        if at:
            data = data[at:]
        if self._state == READY:
            if not data:
                self._rest()
            elif self.blocked:
                self._hold(data)
            elif self._ended:
                self.close_now()
            else:
                self._partial_head(data)
        elif data:
            if self._state != BUSY:
                self.drop(len(data))
            elif self._body is not None:
                self.dataReceived(data)  # it has switched protocols
            else:
                self._hold(data)

    def _partial_head(self, data: bytes) -> None:
        """Keep the beginning of a head, unless it can never become one."""
        limit = self.site.limits.head_bytes
        stripped = data.lstrip(b"\r\n")
        if is_spoilt(data, self._looked if self._in_head else 0):
            self.refuse(400, "This is not an HTTP/1.1 request.")
        elif len(data) > limit:
            self.refuse(*self.site.too_long(data))
        elif stripped:
            self._held = bytearray(stripped)
            self._looked = len(stripped)
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
        if self._state != BUSY:
            return
        if body.complete:
            self._body = None
            self._set_deadline()
            read_at_a_time(self.transport)
            if self._exchange is None:
                self._state = READY
        elif body.broken and self._exchange is None:
            self.close()
        else:
            self._set_deadline()

    def answered(self, exchange: Exchange) -> None:
        """The exchange is over, whole; the next request may have come already."""
        self._exchange = None
        if self._state != BUSY:
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
            self._state = READY
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
        else:
            self._rest()
        self._regulate()

    def _rest(self) -> None:
        """Wait for the next request, if there can be one."""
        if self._ended or self.site.draining:
            self.close()
        else:
            self.deadline = self.site.now + self.site.limits.idle_timeout

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
        full = body is not None and body.waiting > limits.buffer_bytes
        if held is not None and (self._state == BUSY or self.blocked):
            too_many = self._waiting > limits.pipeline_depth
            full = full or too_many or len(held) > limits.head_bytes
        if full != self._paused:
            self.read_on(not full)
            if full and self.deadline == inf:
                self.deadline = self.site.now + LOOK_SECONDS

    # What exchanges and bodies ask for.

    def send_continue(self) -> None:
        """Tell the client that its body is wanted."""
        exchange = self._exchange
        if exchange is not None and not exchange.status:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def switch(self) -> SwitchedBody:
        """Have what the client sends from now on taken as it comes."""
        self._body = body = SwitchedBody(self)
        held, self._held = self._held, None
        self._waiting = 0
        if held is not None:
            body.feed(bytes(held))
        if self._ended:
            body.end()
        self._regulate()
        return body

    def body_wanted(self) -> None:
        """Somebody waits for a piece of the body."""
        self._set_deadline()
        if self._body is not None and self._body.left > _USUAL_READ:
            read_at_a_time(self.transport, min(self._body.left, _LARGEST_READ))

    def body_taken(self) -> None:
        """Somebody took a piece of the body."""
        if self._paused:
            self._regulate()

    # The end.

    def abort(self) -> None:
        """Cut the connection, whatever is under way."""
        super().abort()
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.lost()

    def close(self, lingering: bool = False) -> None:
        """Close when everything is sent, so that the client can read it."""
        lingering = lingering or self._body is not None or self._held is not None
        self._held = self._body = None
        super().close(lingering)

    # Time.

    def _set_deadline(self) -> None:
        """Choose what is waited for."""
        site = self.site
        body = self._body
        if self._state > BUSY:
            return
        if body is not None and body.read_wanted and not self.blocked:
            self.deadline = body.due(site.now, site.limits)
            return
        if body is not None:
            body.rest(site.now)
        if self.blocked:
            self.deadline = site.now
        elif self._ended:
            self.deadline = site.now + ENDED_SECONDS
        elif self._state == BUSY:
            self.deadline = site.now + LOOK_SECONDS if self._paused else inf

    def late(self, now: float) -> None:
        """The deadline has passed."""
        if self.blocked or self._state > BUSY:
            self.check_progress(now)
        elif self._state == READY:
            if self._in_head:
                self.refuse(408, "The request did not come in time.")
            else:
                self.close()
        elif self._ended:
            if self._exchange is not None and self._exchange.status:
                self.deadline = inf
            else:
                self.abort()
        elif self._body is not None and self._body.read_wanted:
            if self._exchange is None:
                self.close()
            else:
                self._body.fail(RequestTimeout("The body did not come in time."))
        else:
            exchange = self._exchange
            self.look(now, exchange is not None and exchange.status > 0)

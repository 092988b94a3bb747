"""The exchanges of our own connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.errors import ClientGone
from clinfra.web.answer_head import BODILESS, field_block, status_line
from clinfra.web.exchange import FileBody, IBody, IOwnExchange
from clinfra.web.heads import Fields, RequestHead

if TYPE_CHECKING:
    from clinfra.web.channel import Channel
    from clinfra.web.streams import Threads
    from clinfra.web.tracing import Trace

log = Logger()

_JOINED = 64 * 1024
"""A body up to this many bytes is sent in one piece with its head."""


@implementer(IOwnExchange)
class Exchange:
    """One request on one of our own connections; see `IExchange`.

    Attributes:
        last: the connection ends after this answer.
    """

    __slots__ = (
        "_bodiless",
        "_callbacks",
        "_channel",
        "_chunked",
        "_head_bytes",
        "_left",
        "_notes",
        "_producer",
        "_pulling",
        "_trace",
        "_waiters",
        "_whole",
        "body",
        "bytes_out",
        "finished",
        "head",
        "last",
        "started_at",
        "status",
    )

    def __init__(
        self, channel: Channel, head: RequestHead, body: Any, started_at: float
    ) -> None:
        self._channel = channel
        self.head = head
        self.body = body
        self.started_at = started_at
        self.status = 0
        self.bytes_out = 0
        self.finished = False
        self.last = not head.keep_alive
        self._callbacks: list[Callable[[bool], None]] | None = None
        self._notes: dict[str, Any] | None = None
        self._waiters: list[Deferred[None]] | None = None
        self._trace: Trace | None = None
        self._producer: Any = None
        self._pulling = False
        self._head_bytes = b""
        self._chunked = False
        self._bodiless = False
        self._left: int | None = None

    # What is known of the request.

    @property
    def can_switch(self) -> bool:
        """Another protocol can be spoken after this request."""
        return self.head.http11 and self.head.content_length == 0

    @property
    def client_ip(self) -> str:
        """Address of the peer."""
        return self._channel.ends()[0]

    @property
    def local_port(self) -> int:
        """Port the request came in on."""
        return self._channel.ends()[1]

    @property
    def threads(self) -> Threads | None:
        """Where to wait for disks."""
        return self._channel.site.threads

    @property
    def secure(self) -> bool:
        """True over TLS."""
        return self._channel.secure

    @property
    def bytes_in(self) -> int:
        """Body bytes that have come so far."""
        return self.body.received  # type: ignore[no-any-return] # of several kinds

    @property
    def chunked(self) -> bool:
        """The answer has no announced length and is sent in chunks."""
        return self._chunked

    @property
    def channel(self) -> Channel:
        """The connection, for `request.py` and `streams.py`."""
        return self._channel

    @property
    def notes(self) -> dict[str, Any]:
        """What products add to the access log."""
        if self._notes is None:
            self._notes = {}
        return self._notes

    @property
    def trace(self) -> Trace | None:
        """Its ids, made when first asked for; None when nobody traces requests."""
        if self._trace is None:
            tracing = self._channel.site.tracing
            if tracing is not None:
                self._trace = tracing.trace_of(self.head, self.client_ip)
        return self._trace

    # Answers at once.

    def respond(self, status: int, fields: Fields = (), body: bytes = b"") -> None:
        """Answer at once."""
        if self.finished:
            return
        self._may_start()
        site = self._channel.site
        head = self.head
        length = len(body)
        block = field_block(fields, site.stamp, site.date)
        if status in BODILESS:
            framing = b""
            body = b""
        else:
            framing = b"\r\nContent-Length: %d" % length
            if head.method == b"HEAD":
                body = b""
        self._settle()
        if self.last:
            framing += b"\r\nConnection: close"
        elif not head.http11:
            framing += b"\r\nConnection: keep-alive"
        self.status = status
        self.bytes_out = len(body)
        line = status_line(status)
        if len(body) <= _JOINED:
            self._put(b"%b%b%b\r\n\r\n%b" % (line, block, framing, body))
        else:
            self._put(b"%b%b%b\r\n\r\n" % (line, block, framing), body)

    def send(self, prebuilt: bytes, status: int, body_bytes: int) -> None:
        """Answer with a complete message made before."""
        if self.finished:
            return
        self._may_start()
        self._settle()
        head = self.head
        if head.method == b"HEAD":
            prebuilt = prebuilt[: len(prebuilt) - body_bytes]
            body_bytes = 0
        if self.last or not head.http11:
            line_end = prebuilt.index(b"\r\n")
            prebuilt = b"%b\r\nConnection: %b%b" % (
                prebuilt[:line_end],
                b"close" if self.last else b"keep-alive",
                prebuilt[line_end:],
            )
        self.status = status
        self.bytes_out = body_bytes
        self._put(prebuilt)

    def _may_start(self) -> None:
        if self.status:
            raise RuntimeError("An answer was begun before.")

    def _settle(self) -> None:
        """Decide whether the connection can go on after an answer given at once."""
        body = self.body
        unread = not (body.complete or body.droppable)
        if unread or self._channel.site.draining:
            self.last = True

    def _put(self, message: bytes, body: bytes = b"") -> None:
        if self._channel.put(message, body):
            self.answered()

    def hint(self, status: int, fields: Fields) -> None:
        """Send an interim answer; see `IOwnExchange`."""
        block = field_block(fields, b"", b"")
        if self.head.http11 and not (self.finished or self.status):
            head = b"%b%b\r\n\r\n" % (status_line(status), block)
            self._channel.transport.write(head)

    # Answers as they come.

    def start(self, status: int, fields: Fields, length: int | None) -> None:
        """Begin an answer."""
        if self.finished:
            return
        self._may_start()
        channel = self._channel
        site = channel.site
        head = self.head
        block = field_block(fields, site.stamp, site.date)
        if site.draining or self.body.broken:
            self.last = True
        framing = b""
        if status in BODILESS:
            self._bodiless = True
        elif length is not None:
            framing = b"\r\nContent-Length: %d" % length
            self._bodiless = head.method == b"HEAD"
        elif head.http11:
            framing = b"\r\nTransfer-Encoding: chunked"
            self._bodiless = head.method == b"HEAD"
            self._chunked = not self._bodiless
        else:
            self._bodiless = head.method == b"HEAD"
            self.last = True
        self._left = None if self._bodiless else length
        if self.last:
            framing += b"\r\nConnection: close"
        elif not head.http11:
            framing += b"\r\nConnection: keep-alive"
        self.status = status
        self._head_bytes = b"%b%b%b\r\n\r\n" % (status_line(status), block, framing)
        site.flush_later(self)

    def switch(self, fields: Fields) -> IBody:
        """Answer 101; see `IOwnExchange`."""
        if self.finished:
            raise ClientGone
        self._may_start()
        channel = self._channel
        block = field_block(fields, channel.site.stamp, channel.site.date)
        self.status = 101
        self.last = True
        channel.transport.write(
            b"%b%b\r\nConnection: Upgrade\r\n\r\n" % (status_line(101), block)
        )
        self.body = body = channel.switch()
        return body

    def write(self, data: bytes) -> None:
        """Add to the body."""
        if self.finished or not data:
            return
        if not self.status:
            raise RuntimeError("The answer has not been begun.")
        if self._bodiless:
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                self.abort()
                raise ValueError("The body is longer than was announced.")
        self.bytes_out += len(data)
        if self._chunked:
            data = b"%b%x\r\n%b\r\n" % (self._head_bytes, len(data), data)
        elif self._head_bytes:
            data = self._head_bytes + data
        self._head_bytes = b""
        self._channel.transport.write(data)

    def flush(self) -> None:
        """Send a head that waits for the first piece of its body."""
        head_bytes, self._head_bytes = self._head_bytes, b""
        if head_bytes and not self.finished:
            self._channel.transport.write(head_bytes)

    def finish(self) -> None:
        """Complete the answer."""
        if self.finished:
            return
        if not self.status:
            raise RuntimeError("The answer has not been begun.")
        if self._left:
            self.abort()
            return
        if self._chunked:
            self._channel.transport.write(self._head_bytes + b"0\r\n\r\n")
            self._head_bytes = b""
        else:
            self.flush()
        self.answered()

    def abort(self) -> None:
        """Cut the connection."""
        if not self.finished:
            self._channel.abort()

    # Back-pressure.

    async def drained(self) -> None:
        """Wait until the client has taken enough."""
        self.flush()
        while self._channel.blocked and not self.finished:
            waiter: Deferred[None] = Deferred(self._forget)
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            await waiter
        if self.finished:
            raise ClientGone

    def _forget(self, waiter: Deferred[None]) -> None:
        if self._waiters is not None and waiter in self._waiters:
            self._waiters.remove(waiter)

    async def send_file(self, body: FileBody) -> None:
        """Add a piece of a file."""
        from clinfra.web.streams import send_file  # streams knows exchanges

        await send_file(self, body)

    @property
    def wants_bytes(self) -> bool:
        """False when nothing written is sent: HEAD, 204, 304, or nobody is there."""
        return not (self._bodiless or self.finished)

    def sent_directly(self, count: int) -> None:
        """Account for body bytes that went to the socket past `write`."""
        self.bytes_out += count
        if self._left is not None:
            self._left -= count

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Pause and resume a producer as the client takes what is written."""
        if self._producer is not None:
            raise RuntimeError("Another producer is registered.")
        if self.finished:
            producer.stopProducing()
            return
        self._producer = producer
        self._pulling = not streaming
        if not streaming:
            self._pull()
        elif self._channel.blocked:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """The producer has no more."""
        self._producer = None

    def _pull(self) -> None:
        """Ask a pull producer for a piece, and again next turn while there is room."""
        if self._producer is None or self.finished or self._channel.blocked:
            return
        self._producer.resumeProducing()
        if self._producer is not None and not self._channel.blocked:
            self._channel.site.reactor.callLater(0, self._pull)

    # What the channel tells.

    def pause(self) -> None:
        """The client takes no more for now."""
        if self._producer is not None and not self._pulling:
            self._producer.pauseProducing()

    def resume(self) -> None:
        """The client takes bytes again."""
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            waiter.callback(None)
        if self._producer is not None:
            if self._pulling:
                self._pull()
            else:
                self._producer.resumeProducing()

    def answered(self) -> None:
        """The whole answer has been handed to the transport."""
        self._done(True)
        self._channel.answered(self)

    def lost(self) -> None:
        """The client is gone, or the answer was cut."""
        if self.finished:
            return
        producer, self._producer = self._producer, None
        self._done(False)
        self.body.fail(ClientGone())
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            waiter.callback(None)
        if producer is not None:
            with log.failuresHandled("A producer failed to stop."):
                producer.stopProducing()

    def on_done(self, callback: Callable[[bool], None]) -> None:
        """Call back once when it is over."""
        if self.finished:
            callback(self._whole)
        elif self._callbacks is None:
            self._callbacks = [callback]
        else:
            self._callbacks.append(callback)

    def _done(self, whole: bool) -> None:
        self.finished = True
        self._whole = whole
        site = self._channel.site
        access_log = site.access_log
        if access_log is not None:
            try:
                access_log(self, site.time() - self.started_at)
            except Exception:
                log.failure("The access log failed.")
        callbacks = self._callbacks
        if callbacks is not None:
            self._callbacks = None
            for callback in callbacks:
                try:
                    callback(whole)
                except Exception:
                    log.failure("A callback at the end of a request failed.")

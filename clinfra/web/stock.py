"""Exchanges over the Requests of a stock twisted.web Site.

With these our resources can be mounted in anybody's Site.  There the body has been
buffered before, and the framing of answers is twisted.web's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from zope.interface import implementer

from clinfra.errors import ClientGone
from clinfra.web.answer_head import BODILESS, FRAMING, field_block
from clinfra.web.exchange import FileBody, IBody, IExchange
from clinfra.web.heads import Fields, RequestHead, parse_response_head
from clinfra.web.streams import pump_file

_PIECE = 64 * 1024


@implementer(IBody)
class StockBody:
    """The buffered body of a stock Request."""

    def __init__(self, request: Any) -> None:
        self._content = request.content
        self._content.seek(0, 2)
        self.length: int | None = self._content.tell()
        self._content.seek(0)

    async def read(self) -> bytes:
        """Return the next piece, b"" at the end."""
        return bytes(self._content.read(_PIECE))


@implementer(IExchange)
class StockExchange:
    """One request of a foreign Site; see `IExchange`."""

    trace = None
    threads = None
    """The reactor of a foreign Site is not known: files are read at once."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self.head = _head_of(request)
        self.body = StockBody(request)
        self.notes: dict[str, Any] = {}
        self.status = 0
        self.bytes_out = 0
        self.started_at = 0.0
        self.finished = False
        self._left: int | None = None
        self._producing = False
        self._waiters: list[Deferred[None]] = []
        self._blocked = False
        self._whole = False
        self._callbacks: list[Callable[[bool], None]] = []
        self._producer: Any = None
        request.notifyFinish().addBoth(self._over)

    @property
    def bytes_in(self) -> int:
        """Body bytes: all of them, they were buffered before."""
        return self.body.length or 0

    @property
    def client_ip(self) -> str:
        """Address of the peer."""
        return getattr(self._request.getClientAddress(), "host", "") or ""

    @property
    def local_port(self) -> int:
        """Port the request came in on."""
        return getattr(self._request.getHost(), "port", 0) or 0

    @property
    def secure(self) -> bool:
        """True over TLS."""
        return bool(self._request.isSecure())

    def respond(self, status: int, fields: Fields = (), body: bytes = b"") -> None:
        """Answer at once."""
        if self.finished:
            return
        self.start(status, fields, len(body))
        self.write(body)
        self.finish()

    def send(self, prebuilt: bytes, status: int, body_bytes: int) -> None:
        """Answer with a complete message made before."""
        cut = len(prebuilt) - body_bytes
        fields = parse_response_head(prebuilt[:cut]).fields
        self.respond(
            status,
            tuple(field for field in fields if field[0].lower() not in FRAMING),
            prebuilt[cut:],
        )

    def start(self, status: int, fields: Fields, length: int | None) -> None:
        """Begin an answer."""
        if self.finished:
            return
        if self.status:
            raise RuntimeError("An answer was begun before.")
        field_block(fields, b"", b"")  # raises ValueError for what may not be sent
        request = self._request
        self.status = status
        request.setResponseCode(status)
        for name in {name for name, _ in fields}:
            request.responseHeaders.removeHeader(name)
        for name, value in fields:
            request.responseHeaders.addRawHeader(name, value)
        if request.defaultContentType and not any(
            name.lower() == b"content-type" for name, _ in fields
        ):
            request.defaultContentType = None
        bodiless = status in BODILESS
        if length is not None and not bodiless:
            request.setHeader(b"Content-Length", b"%d" % length)
        self._left = None if bodiless or self.head.method == b"HEAD" else length
        request.registerProducer(self, True)
        self._producing = True
        request.write(b"")

    def write(self, data: bytes) -> None:
        """Add to the body."""
        if self.finished or not data:
            return
        if not self.status:
            raise RuntimeError("The answer has not been begun.")
        if self.status in BODILESS or self.head.method == b"HEAD":
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                self.abort()
                raise ValueError("The body is longer than was announced.")
        self.bytes_out += len(data)
        self._request.write(data)

    async def drained(self) -> None:
        """Wait until the client has taken enough."""
        while self._blocked and not self.finished:
            waiter: Deferred[None] = Deferred(self._waiters.remove)
            self._waiters.append(waiter)
            await waiter
        if self.finished:
            raise ClientGone

    async def send_file(self, body: FileBody) -> None:
        """Add a piece of a file."""
        if self.head.method != b"HEAD":
            await pump_file(self, body)

    def finish(self) -> None:
        """Complete the answer."""
        if self.finished:
            return
        if not self.status:
            raise RuntimeError("The answer has not been begun.")
        if self._left:
            self.abort()
            return
        self._stop_producing()
        self._request.finish()

    def abort(self) -> None:
        """Cut the connection."""
        if not self.finished:
            self._stop_producing()
            self._request.transport.abortConnection()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Pause and resume a producer."""
        self._stop_producing()
        self._producer = producer
        self._request.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """The producer has no more."""
        if self._producer is not None:
            self._producer = None
            self._request.unregisterProducer()

    def on_done(self, callback: Callable[[bool], None]) -> None:
        """Call back once when it is over."""
        if self.finished:
            callback(self._whole)
        else:
            self._callbacks.append(callback)

    # What the Request tells.

    def pauseProducing(self) -> None:
        """The client takes no more for now."""
        self._blocked = True

    def resumeProducing(self) -> None:
        """The client takes bytes again."""
        self._blocked = False
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    def stopProducing(self) -> None:
        """The client is gone; `_over` follows."""

    def _stop_producing(self) -> None:
        if self._producing:
            self._producing = False
            self._request.unregisterProducer()

    def _over(self, result: object) -> None:
        self.finished = True
        self._whole = not isinstance(result, Failure)
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(self._whole)
        self.resumeProducing()


def _head_of(request: Any) -> RequestHead:
    """Return a stock Request's head as the value products expect."""
    fields = tuple(
        (name, value)
        for name, values in request.requestHeaders.getAllRawHeaders()
        for value in values
    )
    index: dict[bytes, tuple[bytes, ...]] = {}
    for name, value in fields:
        index[name.lower()] = (*index.get(name.lower(), ()), value)
    request.content.seek(0, 2)
    length = request.content.tell()
    return RequestHead(
        method=request.method,
        target=request.uri,
        http11=request.clientproto == b"HTTP/1.1",
        fields=fields,
        index=index,
        host=index.get(b"host", (b"",))[0],
        content_length=length,
        keep_alive=True,
        expect_continue=False,
        raw=b"",
    )

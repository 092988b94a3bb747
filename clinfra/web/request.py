"""Bridges between exchanges and `twisted.web` Requests, both ways.

`Request` lets ordinary resources (static files, forms, sessions, anybody's) answer an
`Exchange` of our own channel.  Their body is buffered before they are rendered, as they
expect: small in memory, large in an unnamed file.  `StockExchange` lets our resources
answer a Request of a foreign Site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.http_headers import Headers
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, _IEncodingResource
from zope.interface import implementer

from clinfra.errors import ClientGone
from clinfra.web.exchange import Exchange, FileBody, IBody, IExchange, Response
from clinfra.web.heads import Fields, RequestHead, parse_response_head
from clinfra.web.resource import Resource, answer
from clinfra.web.streams import pump_file

if TYPE_CHECKING:
    from clinfra.web.site import Site

_PIECE = 64 * 1024

_HOP = frozenset(
    (b"content-length", b"transfer-encoding", b"connection", b"keep-alive")
)


def serve(exchange: Exchange, site: Site) -> None:
    """Have the site's resources answer an exchange."""
    root = site.resource
    if isinstance(root, Resource) and root.isLeaf:
        root.handle(exchange)
    else:
        Request(exchange, site).begin()


def exchange_of(request: IRequest) -> IExchange:
    """Return the exchange behind a Request, whoever made it."""
    if isinstance(request, Request):
        return request.exchange
    return StockExchange(request)


class RequestChannel:
    """What a `twisted.web` Request wants of its channel, over an exchange."""

    def __init__(self, exchange: Exchange, site: Site, request: Request) -> None:
        self.site = site
        self.transport = exchange.channel.transport
        self._exchange = exchange
        self._request = request

    def getPeer(self) -> IAddress:
        """Address of the client."""
        return self.transport.getPeer()  # type: ignore[return-value] # Wire says object

    def getHost(self) -> IAddress:
        """Address the request came in on."""
        return self.transport.getHost()  # type: ignore[return-value] # Wire says object

    def isSecure(self) -> bool:
        """True over TLS."""
        return self._exchange.secure

    def writeHeaders(
        self, version: bytes, code: bytes, reason: bytes, headers: Headers
    ) -> None:
        """Begin the answer; framing is the exchange's own."""
        lengths = headers.getRawHeaders(b"content-length")
        length = int(lengths[-1]) if lengths else None
        self._request.chunked = 0
        self._exchange.start(
            int(code),
            tuple(
                (name, value)
                for name, values in headers.getAllRawHeaders()
                if name.lower() not in _HOP
                for value in values
                if not (name == b"Server" and value == server.version)
            ),
            length,
        )
        if (headers.getRawHeaders(b"connection") or [b""])[-1].lower() == b"close":
            self._exchange.last = True

    def write(self, data: bytes) -> None:
        """Add to the body."""
        self._exchange.write(data)

    def writeSequence(self, pieces: Iterable[bytes]) -> None:
        """Add to the body."""
        self._exchange.write(b"".join(pieces))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Pause and resume a producer as the client takes bytes."""
        self._exchange.registerProducer(producer, streaming)

    def unregisterProducer(self) -> None:
        """The producer has no more."""
        self._exchange.unregisterProducer()

    def requestDone(self, request: Request) -> None:
        """The answer is complete."""
        self._exchange.finish()

    def loseConnection(self) -> None:
        """Close after what has been written."""
        self._exchange.last = True
        self._exchange.abort()

    def _respondToBadRequestAndDisconnect(self) -> None:
        """Answer a form that cannot be read; `http.Request` calls this by name."""
        self._exchange.last = True
        self._exchange.respond(
            400,
            ((b"Content-Type", b"text/plain; charset=utf-8"),),
            b"The form cannot be read.\n",
        )


class Request(server.Request):
    """A `twisted.web` Request that answers through `exchange`."""

    def __init__(self, exchange: Exchange, site: Site) -> None:
        self.exchange = exchange
        self._found: IResource | None = None
        self._site = site
        super().__init__(RequestChannel(exchange, site, self))
        for name, value in exchange.head.fields:
            self.requestHeaders.addRawHeader(name, value)
        self.parseCookies()

    def begin(self) -> None:
        """Find the resource; render it when it streams or there is no body."""
        exchange = self.exchange
        head = exchange.head
        exchange.on_done(self._over)
        self.gotLength(0)
        if self._find() and not isinstance(self._found, Resource):
            if head.content_length == 0:
                self._received()
            else:
                answer(exchange, self._buffer)
        elif self._found is not None:
            self.render(self._found)

    def _find(self) -> bool:
        head = self.exchange.head
        self.site = self._site
        self.method, self.uri, self.path = head.method, head.target, head.path
        self.clientproto = b"HTTP/1.1" if head.http11 else b"HTTP/1.0"
        self.args = http.parse_qs(head.query, True)
        self.prepath = []
        self.postpath = [unquote_to_bytes(part) for part in self.path[1:].split(b"/")]
        if self.path == b"*":
            return True
        try:
            self._found = self.site.getResourceFor(self)
        except BaseException:
            self.processingFailed(Failure())
            return False
        return True

    async def _buffer(self, exchange: Exchange) -> Response | None:
        """Take the body into memory or a file, then render."""
        self.gotLength(exchange.head.content_length)
        content = self.content
        while piece := await exchange.body.read():
            content.write(piece)  # type: ignore[union-attr] # begin() made it
        self._received()
        return None

    def _received(self) -> None:
        head = self.exchange.head
        self.requestReceived(head.method, head.target, self.clientproto)

    def process(self) -> None:
        """Render what was found; called when the form (if any) has been read."""
        self.setHeader(b"Server", server.version)
        if self._found is None:
            self._handleStar()
            return
        found = self._found
        try:
            if _IEncodingResource.providedBy(found):
                encoder = found.getEncoder(self)
                if encoder is not None:
                    self._encoder = encoder
            self.render(found)
        except BaseException:
            self.processingFailed(Failure())

    def _over(self, whole: bool) -> None:
        if self.finished or self._disconnected:
            return
        if not whole:
            self.connectionLost(Failure(ClientGone()))
        elif self.content is not None:
            # Answered past this Request: its body could not be read.
            self.content.close()


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
        self._callbacks: list[Callable[[bool], None]] = []
        self._producer: Any = None
        request.notifyFinish().addBoth(self._over)

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
            tuple(field for field in fields if field[0].lower() not in _HOP),
            prebuilt[cut:],
        )

    def start(self, status: int, fields: Fields, length: int | None) -> None:
        """Begin an answer."""
        if self.finished:
            return
        if self.status:
            raise RuntimeError("An answer was begun before.")
        for name, value in fields:
            if name.lower() in _HOP:
                raise ValueError("An answer's framing is not for its maker to say.")
            if any(byte in name + value for byte in b"\r\n\0"):
                raise ValueError("A header field of an answer has CR, LF or NUL in it.")
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
        bodiless = status in (204, 304)
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
        if self.status in (204, 304) or self.head.method == b"HEAD":
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
            callback(False)
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
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(not isinstance(result, Failure))
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

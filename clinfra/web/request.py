"""`twisted.web` Requests over the exchanges of our own channel.

Ordinary resources (static files, forms, sessions, anybody's) answer through `Request`.
Their body is buffered before they are rendered, as they expect: small in memory, large
in an unnamed file.  Our own `Resource`, wherever it is in the tree, reads its body as
it comes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from twisted.internet.interfaces import IAddress
from twisted.python.failure import Failure
from twisted.web import http, server
from twisted.web.http_headers import Headers
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, _IEncodingResource

from clinfra.errors import ClientGone
from clinfra.web.answer_head import FRAMING
from clinfra.web.channel_exchange import Exchange
from clinfra.web.exchange import IExchange, Response
from clinfra.web.resource import Resource, answer
from clinfra.web.stock import StockExchange

if TYPE_CHECKING:
    from clinfra.web.site import Site


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
                if name.lower() not in FRAMING
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
        self._exchange.flush()
        self._exchange.channel.close()

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

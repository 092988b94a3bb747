"""One request and its answer, as every product sees it.

`IExchange` is lean on purpose: the proxy and the blob store answer most requests
with nothing more.  `channel.py` makes one per request; `request.py` wraps one as a
`twisted.web` Request for ordinary resources, and makes one of a stock Request.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any

from attrs import frozen
from zope.interface import Attribute, Interface

from clinfra.web.heads import Fields


@frozen
class FileBody:
    """A piece of an open file as a response body; `close` is called when done."""

    fd: int
    offset: int
    length: int
    close: Callable[[], None]


@frozen
class Response:
    """A whole answer as a value.

    Attributes:
        fields: without Date, Server, Content-Length, Connection: those are added.
        body: bytes, a piece of a file, or chunks as they come.
        length: of a body that comes in chunks, when it is known.
    """

    status: int = 200
    fields: Fields = ()
    body: bytes | FileBody | AsyncIterable[bytes] = b""
    length: int | None = None


class IBody(Interface):
    """A request body, read once, with back-pressure."""

    length = Attribute("bytes; None when not announced (chunked)")

    async def read() -> bytes:
        """Return the next piece, b"" at the end.

        The first call sends 100 Continue when the client waits for it.  Raises
        errors.ClientGone, errors.InvalidRequest (bad chunk), errors.TooLarge,
        errors.RequestTimeout.
        """


class IExchange(Interface):
    """One request and its answer.  Nothing here blocks."""

    head = Attribute("the RequestHead")
    body = Attribute("the IBody; empty when the request has none")
    client_ip = Attribute("address of the peer, text; b'' for UNIX sockets is ''")
    local_port = Attribute("port the request came in on, 0 for UNIX sockets")
    secure = Attribute("True over TLS")
    notes = Attribute("dict for the access log: what products add (cache=hit ...)")
    status = Attribute("status of the answer, 0 until it is started")
    bytes_out = Attribute("body bytes of the answer so far")
    started_at = Attribute("reactor seconds when the head was complete")
    finished = Attribute("True once the answer is complete or the client is gone")

    def respond(status: int, fields: Fields = (), body: bytes = b"") -> None:
        """Answer at once; adds Date, Content-Length, Connection; knows HEAD, 204, 304."""

    def send(prebuilt: bytes, status: int, body_bytes: int) -> None:
        """Answer with a complete message made before (the fast lane)."""

    def start(status: int, fields: Fields, length: int | None) -> None:
        """Begin an answer; with no length it is chunked, or closed for HTTP/1.0."""

    def write(data: bytes) -> None:
        """Add to the body.  Whoever writes much awaits `drained` in between."""

    async def drained() -> None:
        """Wait until the client has taken enough.  Raises errors.ClientGone."""

    async def send_file(body: FileBody) -> None:
        """Add a piece of a file (sendfile where possible), with back-pressure."""

    def finish() -> None:
        """Complete the answer."""

    def abort() -> None:
        """Cut the connection: the answer cannot be completed honestly."""

    def registerProducer(producer: Any, streaming: bool) -> None:
        """Pause and resume a push producer as the client takes what is written."""

    def unregisterProducer() -> None:
        """The producer has no more."""

    def on_done(callback: Callable[[bool], None]) -> None:
        """Call back once: True when answered whole, False when the client is gone."""


Handler = Callable[[Any], Awaitable[Response]]
"""What `web.resource.Resource.respond` is: an IExchange in, a Response out."""

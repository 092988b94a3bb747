"""One request and its answer, as every product sees it.

`IExchange` is lean on purpose: the proxy and the blob store answer most requests
with nothing more.  There are two kinds: `channel_exchange` on our own connections, and
`stock` over the Request of a foreign Site.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Coroutine
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
    client_ip = Attribute("address of the peer, text; '' for UNIX sockets")
    local_port = Attribute("port the request came in on, 0 for UNIX sockets")
    secure = Attribute("True over TLS")
    notes = Attribute("dict for the access log: what products add (cache=hit ...)")
    trace = Attribute("its tracing.Trace, or None when requests are not traced")
    status = Attribute("status of the answer, 0 until it is started")
    bytes_in = Attribute("body bytes of the request that have come so far")
    bytes_out = Attribute("body bytes of the answer so far")
    started_at = Attribute("reactor seconds when the head was complete")
    finished = Attribute("True once the answer is complete or the client is gone")
    threads = Attribute("streams.Threads to wait for disks in, or None: wait here")

    def respond(status: int, fields: Fields = (), body: bytes = b"") -> None:
        """Answer at once.

        Adds Server, Date (unless given), Content-Length and Connection; sends no body
        to HEAD and with 204 and 304.  Does nothing when the client is gone.  Raises
        ValueError for CR, LF or NUL in `fields`, and for fields that say where the
        message ends, which are ours; RuntimeError when an answer was begun before.
        """

    def send(prebuilt: bytes, status: int, body_bytes: int) -> None:
        """Answer with a complete message made before (the fast lane).

        Args:
            prebuilt: an HTTP/1.1 message of status line, fields with Date and
                Content-Length and without Connection, and body.  For HEAD the body is
                left out, and Connection is added where the request needs it.
            body_bytes: how many of them are body.
        """

    def start(status: int, fields: Fields, length: int | None) -> None:
        """Begin an answer; with no length it is chunked, or closed for HTTP/1.0.

        The head goes out with the first piece of the body, or at the end of this turn
        of the reactor.  Raises like `respond`.
        """

    def write(data: bytes) -> None:
        """Add to the body.  Whoever writes much awaits `drained` in between.

        More than the announced length cuts the connection: ValueError.
        """

    async def drained() -> None:
        """Wait until the client has taken enough.  Raises errors.ClientGone."""

    async def send_file(body: FileBody) -> None:
        """Add a piece of a file (sendfile where possible), with back-pressure."""

    def finish() -> None:
        """Complete the answer; short of the announced length it is cut instead."""

    def abort() -> None:
        """Cut the connection: the answer cannot be completed honestly."""

    def registerProducer(producer: Any, streaming: bool) -> None:
        """Pause and resume a push producer as the client takes what is written."""

    def unregisterProducer() -> None:
        """The producer has no more."""

    def on_done(callback: Callable[[bool], None]) -> None:
        """Call back once: True when answered whole, False when the client is gone."""


class IOwnExchange(IExchange):
    """One on a connection of our own, where more is possible."""

    can_switch = Attribute("True for requests after which `switch` is possible")

    def hint(status: int, fields: Fields) -> None:
        """Send an interim answer (102, 103), if the client knows such.

        Does nothing when the answer was begun.  Raises ValueError as `respond` does.
        """

    def switch(fields: Fields) -> IBody:
        """Answer 101 Switching Protocols; return what the client sends from now on.

        What is written goes out as it is; `finish` closes the connection.  The body
        ends when the client shuts its side down.  Raises like `respond`, and
        errors.ClientGone.

        Args:
            fields: with Upgrade; Connection is added.
        """


Handler = Callable[[Any], Coroutine[Any, Any, Response | None]]
"""What `web.resource.Resource.respond` is: an IExchange in, a Response out (or None,
when it has answered through the exchange)."""

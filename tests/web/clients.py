"""A client in memory for one of our Sites: sends bytes, sees what comes back."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from http.client import HTTPMessage, HTTPResponse
from typing import Any

from attrs import frozen
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IPushProducer, ITCPTransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web import server
from zope.interface import directlyProvides

from clinfra.config import Bytes, Limits
from clinfra.web.exchange import IExchange, Response
from clinfra.web.resource import Resource
from clinfra.web.site import Site

FULL = 65536
"""Bytes waiting at which Twisted's transports pause their producer."""


class MemoryTransport:
    """A TCP transport whose other end is a `Client`."""

    disconnecting = False

    def __init__(self, client: Client, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self.waiting = bytearray()
        self.most_waiting = 0
        self.reading = True
        self.shut_down = False
        self.closed = False
        self.aborted = False
        self.protocol: Any = None
        self.producer: Any = None
        self._paused = False
        directlyProvides(self, ITCPTransport, IPushProducer)

    offset = _tempDataLen = 0

    @property
    def dataBuffer(self) -> bytearray:
        """Where Twisted's own transports keep what waits."""
        return self.waiting

    def write(self, data: bytes) -> None:
        if self.closed or self.disconnecting or self.shut_down:
            return
        self.waiting += data
        self.flow()
        self.most_waiting = max(self.most_waiting, len(self.waiting))
        if len(self.waiting) > FULL and self.producer is not None:
            self._paused = True
            self.producer.pauseProducing()

    def writeSequence(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def flow(self, count: int | None = None) -> None:
        """Let the client take what waits (or some of it)."""
        if count is None and not self._client.reading:
            return
        taken = bytes(self.waiting[:count])
        del self.waiting[: len(taken)]
        self._client.received += taken
        if self.waiting:
            return
        if self._paused and self.producer is not None:
            self._paused = False
            self.producer.resumeProducing()
        if self.disconnecting:
            self._later(Failure(ConnectionDone()))
        elif self.shut_down:
            self._client.saw_end = True

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert self.producer is None and streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        # As with a real one, nothing is read before the reactor's next turn.
        self.reading = True
        self._clock.callLater(0, self._client.deliver)

    def loseConnection(self) -> None:
        self.disconnecting = True
        if not self.waiting:
            self._later(Failure(ConnectionDone()))

    def loseWriteConnection(self) -> None:
        self.shut_down = True
        if not self.waiting:
            self._client.saw_end = True

    def abortConnection(self) -> None:
        self.aborted = True
        self._later(Failure(ConnectionAborted()))

    def _later(self, reason: Failure) -> None:
        self._clock.callLater(0, self.end, reason)

    def end(self, reason: Failure) -> None:
        """The connection ends, for the protocol."""
        if not self.closed:
            self.closed = True
            self._client.saw_end = True
            if self.producer is not None:
                self.producer.stopProducing()
            self.protocol.connectionLost(reason)

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", self._client.address, 40000)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "192.0.2.1", 8080)


@frozen
class Answer:
    """A parsed response."""

    status: int
    fields: HTTPMessage
    body: bytes


class Client:
    """One connection to a site.

    Attributes:
        address: where it seems to come from.
        received: every byte the site has sent and the client taken.
        reading: whether the client takes bytes as they come.
        saw_end: the site has shut down its side, or closed.
    """

    def __init__(
        self, site: server.Site, clock: Clock, *, address: str = "192.0.2.7"
    ) -> None:
        self.address = address
        self.received = bytearray()
        self.reading = True
        self.saw_end = False
        self._unsent = bytearray()
        self.clock = clock
        self.transport = MemoryTransport(self, clock)
        self.channel: Any = site.buildProtocol(self.transport.getPeer())
        assert self.channel is not None
        self.transport.protocol = self.channel
        self.channel.makeConnection(self.transport)

    @property
    def closed(self) -> bool:
        """The connection is no more."""
        return self.transport.closed

    @property
    def unsent(self) -> int:
        """Bytes the site does not read for now."""
        return len(self._unsent)

    def send(self, data: bytes, piece: int = FULL) -> None:
        """Send bytes, in pieces of this size, and let the reactor turn."""
        self._unsent += data
        self.deliver(piece)
        self.turn()

    def turn(self) -> None:
        """Let the reactor turn until nothing is due."""
        while any(call.getTime() <= self.clock.seconds() for call in self.calls()):
            self.clock.advance(0)

    def calls(self) -> list[IDelayedCall]:
        """What the reactor is to do."""
        return list(self.clock.getDelayedCalls())

    def deliver(self, piece: int = FULL) -> None:
        """Bring what was sent to the site, if it reads."""
        while self._unsent and self.transport.reading and not self.closed:
            data = bytes(self._unsent[:piece])
            del self._unsent[: len(data)]
            self.channel.dataReceived(data)

    def hang_up(self) -> None:
        """Close, as a client that has had enough."""
        self.transport.end(Failure(ConnectionDone()))

    def take(self, count: int | None = None) -> None:
        """Take so many of the bytes that wait; without a count, read from now on."""
        if count is None:
            self.reading = True
        self.transport.flow(count)
        self.turn()

    def answers(self, *methods: str) -> list[Answer]:
        """Parse what was received: one answer for each method, else all as to GET."""
        return parse_answers(bytes(self.received), methods)


def parse_answers(data: bytes, methods: Iterable[str] = ()) -> list[Answer]:
    """Parse responses in a row, with Python's own client."""
    stream = io.BytesIO(data)

    class Socket:
        def makefile(self, mode: str) -> io.BufferedReader:
            return Unclosing(stream)

    left = list(methods)
    answers = []
    while stream.tell() < len(data):
        method = left.pop(0) if left else "GET"
        response = HTTPResponse(Socket(), method=method)  # type: ignore[arg-type] # ditto
        response.begin()
        body = response.read()
        answers.append(Answer(response.status, response.msg, body))
    return answers


class Unclosing(io.BufferedReader):
    """Keeps the stream open for the next response; reads no byte too many."""

    def __init__(self, raw: io.BytesIO) -> None:
        super().__init__(raw)
        self._stream = raw

    def read(self, size: int | None = -1) -> bytes:
        return self._stream.read(-1 if size is None else size)

    def readline(self, size: int | None = -1) -> bytes:
        return self._stream.readline(-1 if size is None else size)

    def readinto(self, buffer: Any) -> int:
        return self._stream.readinto(buffer)

    def peek(self, size: int = 0) -> bytes:
        return b""

    def close(self) -> None:
        pass


class Handled(Resource):
    """A resource made of one coroutine function."""

    def __init__(self, respond: Callable[[IExchange], Any]) -> None:
        super().__init__()
        self._respond = respond

    async def respond(self, exchange: IExchange) -> Response | None:
        result: Response | None = await self._respond(exchange)
        return result


async def echo(exchange: IExchange) -> Response:
    """Say what was asked, and how long the body was."""
    pieces = []
    while piece := await exchange.body.read():
        pieces.append(piece)
    body = b"".join(pieces)
    return Response(
        200,
        ((b"Content-Type", b"text/plain"),),
        b"%b %b %d %b" % (exchange.head.method, exchange.head.target, len(body), body),
    )


async def ignore(exchange: IExchange) -> Response:
    """Answer without reading the body."""
    return Response(200, (), b"whatever")


def make_site(
    respond: Callable[[IExchange], Any] = echo,
    *,
    clock: Clock | None = None,
    **more: Any,
) -> tuple[Site, Clock]:
    """Make a site on a clock, with small limits unless others are given."""
    clock = clock if clock is not None else Clock()
    limits = more.pop("limits", SMALL)
    resource = more.pop("resource", None) or Handled(respond)
    return Site(resource, reactor=clock, limits=limits, **more), clock


SMALL = Limits(head_bytes=Bytes(2048), header_count=20, body_bytes=Bytes(1 << 20))


def get(target: bytes = b"/", *fields: bytes, version: bytes = b"1.1") -> bytes:
    """Return a GET request."""
    lines = (b"GET " + target + b" HTTP/" + version, b"Host: example.com", *fields)
    return b"\r\n".join(lines) + b"\r\n\r\n"

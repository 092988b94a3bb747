"""Origins in memory for the pool's tests: they answer, stall and die as told."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from twisted.internet.address import IPv4Address
from twisted.internet.defer import DeferredQueue
from twisted.internet.error import ConnectionDone, UserError
from twisted.internet.interfaces import IConnector
from twisted.internet.protocol import ClientFactory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from clinfra.web.exchange import IBody
from clinfra.web.heads import ResponseHead
from clinfra.web.pool import (
    Origin,
    OriginRequest,
    Pool,
    PoolSettings,
    make_request_head,
)

ORIGIN = Origin("origin.example", 80)


class Line(StringTransport):
    """One connection as its origin sees it.

    As with real transports, the loss of the connection is told on a later turn, nothing
    is delivered while reading is paused, and what does not fit waits.

    Attributes:
        lost: the protocol knows that it is over.
        full: the origin takes no more bytes for now.
        reset: it was ended by a reset.
    """

    def __init__(self, clock: Clock, protocol: Protocol) -> None:
        super().__init__(lenient=True)
        self._clock = clock
        self._protocol = protocol
        self._held = b""
        self.lost = False
        self.full = False
        self.reset = False

    def take(self) -> bytes:
        """Return what has been sent to the origin since the last time."""
        sent: bytes = self.value()
        self.clear()
        return sent

    def send(self, data: bytes) -> None:
        """Answer with some bytes."""
        if self.producerState == "paused":
            self._held += data
        elif not self.disconnecting:
            self._protocol.dataReceived(data)

    def resumeProducing(self) -> None:
        """Deliver what was held."""
        super().resumeProducing()
        held, self._held = self._held, b""
        if held:
            self.send(held)

    def write(self, data: bytes) -> None:
        """Take bytes; a full line pauses whoever produces them."""
        if self.lost:
            return
        super().write(data)
        if self.full and self.producer is not None:
            self.producer.pauseProducing()

    def drain(self) -> None:
        """Take bytes again."""
        self.full = False
        if self.producer is not None:
            self.producer.resumeProducing()

    def hang_up(self, reason: type[Exception] = ConnectionDone) -> None:
        """End the connection from the origin's side."""
        if not self.lost:
            self.lost = self.disconnecting = True
            self._protocol.connectionLost(Failure(reason()))

    def loseConnection(self) -> None:
        """End it from ours, on the next turn."""
        if not self.disconnecting:
            self.disconnecting = True
            self._clock.callLater(0, self.hang_up)

    def abortConnection(self) -> None:
        """End it from ours, on the next turn, rudely."""
        self.reset = True
        self.loseConnection()


@implementer(IConnector)
class Dial:
    """One attempt to connect."""

    def __init__(self, clock: Clock, factory: ClientFactory, timeout: float) -> None:
        self._clock = clock
        self._factory = factory
        self.timeout = timeout
        self.given_up = False

    def accept(self) -> Line:
        """Let it succeed."""
        protocol = self._factory.buildProtocol(None)
        assert isinstance(protocol, Protocol)
        line = Line(self._clock, protocol)
        protocol.makeConnection(line)
        return line

    def refuse(self, reason: Exception) -> None:
        """Let it fail."""
        self._factory.clientConnectionFailed(self, Failure(reason))

    def connect(self) -> None:
        """Not needed."""

    def disconnect(self) -> None:
        """Give up."""
        self.given_up = True
        self.refuse(UserError())

    def stopConnecting(self) -> None:
        """Give up."""
        self.disconnect()

    def getDestination(self) -> IPv4Address:
        """Somewhere."""
        return IPv4Address("TCP", "192.0.2.1", 80)


class Network:
    """A pool, the time, and all its attempts to connect."""

    def __init__(self, settings: PoolSettings | None = None) -> None:
        self.clock = Clock()
        self.dials: deque[Dial] = deque()
        self.pool = Pool(self.clock, settings, self._connect)

    def _connect(self, origin: Origin, factory: ClientFactory, timeout: float) -> Dial:
        dial = Dial(self.clock, factory, timeout)
        self.dials.append(dial)
        return dial

    def accept(self) -> Line:
        """Let the oldest attempt that waits succeed."""
        return self.dials.popleft().accept()

    def pass_time(self, seconds: float) -> None:
        """Let time pass, evenly."""
        self.clock.pump([0.1] * round(seconds * 10))

    def turn(self) -> None:
        """Let the reactor turn."""
        self.clock.advance(0)


class Listener:
    """A pool.Receiver that writes down what it hears."""

    def __init__(self) -> None:
        self.head: ResponseHead | None = None
        self.body = b""
        self.finished = 0
        self.failure: Exception | None = None

    @property
    def over(self) -> bool:
        """The last word has been said."""
        return bool(self.finished) or self.failure is not None

    def response_started(self, head: ResponseHead) -> None:
        """Write it down."""
        assert self.head is None and not self.over
        self.head = head

    def body_received(self, data: bytes) -> None:
        """Write it down."""
        assert self.head is not None and not self.over and data
        self.body += data

    def response_finished(self) -> None:
        """Write it down."""
        assert self.head is not None and not self.over
        self.finished += 1

    def response_failed(self, reason: Exception) -> None:
        """Write it down."""
        assert not self.over
        self.failure = reason


@implementer(IBody)
class Body:
    """A body whose sender sends what it is told to, when it is told to.

    Attributes:
        wanted: somebody waits for the next piece.
    """

    def __init__(
        self, length: int | None, pieces: Iterable[bytes | Exception] = ()
    ) -> None:

        self.length = length
        self.reads = 0
        self._queue: DeferredQueue[bytes | Exception] = DeferredQueue()
        for piece in pieces:
            self.feed(piece)

    def feed(self, piece: bytes | Exception) -> None:
        """Send a piece (b"" ends the body), or break."""
        self._queue.put(piece)

    @property
    def wanted(self) -> bool:
        """Somebody waits for the next piece."""
        return bool(self._queue.waiting)

    async def read(self) -> bytes:
        """Return the next piece."""
        self.reads += 1
        piece = await self._queue.get()
        if isinstance(piece, Exception):
            raise piece
        return piece


def start(
    network: Network,
    method: bytes = b"GET",
    body: bytes | IBody | None = None,
) -> tuple[OriginRequest, Listener]:
    """Start a request; return it and who listens to its response."""

    listener = Listener()
    head = make_request_head(ORIGIN, method, b"/", (), body)
    return network.pool.start(ORIGIN, method, head, body, listener), listener

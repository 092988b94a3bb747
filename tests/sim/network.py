"""A network in memory: connections with delays, that can be cut and can break.

What is written arrives in order, after a while that differs from piece to piece and
from connection to connection.  Between hosts that are cut apart nothing arrives until
they are joined again; who waits too long gives up by its own time-outs.  What one
replica asked of another may arrive once more, much later, and nobody hears the answer.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, cast

from twisted.internet.address import IPv4Address
from twisted.internet.error import (
    ConnectError,
    ConnectionDone,
    ConnectionLost,
    ConnectionRefusedError,
    UserError,
)
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IConnector, IDelayedCall, ITransport
from twisted.internet.protocol import ClientFactory, Factory
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from clinfra.web.pool import Connect, Origin
from tests.sim.clock import Process

RETRANSMIT_SECONDS = 0.2

REPEATED_AFTER_SECONDS = 20.0
"""How late a request arrives for the second time, at most."""


class End:
    """One end of a connection: a transport."""

    def __init__(self, network: Network, host: str, other_host: str) -> None:
        self.network = network
        self.host = host
        self.other_host = other_host
        self.other: End | None = None
        self.protocol: Any = None
        self.disconnecting = False
        self.closed = False
        self.reading = True
        self.asked: bytearray | None = None
        self._on_its_way: deque[tuple[float, bytes | None]] = deque()
        self._timer: IDelayedCall | None = None

    # What a protocol asks of it.

    def write(self, data: bytes) -> None:
        if data and not self.closed and not self.disconnecting:
            data = bytes(data)
            other = self.other
            if self.asked is not None:
                self.asked += data
            elif other is not None and other.asked:
                # The answer begins: what was asked is whole.
                self.network.repeat(other.host, self.host, bytes(other.asked))
                other.asked.clear()
            self._send(data)

    def writeSequence(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def loseConnection(self) -> None:
        if not self.closed and not self.disconnecting:
            self.disconnecting = True
            self._send(None)
            self.network.clock.callLater(0, self.end, ConnectionDone())

    def loseWriteConnection(self) -> None:
        self.loseConnection()

    def abortConnection(self) -> None:
        self.loseConnection()

    def registerProducer(self, producer: object, streaming: bool) -> None:
        pass

    def unregisterProducer(self) -> None:
        pass

    def pauseProducing(self) -> None:
        self.reading = False

    def resumeProducing(self) -> None:
        self.reading = True
        if self.other is not None:
            self.other.arrive_soon()

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def getPeer(self) -> IPv4Address:
        return IPv4Address("TCP", self.other_host, 40000)

    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", self.host, 80)

    # The wire.

    def _send(self, data: bytes | None) -> None:
        due = self.network.clock.seconds() + self.network.delay()
        if self._on_its_way:
            due = max(due, self._on_its_way[-1][0])
        self._on_its_way.append((due, data))
        self.arrive_soon()

    def arrive_soon(self) -> None:
        """Bring what was sent to the other end when it is due."""
        if self._timer is None and self._on_its_way:
            wait = max(0.0, self._on_its_way[0][0] - self.network.clock.seconds())
            self._timer = self.network.clock.callLater(wait, self._arrive)

    def _arrive(self) -> None:
        self._timer = None
        other, clock = self.other, self.network.clock
        if other is None or other.closed:
            self._on_its_way.clear()
            return
        if self.network.holds_back(self.host, self.other_host):
            self._timer = clock.callLater(RETRANSMIT_SECONDS, self._arrive)
            return
        while (
            other.reading
            and self._on_its_way
            and self._on_its_way[0][0] <= clock.seconds()
        ):
            data = self._on_its_way.popleft()[1]
            if data is None:
                other.end(ConnectionDone())
                return
            other.protocol.dataReceived(data)
        if other.reading:
            self.arrive_soon()

    def end(self, reason: Exception) -> None:
        """The connection is over for this end."""
        if not self.closed:
            self.closed = True
            self.network.ends.pop(self, None)
            self.protocol.connectionLost(Failure(reason))

    def vanish(self) -> None:
        """The host of this end died: the other finds out, this one does nothing."""
        self.closed = True
        self.network.ends.pop(self, None)
        self.network.remains.append(self)
        self._on_its_way.clear()
        other = self.other
        if other is not None and not other.closed:
            self.network.clock.callLater(
                self.network.delay(), other.end, ConnectionLost()
            )


@implementer(IConnector)
class Dial:
    """One attempt to connect."""

    def __init__(
        self,
        network: Network,
        source: str,
        origin: Origin,
        factory: ClientFactory,
        timeout: float,
        process: Process | None,
    ) -> None:
        self._network = network
        self._source = source
        self._process = process
        self._origin = origin
        self._factory = factory
        self._deadline = network.clock.seconds() + timeout
        self._end: End | None = None
        self._trying: IDelayedCall | None = None
        if process is None or not process.dead:
            self._trying = network.clock.callLater(network.delay(), self._try)

    def _try(self) -> None:
        network, origin = self._network, self._origin
        self._trying = None
        if self._process is not None and self._process.dead:
            return
        if network.holds_back(self._source, origin.host):
            if network.clock.seconds() >= self._deadline:
                self._fail(ConnectTimeout())
            else:
                self._trying = network.clock.callLater(RETRANSMIT_SECONDS, self._try)
            return
        listener = network.listeners.get(origin)
        theirs = listener.buildProtocol(None) if listener is not None else None
        if theirs is None:
            self._fail(ConnectionRefusedError())
            return
        ours = self._factory.buildProtocol(None)
        near = End(network, self._source, origin.host)
        far = End(network, origin.host, self._source)
        near.other, far.other = far, near
        near.protocol, far.protocol = ours, theirs
        if network.repeats and self._process is not None:
            near.asked = bytearray()
        network.ends |= {near: None, far: None}
        self._end = near
        theirs.makeConnection(cast(ITransport, far))
        assert ours is not None
        ours.makeConnection(cast(ITransport, near))

    def _fail(self, reason: ConnectError) -> None:
        self._factory.clientConnectionFailed(self, Failure(reason))

    def connect(self) -> None:
        """Never asked for."""

    def disconnect(self) -> None:
        """Give up."""
        if self._trying is not None:
            self._trying.cancel()
            self._trying = None
            self._fail(UserError())
        elif self._end is not None:
            self._end.loseConnection()

    def stopConnecting(self) -> None:
        """Give up."""
        self.disconnect()

    def getDestination(self) -> IPv4Address:
        """Return where to."""
        return IPv4Address("TCP", self._origin.host, self._origin.port)


class Network:
    """Hosts by address, and everything on its way between them.

    Args:
        delays: shortest and longest time on the way, seconds.

    Attributes:
        listeners: who answers at an address; nobody there refuses.
        repeats: the share of requests between processes that arrive twice.
        repeated: called with source, destination and request then.
        processes: by host.
    """

    def __init__(
        self,
        clock: Clock,
        rng: random.Random,
        delays: tuple[float, float] = (0.0002, 0.01),
    ) -> None:
        self.clock = clock
        self._rng = rng
        self.delays = delays
        self.listeners: dict[Origin, Factory] = {}
        self.repeats = 0.0
        self.repeated: Callable[[str, str, bytes], object] = lambda *what: None
        self.ends: dict[End, None] = {}
        self.remains: list[End] = []
        self.processes: dict[str, Process] = {}
        self._cuts: set[frozenset[str]] = set()

    def delay(self) -> float:
        """Return how long the next piece is on its way, seconds."""
        return self._rng.uniform(*self.delays)

    def connector(self, source: str, process: Process | None = None) -> Connect:
        """Return how a process on a host connects to others."""

        def connect(origin: Origin, factory: ClientFactory, timeout: float) -> Dial:
            return Dial(self, source, origin, factory, timeout, process)

        made: Callable[..., Dial] = connect
        return made

    def cut(self, one: str, other: str) -> None:
        """Let nothing through between two hosts."""
        self._cuts.add(frozenset((one, other)))

    def join(self) -> None:
        """Let everything through again."""
        self._cuts.clear()

    def is_cut(self, one: str, other: str) -> bool:
        """Return whether nothing comes through between two hosts."""
        return frozenset((one, other)) in self._cuts

    def holds_back(self, one: str, other: str) -> bool:
        """Return whether nothing comes through now, or one of them is stopped."""
        if self._cuts and frozenset((one, other)) in self._cuts:
            return True
        now = self.clock.seconds()
        for host in (one, other):
            process = self.processes.get(host)
            if process is not None and process.stopped_until > now:
                return True
        return False

    def repeat(self, source: str, host: str, request: bytes) -> None:
        """Let a request arrive once more, perhaps."""
        if self._rng.random() < self.repeats:
            wait = self._rng.choice((0.0, 1.0, REPEATED_AFTER_SECONDS))
            wait = self._rng.uniform(0, wait)
            self.clock.callLater(wait, self._repeat, source, host, request)

    def _repeat(self, source: str, host: str, request: bytes) -> None:
        listener = self.listeners.get(Origin(host, 80))
        theirs = listener.buildProtocol(None) if listener is not None else None
        if theirs is None or self.holds_back(source, host):
            return
        self.repeated(source, host, request)
        far = End(self, host, source)
        far.protocol = theirs
        self.ends[far] = None
        theirs.makeConnection(cast(ITransport, far))
        theirs.dataReceived(request)
        self.clock.callLater(30, far.end, ConnectionLost())

    def crash(self, host: str) -> None:
        """A host is gone from one moment to the next."""
        for origin in [origin for origin in self.listeners if origin.host == host]:
            del self.listeners[origin]
        for end in list(self.ends):
            if end.host == host:
                end.vanish()

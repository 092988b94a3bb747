"""One connection to a memcached: Twisted's protocol with GETs in batches.

What is kept under which key, and what to do without a server, is `memcached`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Protocol, cast

from attrs import define
from twisted.internet.interfaces import IDelayedCall, IReactorTime, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.memcache import MemCacheProtocol
from twisted.python.failure import Failure

Found = Callable[[bytes | None], None]
"""Called once with the value, or None for a miss."""

MAX_VALUE_BYTES = 1 << 30

_ERROR = re.compile(rb"ERROR|(?:CLIENT_ERROR|SERVER_ERROR) .*")
_ONE_LINE = re.compile(
    rb"STORED|NOT_STORED|DELETED|NOT_FOUND|OK|EXISTS|VERSION .*|" + _ERROR.pattern
)

log = Logger()


class INode(Protocol):
    """Who is told of connection and loss."""

    name: str
    reactor: IReactorTime

    def connected(self, protocol: CacheProtocol) -> None:
        """It can be used."""

    def lost(self, protocol: CacheProtocol) -> None:
        """It cannot any more; may be told twice."""


@define(eq=False)
class Batch:
    """A get command on its way; stands in the protocol's queue like its Commands."""

    waiting: dict[bytes, list[Found]]
    callbacks: dict[bytes, list[Found]]

    def found(self, key: bytes, value: bytes) -> None:
        """Tell those who wait for this key."""
        for callback in self._take(key):
            callback(value)

    def fail(self, reason: object = None) -> None:
        """Everything not found so far is a miss."""
        for key in list(self.callbacks):
            for callback in self._take(key):
                callback(None)

    def _take(self, key: bytes) -> list[Found]:
        callbacks = self.callbacks.pop(key, [])
        if self.waiting.get(key) is callbacks:
            del self.waiting[key]
        return callbacks


class CacheProtocol(MemCacheProtocol):
    """Twisted's memcached protocol with batched GETs that call back.

    Sets, deletes and the other commands whose answer is one line are Twisted's; its
    own gets, counters and statistics do not work here.

    Args:
        node: told of connection and loss.
        timeout_seconds: longest silence while something is asked.
    """

    def __init__(self, node: INode, timeout_seconds: float) -> None:
        MemCacheProtocol.__init__(self, timeOut=cast(int, timeout_seconds))
        self._node = node
        self._queue = cast(Any, self._current)  # Twisted's, of commands unanswered
        self._rest: list[bytes] = []
        self._rest_bytes = 0
        self._needed = 0
        self._deadline: float | None = None
        self._alarm: IDelayedCall | None = None
        self._leaving = False

    @property
    def _wire(self) -> ITCPTransport:
        return cast(ITCPTransport, self.transport)

    @property
    def unanswered(self) -> int:
        """How many commands wait for an answer."""
        return len(self._queue)

    def fetch(self, batch: Batch) -> None:
        """Send one get for all keys of a batch."""
        if not self._queue:
            self.setTimeout(self.persistentTimeOut)
        self._queue.append(batch)
        self._wire.write(b"get " + b" ".join(batch.callbacks) + b"\r\n")

    def leave(self) -> None:
        """Disconnect as soon as everything asked is answered."""
        self._leaving = True
        if not self._queue:
            self._wire.loseConnection()

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            # A set is two writes: the second must not wait for an acknowledgement.
            self._wire.setTcpNoDelay(True)
        self._node.connected(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._alarm is not None and self._alarm.active():
            self._alarm.cancel()
        self._node.lost(self)
        MemCacheProtocol.connectionLost(self, reason)

    def timeoutConnection(self) -> None:
        log.warn("memcached {server} is too slow", server=self._node.name)
        self._node.lost(self)
        self._cancelCommands(TimeoutError("memcached did not answer in time"))
        self._wire.abortConnection()

    def setTimeout(self, period: float | None) -> None:
        """Keep one timer for all commands rather than one for each."""
        if period is None:
            self._deadline = None
            return
        self._deadline = self._node.reactor.seconds() + period
        if self._alarm is None:
            self._alarm = self._node.reactor.callLater(period, self._look_at_clock)

    def resetTimeout(self) -> None:
        if self._deadline is not None:
            self.setTimeout(self.persistentTimeOut)

    def _look_at_clock(self) -> None:
        self._alarm = None
        if self._deadline is None:
            return
        left = self._deadline - self._node.reactor.seconds()
        if left <= 0:
            self.timeoutConnection()
        else:
            self._alarm = self._node.reactor.callLater(left, self._look_at_clock)

    def dataReceived(self, data: bytes) -> None:
        self._rest_bytes += len(data)
        self._rest.append(data)
        if self._rest_bytes < self._needed:
            self.resetTimeout()
            return
        data = b"".join(self._rest) if len(self._rest) > 1 else data
        try:
            position = self._read(data)
        except (ValueError, IndexError) as error:
            log.warn(
                "memcached {server} answers nonsense: {error}",
                server=self._node.name,
                error=str(error),
            )
            self._wire.abortConnection()
            return
        rest = data[position:]
        self._rest = [rest] if rest else []
        self._rest_bytes = len(rest)

    def _read(self, data: bytes) -> int:
        """Handle the complete answers in `data`; return where the rest begins."""
        position = 0
        self._needed = 0
        queue = self._queue
        while True:
            end = data.find(b"\r\n", position)
            if end < 0:
                if len(data) - position > 4096:
                    raise ValueError("a line without end")
                break
            if queue and type(queue[0]) is Batch:
                if data.startswith(b"VALUE ", position):
                    words = data[position:end].split(b" ")
                    length = int(words[3])
                    if not 0 <= length <= MAX_VALUE_BYTES:
                        raise ValueError("a value of impossible length")
                    stop = end + 2 + length
                    if len(data) < stop + 2:
                        self._needed = stop + 2 - position
                        break
                    if not data.startswith(b"\r\n", stop):
                        raise ValueError("a value of another length than announced")
                    position = stop + 2
                    queue[0].found(words[1], data[end + 2 : stop])
                    continue
                if data.startswith(b"END\r\n", position):
                    position = end + 2
                    queue.popleft().fail()
                    continue
            line = data[position:end]
            position = end + 2
            if not queue:
                raise ValueError("an answer to no question")
            if not (_ERROR if type(queue[0]) is Batch else _ONE_LINE).fullmatch(line):
                raise ValueError("an answer to another question")
            self.lineReceived(line)
        if queue:
            self.resetTimeout()
        else:
            self._deadline = None
            if self._leaving:
                self._wire.loseConnection()
        return position

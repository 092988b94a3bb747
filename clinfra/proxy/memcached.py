"""memcached as a shared cache: pipelined, batched, and never in the way.

The GETs of one reactor turn go out as one command per server, equal keys once.  The
server of a key is chosen by pymemcache's rendezvous hashing, so that any pymemcache
client with the same list of servers finds the same keys.  A server that is down or
does not answer in time is a miss; it is left alone for a while and then tried again.
What it was to forget meanwhile it is told to forget before anything else.
Nothing here raises for what a server does or does not do.

What is kept under a key:

* b"\\0" and the value; or, for a value too large for one item,
* b"\\1", an identifier of 16 hex digits, the number of parts and the total length
  (two big-endian 32-bit integers).  Part n is under "KEY:IDENTIFIER:n".  Every write
  has a new identifier, so that parts of two writes never mix.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from random import Random
from typing import Any, cast

from attrs import define, field
from pymemcache.client.rendezvous import RendezvousHash
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IReactorTime,
)
from twisted.internet.protocol import ClientFactory
from twisted.logger import Logger
from twisted.python.failure import Failure

from clinfra.proxy.memcached_protocol import (
    MAX_VALUE_BYTES,
    Batch,
    CacheProtocol,
    Found,
)
from clinfra.web.pool import Connect, Origin

PART_BYTES = 1_000_000
"""Largest value of one item: memcached's default limit of 1 MiB less its overhead."""

MAX_TTL_SECONDS = 30 * 86400
"""Longer ones would be read as a date by memcached."""

_BATCH_KEYS = 64
_BACKOFF_DOUBLINGS = 4
_MOST_OWED = 65536
"""Deletes kept for a server that is away; with more, the oldest are given up."""
_MANIFEST = struct.Struct("!c16sII")


def _nothing() -> None:
    """Nobody waits."""


@define(eq=False)
class Node(ClientFactory):
    """One memcached server: connected, or left alone until it is tried again."""

    name: str
    reactor: IReactorTime
    connect: Connect
    timeout_seconds: float
    retry_seconds: float
    protocol_in_use: CacheProtocol | None = field(default=None, init=False)
    waiting: dict[bytes, list[Found]] = field(factory=dict, init=False)
    _next: dict[bytes, list[Found]] = field(factory=dict, init=False)
    _retry: IDelayedCall | None = field(default=None, init=False)
    _failures: int = field(default=0, init=False)
    _stopped: bool = field(default=False, init=False)
    _left: Deferred[None] | None = field(default=None, init=False)
    _owed: dict[bytes, None] = field(factory=dict, init=False)
    log = Logger()
    noisy = False

    def start(self) -> None:
        """Connect."""
        self._retry = None
        self.connect(Origin.parse(self.name), self, max(1.0, self.timeout_seconds * 4))

    def stop(self) -> Deferred[None]:
        """Disconnect for good, when what was asked is answered or it takes too long."""
        self._stopped = True
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        if self.protocol_in_use is None:
            return succeed(None)
        self._left = Deferred()
        self.protocol_in_use.leave()
        return self._left

    @property
    def alive(self) -> bool:
        """Whether it is connected."""
        return self.protocol_in_use is not None

    def report(self) -> dict[str, Any]:
        """Return how it is, and how much waits, for the status page."""
        protocol = self.protocol_in_use
        return {
            "connected to": self.name,
            "status": "DEAD" if protocol is None else "active",
            "keys asked for": len(self.waiting),
            "commands unanswered": 0 if protocol is None else protocol.unanswered,
            "deletes owed": len(self._owed),
        }

    def get(self, key: bytes, found: Found) -> None:
        """Ask for a key with the others of this reactor turn."""
        if self.protocol_in_use is None:
            found(None)
            return
        callbacks = self.waiting.get(key)
        if callbacks is not None:
            callbacks.append(found)
            return
        if not self._next:
            self.reactor.callLater(0, self._flush)
        self._next[key] = self.waiting[key] = [found]

    def set(
        self, key: bytes, value: bytes, ttl_seconds: int, done: Callable[[], None]
    ) -> None:
        """Keep a value; `done` is told when that is over, however it went."""
        protocol = self.protocol_in_use
        if protocol is None:
            done()
            return
        self._flush()
        self.waiting.pop(key, None)
        setting = protocol.set(key, value, expireTime=ttl_seconds)
        setting.addErrback(self._unset).addCallback(lambda result: done())

    def append(
        self, key: bytes, value: bytes, done: Callable[[bool | None], None]
    ) -> None:
        """Add to a value if there is one; `done` is told whether, None: not known."""
        protocol = self.protocol_in_use
        if protocol is None:
            done(None)
            return
        self._flush()
        self.waiting.pop(key, None)
        protocol.append(key, value).addErrback(self._unset).addCallback(done)

    def add(
        self,
        key: bytes,
        value: bytes,
        ttl_seconds: int,
        done: Callable[[bool | None], None],
    ) -> None:
        """Keep a value unless there is one; `done` is told whether, None: not known."""
        protocol = self.protocol_in_use
        if protocol is None:
            done(None)
            return
        self._flush()
        adding = protocol.add(key, value, expireTime=ttl_seconds)
        adding.addErrback(self._unset).addCallback(done)

    def delete(self, key: bytes, done: Callable[[bool], None]) -> None:
        """Forget a key; `done` is told whether it was known."""
        protocol = self.protocol_in_use
        if protocol is None:
            self._owe(key)
            done(False)
            return
        self._flush()
        self.waiting.pop(key, None)

        def not_deleted(reason: Failure) -> None:
            self._unset(reason)
            self._owe(key)

        protocol.delete(key).addErrback(not_deleted).addCallback(
            lambda known: done(bool(known))
        )

    def _owe(self, key: bytes) -> None:
        """Delete it when the server is back: it may come back with all it had."""
        if not self._stopped:
            self._owed[key] = None
            if len(self._owed) > _MOST_OWED:
                del self._owed[next(iter(self._owed))]

    def connected(self, protocol: CacheProtocol) -> None:
        """Called by the protocol."""
        if self._stopped:
            cast(Any, protocol.transport).loseConnection()
            return
        self.log.info("memcached {server} is connected", server=self.name)
        self.protocol_in_use = protocol
        self._failures = 0
        owed, self._owed = self._owed, {}
        for key in owed:
            self.delete(key, lambda known: None)

    def lost(self, protocol: CacheProtocol) -> None:
        """Called by the protocol."""
        if self.protocol_in_use is not protocol:
            return
        self.protocol_in_use = None
        if not self._stopped:
            self.log.warn("memcached {server} is lost", server=self.name)
            self._try_later()
        batch, self._next = self._next, {}
        Batch(self.waiting, batch).fail()
        left, self._left = self._left, None
        if left is not None:
            left.callback(None)

    def buildProtocol(self, addr: IAddress | None) -> CacheProtocol:
        return CacheProtocol(self, self.timeout_seconds)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        if not self._failures:
            self.log.warn(
                "memcached {server} cannot be reached: {reason}",
                server=self.name,
                reason=reason.getErrorMessage(),
            )
        if not self._stopped:
            self._try_later()

    def _try_later(self) -> None:
        doublings = min(self._failures, _BACKOFF_DOUBLINGS)
        self._failures += 1
        self._retry = self.reactor.callLater(
            self.retry_seconds * 2**doublings, self.start
        )

    def _flush(self) -> None:
        batch, self._next = self._next, {}
        if not batch:
            return
        protocol = self.protocol_in_use
        if protocol is None:
            Batch(self.waiting, batch).fail()
        elif len(batch) <= _BATCH_KEYS:
            protocol.fetch(Batch(self.waiting, batch))
        else:
            items = list(batch.items())
            for start in range(0, len(items), _BATCH_KEYS):
                some = dict(items[start : start + _BATCH_KEYS])
                protocol.fetch(Batch(self.waiting, some))

    def _unset(self, reason: Failure) -> None:
        self.log.debug(
            "memcached {server} did not take a command: {reason}",
            server=self.name,
            reason=reason.getErrorMessage(),
        )


@define(eq=False)
class Memcached:
    """All servers together.

    Args:
        servers: "host:port" each; their spelling decides where keys are.
        rng: makes the identifiers of values in parts.
    """

    servers: Sequence[str]
    reactor: IReactorTime
    connect: Connect
    timeout_seconds: float
    retry_seconds: float
    rng: Random
    nodes: dict[str, Node] = field(init=False)
    _readings: dict[bytes, _Reading] = field(factory=dict, init=False)
    node_of: Callable[[bytes], Node] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.nodes = {
            name: Node(
                name,
                self.reactor,
                self.connect,
                self.timeout_seconds,
                self.retry_seconds,
            )
            for name in self.servers
        }
        ring = RendezvousHash(list(self.nodes))

        @lru_cache(maxsize=65536)
        def node_of(key: bytes) -> Node:
            return self.nodes[ring.get_node(key.decode("ascii"))]

        only = next(iter(self.nodes.values())) if len(self.nodes) == 1 else None
        self.node_of = (lambda key: only) if only is not None else node_of

    def start(self) -> None:
        """Connect to every server."""
        for node in self.nodes.values():
            node.start()

    def stop(self) -> Deferred[list[None]]:
        """Disconnect; what is on its way arrives, where a server answers in time."""
        return gatherResults([node.stop() for node in self.nodes.values()])

    def get(self, key: bytes, found: Found) -> None:
        """Ask for a value; `found` is called once, perhaps at once for a miss.

        Those who ask for the same key at the same time are given the same object.
        """
        reading = self._readings.get(key)
        if reading is not None:
            reading.found.append(found)
            return
        reading = self._readings[key] = _Reading(self, key, [found])
        self.node_of(key).get(key, reading)

    def get_item(self, key: bytes, found: Found) -> None:
        """Ask for what is under a key as it is there; see the module's beginning."""
        self.node_of(key).get(key, found)

    def set(
        self,
        key: bytes,
        value: bytes,
        ttl_seconds: float,
        done: Callable[[], None] = _nothing,
    ) -> None:
        """Keep a value for at most 30 days.

        Args:
            done: called once it is there, or will not be; whether shows when it is
                asked for.
        """
        self._readings.pop(key, None)
        ttl = int(min(MAX_TTL_SECONDS, max(1, ttl_seconds)))
        if len(value) < PART_BYTES:
            self.node_of(key).set(key, b"\0" + value, ttl, done)
            return
        name = b"%016x" % self.rng.getrandbits(64)
        starts = range(0, len(value), PART_BYTES)
        for number, start in enumerate(starts):
            part_key = b"%b:%b:%d" % (key, name, number)
            part = value[start : start + PART_BYTES]
            self.node_of(part_key).set(part_key, part, ttl, _nothing)
        manifest = _MANIFEST.pack(b"\1", name, len(starts), len(value))
        self.node_of(key).set(key, manifest, ttl, done)

    def add(
        self,
        key: bytes,
        value: bytes,
        ttl_seconds: float,
        done: Callable[[bool | None], None],
    ) -> None:
        """Keep a small value unless there is one already.

        Args:
            ttl_seconds: 0 is for ever.
            done: called once, with whether it is kept; None when nobody knows.
        """
        ttl = int(min(MAX_TTL_SECONDS, max(1, ttl_seconds))) if ttl_seconds else 0
        self.node_of(key).add(key, b"\0" + value, ttl, done)

    def delete(self, key: bytes, done: Callable[[bool], None]) -> None:
        """Forget a value; `done` is told whether it was known."""
        self._readings.pop(key, None)
        self.node_of(key).delete(key, done)

    def append(
        self, key: bytes, value: bytes, done: Callable[[bool | None], None]
    ) -> None:
        """Add to a small value, if there is one.

        Args:
            done: called once, with whether there was; None when nobody knows.
        """
        self._readings.pop(key, None)
        self.node_of(key).append(key, value, done)

    def available(self, key: bytes) -> bool:
        """Whether the server of a key is connected."""
        return self.node_of(key).alive

    def report(self) -> dict[str, bool]:
        """Return which servers are connected."""
        return {name: node.alive for name, node in self.nodes.items()}

    def sockets(self) -> list[dict[str, Any]]:
        """Return the connections and how much waits for each, for the status page."""
        return [node.report() for node in self.nodes.values()]


@define(eq=False)
class _Reading:
    """One value being read, in parts if need be, for all who asked meanwhile."""

    memcached: Memcached
    key: bytes
    found: list[Found]

    def __call__(self, raw: bytes | None) -> None:
        """The item under the key itself is here."""
        if raw is None or raw[:1] == b"\0":
            self._end(None if raw is None else raw[1:])
            return
        if raw[:1] != b"\1" or len(raw) != _MANIFEST.size:
            self._end(None)
            return
        _, name, count, total = _MANIFEST.unpack(raw)
        if not 0 < count <= MAX_VALUE_BYTES // PART_BYTES:
            self._end(None)
            return
        parts: dict[int, bytes] = {}
        for number in range(count):
            part_key = b"%b:%b:%d" % (self.key, name, number)

            def got(part: bytes | None, number: int = number) -> None:
                if part is None:
                    self._end(None)
                    return
                parts[number] = part
                if len(parts) == count:
                    whole = b"".join(parts[n] for n in range(count))
                    self._end(whole if len(whole) == total else None)

            self.memcached.node_of(part_key).get(part_key, got)

    def _end(self, value: bytes | None) -> None:
        readings = self.memcached._readings
        if readings.get(self.key) is self:
            del readings[self.key]
        waiting, self.found = self.found, []
        for found in waiting:
            found(value)

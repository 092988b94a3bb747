"""A cluster of whole replicas in one process: started, asked, crashed, stopped.

A replica keeps its index and store in memory; what was committed survives its crash.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock

from clinfra.blob import names, topology
from clinfra.blob.index_memory import MemoryIndex
from clinfra.blob.records import Row
from clinfra.blob.service import BlobService
from clinfra.blob.store_memory import MemoryStore
from clinfra.config import BlobConfig, Bytes
from clinfra.errors import OriginFailed
from clinfra.web.exchange import IBody
from clinfra.web.pool import Origin, Pool, PoolSettings
from clinfra.web.site import Site
from tests.blob.support import LIMITS, NOW
from tests.sim.network import Network

CLIENT = "192.0.2.1"


def cluster_file(layout: Sequence[Sequence[int]]) -> str:
    """Return a cluster file; a cluster is a list of how many replicas a bucket has.

    The replicas are called c0b1r2 and the like.
    """
    clusters: list[Any] = []
    replicas: dict[str, Any] = {}
    for c, buckets in enumerate(layout):
        clusters.append([])
        for b, count in enumerate(buckets):
            names = [f"c{c}b{b}r{r}" for r in range(count)]
            clusters[c].append({"replicas": names, "write_weight": 1})
            for name in names:
                ip = f"10.{c}.{b}.{name[-1]}"
                replicas[name] = {"ip": ip, "port": 80, "read_weight": 1}
    return json.dumps(
        {"clblob": {"client": {"clusters": clusters, "replicas": replicas}}}
    )


@define(eq=False)
class Host:
    """A machine with one replica.

    Attributes:
        service: while it runs.
        offset: how wrong its clock is, seconds.
    """

    name: str
    ip: str
    index: MemoryIndex = field(factory=MemoryIndex)
    store: MemoryStore = field(factory=MemoryStore)
    service: BlobService | None = None
    offset: float = 0.0

    def rows(self) -> dict[str, Row]:
        """Return what it knows."""
        return {row.name: row for row in self.index.names_after("", 1 << 30)}


@define
class Answer:
    """What a replica answered; status 0: nothing, or not whole."""

    status: int
    body: bytes = b""
    fields: Mapping[bytes, bytes] = field(factory=dict)

    @property
    def told(self) -> dict[str, Any]:
        """Return its JSON."""
        found: dict[str, Any] = json.loads(self.body)
        return found


class Cluster:
    """Replicas, the network between them, and a client.

    Args:
        layout: see `cluster_file`.
        seed: of everything that happens by chance.
        config: keys of `[blob]`.
    """

    def __init__(
        self, layout: Sequence[Sequence[int]], seed: int = 0, **config: Any
    ) -> None:
        self.clock = Clock()
        self.clock.advance(NOW)
        self.rng = random.Random(seed)
        self.network = Network(self.clock, random.Random(self.rng.random()))
        self._directory = tempfile.TemporaryDirectory(prefix="clinfra-sim-")
        self._file = Path(self._directory.name) / "cluster.json"
        text = cluster_file(layout)
        self._file.write_text(text, encoding="utf-8")
        self._topology = topology.read(text, None, "cluster.json")
        self._config = config
        self.hosts = {
            f"c{c}b{b}r{r}": Host(f"c{c}b{b}r{r}", f"10.{c}.{b}.{r}")
            for c, buckets in enumerate(layout)
            for b, count in enumerate(buckets)
            for r in range(count)
        }
        self._starts = 0
        settings = PoolSettings(response_timeout=20.0, read_timeout=20.0)
        self._pools = {
            ip: Pool(self.clock, settings, self.network.connector(ip))
            for ip in (CLIENT, *(host.ip for host in self.hosts.values()))
        }
        for host in self.hosts.values():
            self.start(host)

    def keepers(self, stored: str) -> list[Host]:
        """Return all replicas that keep a stored name, in every cluster."""
        return [
            self.hosts[name]
            for cluster, bucket in names.decode(stored).items()
            for name in self._topology.clusters[cluster][bucket].replicas
        ]

    def start(self, host: Host) -> None:
        """Start a replica on what its disk holds."""
        self._starts += 1
        service = BlobService(
            BlobConfig(
                **{
                    "min_free_bytes": Bytes(0),
                    "cluster_file": str(self._file),
                    "replica": host.name,
                    **self._config,
                }
            ),
            reactor=self.clock,
            data_dir=Path(self._directory.name) / f"{host.name}.{self._starts}",
            threads=False,
            index=host.index,
            store=host.store,
            rng=random.Random(self.rng.random()),
            now=lambda: self.clock.seconds() + host.offset,
            connect=self.network.connector(host.ip),
        )
        service.open()
        service.startService()
        host.service = service
        site = Site(
            service.resource, reactor=self.clock, limits=LIMITS, lane=service.lane
        )
        self.network.listeners[Origin(host.ip, 80)] = cast(Factory, site)

    def crash(self, host: Host) -> None:
        """Stop a replica from one moment to the next; nothing is finished."""
        service = host.service
        if service is None:
            return
        host.service = None
        self.network.crash(host.ip)
        # Whatever the dying process still does, it does to another disk.
        host.index, host.store = _disk_of(host)
        service.stopService()

    def wipe(self, host: Host) -> None:
        """Crash a replica and lose its disk."""
        self.crash(host)
        host.index, host.store = MemoryIndex(), MemoryStore()

    def run(self, seconds: float) -> None:
        """Let time pass, call by call."""
        end = self.clock.seconds() + seconds
        while calls := self.clock.getDelayedCalls():
            due = min(call.getTime() for call in calls)
            if due > end:
                break
            self.clock.advance(max(0.0, due - self.clock.seconds()))
        self.clock.advance(max(0.0, end - self.clock.seconds()))

    def finish(self, what: Deferred[Any], seconds: float = 60.0) -> Any:
        """Let time pass until something is there; return it, or raise it."""
        found: list[Any] = []
        what.addBoth(found.append)
        end = self.clock.seconds() + seconds
        while not found and self.clock.seconds() < end:
            due = min(call.getTime() for call in self.clock.getDelayedCalls())
            self.clock.advance(max(0.0, due - self.clock.seconds()))
        if not found:
            raise AssertionError("this takes too long")
        if hasattr(found[0], "raiseException"):
            found[0].raiseException()
        return found[0]

    def ask(
        self,
        host: Host,
        method: str,
        target: str,
        body: bytes | IBody | None = None,
        source: str = CLIENT,
    ) -> Deferred[Answer]:
        """Ask a replica as a client does, or as another host (`source`)."""

        async def ask() -> Answer:
            try:
                response = await self._pools[source].request(
                    Origin(host.ip, 80), method.encode(), target.encode(), (), body
                )
                whole = await response.read_all(1 << 24)
            except OriginFailed:
                return Answer(0)
            fields = {name.lower(): value for name, value in response.head.fields}
            return Answer(response.head.status, whole, fields)

        return Deferred.fromCoroutine(ask())

    def put(self, host: Host, target: str, body: bytes) -> Answer:
        """PUT, and wait for the answer."""
        found: Answer = self.finish(self.ask(host, "PUT", target, body))
        return found

    def get(self, host: Host, target: str) -> Answer:
        """GET, and wait for the answer."""
        found: Answer = self.finish(self.ask(host, "GET", target))
        return found

    def delete(self, host: Host, target: str) -> Answer:
        """DELETE, and wait for the answer."""
        found: Answer = self.finish(self.ask(host, "DELETE", target))
        return found

    def close(self) -> None:
        """End everything."""
        for pool in self._pools.values():
            pool.close()
        for host in self.hosts.values():
            self.crash(host)
        self.run(1)
        self._directory.cleanup()


def _disk_of(host: Host) -> tuple[MemoryIndex, MemoryStore]:
    """Return copies that a dying process cannot change any more."""
    index, store = copy_index(host.index), MemoryStore()
    for number, volume in host.store._volumes.items():
        store._volumes[number] = type(volume)(volume.head, bytearray(volume.content))
    store._next_number = host.store._next_number
    return index, store


def copy_index(old: MemoryIndex) -> MemoryIndex:
    """Return an index as it is now."""
    index = MemoryIndex()
    index._rows.update(old._rows)
    index._marks.update(old._marks)
    index._cursors.update(old._cursors)
    index._parked.update(old._parked)
    index._seq = old._seq
    return index

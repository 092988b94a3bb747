"""A cluster of whole replicas in one process: started, asked, crashed, stopped.

A replica is the real one, on a simulated disk, network and clock; other files of its
directory (what it keeps for others, what the scrubber noted) are real and survive.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import tempfile
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast
from unittest import mock

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory

from clinfra.blob import names, topology
from clinfra.blob import service as blob_service
from clinfra.blob.records import Locator, Row
from clinfra.blob.service import BlobService
from clinfra.config import BlobConfig, Bytes
from clinfra.errors import OriginFailed
from clinfra.web.exchange import IBody
from clinfra.web.pool import Origin, Pool, PoolSettings
from clinfra.web.site import Site
from tests.blob.support import LIMITS, NOW
from tests.sim import disk
from tests.sim.clock import Hang, Process, ProcessClock, SimClock
from tests.sim.disk import Disk, Inode, SimIndex, SimPath, SimStore
from tests.sim.network import Network
from tests.sim.original import Original
from tests.sim.threads import SlowWorkers, SlowWriter

CLIENT = "192.0.2.1"

SPACE_SECONDS = 20.0
"""How often free space and backlogs are measured: else it is what takes longest."""


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
        stopping: while it stops in order.
        offset: how wrong its clock is, seconds.
    """

    name: str
    ip: str
    disk: Disk
    data_dir: Path
    service: BlobService | None = None
    stopping: BlobService | None = None
    process: Process = field(factory=lambda: Process(dead=True))
    offset: float = 0.0

    @property
    def index(self) -> SimIndex:
        """What it knows, running or not."""
        return self.disk.index

    @property
    def store(self) -> SimStore:
        """Where its bytes are, while it runs."""
        assert self.service is not None
        return cast(SimStore, self.service.replica.store)

    def rows(self) -> dict[str, Row]:
        """Return what it knows."""
        return {row.name: row for row in self.index.rows()}

    def file_of(self, at: Locator) -> Inode:
        """Return the file that a record is in."""
        return SimPath(self.disk, f"/volumes/{at.volume:016x}.volume").inode

    def flip(self, stored: str) -> None:
        """Flip a bit of a blob on its disk."""
        at = self.rows()[stored].at
        assert at is not None
        self.disk.flip(self.file_of(at), at.offset + at.head_bytes + 2, 3)


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
        originals: replicas that are of the original's kind.
        slowness: what threads take for anything, at most, seconds; 0: no threads.
        volume_bytes: a volume that has reached this is sealed.
        config: keys of `[blob]`.
    """

    def __init__(
        self,
        layout: Sequence[Sequence[int]],
        seed: int = 0,
        *,
        originals: Collection[str] = (),
        slowness: float = 0.0,
        volume_bytes: int = 1 << 20,
        **config: Any,
    ) -> None:
        self.clock = SimClock()
        self.clock.advance(NOW)
        self.rng = random.Random(seed)
        self.network = Network(self.clock, random.Random(self.rng.random()))
        shm = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self._directory = tempfile.TemporaryDirectory(prefix="clinfra-sim-", dir=shm)
        self._closed = False
        self._dead: list[BlobService] = []
        disk.install()
        root = Path(self._directory.name)
        self._file = root / "cluster.json"
        text = cluster_file(layout)
        self._file.write_text(text, encoding="utf-8")
        self.topology = topology.read(text, None, "cluster.json")
        self._config = config
        self._slowness = slowness
        self._volume_bytes = volume_bytes
        self.hosts: dict[str, Host] = {}
        self.originals: dict[str, Original] = {}
        for name, peer in self.topology.peers.items():
            if name in originals:
                original = Original(now=self.clock.seconds)
                self.originals[name] = original
                self.network.listeners[Origin(peer.ip, 80)] = original
            else:
                rng = random.Random(f"disk {name} {seed}")
                self.hosts[name] = Host(name, peer.ip, Disk(rng), root / name)
        settings = PoolSettings(response_timeout=20.0, read_timeout=20.0)
        self._pools = {
            ip: Pool(self.clock, settings, self.network.connector(ip))
            for ip in (CLIENT, *(host.ip for host in self.hosts.values()))
        }
        for host in self.hosts.values():
            self.start(host)

    def keepers(self, stored: str) -> list[Host]:
        """Return all our replicas that keep a stored name, in every cluster."""
        return [
            self.hosts[name] for name in self._keepers(stored) if name in self.hosts
        ]

    def keeping_originals(self, stored: str) -> list[Original]:
        """Return all replicas of the original's kind that keep a stored name."""
        return [
            self.originals[name]
            for name in self._keepers(stored)
            if name in self.originals
        ]

    def _keepers(self, stored: str) -> list[str]:
        return [
            name
            for cluster, bucket in names.decode(stored).items()
            for name in self.topology.clusters[cluster][bucket].replicas
        ]

    def start(self, host: Host) -> None:
        """Start a replica on what its disk holds; it may die of that."""
        process = host.process = Process()
        self.network.processes[host.ip] = process
        clock: Any = ProcessClock(self.clock, process)
        rng = random.Random(self.rng.random())
        threads: dict[str, Any] = {}
        if self._slowness:
            threads = {
                "workers": SlowWorkers(clock, rng, self._slowness),
                "make_writer": lambda committer: SlowWriter(
                    committer, clock, rng, self._slowness
                ),
            }
        host.disk.blow = partial(self.crash, host)
        service = host.service = BlobService(
            BlobConfig(
                **{
                    "min_free_bytes": Bytes(0),
                    "cluster_file": str(self._file),
                    "replica": host.name,
                    **self._config,
                }
            ),
            reactor=clock,
            data_dir=host.data_dir,
            threads=False,
            index=host.disk.index,
            store=disk.store_on(host.disk, self._volume_bytes),
            rng=rng,
            now=lambda: clock.seconds() + host.offset,
            connect=self.network.connector(host.ip, process),
            **threads,
        )
        try:
            service.open()
        except BaseException:
            if not process.dead:
                raise
        if process.dead:
            service._directory.close()
            return
        with mock.patch.object(blob_service, "SPACE_SECONDS", SPACE_SECONDS):
            service.startService()
        site = Site(service.resource, reactor=clock, limits=LIMITS, lane=service.lane)
        self.network.listeners[Origin(host.ip, 80)] = cast(Factory, site)

    def crash(self, host: Host, *, power_failed: bool = False) -> None:
        """Stop a replica from one moment to the next; nothing is finished."""
        if host.process.dead:
            return
        host.process.dead = True
        service = host.service or host.stopping
        host.service = host.stopping = None
        self.network.crash(host.ip)
        # Whatever the dead process is still in the middle of, it does to another disk.
        host.disk.index.applied = None
        host.disk = host.disk.image(power_failed=power_failed)
        if service is not None:
            service._directory.close()
            self._dead.append(service)

    def stop(self, host: Host) -> None:
        """Stop a replica in order, or kill it when that takes too long."""
        service, process = host.service, host.process
        if service is None:
            return

        def over(result: object) -> None:
            if host.process is process:
                self.crash(host)

        del self.network.listeners[Origin(host.ip, 80)]
        host.service, host.stopping = None, service
        service.stopService().addBoth(over)
        self.clock.callLater(10, over, None)

    def wipe(self, host: Host) -> None:
        """Crash a replica and lose its disk."""
        self.crash(host)
        host.disk = Disk(host.disk.rng)
        shutil.rmtree(host.data_dir, ignore_errors=True)

    def run(self, seconds: float) -> None:
        """Let time pass, call by call."""
        self.clock.run(seconds)

    def finish(self, what: Deferred[Any], seconds: float = 60.0) -> Any:
        """Let time pass until something is there; return it, or raise it."""
        found: list[Any] = []
        what.addBoth(found.append)
        if not found:
            self.clock.run(seconds, lambda: found)
        if not found:
            raise Hang(f"there is no answer after {seconds} seconds")
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
        if not self._closed:
            self._closed = True
            for service in self._dead:
                # What it was in the middle of ends here, and not when it is collected.
                service.stopService()
            disk.uninstall()
            self._directory.cleanup()

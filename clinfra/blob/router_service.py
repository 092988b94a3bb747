"""A process that keeps no blobs and answers for all of them: its lifetime."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from zope.interface import implementer

from clinfra.blob.admin import Admin, make_console
from clinfra.blob.forward import Forwarder
from clinfra.blob.handoff import DIRECTORY as HANDOFFS
from clinfra.blob.handoff import Handoff
from clinfra.blob.handoff_files import HandoffFiles
from clinfra.blob.peers import Peers
from clinfra.blob.replay import ReplayIntake
from clinfra.blob.resource import BlobResource, RouterHandler
from clinfra.blob.routed import RoutedBlobs
from clinfra.blob.router import Router
from clinfra.blob.running_config import running_config
from clinfra.blob.stamps import Stamps
from clinfra.blob.status import Counters
from clinfra.blob.topology import Topology
from clinfra.blob.undelivered import Undelivered
from clinfra.blob.workers import InlineWorkers, ThreadWorkers, Workers
from clinfra.config import BlobConfig
from clinfra.errors import StartupFailed
from clinfra.interfaces import IProduct
from clinfra.web.pool import Connect


@implementer(IProduct)
class RouterService(Service):
    """The way to a cluster's blobs.

    Attributes:
        blobs: the same for other products in this process.
        admin: answers admin requests, also those of the admin pages.
    """

    lane = None

    def __init__(
        self,
        config: BlobConfig,
        topology: Topology,
        *,
        reactor: Any,
        data_dir: Path,
        threads: bool = True,
        rng: random.Random | None = None,
        now: Callable[[], float] | None = None,
        connect: Connect | None = None,
    ) -> None:
        """Put the parts together; nothing is opened yet.

        Args:
            data_dir: of the whole process; ``blob`` in it is ours, for large bodies
                that pass through, and changes that nobody can take now.
            threads: False does everything in the caller's thread, for tests.
            now: returns unix seconds; the reactor's clock when not given.
            connect: how to reach replicas; see `web.pool`.
        """
        self.name = "blob"
        self.topology = topology
        self._directory = data_dir / "blob"
        now = now or reactor.seconds
        rng = rng or random.SystemRandom()
        stamps = Stamps(now, partial(rng.getrandbits, 12), config.max_clock_skew)
        self.peers = Peers(
            topology, reactor=reactor, now=reactor.seconds, rng=rng, connect=connect
        )
        router = Router(topology, self.peers, stamps, reactor, now)
        given = config.ttl if config.ttl is not None else topology.ttl
        ttl = None if given is None else int(given)
        intake = ReplayIntake(self._directory, config.max_blob_bytes)
        self.workers: Workers = ThreadWorkers(reactor) if threads else InlineWorkers()
        handoffs = self._directory / HANDOFFS
        files = HandoffFiles(handoffs, config.min_free_bytes, self.workers)
        self._handoff = Handoff(
            files, router, self.workers, reactor, config.tombstone_time
        )
        undelivered = Undelivered(router, self._handoff)
        forwarder = Forwarder(router, ttl, intake, undelivered, now)
        self.blobs = RoutedBlobs(topology, forwarder, ttl, config.max_blob_bytes)
        self.counters = Counters()
        self.admin = Admin(
            topology=topology,
            peers=self.peers,
            counters=self.counters,
            own=None,
            config=lambda: running_config(topology, config, ttl),
            get_changes=config.compat_admin_get,
            console=make_console(config),
        )
        self.resource = BlobResource(
            RouterHandler(self.blobs, self.counters, self.admin)
        )

    def open(self) -> None:
        """Make the directory for large bodies.  Raises errors.StartupFailed."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._handoff.open()
        except OSError as error:
            raise StartupFailed(f"cannot use {self._directory}: {error}") from error

    def startService(self) -> None:
        """Begin to deliver what was kept."""
        super().startService()
        self.workers.start()
        self._handoff.start()

    def stopService(self) -> Deferred[None]:
        """Give up what is under way."""
        super().stopService()
        self._handoff.stop()

        def close(result: None) -> None:
            self.workers.stop()

        return self.peers.close().addCallback(close)

    def report(self) -> Mapping[str, Any]:
        """Return what the admin pages show."""
        health = self.peers.health
        return {
            "cluster": self.topology.cluster,
            "bucket": None,
            "replica": None,
            "events": self.counters.told(),
            "handoff": self._handoff.report(),
            "replicas": {
                name: {"last_failed": int(since)}
                for name in self.topology.peers
                if (since := health.seconds_since_failure(name)) is not None
            },
        }

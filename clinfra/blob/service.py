"""The blob store's lifetime: what it is made of, opening, running, stopping."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.blob import stores
from clinfra.blob.admin import Admin, ReplicaAdmin, make_console
from clinfra.blob.batch import Batches, Receiver
from clinfra.blob.between import Between
from clinfra.blob.clocks import Clocks
from clinfra.blob.cluster_file import read_topology
from clinfra.blob.commit import Committer
from clinfra.blob.concern import Concern
from clinfra.blob.datadir import DataDirectory
from clinfra.blob.destinations import destinations
from clinfra.blob.disk import Disk
from clinfra.blob.expire import Reaper
from clinfra.blob.forward import Forwarder
from clinfra.blob.generations import Generations
from clinfra.blob.handoff import DIRECTORY as HANDOFFS
from clinfra.blob.handoff import Handoff
from clinfra.blob.handoff_files import HandoffFiles
from clinfra.blob.heal import Healer
from clinfra.blob.hot import HotCache
from clinfra.blob.index import IBlobIndex
from clinfra.blob.index_sqlite import SqliteIndex
from clinfra.blob.intake import Intake
from clinfra.blob.lane import BlobLane
from clinfra.blob.local import LocalBlobs
from clinfra.blob.peers import Peers
from clinfra.blob.pulling import Pulling
from clinfra.blob.purging import Purging
from clinfra.blob.recovery import Recovery
from clinfra.blob.refill import Refill
from clinfra.blob.rejoin import make_fence
from clinfra.blob.repair import Repair
from clinfra.blob.replay import ReplayIntake
from clinfra.blob.replica import Replica
from clinfra.blob.replication import Replication
from clinfra.blob.resource import BlobHandler, BlobResource
from clinfra.blob.router import Router
from clinfra.blob.router_service import RouterService
from clinfra.blob.running_config import running_config
from clinfra.blob.sending import Sender
from clinfra.blob.stamps import Stamps
from clinfra.blob.status import Counters, Status
from clinfra.blob.store import IBlobStore
from clinfra.blob.stream import Streamer
from clinfra.blob.sync import Puller
from clinfra.blob.telling import Telling
from clinfra.blob.undelivered import Undelivered
from clinfra.blob.workers import InlineWorkers, ThreadWorkers, Workers
from clinfra.blob.writer import InlineWriter, IWriter, WriterThread
from clinfra.config import BlobConfig
from clinfra.errors import StartupFailed, StorageFull
from clinfra.interfaces import IProduct
from clinfra.web.pool import Connect

SPACE_SECONDS = 1.0
"""How often free space is measured."""


@implementer(IProduct)
class BlobService(Service):
    """One replica: its files, threads and HTTP.

    Attributes:
        blobs: the same blobs for other products in this process.
        admin: answers admin requests, also those of the admin pages.
        generations: what processes that only read are told of changes; None: none do.
    """

    log = Logger()

    def __init__(
        self,
        config: BlobConfig,
        *,
        reactor: Any,
        data_dir: Path,
        threads: bool = True,
        index: IBlobIndex | None = None,
        store: IBlobStore | None = None,
        workers: Workers | None = None,
        make_writer: Callable[[Committer], IWriter] | None = None,
        rng: random.Random | None = None,
        now: Callable[[], float] | None = None,
        connect: Connect | None = None,
    ) -> None:
        """Put the parts together; nothing is opened yet.

        Args:
            reactor: Twisted's; only its clock is used without threads.
            data_dir: of the whole process; ours is ``blob`` in it.
            threads: False does everything in the caller's thread, for tests.
            index, store: instead of SQLite and volumes.
            workers, make_writer: instead of threads.
            now: returns unix seconds; the reactor's clock when not given.
            connect: how to connect to other replicas; see `web.pool`.
        """
        self.name = "blob"
        self._reactor = reactor
        now = now or reactor.seconds
        rng = rng or random.Random()
        self.topology = read_topology(config)
        self._directory = DataDirectory(data_dir / "blob", str(self.topology.replica))
        by_leaf = bool(destinations(self.topology))
        self.generations = Generations() if config.read_workers else None
        index = index or SqliteIndex(self._directory.index, by_leaf, self.generations)
        store = store or stores.make_store(config, self._directory)
        self.committer = Committer(index, store, now)
        old = (config, self._directory, self.committer)
        self._take_over = partial(stores.take_over, *old)
        if threads:
            workers = workers or ThreadWorkers(reactor)
            call_back = reactor.callFromThread
            self.writer: IWriter = WriterThread(self.committer, call_back, reactor)
        else:
            self.writer = (make_writer or InlineWriter)(self.committer)
        self.workers = workers or InlineWorkers()
        stamps = Stamps(now, partial(rng.getrandbits, 12), config.max_clock_skew)
        self.replica = Replica(
            index=index,
            store=store,
            hot=HotCache(config.cache_bytes),
            writer=self.writer,
            workers=self.workers,
            stamps=stamps,
            now=now,
            min_free_bytes=config.min_free_bytes,
        )
        self.peers = Peers(
            self.topology,
            reactor=reactor,
            now=reactor.seconds,
            rng=rng,
            connect=connect,
        )
        self.clocks = Clocks(
            self.topology, self.peers, stamps, reactor, now, config.max_clock_skew
        )
        self._batches = Batches(self.peers, reactor)
        forget = config.expiration_delay
        sender = Sender(self.replica, self.peers, now, forget, self._batches, reactor)
        self.fence = make_fence(config, self.replica, self.committer, now)
        self.replication = Replication(
            self.topology,
            self.replica,
            self.committer,
            self.workers,
            self.peers,
            reactor,
            now,
            rng,
            sender,
            config.parked_retry,
            config.longest_pause,
            self.fence,
        )
        between = Between(
            self.topology, self.replica, self.committer, self.workers, self.fence
        )
        own, path = (self.replica, self.committer, self.workers), self._directory.path
        self.refill = Refill(
            self.topology,
            *own,
            self.peers,
            reactor,
            stores.make_adoption(path, self.topology, *own, self.peers),
        )
        standing = self.refill.standing
        streamer = Streamer(
            self.replica,
            self.peers,
            self.workers,
            standing,
            self.fence,
            now,
            forget,
            self.replication.has,
        )
        lending = (path, *own, self.peers, standing, self.fence, reactor)
        self._cloner = stores.make_cloner(*lending)
        self.repair = Repair(
            self.topology,
            self.replica,
            self.committer,
            self.workers,
            self.peers,
            between,
            sender.send,
            self.fence,
            lambda row, why: self.scrubber.set_aside(row, why),
            standing,
            self.replication.has,
            reactor,
            now,
            rng,
            config.compare_interval,
            config.tombstone_time,
        )
        ttl = config.ttl if config.ttl is not None else self.topology.ttl
        default_ttl = None if ttl is None else int(ttl)
        intake = Intake(store, self.workers, config.max_blob_bytes)
        router = Router(self.topology, self.peers, stamps, reactor, now)
        files = HandoffFiles(path / HANDOFFS, config.min_free_bytes, self.workers)
        self._handoff = Handoff(
            files, router, self.workers, reactor, config.tombstone_time
        )
        self._healer = Healer(router, self.replica, intake)
        self.scrubber = stores.make_scrubber(
            config,
            self._directory,
            self.replica,
            self.workers,
            reactor,
            now,
            lambda name: self._healer.heal(self.topology.place(name, encoded=True)),
        )
        self.refill.adopted = self.scrubber.now
        self.refill.filled = self.fence.forgot_unseen
        self.blobs = LocalBlobs(
            topology=self.topology,
            replica=self.replica,
            forwarder=Forwarder(
                router,
                default_ttl,
                ReplayIntake(self._directory.path, config.max_blob_bytes),
                Undelivered(router, self._handoff),
                now,
            ),
            healer=self._healer,
            fence=self.fence,
            standing=standing,
            concern=Concern(
                self.topology,
                self.peers,
                sender,
                self.replication.deliveries,
                reactor,
                self.clocks.doubt,
            ),
            default_ttl_seconds=default_ttl,
            serve_deleted=config.serve_deleted,
            max_blob_bytes=config.max_blob_bytes,
            max_age_seconds=config.max_age,
            now=now,
        )
        self._handoff.adopt = partial(self.blobs.adopt, intake)
        self.reaper = Reaper(
            self.replica,
            self.committer,
            self.workers,
            reactor,
            now,
            forget,
            self.repair.may_forget,
        )
        self.purging = Purging(
            self.reaper, lambda: self.refill.busy, reactor, config.purge_interval
        )
        self.counters = Counters()
        puller = Puller(
            self.topology, self.replica, intake, self.workers, self.peers, now
        )
        telling = Telling(self.topology, self.replica, self.workers, self.peers)
        self.repair.pulling = Pulling(puller, config.tombstone_time, telling)
        self._status = Status(
            topology=self.topology,
            replica=self.replica,
            counters=self.counters,
            reaper=self.reaper,
            puller=puller,
            peers=self.peers,
            waiting=lambda: self.writer.waiting,
            replication=self.replication,
            scrub=self.scrubber.report,
            handoff=self._handoff.report,
            repair=self.repair.report,
            rejoin=self.fence.report,
            refill=self.refill.report,
            clock=self.clocks.report,
        )
        self._replica_admin = ReplicaAdmin(
            replica=self.replica,
            workers=self.workers,
            status=self._status,
            puller=puller,
            purge=self.purging.soon,
            send=self.replication.hurry,
            scrubber=self.scrubber,
            fence=self.fence,
        )
        self.admin = Admin(
            topology=self.topology,
            peers=self.peers,
            counters=self.counters,
            own=self._replica_admin,
            config=partial(running_config, self.topology, config, default_ttl),
            get_changes=config.compat_admin_get,
            console=make_console(config),
        )
        self.lane = BlobLane(
            self.replica, now, partial(self.counters.once, "get"), config.max_age
        )
        handler = BlobHandler(
            blobs=self.blobs,
            intake=intake,
            lane=self.lane,
            counters=self.counters,
            admin=self.admin,
            between=between,
            receiver=Receiver(self.topology, self.replica, self.peers),
            streamer=streamer,
            cloner=self._cloner,
        )
        self.resource = BlobResource(handler)
        self._measuring = LoopingCall(self._measure)
        self._measuring.clock = reactor
        self._disk = Disk(self._directory, self.committer, self.replica)
        self._opened = False

    # IProduct

    def open(self) -> None:
        """Take the data directory and make index and volumes agree."""
        self._directory.open()
        try:
            if self.generations is not None:
                self.generations.create()
            found = Recovery(self.committer.index, self.committer.store).run()
            self.scrubber.shortened = found.shortened
            self.committer.load()
            self._handoff.open()
            self._take_over()
            self.fence.load()
            if self.generations is not None:
                self.fence.when_open(self.generations.allow)
            self.refill.open()
            if self._cloner is not None:
                self._cloner.open()
            self._disk.measure()
        except (OSError, StartupFailed, StorageFull) as error:
            self.close()
            raise StartupFailed(f"cannot open the blob store: {error}") from error
        self._opened = True

    def startService(self) -> None:
        """Start threads and the purge loop; opens first if that was not done."""
        if not self._opened:
            self.open()
        super().startService()
        self.workers.start()
        self.writer.start()
        self.purging.start()
        self._measuring.start(SPACE_SECONDS, now=False)
        self.scrubber.start(self._directory.was_killed)
        self.reaper.dropper.start()
        if destinations(self.topology):
            self.replication.start()
            self.repair.start()
            self.peers.came_back = self.replication.came_back
            self.peers.say_hello()
            self.clocks.start()
            self.refill.start()
        self._handoff.start()

    def stopService(self) -> Deferred[None]:
        """Finish what is waiting to be committed, then close everything."""
        super().stopService()
        if self._measuring.running:
            self._measuring.stop()
        self.purging.stop()
        self.clocks.stop()
        self.reaper.dropper.stop()
        self._replica_admin.stop()
        self._healer.stop()
        self._handoff.stop()
        self.scrubber.stop()
        self.repair.stop()
        self.refill.stop()
        if self._cloner is not None:
            self._cloner.stop()
        stopping = self.replication.stop()
        self._batches.stop()
        stopping.addBoth(lambda _: self.peers.close())
        stopping.addBoth(lambda _: self.workers.run(self.writer.stop))

        def close(result: object) -> object:
            self.workers.stop()
            self.close()
            self._directory.end_well()
            return result

        return stopping.addBoth(close)

    def close(self) -> None:
        """Close files and let go of the data directory."""
        self.scrubber.stop()
        self.reaper.dropper.stop()
        self.committer.index.close()
        self.committer.store.close()
        if self.generations is not None:
            self.generations.close()
        self._directory.close()
        self._opened = False

    def report(self) -> Mapping[str, Any]:
        """Return what the admin pages show."""
        told = self._status.told(*self._disk.facts)
        not_ready = [*self.clocks.not_ready(), *self.fence.not_ready()]
        return {**told, "healing": self._healer.report(), "not_ready": not_ready}

    # In the background

    def _measure(self) -> Deferred[None]:
        def failed(failure: Any) -> None:
            self.log.error("cannot measure the disk: {error}", error=failure.value)

        measuring = self.workers.run(self._disk.measure)
        measuring.addCallback(lambda _: self.replication.measure())
        return measuring.addErrback(failed)


def make_blob_service(
    config: BlobConfig, *, reactor: Any, data_dir: Path
) -> BlobService | RouterService:
    """Return the blob store of a process.

    With a cluster file and no replica's name it keeps no blobs, and finds them all.

    Raises ConfigProblems.
    """
    if config.cluster_file and not config.replica:
        cluster = read_topology(config)
        return RouterService(config, cluster, reactor=reactor, data_dir=data_dir)
    return BlobService(config, reactor=reactor, data_dir=data_dir)

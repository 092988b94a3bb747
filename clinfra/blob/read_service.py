"""A process that only reads a replica's blobs, beside its main process.

It shares the volumes, reads the index through connections of its own, and answers what
it surely can: blobs of this replica that have bytes and have not ended.  Everything
else, and whatever is in doubt, goes to the main process, with its connection (see
`web.moving`).

Note [Reading what was written]: a change is in the index before it is acknowledged, so
a row read afterwards is never older.  What is kept in memory is believed by its
generation only (see `generations`), looked at with each request.  Bytes never change
where they are; a volume that is deleted meanwhile is a blob in doubt.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.blob import names, parameters
from clinfra.blob.answers import answer_read
from clinfra.blob.datadir import DataDirectory
from clinfra.blob.generations import Generations, slot_of
from clinfra.blob.handoff import HANDOFF
from clinfra.blob.hot import Hot, HotCache
from clinfra.blob.index import IndexDamaged
from clinfra.blob.lane import BlobLane
from clinfra.blob.reading import Reader
from clinfra.blob.sqlite_reading import SqliteReading
from clinfra.blob.status import Counters
from clinfra.blob.topology import Topology
from clinfra.blob.volume_files import VolumeFiles
from clinfra.blob.workers import ThreadWorkers
from clinfra.config import BlobConfig
from clinfra.errors import ClientGone, Overloaded, StartupFailed
from clinfra.interfaces import IProduct
from clinfra.web.exchange import IExchange, Response
from clinfra.web.heads import RequestHead
from clinfra.web.moving import MovingChannel
from clinfra.web.resource import Resource, answer

TIDY_SECONDS = 1.0
"""After which the space of a deleted volume is free."""


def may_read(head: RequestHead) -> bool:
    """Tell whether a request could be for a process that only reads."""
    return (
        head.method in (b"GET", b"HEAD")
        and head.content_length == 0
        and not head.target.startswith(b"/_")
    )


@define(eq=False, kw_only=True)
class SharedReader(Reader):
    """Reads what another process writes.

    Args:
        main: its process id.
    """

    index: SqliteReading
    generations: Generations
    main: int
    _seen: int = field(init=False, default=0)

    @property
    def trusted(self) -> bool:
        """Whether what is here is what the main process would say, too."""
        return os.getppid() == self.main and not self.generations.is_shut

    def is_current(self, hot: Hot) -> bool:
        """Return whether nothing else was acknowledged since this was read."""
        generations = self.generations
        return (
            generations.of(hot.slot) == hot.generation
            and generations.of_all == self._seen
        )

    async def find(self, name: str) -> Hot | None:
        """Return what is known of a name; see Note [Reading what was written]."""
        generations = self.generations
        everything = generations.of_all
        if everything != self._seen:
            self.hot.clear()
            self.index.follow()
            self._seen = everything
        slot = slot_of(name)
        generation = generations.of(slot)
        found = self.hot.get(name)
        if found is not None and found.generation == generation:
            return found
        hot = await self._workers.run(self._read_row, name)
        if hot is not None:
            hot.slot, hot.generation = slot, generation
            if everything == self._seen and self.is_current(hot):
                self.hot.put(hot)
        return hot


@define(eq=False)
class ReadLane:
    """Answers what it can, and has the rest answered elsewhere; see `interfaces.Lane`.

    Args:
        lane: answers from memory.

    Attributes:
        moved: requests that another process answers.
    """

    log = Logger()

    _reader: SharedReader
    _topology: Topology
    _lane: BlobLane
    _counters: Counters
    _max_age_seconds: float
    moved: int = field(init=False, default=0)

    def __call__(self, exchange: IExchange) -> bool:
        """Take the exchange, in any case."""
        if not may_read(exchange.head):
            return False
        hot = self._reader.hot.targets.get(exchange.head.target)
        if hot is not None and not self._reader.is_current(hot):
            self._reader.hot.drop(hot.row.name)
        if not self._reader.trusted or not self._lane(exchange):
            answer(exchange, self._respond)
        return True

    async def _respond(self, exchange: IExchange) -> Response | None:
        try:
            response = await self._read(exchange)
        except ClientGone:
            raise
        except Exception as trouble:
            if exchange.finished:
                raise
            self.log.debug("a read is left to the main process: {why}", why=trouble)
            response = None
        if response is None:
            self.moved += 1
            cast(MovingChannel, cast(Any, exchange).channel).move()
        return response

    async def _read(self, exchange: IExchange) -> Response | None:
        """Return an answer that is surely right, or none."""
        head, reader = exchange.head, self._reader
        name = names.from_path(head.path)
        given = parameters.parse(head.method.decode("latin-1"), head.query)
        if given.response != "data" or HANDOFF[0].lower() in head.index:
            return None
        placement = self._topology.place(name, encoded=True)
        names.check_harmless(name)
        names.check_harmless(placement.stored)
        if not self._topology.is_here(placement) or not reader.trusted:
            return None
        hot = await reader.find(placement.stored)
        now = reader.seconds()
        if hot is None or hot.row.data is None or hot.row.expiry.passed(now):
            return None
        with self._counters.during("get"):
            self._lane.remember(head.target, hot)
            return await answer_read(reader, exchange, hot, now, self._max_age_seconds)


class Elsewhere(Resource):
    """What can be answered neither here nor by the main process."""

    async def respond(self, exchange: IExchange) -> Response:
        """Refuse."""
        raise Overloaded("This cannot be answered now", 1)


@implementer(IProduct)
class ReadService(Service):
    """The product, as a worker runs it.

    Args:
        main: the process id of the main process.
        descriptors: what was inherited from it, by name.
    """

    name = "blob"

    def __init__(
        self,
        config: BlobConfig,
        topology: Topology,
        *,
        reactor: Any,
        data_dir: Path,
        main: int,
        descriptors: Mapping[str, int],
    ) -> None:
        directory = DataDirectory(data_dir / "blob", str(topology.replica))
        self._workers = ThreadWorkers(reactor)
        self._index = SqliteReading(directory.index)
        self._store = VolumeFiles(directory.store)
        self._generations = Generations()
        self._descriptors = descriptors
        self._counters = Counters()
        self._reader = reader = SharedReader(
            index=self._index,
            store=self._store,
            hot=HotCache(config.cache_bytes),
            workers=self._workers,
            now=reactor.seconds,
            generations=self._generations,
            main=main,
        )
        counted = lambda: self._counters.once("get")  # noqa: E731 - as short as it is
        lane = BlobLane(reader, reactor.seconds, counted, config.max_age)
        self.lane = ReadLane(reader, topology, lane, self._counters, config.max_age)
        self.resource = Elsewhere()
        self._tidying = LoopingCall(self._store.let_go)
        self._tidying.clock = reactor

    def open(self) -> None:
        """Look at what the main process has."""
        try:
            self._generations.open(self._descriptors[Generations.name])
            self._index.follow()
        except (LookupError, OSError, sqlite3.Error, IndexDamaged) as error:
            raise StartupFailed(f"cannot read the blob store: {error}") from error

    def startService(self) -> None:
        """Start threads."""
        super().startService()
        self._workers.start()
        self._tidying.start(TIDY_SECONDS, now=False)

    def stopService(self) -> Deferred[None] | None:
        """Close everything."""
        super().stopService()
        if self._tidying.running:
            self._tidying.stop()
        self._workers.stop()
        self._index.close()
        self._store.close()
        self._generations.close()
        return None

    def report(self) -> Mapping[str, Any]:
        """Return what was answered here, and what was not."""
        hot, events = self._reader.hot, self._counters.told()
        return {
            "events": {"get": events["get"]} if "get" in events else {},
            "moved": self.lane.moved,
            "hot": {
                "blobs": len(hot),
                "bytes": hot.used_bytes,
                "hits": hot.hits,
                "misses": hot.misses,
            },
        }

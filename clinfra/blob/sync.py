"""Pulling from peers what they have and this replica lacks, in the original's way.

This is what `_sync` asks for.  It needs nothing of a source but the original's
protocol: `_list` tells checksums of windows of stamps; a window that differs is asked
for again in smaller ones until its blobs are few enough to be listed; each blob listed
is compared *by name* with what is known here, and fetched when its data is newer.
(Replicas of our own kind compare digest trees as well, continuously.)

A blob fetched is kept only if its source still has it under the stamp that was listed:
so bytes and stamp belong together.  What cannot be had is counted, and left for the
next time.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.blob import names
from clinfra.blob.destinations import peers_of
from clinfra.blob.digests import Announced, parse_digests
from clinfra.blob.info import guess_type
from clinfra.blob.intake import Intake
from clinfra.blob.peers import HOP, PeerFailed, Peers
from clinfra.blob.records import Expiry, Row
from clinfra.blob.replica import Replica, Write
from clinfra.blob.stamps import FromFuture
from clinfra.blob.topology import Topology
from clinfra.blob.workers import Workers
from clinfra.errors import InvalidRequest, NotFound, StorageFull, Trouble
from clinfra.web.exchange import IBody
from clinfra.web.responses import OriginResponse

FIRST_WINDOW_SECONDS = 86400
WINDOW_FACTOR = 120
"""How much smaller the windows inside a window are."""

FEW_BLOBS = 1000
"""A window of so many blobs is listed, not divided."""

AT_A_TIME = 8
"""Blobs fetched at the same time."""

MAX_WINDOWS = 100_000
"""Most windows of ours looked at for one answer; what is beyond counts as differing."""

MAX_LIST_BYTES = 64 << 20
"""Longest answer to `_list`."""

Window = tuple[int, int, int, int]
"""Start, stop, number of blobs, checksum."""


@frozen
class Listed:
    """A blob as `_list` tells it."""

    name: str
    modified: int
    deleted: int
    modified_deleted: int


@frozen
class Asked:
    """What a sync is to compare: stamps from `start` to before `stop`, of `sources`."""

    sources: tuple[str, ...] = ()
    start: int | None = None
    stop: int | None = None


@implementer(IBody)
@define(eq=False)
class FetchedBody:
    """A peer's answer, to be taken in like a client's body."""

    _response: OriginResponse
    length: int | None = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.length = self._response.head.content_length

    async def read(self) -> bytes:
        """Return the next piece, b"" at the end.  Raises errors.OriginFailed."""
        return await self._response.read()


@define(eq=False)
class Puller:
    """Brings this replica up to what its peers have.

    Args:
        now: returns unix seconds.

    Attributes:
        status: what it is doing, as the original's console reads it.
    """

    log = Logger()

    _topology: Topology
    replica: Replica
    _intake: Intake
    workers: Workers
    _peers: Peers
    now: Callable[[], float]
    status: str = field(init=False, default="start delay")
    _counts: Counter[tuple[str, str]] = field(init=False, factory=Counter)
    _missed: int = field(init=False, default=0)

    async def run(self, asked: Asked) -> None:
        """Pull from each source in turn; one that fails does not keep the next."""
        self._counts.clear()
        wrong: list[str] = []
        for source in asked.sources or peers_of(self._topology):
            if source not in self._topology.peers or source == self._topology.replica:
                wrong.append(f"Unknown replica: {source}")
                continue
            try:
                await self._windows(
                    source, asked.start, asked.stop, FIRST_WINDOW_SECONDS
                )
            except Trouble as trouble:
                self.log.warn(
                    "cannot sync from {source}: {error}",
                    source=source,
                    error=trouble.sentence,
                )
                wrong.append(f"{source}: {trouble.sentence}")
        if wrong:
            self.status = f"failed ({'; '.join(wrong)})"
        else:
            self._tell("synced")

    async def pull_from(self, source: str, start: int | None) -> bool:
        """Pull what one source has with stamps from `start`.  Raises errors.Trouble.

        Return False when some of that could not be had this time.
        """
        self._counts.clear()
        self._missed = 0
        await self._windows(source, start, None, FIRST_WINDOW_SECONDS)
        return not self._missed

    def failed(self, error: BaseException) -> None:
        """A run broke down."""
        self.status = f"failed ({error})"

    def _tell(self, doing: str) -> None:
        counts = " ".join(
            f"{source}:{kind}={count}"
            for (source, kind), count in sorted(self._counts.items())
        )
        self.status = f"{doing}  {counts}" if counts else doing

    # What differs

    async def _windows(
        self, source: str, start: int | None, stop: int | None, seconds: int
    ) -> None:
        """Compare windows of stamps; go into those that differ."""
        self._tell("source checksums")
        theirs = [
            _window(found)
            for found in await self._list(source, start, stop, True, seconds)
        ]
        if not theirs:
            return
        self._tell("local checksums")
        ours: set[Window] = set(
            await self.workers.run(
                self.replica.index.windows, start, stop, seconds << 32, MAX_WINDOWS
            )
        )
        self._tell("diff checksums")
        for window in theirs:
            begin, end, count, _ = window
            if window in ours:
                self._counts[source, "skipped"] += count
                continue
            begin = begin if start is None else max(begin, start)
            end = end if stop is None else min(end, stop)
            smaller = seconds // WINDOW_FACTOR
            if smaller <= 1 or count <= FEW_BLOBS:
                await self._blobs(source, begin, end, count)
            else:
                await self._windows(source, begin, end, smaller)

    async def _blobs(self, source: str, start: int, stop: int, count: int) -> None:
        """Compare the blobs of a window, and pull what is newer there."""
        seen = 0
        while True:
            self._tell("source blobs")
            theirs = [
                _listed(found)
                for found in await self._list(source, start, stop, False, None)
            ]
            self._tell("diff blobs")
            for at in range(0, len(theirs), AT_A_TIME):
                if not self._peers.is_up(source):
                    raise PeerFailed(source, 0, "it is down")
                await self._pull_some(source, theirs[at : at + AT_A_TIME])
            seen += len(theirs)
            if not theirs or seen >= count or theirs[-1].modified < start:
                return
            # The source tells only so many at a time.
            start = theirs[-1].modified + 1

    async def _list(
        self,
        source: str,
        start: int | None,
        stop: int | None,
        checksum: bool,
        seconds: int | None,
    ) -> list[Any]:
        given = (
            ("modified_start", start),
            ("modified_stop", stop),
            ("checksum", checksum),
            ("checksum_modulo", seconds),
        )
        query = "&".join(f"{key}={value}" for key, value in given if value is not None)
        target = f"/_list/{source}?{query}".encode()
        async with await self._peers.call(source, b"GET", target, (HOP,)) as response:
            answer = await response.read_all(MAX_LIST_BYTES)
        if response.head.status != 200:
            raise PeerFailed(source, response.head.status, "it does not list")
        try:
            # Long answers take long to read, too: not in the reactor's thread.
            told = await self.workers.run(json.loads, answer)
        except (ValueError, RecursionError):
            told = None
        if not isinstance(told, list):
            raise PeerFailed(source, 200, "its list makes no sense")
        return told

    # Pulling

    async def _pull_some(self, source: str, theirs: Sequence[Listed]) -> None:
        """Pull a few blobs at the same time."""
        known = await self.workers.run(
            self.replica.index.get_many, [each.name for each in theirs]
        )
        pulling = [
            Deferred.fromCoroutine(self._pull(source, each, known.get(each.name)))
            for each in theirs
        ]
        try:
            await gatherResults(pulling, consumeErrors=True)
        except FirstError as error:
            error.subFailure.raiseException()

    async def _pull(self, source: str, theirs: Listed, row: Row | None) -> None:
        """Pull one blob if it is newer there; count what became of it."""
        kind = "skipped"
        ended = Expiry(theirs.modified_deleted, theirs.deleted).passed(self.now())
        try:
            if not self._is_ours(theirs):
                pass
            elif not ended and (
                row is None or row.data is None or row.data.modified < theirs.modified
            ):
                kind = "put"
                await self._change("put", self._fetch(source, theirs))
            elif row is None or (
                (row.expiry.modified_deleted, row.expiry.deleted)
                < (theirs.modified_deleted, theirs.deleted)
            ):
                kind = "delete"
                write = Write(
                    deleted=theirs.deleted,
                    modified_deleted=theirs.modified_deleted,
                    fanout=0,
                )
                await self._change("delete", self.replica.expire(theirs.name, write))
        except StorageFull:
            raise
        except (Trouble, OSError) as error:
            kind = "failed"
            never = isinstance(error, InvalidRequest | NotFound)
            self._missed += isinstance(error, FromFuture) or not never
            self.log.warn(
                "cannot pull {name} from {source}: {error}",
                name=theirs.name,
                source=source,
                error=error,
            )
        self._counts[source, kind] += 1

    async def _change(self, doing: str, change: Awaitable[object]) -> None:
        self._tell(doing)
        await change

    def _is_ours(self, theirs: Listed) -> bool:
        """Return whether a blob of another cluster's bucket belongs here, too.

        Raises InvalidRequest for a blob that cannot be kept at all.
        """
        placement = self._topology.place(theirs.name, encoded=True)
        names.check_harmless(theirs.name)
        return self._topology.is_here(placement)

    async def _fetch(self, source: str, theirs: Listed) -> None:
        """Fetch a blob's bytes and keep them under the stamps that were listed."""
        async with await self._peers.get(source, theirs.name) as response:
            head = response.head
            digest = head.get(b"repr-digest")
            announced = Announced(
                parse_digests(b"repr-digest", digest.decode("latin-1"))
                if digest is not None
                else {}
            )
            told = (head.get(b"content-type") or b"").decode("latin-1")
            content_type = "" if told == guess_type(theirs.name) else told
            self.replica.check_space(head.content_length or 0)
            body = await self._intake.take(
                FetchedBody(response), theirs.name, content_type, announced
            )
        try:
            info = await self._peers.info(source, theirs.name)
            if info.modified != theirs.modified:
                raise NotFound("It has changed meanwhile")
        except BaseException:
            if not isinstance(body, bytes):
                self.workers.run(body.discard)
            raise
        write = Write(
            modified=theirs.modified,
            deleted=theirs.deleted,
            modified_deleted=theirs.modified_deleted,
            content_type=content_type,
            fanout=0,
        )
        await self.replica.put(theirs.name, body, write, announced=announced)


def _window(found: Any) -> Window:
    """Return a window as told.  Raises InvalidRequest."""
    if isinstance(found, list) and len(found) == 4 and all(map(_is_int, found)):
        start, stop, count, checksum = found
        return start, stop, count, checksum
    raise InvalidRequest("A list of checksums makes no sense")


def _listed(found: Any) -> Listed:
    """Return a blob as told.  Raises InvalidRequest."""
    if (
        isinstance(found, list)
        and len(found) == 4
        and isinstance(found[0], str)
        and all(map(_is_int, found[1:]))
    ):
        return Listed(*found)
    raise InvalidRequest("A list of blobs makes no sense")


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

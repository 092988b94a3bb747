"""One replica: putting, finding, reading and expiring blobs on this machine.

Everything here runs in the reactor's thread and waits for nothing: changes go to the
writer thread (`commit`).  Reading is in `reading`.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from clinfra.blob.commit import Call, Job, Plan
from clinfra.blob.digests import Announced
from clinfra.blob.hot import Hot
from clinfra.blob.index import IBlobIndex
from clinfra.blob.merge import merge
from clinfra.blob.parameters import MAX_TIME, MIN_TIME
from clinfra.blob.reading import SMALL_BYTES, Reader
from clinfra.blob.records import BYTES, EVERYWHERE, Data, Expiry, Row, State
from clinfra.blob.stamps import Stamps
from clinfra.blob.store import IBlobStore, ISpool
from clinfra.blob.writer import IWriter
from clinfra.errors import InvalidRequest, StorageFull

Ahead = Callable[[Row, bytes], object]
"""Hears of a change and its bytes while they are written."""

_BLOB_BYTES = 4096
"""Disk space of a blob besides its bytes, about."""

Check = Callable[[Row | None], None]
"""Raises errors.PreconditionFailed when the row is not what the client wants."""


@frozen
class Write:
    """What a PUT or DELETE asks for, besides the bytes; None is for us to choose.

    Attributes:
        ttl_seconds: from now; `deleted` is stronger.
        fanout: PEERS and CLUSTERS, or'ed: where the change is to travel on to.
    """

    ttl_seconds: int | None = None
    modified: int | None = None
    deleted: int | None = None
    modified_deleted: int | None = None
    content_type: str = ""
    fanout: int = EVERYWHERE


def end_of(write: Write, default_ttl_seconds: int | None, now: float) -> int:
    """Return when a blob ends as a change asks for it; 0 never."""
    if write.deleted is not None:
        return write.deleted
    ttl = default_ttl_seconds if write.ttl_seconds is None else write.ttl_seconds
    if ttl is None:
        return 0
    end = int(now) + ttl
    if not MIN_TIME <= end <= MAX_TIME:
        raise InvalidRequest(f"Invalid int value for ttl: {ttl}")
    return end


@define(eq=False, kw_only=True)
class Replica(Reader):
    """The blobs of this machine.

    Args:
        now: returns unix seconds.
        min_free_bytes: PUT is refused when less of the disk would be left.

    Attributes:
        changed: called with number and fan-out of each change that took a number; where
            several did at once, with the last number, for all they may be for.
    """

    index: IBlobIndex
    store: IBlobStore
    _writer: IWriter
    _stamps: Stamps
    _min_free_bytes: int
    free_bytes: int = field(init=False, default=0)
    _coming_bytes: int = field(init=False, default=0)
    changed: Callable[[int, int], object] | None = field(init=False, default=None)

    # Changes

    def check_space(self, size: int) -> None:
        """Raise StorageFull when a body of that size must not come in."""
        if self.free_bytes - self._coming_bytes - size < self._min_free_bytes:
            raise StorageFull("Not enough space to keep this blob")

    @contextmanager
    def room_for(self, size: int | None) -> Iterator[None]:
        """Hold room for a body while it comes in.  Raises StorageFull.

        Space is measured seldom; what comes in between is counted, so that a burst
        cannot eat up what is kept for deletes and for tidying up.

        Args:
            size: as announced, None when it was not.
        """
        needed = (SMALL_BYTES if size is None else size) + _BLOB_BYTES
        self.check_space(needed)
        self._coming_bytes += needed
        try:
            yield
        finally:
            self._coming_bytes -= needed
            self.free_bytes -= needed

    def check_stamps(self, write: Write) -> None:
        """Raise InvalidRequest for stamps from outside that cannot be true.

        Raises Overloaded when it is for us to give one, and we cannot.
        """
        given = [each for each in (write.modified, write.modified_deleted) if each]
        for stamp in given:
            self._stamps.check(stamp)
        if not given:
            self._stamps.check_clock()

    async def put(
        self,
        name: str,
        body: bytes | ISpool,
        write: Write,
        *,
        announced: Announced | None = None,
        check: Check | None = None,
        mend: bool = False,
        ahead: Ahead | None = None,
    ) -> Row:
        """Keep a body durably; return the row after merging.

        Args:
            ahead: called at most once with the row and a small body that are about to
                become durable; what it was told is so when this returns a row of the
                very same `state`.
            mend: these are the bytes of what is known already, when that is so: keep
                them in place of the damaged ones.

        Raises:
            errors.Trouble: the body is not what was announced, a precondition does not
                hold, the disk is full.
        """
        try:
            self.check_stamps(write)
            deleted = end_of(write, None, self._now())
        except InvalidRequest:
            if not isinstance(body, bytes):
                self._workers.run(body.discard)
            raise
        digests: list[tuple[bytes, int, int]] = []

        def plan(row: Row | None) -> Plan | None:
            if check is not None:
                check(row)
            if not digests:
                digests.append(_digests(body))
                if announced is not None:
                    announced.check(digests[0][0])
            sha256, crc32, size = digests[0]
            modified = write.modified or self._stamps.next(*_stamps_of(row))
            merged = merge(
                row.state if row is not None else None,
                State(
                    Data(modified, sha256, size, crc32, write.content_type),
                    Expiry(write.modified_deleted or modified, deleted),
                ),
            )
            if merged.data_won:
                return Plan(merged.state, body, fanout=write.fanout | BYTES)
            if mend and _is_same(merged.state.data, modified, sha256):
                return Plan(merged.state, body, counted=merged.expiry_won)
            if not merged.expiry_won:
                return None
            return Plan(merged.state, fanout=write.fanout)

        if isinstance(body, bytes):
            return await self._change(Job(name, plan, len(body), ahead=ahead))
        return await self._change(Job(name, plan, alone=True, cleanup=body.discard))

    async def expire(
        self, name: str, write: Write, *, check: Check | None = None
    ) -> Row:
        """Set when a blob ends, at once by default; return the row after merging."""
        self.check_stamps(write)
        deleted = end_of(write, 0, self._now())

        def plan(row: Row | None) -> Plan | None:
            if check is not None:
                check(row)
            stamp = write.modified_deleted or self._stamps.next(*_stamps_of(row))
            merged = merge(
                row.state if row is not None else None,
                State(None, Expiry(stamp, deleted)),
            )
            if not merged.expiry_won:
                return None
            return Plan(merged.state, fanout=write.fanout)

        return await self._change(Job(name, plan))

    async def _change(self, job: Job) -> Row:
        await self.commit(job)
        if job.after is None:
            raise RuntimeError("a change left no row")
        return job.after

    def commit(self, job: Job | Call) -> Deferred[None]:
        """Have a job committed; what memory holds of its name is dropped then."""
        waiter: Deferred[None] = Deferred()

        def done() -> None:
            if isinstance(job, Job):
                row = job.after if job.error is None else None
                if row is not None and (row.data is None or row.at is not None):
                    self.hot.put(Hot(row, None))
                else:
                    # Nothing new, or replaced already: the index knows.
                    self.hot.drop(job.name)
                # Who asks from now on must not be answered by a read begun before.
                self._loading.pop(job.name, None)
            if job.error is not None:
                waiter.errback(Failure(job.error))
            else:
                waiter.callback(None)
            numbered = _numbered(job)
            if self.changed is not None and numbered is not None:
                self.changed(*numbered)

        self._writer.submit(job, done)
        return waiter

    def volumes_dropped(self, numbers: Collection[int]) -> None:
        """Forget what memory holds of blobs in these volumes: it is there no more."""
        self.hot.drop_volumes(numbers)
        # Who asks from now on must not be answered by a read begun before.
        self._loading.clear()


def _digests(body: bytes | ISpool) -> tuple[bytes, int, int]:
    """Return SHA-256, CRC-32 and size.  The writer thread."""
    if isinstance(body, bytes):
        return hashlib.sha256(body).digest(), zlib.crc32(body), len(body)
    return body.sha256, body.crc32, body.size


def _is_same(data: Data | None, modified: int, sha256: bytes) -> bool:
    return data is not None and (data.modified, data.sha256) == (modified, sha256)


def _stamps_of(row: Row | None) -> tuple[int, ...]:
    if row is None:
        return ()
    known = row.expiry.modified_deleted
    return (known,) if row.data is None else (known, row.data.modified)


def _numbered(job: Job | Call) -> tuple[int, int] | None:
    """Return the number of the change feed that a job took, and its fan-out."""
    if isinstance(job, Call):
        return (job.seq, EVERYWHERE) if job.seq else None
    before, after = job.before, job.after
    if job.error is not None or after is None:
        return None
    return (after.seq, after.fanout) if not before or after.seq > before.seq else None

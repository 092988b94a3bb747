"""Group commit: everything that waits becomes durable together.

For each batch of jobs, in the writer thread: every job *plans* its change on the row as
it is (after the jobs before it); the records of all go into the store with one sync for
each volume; then one index transaction decides; then, and not before, the jobs are
answered.  A crash in between leaves records without rows, which `recovery` takes up at
the next start: what was answered is never lost, whatever became of the index.

A job may ask to be told what it is about to become, before the sync: its copies
elsewhere are made meanwhile.  Should the commit fail after all, what was told was never
so; the job is not told a second time.

When a batch fails, its jobs are tried one by one, so that one bad job fails alone; a
record whose row could not be written is voided.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial

from attrs import define, evolve, field, frozen
from twisted.logger import Logger

from clinfra.blob.forgotten import Forgotten, noted
from clinfra.blob.index import Batch, IBlobIndex, VolumeMark
from clinfra.blob.records import Locator, Row, State, widened
from clinfra.blob.store import Entry, IBlobStore, ISpool
from clinfra.blob.trees import Forest, digest_of
from clinfra.blob.volume import VOLUME_HEAD_BYTES

MAX_JOBS = 256
MAX_BYTES = 16 << 20


@frozen(eq=False)
class Plan:
    """What a job wants to happen to its name.

    Attributes:
        state: both registers after the change.
        body: the bytes, when the data register changed (or moves).
        logged: append a record; without a body it tells of the expiry.
        counted: others want to hear of the change: it takes a sequence number.
        forget: remove the row; what is logged then says so.
        keep: leave the row as it is, and only log a purge again.
        volumes: where bytes of the name have been, when the row does not know.
        fanout: whom a counted change is to be sent to (see `Row`).
        seq: of the purge that is logged again.
    """

    state: State
    body: bytes | ISpool | None = None
    logged: bool = True
    counted: bool = True
    forget: bool = False
    keep: bool = False
    volumes: tuple[int, int] | None = None
    fanout: int = 0
    seq: int = 0


@define(eq=False)
class Job:
    """A change of one name that waits to be committed.

    Attributes:
        name: stored name.
        plan: called in the writer thread with the row as it is; None when nothing is to
            change.  It may raise errors.Trouble.
        weight: bytes it brings.
        alone: its body is on disk already; it is not mixed with others.
        cleanup: called in the writer thread when the job is over.
        ahead: called with the row and the bytes that are about to be committed.
        before, after: the row, once committed.
        error: why it failed.
    """

    name: str
    plan: Callable[[Row | None], Plan | None]
    weight: int = 0
    alone: bool = False
    cleanup: Callable[[], None] | None = None
    ahead: Callable[[Row, bytes], object] | None = None
    before: Row | None = None
    after: Row | None = None
    error: BaseException | None = None


@define(eq=False)
class Call:
    """Something else to be done in the writer thread, between batches.

    Attributes:
        seq: the last change number, if it took any.
    """

    function: Callable[[], object]
    result: object = None
    error: BaseException | None = None
    weight: int = 0
    alone: bool = True
    seq: int = 0


@define(eq=False)
class _Change:
    """A name on its way through a batch."""

    before: Row | None
    row: Row | None
    entry: int = -1


def call_all(calls: Sequence[Callable[[], object]]) -> None:
    """Make calls, one after the other."""
    for call in calls:
        call()


@define(eq=False)
class Committer:
    """Commits jobs.  Not thread-safe: one thread at a time.

    Args:
        now: returns unix seconds.

    Attributes:
        tell_ahead: makes the calls of `Job.ahead`, in whichever thread they belong to.
        forgotten: the latest of all ends that the index knew and does not any more.
    """

    log = Logger()

    index: IBlobIndex
    store: IBlobStore
    now: Callable[[], float]
    marks: dict[int, VolumeMark] = field(init=False, factory=dict)
    forest: Forest | None = field(init=False, default=None)
    forgotten: Forgotten = field(init=False, factory=Forgotten)
    tell_ahead: Callable[[Sequence[Callable[[], object]]], object] = field(
        init=False, default=call_all
    )
    _undeleted: set[int] = field(init=False, factory=set)
    _seq: int = field(init=False, default=0)
    _slowest: int = field(init=False, default=0)

    def load(self) -> None:
        """Begin where the index ends."""
        self.marks = dict(self.index.marks())
        self._seq = self.index.last_seq()
        self.forgotten = noted(self.index.notes())
        self._slowest = min(self.index.cursors().values(), default=0)

    @property
    def seq(self) -> int:
        """The last change number."""
        return self._seq

    def count_from(self, seq: int) -> None:
        """Give changes higher numbers than this from now on."""
        self._seq = max(self._seq, seq)

    def run(self, jobs: Sequence[Job | Call]) -> None:
        """Commit jobs in order; each ends with its rows or its error set."""
        together: list[Job] = []
        for job in jobs:
            if isinstance(job, Job) and not job.alone:
                together.append(job)
                continue
            self._run(together)
            together = []
            if isinstance(job, Job):
                self._run([job])
                if job.cleanup is not None:
                    with suppress(OSError):
                        job.cleanup()
            else:
                before = self._seq
                try:
                    job.result = job.function()
                except BaseException as error:
                    job.error = error
                job.seq = self._seq if self._seq > before else 0
        self._run(together)

    def _run(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        try:
            self._commit(jobs)
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].error = error
                return
            self.log.warn(
                "a batch failed and is tried one by one: {error}", error=error
            )
            for job in jobs:
                job.error = None
                self._run([job])

    def _commit(self, jobs: Sequence[Job]) -> None:
        rows = self.index.get_many(dict.fromkeys(job.name for job in jobs))
        changes: dict[str, _Change] = {}
        entries: list[Entry] = []
        ahead: list[Callable[[], object]] = []
        seq, forgotten = self._seq, self.forgotten
        for job in jobs:
            change = changes.get(job.name)
            if change is None:
                row = rows.get(job.name)
                change = _Change(row, row)
            job.before = job.after = change.row
            try:
                plan = job.plan(change.row)
            except Exception as error:
                job.error = error
                continue
            if plan is None:
                continue
            changes[job.name] = change
            volumes = change.row.volumes if change.row is not None else None
            if plan.counted:
                seq += 1
            number = seq if plan.counted or change.row is None else change.row.seq
            if plan.body is not None:
                change.entry = len(entries)
                entries.append(
                    Entry(job.name, plan.state, plan.body, volumes, seq=number)
                )
            elif plan.logged:
                purge = plan.forget or plan.keep
                # A purge tells the store which bytes are no more.
                told = plan.state if purge else State(None, plan.state.expiry)
                spread = plan.volumes or volumes
                # A purge forgets all records of the name up to its own number.
                number = plan.seq or number
                row = change.row if plan.forget else None
                dropped = row.data if row is not None else None
                entries.append(
                    Entry(job.name, told, None, spread, purge, number, dropped=dropped)
                )
            if plan.keep:
                continue
            if plan.forget:
                change.row, change.entry = None, -1
                ended = plan.state.expiry.modified_deleted
                forgotten = forgotten.joined(ended, self.now())
            else:
                if plan.state.data is None:
                    change.entry = -1
                # New bytes have no place yet: certainly not that of the old ones.
                stays = plan.state.data is not None and plan.body is None
                at = change.row.at if stays and change.row is not None else None
                change.row = Row(
                    job.name,
                    plan.state,
                    at,
                    number,
                    volumes,
                    self._fanout(plan, change.row),
                    digest_of(job.name, plan.state),
                )
            job.after = change.row
            if job.ahead is not None and isinstance(plan.body, bytes) and job.after:
                ahead.append(partial(job.ahead, job.after, plan.body))
                job.ahead = None
        if not changes:
            return
        if ahead:
            self.tell_ahead(ahead)
        places = self.store.append(entries, self.now()) if entries else []
        try:
            marks = self._settle(changes, entries, places)
            self.index.apply(
                Batch(
                    [each.row for each in changes.values() if each.row is not None],
                    [name for name, change in changes.items() if change.row is None],
                    marks,
                    seq=seq,
                    notes=forgotten.notes() if forgotten != self.forgotten else {},
                )
            )
        except BaseException:
            self.store.void(places)
            raise
        self.marks.update(marks)
        self._seq, self.forgotten = seq, forgotten
        if self.forest is not None:
            for name, change in changes.items():
                self.forest.replace(
                    name, _digest_of(change.before), _digest_of(change.row)
                )
        for job in jobs:
            if job.name in changes and job.error is None and job.after is not None:
                # Jobs of one name in one batch: all see the last place of the bytes.
                last = changes[job.name].row
                if last is not None and last.data == job.after.data:
                    job.after = job.after.placed(last.at, last.volumes)
                elif job.after.data is not None:
                    # Replaced within the batch: these bytes are nowhere.
                    job.after = job.after.placed(None, job.after.volumes)

    def _fanout(self, plan: Plan, row: Row | None) -> int:
        """Return whom a name is to be sent to: a pending change is not forgotten."""
        if row is None or (plan.counted and row.seq <= self._slowest):
            return plan.fanout
        return plan.fanout | row.fanout

    def move_cursors(self, cursors: Mapping[str, int | None]) -> None:
        """Note how far destinations have our changes; None forgets one."""
        self.index.apply(Batch(cursors=cursors))
        self._slowest = min(self.index.cursors().values(), default=0)

    def _settle(
        self,
        changes: dict[str, _Change],
        entries: Sequence[Entry],
        places: Sequence[Locator],
    ) -> dict[int, VolumeMark]:
        """Point rows at their records; return the marks of the volumes concerned."""
        indexed: dict[int, int] = {}
        live: dict[int, int] = {}
        for number, (entry, at) in enumerate(zip(entries, places, strict=True)):
            indexed[at.volume] = max(indexed.get(at.volume, 0), at.offset + at.length)
            change = changes[entry.name]
            row = change.row
            if entry.body is not None and row is not None:
                change.row = row.placed(
                    at if number == change.entry else row.at,
                    widened(row.volumes, at.volume),
                )
            elif row is not None and not (row.at or row.volumes or entry.purge):
                # It never had bytes: its purge has to leave word all the same.
                change.row = row.placed(None, (at.volume, at.volume))
        held: dict[int, list[Row]] = {}
        for change in changes.values():
            old = change.before.at if change.before is not None else None
            new = change.row.at if change.row is not None else None
            if change.row is not None and new is not None:
                held.setdefault(new.volume, []).append(change.row)
            if old != new:
                if old is not None:
                    live[old.volume] = live.get(old.volume, 0) - old.length
                if new is not None:
                    live[new.volume] = live.get(new.volume, 0) + new.length
        marks: dict[int, VolumeMark] = {}
        for number in indexed.keys() | live.keys() | held.keys():
            mark = self.marks.get(number, VolumeMark(VOLUME_HEAD_BYTES, 0))
            if number in held:
                mark = mark.holding(held[number])
            marks[number] = evolve(
                mark,
                indexed=max(indexed.get(number, 0), mark.indexed),
                live=mark.live + live.get(number, 0),
            )
        return marks

    def drop_volumes(self, is_due: Callable[[VolumeMark], bool]) -> list[int]:
        """Drop volumes whole, durably; return them, to be deleted.

        Rows that point at them are left behind.

        Args:
            is_due: everything in it can be forgotten; asked of volumes that alone hold
                bytes of their names.
        """
        if not self.store.holds_bodies:
            return []
        there = self.store.volumes()
        numbers = [
            number
            for number, mark in self.marks.items()
            if mark.live > 0 and number in there and not mark.spread and is_due(mark)
        ]
        if not numbers:
            return []
        for number in numbers:
            self.store.seal(number)
        marks = {
            number: evolve(self.marks[number], live=0, dropped=True)
            for number in numbers
        }
        self.index.apply(Batch(marks=marks))
        self._undeleted.update(numbers)
        self.marks.update(marks)
        self.index.sync()
        return numbers

    def delete_dropped(self, number: int) -> None:
        """Delete a volume that is dropped; otherwise the next start does."""
        self.store.remove(number)
        self._undeleted.discard(number)

    def dropped_volumes(self) -> list[int]:
        """Return the deleted volumes that rows may still point at.  Any thread."""
        return [
            number
            for number, mark in list(self.marks.items())
            if mark.dropped and number not in self._undeleted
        ]

    def forget_dropped(self, since: int, limit: int) -> Sequence[Row]:
        """Remove some rows that dropped volumes left behind; return them."""
        rows = self.index.left_behind(since, limit)
        ended = max((row.expiry.modified_deleted for row in rows), default=0)
        self.forgot(ended, self.now(), [row.name for row in rows])
        if self.forest is not None:
            for row in rows:
                self.forest.replace(row.name, row.digest, b"")
        return rows

    def forgot(self, stamp: int, at: float, names: Sequence[str] = ()) -> None:
        """Note that ends up to a stamp were forgotten, here or by others."""
        forgotten = self.forgotten.joined(stamp, at)
        self.index.apply(Batch(forget=names, notes=forgotten.notes()))
        self.forgotten = forgotten

    def forget_volumes(self, numbers: Sequence[int]) -> None:
        """Forget volumes that are deleted, and that no row points at any more."""
        self.index.apply(Batch(marks=dict.fromkeys(numbers)))
        for number in numbers:
            self.marks.pop(number, None)

    def remove_volume(self, number: int) -> None:
        """Delete a volume that nothing points at any more.

        The file goes first: a file without a mark would be taken up again at the next
        start, and with it whatever old bytes it held.
        """
        mark = self.marks.get(number)
        if mark is not None and mark.live > 0:
            raise ValueError(f"volume {number} still holds blobs")
        self.index.sync()
        self.store.remove(number)
        self.index.apply(Batch(marks={number: None}))
        self.marks.pop(number, None)

    def facts(self) -> Mapping[str, object]:
        """Return what status pages show; from any thread."""
        return {"live_bytes": sum(mark.live for mark in list(self.marks.values()))}


def _digest_of(row: Row | None) -> bytes:
    return row.digest if row is not None else b""

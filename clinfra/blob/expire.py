"""What ends: purging expired blobs, deleting dead volumes, compacting half-dead ones.

Volumes in which everything has expired go first, whole (see `drop`).

Everything is compare-and-delete: a plan is made on what was read, and carried out in
the writer thread only if the row is still that one.  One bad blob or volume is logged
and stepped over; it never stops the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from clinfra.blob.commit import Call, Committer, Job, Plan
from clinfra.blob.drop import Dropper
from clinfra.blob.parameters import MIN_TIME
from clinfra.blob.records import Locator, Row, State
from clinfra.blob.replica import Replica
from clinfra.blob.store import ISpool, VolumeFacts
from clinfra.blob.volume import CHANGES_CLASS, VOLUME_HEAD_BYTES, Damage
from clinfra.blob.workers import Workers

BATCH = 100

LIVE_RATIO = 0.6
"""Sealed volumes with less than this share of live bytes are compacted."""

STEP_BYTES = 4 << 20
STEP_SECONDS = 0.1
"""Compaction moves so many bytes, then rests so long."""

LOOK_EVERY_SECONDS = 3600
"""How often a sealed volume is looked through, when it could not be deleted."""


@frozen(eq=False)
class _Move:
    """A live record of a volume that is compacted."""

    name: str
    at: Locator
    body: bytes | ISpool | None
    state: State
    volumes: tuple[int, int] | None
    purge_seq: int = 0


@define(eq=False)
class Reaper:
    """Purges and compacts, in the background.

    Args:
        now: returns unix seconds.
        expiration_delay_seconds: how long an expired blob can still be undeleted.
        may_forget: whether everybody has heard of an end; until then only the bytes go.

    Attributes:
        status: what `_status` says, in the original's words.
    """

    log = Logger()

    _replica: Replica
    _committer: Committer
    _workers: Workers
    _reactor: IReactorTime
    _now: Callable[[], float]
    _expiration_delay_seconds: float
    _may_forget: Callable[[Row], bool] = lambda row: True
    status: str = field(init=False, default="start delay")
    dropper: Dropper = field(init=False)
    _purged: int = field(init=False, default=0)
    _looked_at: dict[int, float] = field(init=False, factory=dict)

    @dropper.default
    def _make_dropper(self) -> Dropper:
        return Dropper(
            self._replica,
            self._committer,
            self._reactor,
            self._now,
            self._expiration_delay_seconds,
            self._may_forget,
        )

    @property
    def purged(self) -> int:
        """How many blobs were purged since the start."""
        return self._purged + self.dropper.forgotten

    async def run(self) -> int:
        """Drop volumes, purge, tidy the volumes; return how many blobs were purged.

        Rows of dropped volumes are removed later, and do not count.
        """
        await self.dropper.drop()
        purged = await self.purge()
        await self.tidy()
        self.dropper.start()
        self.status = f"purged {purged}"
        return purged

    # Blobs

    async def purge(self) -> int:
        """Remove rows that ended long enough ago; return how many."""
        before = int(self._now() - self._expiration_delay_seconds)
        after, purged = (MIN_TIME, ""), 0
        while True:
            self.status = f"get_expired {BATCH}"
            rows = await self._workers.run(
                self._replica.index.expired, before, after, BATCH
            )
            if not rows:
                return purged
            after = (rows[-1].expiry.deleted, rows[-1].name)
            rows = [row for row in rows if row.data or self._may_forget(row)]
            self.status = f"delete_expired {len(rows)}"
            done = await gatherResults([self._forget(row) for row in rows])
            purged += sum(done)
            self._purged += sum(done)

    def _forget(self, expected: Row) -> Deferred[bool]:
        """Remove a row if it is still the one expected; never fails.

        Its bytes only, while somebody might not have heard that it has ended.
        """

        def plan(row: Row | None) -> Plan | None:
            if row is None or row.state != expected.state:
                return None
            if not row.expiry.passed(self._now() - self._expiration_delay_seconds):
                # The clock was set back meanwhile.
                return None
            if not self._may_forget(row):
                return Plan(State(None, row.expiry), counted=False)
            # Records of it may be met when the index is rebuilt: leave word.
            logged = row.volumes is not None
            return Plan(row.state, logged=logged, counted=False, forget=True)

        job = Job(expected.name, plan)

        def done(result: Failure | None) -> bool:
            if result is not None:
                self.log.error(
                    "cannot purge {name}: {error}",
                    name=expected.name,
                    error=result.value,
                )
                return False
            return job.before is not None and job.after != job.before

        return self._replica.commit(job).addBoth(done)

    # Volumes

    async def tidy(self) -> None:
        """Delete volumes nothing points at, and compact those half empty."""
        store = self._replica.store
        await self._replica.commit(Call(partial(store.tend, self._now())))
        volumes = store.volumes()
        for number, facts in sorted(volumes.items()):
            if facts.active:
                continue
            try:
                # What moves out of a volume must never be appended to it.
                await self._replica.commit(Call(partial(store.seal, number)))
                if facts.ttl_class == CHANGES_CLASS:
                    await self._tidy_changes(facts, volumes)
                else:
                    await self._tidy_data(facts)
            except CancelledError:
                raise  # everything stops
            except Exception:
                self.log.failure("cannot tidy volume {number}", number=number)

    async def _tidy_data(self, facts: VolumeFacts) -> None:
        mark = self._committer.marks.get(facts.number)
        if mark is None:
            return
        if mark.live > 0:
            if mark.live >= LIVE_RATIO * (facts.size - VOLUME_HEAD_BYTES):
                return
            if not self._is_due(facts.number):
                return
            await self._move_all(self._live_records(facts.number))
            mark = self._committer.marks.get(facts.number)
        if mark is not None and mark.live == 0:
            await self._remove(facts.number)

    def _is_due(self, number: int) -> bool:
        """Return whether a volume was not looked through lately; now it will be."""
        now = self._now()
        if now - self._looked_at.get(number, -1e18) < LOOK_EVERY_SECONDS:
            return False
        self._looked_at[number] = now
        return True

    async def _remove(self, number: int) -> None:
        def remove() -> None:
            self._committer.remove_volume(number)

        await self._replica.commit(Call(remove))
        self._looked_at.pop(number, None)
        self.log.info("volume {number} is empty and deleted", number=number)

    async def _move_all(self, records: Iterator[list[_Move]]) -> None:
        while True:
            moves = await self._workers.run(next, records, None)
            if moves is None:
                return
            jobs = [self._move_job(move) for move in moves]
            moving = [self._replica.commit(job) for job in jobs]
            await gatherResults(moving, consumeErrors=True)
            await deferLater(self._reactor, STEP_SECONDS)

    def _move_job(self, move: _Move) -> Job:
        def plan(row: Row | None) -> Plan | None:
            if move.body is not None:
                if row is None or row.at != move.at:
                    return None
                return Plan(row.state, move.body, counted=False)
            if move.purge_seq:
                return Plan(
                    move.state,
                    counted=False,
                    keep=True,
                    volumes=move.volumes,
                    seq=move.purge_seq,
                )
            if row is None or row.expiry != move.state.expiry:
                return None
            return Plan(row.state, counted=False)

        weight = len(move.body) if isinstance(move.body, bytes) else 0
        return Job(move.name, plan, weight)

    def _live_records(self, number: int) -> Iterator[list[_Move]]:
        """Yield what still counts in a volume.  Reader threads, one at a time."""
        moves: list[_Move] = []
        held = 0
        for found in self._replica.store.scan(number, 0):
            if isinstance(found, Damage) or not found.record.has_body:
                continue
            row = self._replica.index.get(found.record.name)
            if row is None or row.at != found.at:
                continue
            body = self._replica.store.carry(found)
            moves.append(_Move(row.name, found.at, body, row.state, None))
            held += found.record.body_bytes
            if held >= STEP_BYTES or len(moves) >= BATCH:
                yield moves
                moves, held = [], 0
        if moves:
            yield moves

    async def _tidy_changes(
        self, facts: VolumeFacts, volumes: Mapping[int, VolumeFacts]
    ) -> None:
        if not self._is_due(facts.number):
            return
        kept = await self._workers.run(self._needed_bytes, facts.number, volumes)
        if kept >= LIVE_RATIO * (facts.size - VOLUME_HEAD_BYTES):
            return
        await self._move_all(self._needed_changes(facts.number, volumes))
        await self._remove(facts.number)

    def _needed_bytes(self, number: int, volumes: Mapping[int, VolumeFacts]) -> int:
        """Return how much of a volume of changes still counts.  A reader thread."""
        return sum(
            move.at.length
            for moves in self._needed_changes(number, volumes)
            for move in moves
        )

    def _needed_changes(
        self, number: int, volumes: Mapping[int, VolumeFacts]
    ) -> Iterator[list[_Move]]:
        """Yield changes a rebuilt index would miss.  Reader threads, one at a time.

        A change is needed while it is the last word on its name, a purge while a
        volume exists that may hold old bytes of it.
        """
        moves: list[_Move] = []
        for found in self._replica.store.scan(number, 0):
            if isinstance(found, Damage) or found.record.is_void:
                continue
            record = found.record
            state = record.state
            if record.is_purge:
                first, last = record.volumes or (1, 0)
                needed = any(first <= each <= last for each in volumes)
            else:
                row = self._replica.index.get(record.name)
                needed = row is not None and row.expiry == state.expiry
            if needed:
                purge_seq = record.seq if record.is_purge else 0
                moves.append(
                    _Move(record.name, found.at, None, state, record.volumes, purge_seq)
                )
            if len(moves) >= BATCH:
                yield moves
                moves = []
        if moves:
            yield moves

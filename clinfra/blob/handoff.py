"""Changes kept for replicas of which none can be reached, and delivered later.

With every keeper of a name away, any server takes a PUT or DELETE all the same: it is
written down here, durably, with the stamps it got, and carried out when somebody
answers again, however often this process was restarted in between.  Until then it is
not among the blobs of this process, but can be read (see `undelivered`).

A change that is refused is put aside, told of in the log, and tried again now and then.
When it is refused because its blob may have been deleted meanwhile (see `forgotten`) it
is not read any more.  One that has waited for longer than deletes are remembered is put
aside for good.  Both stay on the disk, for somebody to look at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from functools import reduce
from http import HTTPStatus
from math import inf
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from clinfra.blob.errand import Errand
from clinfra.blob.forgotten import TooLate
from clinfra.blob.handoff_files import HandoffFiles, Kept
from clinfra.blob.merge import merge
from clinfra.blob.records import Data, State
from clinfra.blob.replay import Replay
from clinfra.blob.replica import Write
from clinfra.blob.router import Router
from clinfra.blob.topology import Placement
from clinfra.blob.workers import Workers
from clinfra.errors import Overloaded, StorageFull, Trouble
from clinfra.interfaces import BlobInfo
from clinfra.web.heads import Field

DIRECTORY = "handoff"
TRY_SECONDS = 2.0
MAX_KEPT = 100_000

AT_A_TIME = 8
"""Changes under way."""

ASIDE_SECONDS = 300.0
"""How long a change that was refused rests before it is tried again."""

ASIDE_AT_A_TIME = 32

POISONED_AFTER = 3
"""A change that failed so often, while its bucket took others, is put aside."""

_Bucket = tuple[tuple[int, int], ...]

HANDOFF: Field = (b"X-Clblob-Handoff", b"1")
"""Told of a change that is only here: no keeper of its name has it.

Sent with a GET by another server: it is to be answered with what is kept here.  Sent
with a PUT that is delivered it tells since when that was kept, unix seconds.
"""

Adopt = Callable[[Placement, Write, Replay | None, float], Coroutine[Any, Any, object]]
"""Carries a change out here that was kept since a time, unix seconds."""


@define(eq=False)
class Handoff:
    """Keeps and delivers.

    Args:
        clock: Twisted's IReactorTime, whose clock is unix time.
        keep_seconds: what waited for longer is not delivered any more.

    Attributes:
        adopt: takes changes for which this process itself has become responsible.
    """

    log = Logger()

    files: HandoffFiles
    _router: Router
    _workers: Workers
    _clock: Any
    _keep_seconds: float
    adopt: Adopt | None = field(init=False, default=None)
    delivered: int = field(init=False, default=0)
    _kept: dict[int, Kept] = field(init=False, factory=dict)
    _names: dict[str, list[Kept]] = field(init=False, factory=dict)
    _waiting: deque[int] = field(init=False, factory=deque)
    _aside: dict[int, float] = field(init=False, factory=dict)
    _failures: dict[int, tuple[int, int]] = field(init=False, factory=dict)
    _taken: dict[_Bucket, int] = field(init=False, factory=dict)
    _unreadable: int = field(init=False, default=0)
    _last: int = field(init=False, default=0)
    _trying: LoopingCall = field(init=False)
    _running: Deferred[None] | None = field(init=False, default=None)

    @_trying.default
    def _make_trying(self) -> LoopingCall:
        call = LoopingCall(self._try)
        call.clock = self._clock
        return call

    def open(self) -> None:
        """Find what is still to be delivered."""
        found, bad = self.files.load()
        for kept in found:
            self._remember(kept)
        for path, error in bad:
            # They stay on the disk, for whoever wants to know.
            self.log.error(
                "{path} cannot be delivered: {error}", path=str(path), error=error
            )
        self._unreadable = len(bad)
        numbers = [*self._kept, *(int(path.stem) for path, _ in bad)]
        self._last = max(numbers, default=0)

    def start(self) -> None:
        """Begin to deliver."""
        self._trying.start(TRY_SECONDS, now=True)

    def stop(self) -> None:
        """Deliver no more for now."""
        if self._trying.running:
            self._trying.stop()
        if self._running is not None:
            self._running.cancel()

    def report(self) -> dict[str, float]:
        """Return what status pages show."""
        now = self._clock.seconds()
        oldest = next(iter(self._kept.values())).since if self._kept else now
        return {
            "waiting": len(self._waiting),
            "aside": len(self._aside),
            "unreadable": self._unreadable,
            "oldest_seconds": round(max(0.0, now - oldest), 1),
            "delivered": self.delivered,
        }

    # What is kept

    def takes(self, errand: Errand) -> bool:
        """Return whether a change may be kept here: it depends on nothing elsewhere."""
        return not errand.fields and b"require" not in errand.wishes

    async def keep(self, errand: Errand, settled: Write) -> BlobInfo:
        """Write a change down, durably; return what is known of its blob then.

        Raises errors.StorageFull, errors.Overloaded.
        """
        if len(self._kept) >= MAX_KEPT:
            raise Overloaded("Too many changes wait for replicas that are away")
        self._last += 1
        body, stored = errand.body, errand.placement.stored
        kept = Kept(
            self._last,
            stored,
            errand.method.decode(),
            errand.replicate,
            settled,
            body.sha256 if body is not None else None,
            body.length if body is not None else 0,
            self._clock.seconds(),
        )
        try:
            await self.files.add(kept, body)
        except OSError as error:
            raise StorageFull("Not enough space to keep this blob") from error
        self._remember(kept)
        self.log.warn("{name} is kept until its replicas are back", name=stored)
        return BlobInfo(
            stored,
            settled.modified if body is not None else None,
            settled.deleted or 0,
            settled.modified_deleted or 0,
            errand.placement.buckets,
        )

    def state(self, stored: str) -> State | None:
        """Return what all that is kept makes of a blob; None: nothing is kept."""
        found = self._names.get(stored)
        if not found:
            return None
        return reduce(
            lambda state, kept: merge(state, kept.state).state,
            found[1:],
            found[0].state,
        )

    def refused(self, stored: str) -> list[Kept]:
        """Return the changes of a blob that are put aside."""
        return [
            kept
            for number, kept in self._kept.items()
            if number in self._aside and kept.name == stored
        ]

    def holder(self, stored: str, data: Data) -> Kept | None:
        """Return the change that brought these bytes, while it is kept."""
        for kept in self._names.get(stored, ()):
            if kept.state.data == data:
                return kept
        return None

    def _remember(self, kept: Kept) -> None:
        self._kept[kept.number] = kept
        self._names.setdefault(kept.name, []).append(kept)
        self._waiting.append(kept.number)

    async def _forget(self, kept: Kept) -> None:
        self._kept.pop(kept.number, None)
        self._aside.pop(kept.number, None)
        self._failures.pop(kept.number, None)
        self._unname(kept)
        await self._workers.run(self.files.remove, kept)

    def _unname(self, kept: Kept) -> None:
        """Read a change no more."""
        left = [other for other in self._names.get(kept.name, ()) if other is not kept]
        if left:
            self._names[kept.name] = left
        else:
            self._names.pop(kept.name, None)

    # Delivery

    def _try(self) -> None:
        if self._running is not None or not (self._waiting or self._aside):
            return
        running = Deferred.fromCoroutine(self._deliver_all())
        self._running = running

        def failed(failure: Any) -> None:
            if self._trying.running:
                self.log.failure("delivering kept changes failed", failure=failure)

        def over(result: object) -> None:
            self._running = None

        running.addErrback(failed).addCallback(over)
        if running.called:
            self._running = None

    async def _deliver_all(self) -> None:
        """Try every change once, except those of a bucket that is away."""
        now = self._clock.seconds()
        due = [number for number, at in self._aside.items() if at <= now]
        for number in due[:ASIDE_AT_A_TIME]:
            del self._aside[number]
            self._waiting.append(number)
        away: set[_Bucket] = set()
        numbers = iter(list(self._waiting))

        async def work() -> None:
            for number in numbers:
                await self._try_one(self._kept[number], away)

        await gatherResults(
            [Deferred.fromCoroutine(work()) for _ in range(AT_A_TIME)],
            consumeErrors=True,
        )

    async def _try_one(self, kept: Kept, away: set[_Bucket]) -> None:
        """Deliver a change, or put it aside, or find that its bucket is away."""
        number, refusal = kept.number, None
        if self._clock.seconds() - kept.since > self._keep_seconds:
            self._give_up(kept)
            return
        try:
            place = self._router.topology.place(kept.name, encoded=True)
            bucket = tuple(sorted(place.buckets.items()))
            if bucket in away:
                return
            refusal = await self._deliver(kept, place)
        except (Overloaded, StorageFull) as trouble:
            # Behind the others: it may be this one that nobody takes.
            self._waiting.remove(number)
            self._waiting.append(number)
            away.add(bucket)
            if not self._is_poison(number, bucket):
                return
            refusal = trouble.sentence
        except TooLate as trouble:
            refusal = trouble.sentence
            self._unname(kept)
        except (Trouble, OSError) as error:
            refusal = str(error)
        if refusal is not None:
            self._put_aside(kept, refusal)
            return
        self._waiting.remove(number)
        self.delivered += 1
        self._taken[bucket] = self._taken.get(bucket, 0) + 1
        await self._forget(kept)

    def _is_poison(self, number: int, bucket: _Bucket) -> bool:
        """Count a failure since which others were taken; were these too many?"""
        taken = self._taken.get(bucket, 0)
        failures, before = self._failures.get(number, (0, taken))
        failures += taken > before
        self._failures[number] = failures, taken
        return failures >= POISONED_AFTER

    def _give_up(self, kept: Kept) -> None:
        """Put a change aside for good, and read it no more."""
        self._put_aside(kept, "it is older than deletes are remembered")
        self._aside[kept.number] = inf
        self._unname(kept)

    def _put_aside(self, kept: Kept, reason: str) -> None:
        self._waiting.remove(kept.number)
        self._failures.pop(kept.number, None)
        self._aside[kept.number] = self._clock.seconds() + ASIDE_SECONDS
        self.log.error(
            "{name}, which was kept for its replicas, is put aside: {reason}",
            name=kept.name,
            reason=reason,
        )

    async def _deliver(self, kept: Kept, placement: Placement) -> str | None:
        """Carry a change out; return why it is refused.

        Raises errors.Overloaded and StorageFull: nobody can take it now.  TooLate: it
        may have been deleted.  And errors of every other kind: it cannot be sent as it
        is.
        """
        body = await self.files.replay(kept)
        try:
            if self.adopt is not None and self._router.topology.is_here(placement):
                await self.adopt(placement, kept.write, body, kept.since)
                return None
            errand = Errand(
                self._router,
                kept.method.encode(),
                placement,
                kept.replicate,
                body,
                kept=((HANDOFF[0], b"%.0f" % kept.since),),
            )
            found, answer = await errand.run(kept.write, kept.write)
        finally:
            if body is not None:
                body.close()
        if found.response.head.status == 200:
            return None
        said = answer[:200].decode("utf-8", "replace").strip()
        refusal = f"{found.peer}: {said}"
        if found.response.head.status == HTTPStatus.PRECONDITION_FAILED:
            # It came without any condition but this one.
            raise TooLate(refusal)
        return refusal

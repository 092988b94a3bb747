"""The threads of a simulated process: work takes time, and answers come later.

What a reader read may have changed by the time it is told, and jobs that come while
others are committed are committed together, as with real threads.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from clinfra.blob.commit import MAX_BYTES, MAX_JOBS, Call, Committer, Job
from tests.sim.clock import ProcessClock

T = TypeVar("T")


@define(eq=False)
class SlowWorkers:
    """Reader threads.

    Args:
        longest: what anything takes, at most, seconds.
    """

    _clock: ProcessClock
    _rng: random.Random
    _longest: float

    def start(self) -> None:
        """Nothing to begin."""

    def stop(self) -> None:
        """Nothing to end."""

    def run(self, function: Callable[..., T], *arguments: object) -> Deferred[T]:
        """Call a function soon, and tell what it returned soon after that."""
        done: Deferred[T] = Deferred()

        def work() -> None:
            try:
                result = function(*arguments)
            except BaseException:
                self._soon(done.errback, Failure())
            else:
                self._soon(done.callback, result)

        self._soon(work)
        return done

    def _soon(self, what: Callable[..., object], *arguments: object) -> None:
        wait = self._rng.uniform(0, self._longest)
        self._clock.callLater(wait, what, *arguments)


_Waiting = tuple[Job | Call, Callable[[], None]]


@define(eq=False)
class SlowWriter:
    """The writer thread; arguments as above."""

    _committer: Committer
    _clock: ProcessClock
    _rng: random.Random
    _longest: float
    _jobs: deque[_Waiting] = field(init=False, factory=deque)
    _busy: bool = field(init=False, default=False)

    @property
    def waiting(self) -> int:
        """Jobs not yet taken up."""
        return len(self._jobs)

    def start(self) -> None:
        """Nothing to begin."""

    def stop(self) -> None:
        """Finish what waits."""
        while self._jobs:
            self._answer(self._commit())

    def submit(self, job: Job | Call, done: Callable[[], None]) -> None:
        """Commit a job with those that come meanwhile."""
        self._jobs.append((job, done))
        if not self._busy:
            self._begin()

    def _begin(self) -> None:
        self._busy = True
        self._clock.callLater(self._rng.uniform(0, self._longest), self._work)

    def _work(self) -> None:
        batch = self._commit()
        wait = self._rng.uniform(0, self._longest)
        self._clock.callLater(wait, self._answer, batch)

    def _commit(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        weight = 0
        while self._jobs and len(batch) < MAX_JOBS and weight < MAX_BYTES:
            batch.append(self._jobs.popleft())
            weight += batch[-1][0].weight
        self._committer.run([job for job, _ in batch])
        return batch

    def _answer(self, batch: list[_Waiting]) -> None:
        for _, done in batch:
            done()
        self._busy = False
        if self._jobs:
            self._begin()

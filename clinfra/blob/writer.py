"""Where commits are made: a thread of their own, or right here in tests and tools."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Protocol

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from clinfra.blob.commit import MAX_BYTES, MAX_JOBS, Call, Committer, Job, call_all

GATHER_SECONDS = 0.002
"""How long jobs wait for others at most, while each reactor turn brings some."""


class IWriter(Protocol):
    """Takes jobs and gives each back when it is committed."""

    @property
    def waiting(self) -> int:
        """Jobs not yet taken up."""

    def submit(self, job: Job | Call, done: Callable[[], None]) -> None:
        """Commit a job; `done` is called in the reactor's thread."""

    def start(self) -> None:
        """Begin to work."""

    def stop(self) -> None:
        """Finish what waits, then end."""


_Waiting = tuple[Job | Call, Callable[[], None]]


@define(eq=False)
class WriterThread:
    """Runs a committer in a thread of its own, one batch after the other.

    While a batch is committed, the next one gathers.  It is not taken as soon as the
    thread is free, but when a turn of the reactor has brought no further job: those who
    have just been answered write again now, and share a sync with those who wait.  The
    thread is woken once for each batch, and wakes the reactor once.

    Args:
        call_back: runs a function in the reactor's thread (`callFromThread`).
        clock: the reactor's; a call after 0 seconds is made when its turn ends.
    """

    _committer: Committer
    _call_back: Callable[[Callable[[], None]], object]
    _clock: IReactorTime
    _waiting: deque[_Waiting] = field(init=False, factory=deque)
    _under_way: bool = field(init=False, default=False)
    _seen: int = field(init=False, default=0)
    _deadline: float = field(init=False, default=0.0)
    _wake: SimpleQueue[None] = field(init=False, factory=SimpleQueue)
    _stopping: bool = field(init=False, default=False)
    _thread: threading.Thread | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._committer.tell_ahead = lambda calls: self._call_back(
            partial(call_all, calls)
        )

    @property
    def waiting(self) -> int:
        """Jobs not yet taken up."""
        return len(self._waiting)

    def start(self) -> None:
        """Begin to work."""
        self._stopping = False
        self._thread = threading.Thread(
            target=self._work, name="blob writer", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Finish what waits, then end."""
        if self._thread is not None:
            self._stopping = True
            self._wake.put(None)
            self._thread.join()
            self._thread = None

    # In the reactor's thread

    def submit(self, job: Job | Call, done: Callable[[], None]) -> None:
        """Commit a job; `done` is called in the reactor's thread."""
        self._waiting.append((job, done))
        if not self._under_way:
            self._gather(1)

    def _gather(self, seen: int) -> None:
        self._under_way = True
        self._seen = seen
        self._deadline = self._clock.seconds() + GATHER_SECONDS
        self._clock.callLater(0, self._turn_over)

    def _turn_over(self) -> None:
        found = len(self._waiting)
        if self._seen < found < MAX_JOBS and self._clock.seconds() < self._deadline:
            self._seen = found
            self._clock.callLater(0, self._turn_over)
        else:
            self._wake.put(None)

    def _answer(self, batch: list[_Waiting]) -> None:
        for _, done in batch:
            done()
        self._under_way = False
        if self._waiting:
            self._gather(0)

    # In the thread of its own

    def _work(self) -> None:
        while self._waiting or not self._stopping:
            if not self._stopping:
                self._wake.get()
            batch = self._take()
            self._committer.run([job for job, _ in batch])
            self._call_back(partial(self._answer, batch))

    def _take(self) -> list[_Waiting]:
        """Return what is committed together."""
        batch: list[_Waiting] = []
        weight = 0
        while self._waiting and len(batch) < MAX_JOBS and weight < MAX_BYTES:
            batch.append(self._waiting.popleft())
            weight += batch[-1][0].weight
        return batch


@define(eq=False)
class InlineWriter:
    """Commits each job at once, in the caller's thread: for tests and tools."""

    _committer: Committer

    @property
    def waiting(self) -> int:
        """Nothing ever waits."""
        return 0

    def submit(self, job: Job | Call, done: Callable[[], None]) -> None:
        """Commit a job and call `done`."""
        self._committer.run([job])
        done()

    def start(self) -> None:
        """Nothing to begin."""

    def stop(self) -> None:
        """Nothing to end."""

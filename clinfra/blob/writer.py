"""Where commits are made: a thread of their own, or right here in tests and tools."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Protocol

from attrs import define, field

from clinfra.blob.commit import MAX_BYTES, MAX_JOBS, Call, Committer, Job

GATHER_SECONDS = 0.001
"""How long a small batch waits for more when many are writing."""


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
    """Runs a committer in a thread of its own.

    Args:
        call_back: runs a function in the reactor's thread (`callFromThread`).
    """

    _committer: Committer
    _call_back: Callable[[Callable[[], None]], object]
    _queue: queue.SimpleQueue[_Waiting | None] = field(
        init=False, factory=queue.SimpleQueue
    )
    _thread: threading.Thread | None = field(init=False, default=None)
    _usual_jobs: float = field(init=False, default=1)

    @property
    def waiting(self) -> int:
        """Jobs not yet taken up."""
        return self._queue.qsize()

    def start(self) -> None:
        """Begin to work."""
        self._thread = threading.Thread(
            target=self._work, name="blob writer", daemon=True
        )
        self._thread.start()

    def submit(self, job: Job | Call, done: Callable[[], None]) -> None:
        """Commit a job; `done` is called in the reactor's thread."""
        self._queue.put((job, done))

    def stop(self) -> None:
        """Finish what waits, then end."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while True:
            first = self._queue.get()
            batch = [] if first is None else self._gather(first)
            if not batch:
                return
            self._committer.run([job for job, _ in batch])
            self._call_back(_All([done for _, done in batch]))

    def _gather(self, first: _Waiting) -> list[_Waiting]:
        """Return what is committed together, beginning with the first in the queue.

        While many write at a time, a batch that is smaller than those before waits a
        moment for the rest: it costs them less than a sync of their own would.
        """
        batch, weight = [first], first[0].weight
        deadline = 0.0
        while len(batch) < MAX_JOBS and weight < MAX_BYTES:
            try:
                found = self._queue.get_nowait()
            except queue.Empty:
                now = time.monotonic()
                deadline = deadline or now + GATHER_SECONDS
                if len(batch) >= int(self._usual_jobs) or now >= deadline:
                    break
                try:
                    found = self._queue.get(timeout=deadline - now)
                except queue.Empty:
                    break
            if found is None:
                # The end: come back to it when this batch is done.
                self._queue.put(None)
                break
            batch.append(found)
            weight += found[0].weight
        self._usual_jobs = max(len(batch), self._usual_jobs * 0.9)
        return batch


@define(eq=False)
class _All:
    """Calls the waiters of one batch: one hand-over between threads for all."""

    _dones: list[Callable[[], None]]

    def __call__(self) -> None:
        for done in self._dones:
            done()


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

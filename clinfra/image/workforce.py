"""The places for worker processes: hired, given work, replaced when they are gone.

A worker that does not answer in time is killed, as a thread could not be.  It is the
picture's fault when a worker dies of it, and nobody else's.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from clinfra.errors import Overloaded
from clinfra.image.job import (
    BadImage,
    Job,
    NoSuchFrame,
    Rendered,
    Rendition,
    ResultTooLarge,
)
from clinfra.image.worker import RESULT_BYTES

PATIENCE = 3
"""Time-outs that a worker has to get ready, and that a picture may wait for one."""

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 10.0


class WorkerKilled(Overloaded):
    """A worker was killed in the middle of a picture, and not by the picture."""


class IWorker(Protocol):
    """What is needed of a worker process (see `child.Child`)."""

    @property
    def pid(self) -> int: ...

    def send(self, message: bytes, descriptors: list[int]) -> None: ...

    def dismiss(self) -> None: ...

    def kill(self) -> None: ...


OnMessage = Callable[[Any, Mapping[str, Any]], None]
OnGone = Callable[[Any, int], None]
Hire = Callable[[OnMessage, OnGone], IWorker]
"""Starts a worker process; see the last two arguments of `child.Child`."""

Result = Rendered | Exception


@define(eq=False)
class Task:
    """One picture to be worked on.

    Attributes:
        upload: an open descriptor.
        finish: called once with the result.
    """

    job: Job
    upload: int
    finish: Callable[[Result], None]
    sink: int = field(init=False, default=-1)
    timer: IDelayedCall | None = field(init=False, default=None)
    verdict: Exception | None = field(init=False, default=None)

    def stop_timer(self) -> None:
        """Forget what was to happen to this task later."""
        if self.timer is not None and self.timer.active():
            self.timer.cancel()

    def end(self, result: Result) -> None:
        """Close what was opened for it, and tell the result."""
        self.stop_timer()
        if self.sink >= 0:
            os.close(self.sink)
            self.sink = -1
        self.finish(result)


@define(eq=False)
class _Place:
    """One of the places for a worker; it is filled again when the worker is gone."""

    worker: IWorker | None = None
    ready: bool = False
    leaving: bool = False
    task: Task | None = None
    jobs: int = 0
    failures: int = 0
    timer: IDelayedCall | None = None

    def stop_timer(self) -> None:
        """Forget what was to happen to this place later."""
        if self.timer is not None and self.timer.active():
            self.timer.cancel()


@define(eq=False)
class Workforce:
    """Worker processes.

    Args:
        reactor: for time only.
        hire: starts a worker.
        size: how many workers there are.
        timeout_seconds: what one picture may take.
        jobs_per_worker: after so many a worker is replaced.
        on_free: called when a worker has become free.

    Attributes:
        simd: whether the fast resizer works; None until a worker has told.
        counts: what has happened to workers.
    """

    log = Logger()

    _reactor: Any
    _hire: Hire
    _size: int
    _timeout_seconds: float
    _jobs_per_worker: int
    _on_free: Callable[[], None]
    simd: bool | None = field(init=False, default=None)
    counts: dict[str, int] = field(
        init=False, factory=lambda: dict.fromkeys(("timed_out", "died", "recycled"), 0)
    )
    _places: list[_Place] = field(init=False, factory=list)
    _running: bool = field(init=False, default=False)
    _emptied: Deferred[None] | None = field(init=False, default=None)

    def start(self) -> None:
        """Hire the workers."""
        self._running = True
        self._places = [_Place() for _ in range(self._size)]
        for place in self._places:
            self._fill(place)

    def stop(self) -> Deferred[None]:
        """End the workers; fires when all are gone."""
        self._running = False
        self._emptied = emptied = Deferred[None]()
        for place in self._places:
            place.stop_timer()
            if place.worker is not None:
                place.worker.kill()
        self._tell_emptied()
        return emptied

    @property
    def ready(self) -> int:
        """How many workers can work."""
        return sum(place.ready for place in self._places)

    @property
    def failing(self) -> bool:
        """No worker can work: all have fallen over and over."""
        return (
            not self.ready
            and bool(self._places)
            and all(place.failures > 1 for place in self._places)
        )

    @property
    def busy(self) -> int:
        """How many workers have something to do."""
        return sum(place.task is not None for place in self._places)

    def pids(self) -> list[int]:
        """Return the process ids of the workers there are."""
        return [place.worker.pid for place in self._places if place.worker is not None]

    def has_free(self) -> bool:
        """Tell whether `begin` may be called."""
        return self._free() is not None

    def begin(self, task: Task) -> None:
        """Give a task to a free worker."""
        place = self._free()
        if place is None or place.worker is None:
            raise RuntimeError("no worker is free")
        try:
            task.sink = os.memfd_create("renditions", os.MFD_CLOEXEC)
        except OSError as error:
            self.log.error("cannot render: {error}", error=str(error))
            task.end(Overloaded("The image service is out of files."))
            return
        task.stop_timer()
        place.task = task
        place.jobs += 1
        task.timer = self._reactor.callLater(
            self._timeout_seconds, self._overdue, place, task
        )
        message = json.dumps(task.job.to_json()).encode()
        try:
            place.worker.send(message, [task.upload, task.sink])
        except OSError:
            # It has just gone: _gone will be told, and tell.
            place.ready = False

    def _free(self) -> _Place | None:
        for place in self._places:
            if place.ready and place.task is None and place.worker is not None:
                return place
        return None

    def _overdue(self, place: _Place, task: Task) -> None:
        self.counts["timed_out"] += 1
        task.verdict = BadImage(f"took more than {self._timeout_seconds:g} s")
        if place.worker is not None:
            place.worker.kill()

    def _fill(self, place: _Place) -> None:
        place.ready = place.leaving = False
        place.jobs = 0
        try:
            place.worker = self._hire(
                lambda worker, message: self._message(place, message),
                lambda worker, status: self._gone(place, status),
            )
        except OSError as error:
            self.log.error("cannot start an image worker: {error}", error=str(error))
            self._refill(place)
        else:
            self._expect(place, place.worker)

    def _expect(self, place: _Place, worker: IWorker) -> None:
        """Kill a worker that neither gets ready nor goes when it should."""
        place.timer = self._reactor.callLater(
            PATIENCE * self._timeout_seconds, worker.kill
        )

    def _refill(self, place: _Place) -> None:
        place.failures += 1
        pause = min(
            _FIRST_PAUSE_SECONDS * 2 ** min(place.failures - 1, 10),
            _LONGEST_PAUSE_SECONDS,
        )
        place.timer = self._reactor.callLater(pause, self._fill, place)

    def _message(self, place: _Place, message: Mapping[str, Any]) -> None:
        if "ready" in message:
            place.stop_timer()
            place.ready = True
            self.simd = message["simd"]
            if not self.simd:
                self.log.warn("the fast resizer is not usable: resizing with Pillow")
        elif place.task is not None:
            task, place.task = place.task, None
            place.failures = 0
            task.end(_result(task.sink, message))
            if place.jobs >= self._jobs_per_worker and place.worker is not None:
                self.counts["recycled"] += 1
                place.ready = False
                place.leaving = True
                place.worker.dismiss()
                self._expect(place, place.worker)
        self._on_free()

    def _gone(self, place: _Place, status: int) -> None:
        place.stop_timer()
        task, place.task = place.task, None
        place.worker = None
        place.ready = False
        if task is not None:
            task.end(task.verdict or _verdict(status))
        if not self._running:
            self._tell_emptied()
        elif place.leaving:
            self._fill(place)
        else:
            self.counts["died"] += 1
            self.log.warn("an image worker ended with status {status}", status=status)
            self._refill(place)

    def _tell_emptied(self) -> None:
        if self._emptied is not None and not any(
            place.worker is not None for place in self._places
        ):
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)


def _verdict(status: int) -> Exception:
    """Say whose fault it was that a worker ended in the middle of a picture."""
    if status == -signal.SIGKILL:
        return WorkerKilled("The image worker was killed; the image may be sent again.")
    if status < 0:
        return BadImage(f"a worker died of it: signal {-status}")
    return BadImage(f"a worker died of it: status {status}")


def _result(sink: int, message: Mapping[str, Any]) -> Result:
    """Read what a worker made; one that a picture has broken may say anything."""
    if "bad" in message:
        return BadImage(str(message["bad"]))
    if "too_large" in message:
        return ResultTooLarge(str(message["too_large"]))
    if "no_frame" in message:
        return NoSuchFrame(str(message["no_frame"]))
    try:
        renditions = {
            str(name): Rendition(_read(sink, span[:2]), *_described(*span[2:]))
            for name, span in message["spans"].items()
        }
        return Rendered(json.loads(_read(sink, message["info"])), renditions)
    except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
        return BadImage(f"a worker answered nonsense: {error!r}")


def _described(content_type: str, width: int, height: int) -> tuple[str, int, int]:
    return str(content_type), int(width), int(height)


def _read(sink: int, span: tuple[int, int]) -> bytes:
    offset, length = span
    return os.pread(sink, min(length, RESULT_BYTES), offset)

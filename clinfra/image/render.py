"""Renderer: a few worker processes, and a bounded queue in front of them.

Work is counted in *photographs*: 1 is what a 12-megapixel JPEG costs.  So one huge PNG
counts as many small pictures, and whoever is refused is refused before much was spent
on him: an upload is admitted by its announced length before its body is read, and
weighed again by its dimensions before it waits for a worker.

A worker that does not answer in time is killed, as a thread could not be.  It is the
picture's fault when a worker dies of it, and nobody else's: other uploads only wait a
little longer.
"""

from __future__ import annotations

import json
import math
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from attrs import Factory, define, field
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

_PHOTOGRAPH = 1000
"""What one photograph counts: work is summed up in whole numbers."""

_PHOTOGRAPH_BYTES = 3.5e6
_PHOTOGRAPH_SECONDS = 0.05
_LEAST_COST = 20
_RECEIVING = 4
"""Uploads may be arriving worth this many times the queue."""

_PATIENCE = 3
"""Time-outs that a picture may wait for a worker before it is given up."""

_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 10.0


class IWorker(Protocol):
    """What the renderer needs of a worker process (see `child.Child`)."""

    @property
    def pid(self) -> int: ...

    def send(self, message: bytes, descriptors: list[int]) -> None: ...

    def dismiss(self) -> None: ...

    def kill(self) -> None: ...


OnMessage = Callable[[Any, Mapping[str, Any]], None]
OnGone = Callable[[Any, int], None]
Hire = Callable[[OnMessage, OnGone], IWorker]
"""Starts a worker process; see the last two arguments of `child.Child`."""


@define(eq=False)
class _Task:
    """One picture, waiting or being worked on."""

    job: Job
    upload: int
    cost: int
    done: Deferred[Rendered]
    sink: int = -1
    timer: IDelayedCall | None = None
    verdict: Exception | None = None

    def stop_timer(self) -> None:
        if self.timer is not None and self.timer.active():
            self.timer.cancel()


@define(eq=False)
class _Place:
    """One of the places for a worker; it is filled again when the worker is gone."""

    worker: IWorker | None = None
    ready: bool = False
    leaving: bool = False
    task: _Task | None = None
    jobs: int = 0
    failures: int = 0
    timer: IDelayedCall | None = None

    def stop_timer(self) -> None:
        """Forget what was to happen to this place later."""
        if self.timer is not None and self.timer.active():
            self.timer.cancel()


@define(eq=False)
class Renderer:
    """Renders pictures in worker processes.

    Args:
        reactor: for time only.
        hire: starts a worker.
        places: how many workers there are.
        timeout_seconds: what one picture may take.
        jobs_per_worker: after so many a worker is replaced.
        queue: photographs that may be waiting or in work.
    """

    log = Logger()

    _reactor: Any
    _hire: Hire
    _timeout_seconds: float = field(kw_only=True)
    _jobs_per_worker: int = field(kw_only=True)
    _queue: int = field(kw_only=True)
    _number_of_places: int = field(kw_only=True, alias="places")
    _places: list[_Place] = field(init=False, factory=list)
    _waiting: deque[_Task] = field(init=False, factory=deque)
    _backlog: int = field(init=False, default=0)
    _arriving: int = field(init=False, default=0)
    _running: bool = field(init=False, default=False)
    _emptied: Deferred[None] | None = field(init=False, default=None)
    _simd: bool | None = field(init=False, default=None)
    _counts: dict[str, int] = field(
        init=False,
        default=Factory(
            lambda: dict.fromkeys(
                ("rendered", "bad", "refused", "timed_out", "died", "recycled"), 0
            )
        ),
    )

    # Life.

    def start(self) -> None:
        """Hire the workers."""
        self._running = True
        self._places = [_Place() for _ in range(self._number_of_places)]
        for place in self._places:
            self._fill(place)

    def stop(self) -> Deferred[None]:
        """Give up what is waiting and end the workers; fires when all are gone."""
        self._running = False
        for task in list(self._waiting):
            self._finish(task, Overloaded("The image service is stopping."))
        self._waiting.clear()
        self._emptied = Deferred()
        for place in self._places:
            place.stop_timer()
            if place.worker is not None:
                place.worker.kill()
        emptied = self._emptied
        self._tell_emptied()
        return emptied

    def report(self) -> Mapping[str, Any]:
        """Return what the admin pages show."""
        return {
            **self._counts,
            "workers": sum(place.ready for place in self._places),
            "busy": sum(place.task is not None for place in self._places),
            "waiting": len(self._waiting),
            "backlog_photographs": self._backlog / _PHOTOGRAPH,
            "simd": self._simd,
        }

    def pids(self) -> list[int]:
        """Return the process ids of the workers there are."""
        return [place.worker.pid for place in self._places if place.worker is not None]

    # Work.

    @contextmanager
    def arriving(self, length: int | None) -> Iterator[None]:
        """Hold room for an upload while its body is read.

        Args:
            length: bytes announced, None when not.

        Raises:
            Overloaded: there is no room.
        """
        cost = _counted(1 if length is None else length / _PHOTOGRAPH_BYTES)
        self._check_room(cost)
        if self._arriving and self._arriving + cost > _RECEIVING * self._room:
            self._refuse()
        self._arriving += cost
        try:
            yield
        finally:
            self._arriving -= cost

    def render(self, upload: int, job: Job, cost: float) -> Deferred[Rendered]:
        """Render an upload.

        Args:
            upload: an open descriptor; the caller's, and not needed any more when the
                result is there or was cancelled.
            cost: in photographs, see `sniff.cost`.

        Returns:
            Fires with the results, or fails with BadImage, ResultTooLarge,
            NoSuchFrame or Overloaded.  A picture that is being worked on is finished
            in vain when cancelled: that is cheaper than a new worker.
        """
        task = _Task(job, upload, _counted(cost), Deferred(self._cancelled))
        self._check_room(task.cost)
        self._backlog += task.cost
        task.timer = self._reactor.callLater(
            _PATIENCE * self._timeout_seconds, self._give_up, task
        )
        self._waiting.append(task)
        self._assign()
        return task.done

    @property
    def _room(self) -> int:
        return self._queue * _PHOTOGRAPH

    def _check_room(self, cost: int) -> None:
        if not self._running:
            raise Overloaded("The image service is stopping.")
        if self._backlog and self._backlog + cost > self._room:
            self._refuse()

    def _refuse(self) -> None:
        self._counts["refused"] += 1
        workers = max(len(self._places), 1)
        photographs = self._backlog / _PHOTOGRAPH
        seconds = math.ceil(photographs * _PHOTOGRAPH_SECONDS / workers)
        raise Overloaded("Too many images are waiting.", max(seconds, 1))

    def _give_up(self, task: _Task) -> None:
        self._waiting.remove(task)
        self._finish(task, Overloaded("No image worker became free in time."))

    def _cancelled(self, done: Deferred[Rendered]) -> None:
        for task in self._waiting:
            if task.done is done:
                self._waiting.remove(task)
                task.stop_timer()
                self._backlog -= task.cost
                return

    def _assign(self) -> None:
        """Give waiting pictures to free workers."""
        for place in self._places:
            if not self._waiting:
                return
            if place.ready and place.task is None and place.worker is not None:
                self._begin(place, place.worker, self._waiting.popleft())

    def _begin(self, place: _Place, worker: IWorker, task: _Task) -> None:
        try:
            task.sink = os.memfd_create("renditions", os.MFD_CLOEXEC)
        except OSError as error:
            self.log.error("cannot render: {error}", error=str(error))
            self._finish(task, Overloaded("The image service is out of files."))
            return
        task.stop_timer()
        place.task = task
        place.jobs += 1
        task.timer = self._reactor.callLater(
            self._timeout_seconds, self._overdue, place, task
        )
        message = json.dumps(task.job.to_json()).encode()
        try:
            worker.send(message, [task.upload, task.sink])
        except OSError:
            # It has just gone: _gone will be told, and tell.
            place.ready = False

    def _overdue(self, place: _Place, task: _Task) -> None:
        self._counts["timed_out"] += 1
        task.verdict = BadImage(f"took more than {self._timeout_seconds:g} s")
        if place.worker is not None:
            place.worker.kill()

    def _finish(self, task: _Task, result: Rendered | Exception) -> None:
        task.stop_timer()
        self._backlog -= task.cost
        if task.sink >= 0:
            os.close(task.sink)
            task.sink = -1
        if isinstance(result, BadImage):
            self._counts["bad"] += 1
        elif isinstance(result, Rendered):
            self._counts["rendered"] += 1
        if task.done.called:
            return
        if isinstance(result, Exception):
            task.done.errback(result)
        else:
            task.done.callback(result)

    # Workers.

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
        seconds = _PATIENCE * self._timeout_seconds
        place.timer = self._reactor.callLater(seconds, worker.kill)

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
            self._simd = message["simd"]
            if not self._simd:
                self.log.warn("the fast resizer is not usable: resizing with Pillow")
        elif place.task is not None:
            task, place.task = place.task, None
            place.failures = 0
            self._finish(task, _result(task.sink, message))
            if place.jobs >= self._jobs_per_worker and place.worker is not None:
                self._counts["recycled"] += 1
                place.ready = False
                place.leaving = True
                place.worker.dismiss()
                self._expect(place, place.worker)
        self._assign()

    def _gone(self, place: _Place, status: int) -> None:
        place.stop_timer()
        task, place.task = place.task, None
        place.worker = None
        place.ready = False
        if task is not None:
            self._finish(task, task.verdict or _verdict(status))
        if not self._running:
            self._tell_emptied()
        elif place.leaving:
            self._fill(place)
        else:
            self._counts["died"] += 1
            self.log.warn("an image worker ended with status {status}", status=status)
            self._refill(place)

    def _tell_emptied(self) -> None:
        if self._emptied is not None and not any(
            place.worker is not None for place in self._places
        ):
            emptied, self._emptied = self._emptied, None
            emptied.callback(None)


def _counted(photographs: float) -> int:
    return max(round(photographs * _PHOTOGRAPH), _LEAST_COST)


def _verdict(status: int) -> Exception:
    """Say whose fault it was that a worker ended in the middle of a picture."""
    if status == -signal.SIGKILL:
        return Overloaded("The image worker was killed; the image may be sent again.")
    if status < 0:
        return BadImage(f"a worker died of it: signal {-status}")
    return BadImage(f"a worker died of it: status {status}")


def _result(sink: int, message: Mapping[str, Any]) -> Rendered | Exception:
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

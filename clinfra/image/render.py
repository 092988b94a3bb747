"""Renderer: a bounded queue in front of a few worker processes.

Work is counted in *photographs*: 1 is what a 12-megapixel JPEG costs.  So one huge PNG
counts as many small pictures, and whoever is refused is refused before much was spent
on him: an upload is admitted by its announced length before its body is read, and
weighed again by its dimensions before it waits for a worker.

There are two kinds of work: uploads, and renditions on demand.  Each has its own bound,
and while both wait each gets half of the workers' time, so that neither a batch of
uploads nor a page of new thumbnails keeps the others out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from attrs import Factory, define, field, frozen
from twisted.internet.defer import Deferred

from clinfra.errors import Overloaded
from clinfra.image.job import BadImage, Job, Rendered
from clinfra.image.turns import Turns
from clinfra.image.workforce import (
    PATIENCE,
    Hire,
    OnGone,
    OnMessage,
    Result,
    Task,
    Workforce,
)

__all__ = [
    "DEMAND",
    "UPLOAD",
    "Hire",
    "OnGone",
    "OnMessage",
    "Renderer",
    "photographs",
]

UPLOAD = "upload"
DEMAND = "demand"
KINDS = (UPLOAD, DEMAND)

_PHOTOGRAPH = 1000
"""What one photograph counts: work is summed up in whole numbers."""

_PHOTOGRAPH_BYTES = 3.5e6
_PHOTOGRAPH_SECONDS = 0.05
_LEAST_COST = 20
_RECEIVING = 4
"""Uploads may be arriving worth this many times the queue."""


@define
class _Seconds:
    """How often something was done, and how long that took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        self.count += 1
        self.seconds += seconds

    def report(self) -> Mapping[str, float]:
        return {"count": self.count, "seconds": round(self.seconds, 6)}


@define(eq=False)
class _Tally:
    """What has become of one kind of work.

    Attributes:
        backlog: cost of what waits or is in work.
        waited: from being asked to being begun.
        worked: format → from being begun to the result.
    """

    backlog: int = 0
    rendered: int = 0
    bad: int = 0
    refused: int = 0
    cancelled: int = 0
    waited: _Seconds = field(factory=_Seconds)
    worked: dict[str, _Seconds] = field(factory=dict)

    def report(self) -> Mapping[str, Any]:
        """Return it as JSON-able values."""
        return {
            "rendered": self.rendered,
            "bad": self.bad,
            "refused": self.refused,
            "cancelled": self.cancelled,
            "backlog_photographs": self.backlog / _PHOTOGRAPH,
            "waited": self.waited.report(),
            "worked": {name: each.report() for name, each in self.worked.items()},
        }


@frozen(eq=False)
class _Order:
    """A task, and what the queue knows of it."""

    task: Task
    kind: str
    label: str
    cost: int
    asked_at: float
    on_begin: Callable[[], None] | None
    done: Deferred[Rendered]


@define(eq=False)
class Renderer:
    """Renders pictures in worker processes.

    Args:
        reactor: for time only.
        hire: starts a worker.
        places: how many workers there are.
        timeout_seconds: what one picture may take.
        jobs_per_worker: after so many a worker is replaced.
        queue: photographs of each kind that may be waiting or in work.
    """

    _reactor: Any
    _hire: Hire
    _timeout_seconds: float = field(kw_only=True)
    _jobs_per_worker: int = field(kw_only=True)
    _queue: int = field(kw_only=True)
    _number_of_places: int = field(kw_only=True, alias="places")
    _workforce: Workforce = field(init=False)
    _waiting: Turns[_Order] = field(init=False, factory=lambda: Turns(KINDS))
    _tallies: dict[str, _Tally] = field(
        init=False, default=Factory(lambda: {kind: _Tally() for kind in KINDS})
    )
    _arriving: int = field(init=False, default=0)
    _running: bool = field(init=False, default=False)

    @_workforce.default
    def _make_workforce(self) -> Workforce:
        return Workforce(
            self._reactor,
            self._hire,
            self._number_of_places,
            self._timeout_seconds,
            self._jobs_per_worker,
            self._assign,
        )

    # Life.

    def start(self) -> None:
        """Hire the workers."""
        self._running = True
        self._workforce.start()

    def stop(self) -> Deferred[None]:
        """Give up what is waiting and end the workers; fires when all are gone."""
        self._running = False
        for order in self._waiting.clear():
            order.task.end(Overloaded("The image service is stopping."))
        return self._workforce.stop()

    def report(self) -> Mapping[str, Any]:
        """Return what the admin pages show.

        "kinds" has for uploads and for renditions on demand apart what became of them,
        how long they waited, and how long they took by format: of the upload, or of
        the rendition.
        """
        tallies = self._tallies.values()
        return {
            **{
                name: sum(getattr(tally, name) for tally in tallies)
                for name in ("rendered", "bad", "refused")
            },
            **self._workforce.counts,
            "workers": self._workforce.ready,
            "busy": self._workforce.busy,
            "waiting": len(self._waiting),
            "backlog_photographs": sum(each.backlog for each in tallies) / _PHOTOGRAPH,
            "simd": self._workforce.simd,
            "not_ready": ["every process that makes pictures falls at once"]
            if self._workforce.failing
            else [],
            "kinds": {
                kind: {**tally.report(), "waiting": self._waiting.waiting(kind)}
                for kind, tally in self._tallies.items()
            },
        }

    def pids(self) -> list[int]:
        """Return the process ids of the workers there are."""
        return self._workforce.pids()

    # Work.

    @contextmanager
    def arriving(self, length: int | None) -> Iterator[None]:
        """Hold room for an upload while its body is read.

        Args:
            length: bytes announced, None when not.

        Raises:
            Overloaded: there is no room.
        """
        cost = _counted(1 if length is None else photographs(length))
        self._check_room(UPLOAD, cost)
        if self._arriving and self._arriving + cost > _RECEIVING * self._room:
            self._refuse(UPLOAD)
        self._arriving += cost
        try:
            yield
        finally:
            self._arriving -= cost

    def check_room(self, kind: str, cost: float) -> None:
        """Raise Overloaded when `render` would."""
        self._check_room(kind, _counted(cost))

    def render(
        self,
        upload: int,
        job: Job,
        cost: float,
        *,
        kind: str = UPLOAD,
        label: str = "",
        on_begin: Callable[[], None] | None = None,
    ) -> Deferred[Rendered]:
        """Render an upload.

        Args:
            upload: an open descriptor; the caller's, and not needed any more when the
                result is there or was cancelled.
            cost: in photographs, see `sniff.cost`.
            kind: UPLOAD or DEMAND.
            label: a format, under which the time it takes is reported.
            on_begin: called when a worker begins with it.

        Returns:
            Fires with the results, or fails with BadImage, ResultTooLarge,
            NoSuchFrame or Overloaded.  A picture that is being worked on is finished
            in vain when cancelled: that is cheaper than a new worker.
        """
        counted = _counted(cost)
        self._check_room(kind, counted)
        done: Deferred[Rendered] = Deferred(lambda _: self._cancelled(order))
        task = Task(job, upload, lambda result: self._finish(order, result))
        order = _Order(
            task, kind, label, counted, self._reactor.seconds(), on_begin, done
        )
        self._tallies[kind].backlog += counted
        task.timer = self._reactor.callLater(
            PATIENCE * self._timeout_seconds, self._give_up, order
        )
        self._waiting.push(kind, order, counted)
        self._assign()
        return done

    @property
    def _room(self) -> int:
        return self._queue * _PHOTOGRAPH

    def _check_room(self, kind: str, cost: int) -> None:
        if not self._running:
            raise Overloaded("The image service is stopping.")
        backlog = self._tallies[kind].backlog
        if backlog and backlog + cost > self._room:
            self._refuse(kind)

    def _refuse(self, kind: str) -> None:
        self._tallies[kind].refused += 1
        workers = max(self._number_of_places, 1)
        backlog = sum(each.backlog for each in self._tallies.values()) / _PHOTOGRAPH
        seconds = math.ceil(backlog * _PHOTOGRAPH_SECONDS / workers)
        raise Overloaded("Too many images are waiting.", max(seconds, 1))

    def _give_up(self, order: _Order) -> None:
        self._waiting.remove(order.kind, order)
        order.task.end(Overloaded("No image worker became free in time."))

    def _cancelled(self, order: _Order) -> None:
        try:
            self._waiting.remove(order.kind, order)
        except ValueError:
            return
        order.task.stop_timer()
        tally = self._tallies[order.kind]
        tally.backlog -= order.cost
        tally.cancelled += 1

    def _assign(self) -> None:
        """Give waiting pictures to free workers."""
        while len(self._waiting) and self._workforce.has_free():
            order = self._waiting.pop()
            now = self._reactor.seconds()
            self._tallies[order.kind].waited.add(now - order.asked_at)
            if order.on_begin is not None:
                order.on_begin()
            self._begin(order, now)

    def _begin(self, order: _Order, now: float) -> None:
        finish = order.task.finish

        def timed(result: Result) -> None:
            if isinstance(result, Rendered):
                worked = self._tallies[order.kind].worked
                seconds = self._reactor.seconds() - now
                worked.setdefault(order.label or "?", _Seconds()).add(seconds)
            finish(result)

        order.task.finish = timed
        self._workforce.begin(order.task)

    def _finish(self, order: _Order, result: Result) -> None:
        tally = self._tallies[order.kind]
        tally.backlog -= order.cost
        if isinstance(result, BadImage):
            tally.bad += 1
        elif isinstance(result, Rendered):
            tally.rendered += 1
        if order.done.called:
            return
        if isinstance(result, Exception):
            order.done.errback(result)
        else:
            order.done.callback(result)


def photographs(length: int) -> float:
    """Return how many photographs have so many bytes."""
    return length / _PHOTOGRAPH_BYTES


def _counted(cost: float) -> int:
    return max(round(cost * _PHOTOGRAPH), _LEAST_COST)

"""The workers of one product: started, watched, replaced, and let go.

A crew has a place for each worker.  A worker that falls is started again, at once or
after a pause that grows (`backoff`).  All are replaced together: the new ones must be
ready before the old ones are told to finish, so that somebody always accepts; when one
of the new ones falls before that, or takes too long, the old ones stay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from clinfra.workers.backoff import Backoff
from clinfra.workers.control import CallFailed
from clinfra.workers.reports import counts, merged

log = Logger()

READY_SECONDS = 30.0
"""A worker that takes longer to get ready has failed."""

_LAST_SECONDS = 5.0
"""What a worker gets beyond its grace time until it is killed."""


class ReplacingFailed(Exception):
    """The new workers are not fit for service; says why.  The old ones go on."""


class IWorker(Protocol):
    """One child process, as a crew deals with it.

    Attributes:
        report: what it said last of itself.
    """

    report: Mapping[str, Any]

    def retire(self, grace_seconds: float) -> None:
        """Let it accept no more, finish what it has, and end."""

    def kill(self) -> None:
        """End it now."""

    def ask(self, name: str, *arguments: Any) -> Deferred[Any]:
        """Call it."""

    def hand(self, descriptor: int, name: str, *arguments: Any) -> None:
        """Call it with a descriptor, which is closed here."""


Hire = Callable[[int, Callable[[], None], Callable[[str], None]], IWorker]
"""Starts the worker of a place (from 1).

It is called with what to call when the worker is ready, and when it is gone (with how
it ended, as in "worker 1 was killed by signal 9"); neither is called before it returns.
"""


@define(eq=False)
class _Shift:
    """Workers started with the same orders, by their places."""

    hire: Hire
    count: int
    members: dict[int, _Member] = field(factory=dict)

    def ready(self) -> list[_Member]:
        return [member for member in self.members.values() if member.ready]

    def complete(self) -> bool:
        return len(self.ready()) == self.count


@define(eq=False)
class _Member:
    """A worker in its place."""

    shift: _Shift
    place: int
    since: float
    worker: IWorker = field(init=False)
    ready: bool = False
    ending: IDelayedCall | None = None


@define(eq=False)
class _Change:
    """A new shift on its way, and who waits for it."""

    shift: _Shift
    done: Deferred[None]
    grace_seconds: float
    patience: IDelayedCall


@define(eq=False)
class Crew:
    """The workers of one product.

    Args:
        name: of the product.
        count: of workers.
        hire: starts one.
        reactor: for time.

    Attributes:
        falls: how many workers ended that were not asked to.
        bygone: the whole numbers that those who have ended reported last.  What is
            counted in them must not be lost with the workers.
    """

    name: str
    _reactor: IReactorTime
    _shift: _Shift
    falls: int = field(default=0, init=False)
    bygone: Mapping[str, Any] = field(factory=dict, init=False)
    _change: _Change | None = field(default=None, init=False)
    _retired: set[_Member] = field(factory=set, init=False)
    _backoffs: dict[int, Backoff] = field(factory=dict, init=False)
    _pauses: dict[int, IDelayedCall] = field(factory=dict, init=False)
    _complete: Deferred[None] | None = field(default=None, init=False)
    _ended: Deferred[None] | None = field(default=None, init=False)
    _last_end: str = field(default="", init=False)
    _turn: int = field(default=0, init=False)

    @classmethod
    def of(cls, name: str, count: int, hire: Hire, reactor: IReactorTime) -> Crew:
        """Make a crew; nobody is hired yet."""
        return cls(name, reactor, _Shift(hire, count))

    def start(self) -> Deferred[None]:
        """Start all; fires when all are ready for the first time."""
        self._complete = Deferred()
        for place in range(1, self._shift.count + 1):
            self._hire(self._shift, place)
        return self._complete

    def replace(self, hire: Hire, count: int, grace_seconds: float) -> Deferred[None]:
        """Start new workers; when all are ready, let the old ones finish.

        Args:
            grace_seconds: how long the old ones may take to.

        Fails with ReplacingFailed; then everything is as it was.
        """
        if self._change is not None:
            self._give_up("another change came before they were ready")
        done: Deferred[None] = Deferred()
        patience = self._reactor.callLater(
            READY_SECONDS, self._give_up, f"not ready within {READY_SECONDS:g} s"
        )
        shift = _Shift(hire, count)
        self._change = _Change(shift, done, grace_seconds, patience)
        for place in range(1, count + 1):
            self._hire(shift, place)
        return done

    def again(self, grace_seconds: float) -> Deferred[None]:
        """Replace all by workers with the same orders."""
        return self.replace(self._shift.hire, self._shift.count, grace_seconds)

    async def ask_all(self, name: str, *arguments: Any) -> list[Any]:
        """Call every worker that is ready; return their answers.

        One that falls meanwhile has none.  Raises control.CallFailed when one of them
        cannot do it.
        """
        asked = [m.worker.ask(name, *arguments) for m in self._shift.ready()]
        answers = await DeferredList(asked, consumeErrors=True)
        for well, value in answers:
            if not well and value.check(CallFailed):
                raise value.value
        return [value for well, value in answers if well]

    @property
    def wanted(self) -> int:
        """How many there should be."""
        return self._shift.count

    @property
    def any_ready(self) -> bool:
        """Whether any of them accepts connections."""
        return any(member.ready for member in self._shift.members.values())

    def next_ready(self) -> IWorker | None:
        """Return one that does, each in turn; None when there is none."""
        ready = self._shift.ready()
        if not ready:
            return None
        self._turn += 1
        return ready[self._turn % len(ready)].worker

    def stop(self, grace_seconds: float) -> Deferred[None]:
        """Let all finish; fires when none is left."""
        self._ended = ended = Deferred[None]()
        if self._change is not None:
            self._give_up("everything stops")
        self._retire_all(self._shift, grace_seconds)
        self._look_for_end()
        return ended

    def report(self) -> Mapping[str, Any]:
        """Return the workers' reports as one, and how the workers do."""
        shift = self._shift
        report = {
            **merged([each.worker.report for each in shift.ready()]),
            "crew": {
                "wanted": shift.count,
                "ready": len(shift.ready()),
                "finishing": len(self._retired),
                "falls": self.falls,
                "bygone": merged(
                    [self.bygone, *(counts(m.worker.report) for m in self._retired)]
                ),
            },
        }
        if not shift.ready():
            reason = f"none of {shift.count} workers is ready"
            if self._last_end:
                reason += f"; the last one {self._last_end}"
            report["not_ready"] = [*report.get("not_ready", ()), reason]
        return report

    def _hire(self, shift: _Shift, place: int) -> None:
        member = _Member(shift, place, self._reactor.seconds())
        shift.members[place] = member
        member.worker = shift.hire(
            place,
            lambda: self._is_ready(member),
            lambda end: self._is_gone(member, end),
        )

    def _is_ready(self, member: _Member) -> None:
        """A worker accepts connections."""
        member.ready = True
        shift = member.shift
        if not shift.complete():
            return
        if self._change is not None and shift is self._change.shift:
            self._take_over(self._change)
        elif shift is self._shift and self._complete is not None:
            complete, self._complete = self._complete, None
            complete.callback(None)

    def _take_over(self, change: _Change) -> None:
        """The new shift is ready: the old one may go."""
        old, self._shift, self._change = self._shift, change.shift, None
        change.patience.cancel()
        self._backoffs.clear()
        self._retire_all(old, change.grace_seconds)
        change.done.callback(None)

    def _give_up(self, reason: str) -> None:
        """The new shift is not fit for service: the old one stays."""
        change, self._change = self._change, None
        assert change is not None
        if change.patience.active():
            change.patience.cancel()
        for member in list(change.shift.members.values()):
            self._retire(member, 0.0)
            member.worker.kill()
        change.done.errback(ReplacingFailed(f"new workers of {self.name}: {reason}"))

    def _is_gone(self, member: _Member, end: str) -> None:
        """A worker's process has ended.

        All that leads from it back to it is cut: it shall be gone at once, not when
        Python looks for circles.
        """
        member.ready = False
        self.bygone = merged([self.bygone, counts(member.worker.report)])
        ending, member.ending = member.ending, None
        del member.worker, member.shift.members[member.place]
        if ending is not None:
            if ending.active():
                ending.cancel()
            self._retired.discard(member)
            self._look_for_end()
        elif self._change is not None and member.shift is self._change.shift:
            self._give_up(f"one {end}")
        else:
            self._fell(member, end)

    def _fell(self, member: _Member, end: str) -> None:
        """A worker ended that was not asked to: have it replaced."""
        self.falls += 1
        self._last_end = end
        lived = self._reactor.seconds() - member.since
        backoff = self._backoffs.setdefault(member.place, Backoff())
        pause = backoff.pause_seconds(lived)
        log.error(
            "{name} worker {place} {end} after {lived} s; another starts in {pause} s",
            name=self.name,
            place=member.place,
            end=end,
            lived=round(lived, 1),
            pause=pause,
        )
        self._pauses[member.place] = self._reactor.callLater(
            pause, self._start_again, member.shift, member.place
        )

    def _start_again(self, shift: _Shift, place: int) -> None:
        del self._pauses[place]
        self._hire(shift, place)

    def _retire_all(self, shift: _Shift, grace_seconds: float) -> None:
        for pause in self._pauses.values():
            pause.cancel()
        self._pauses.clear()
        for member in list(shift.members.values()):
            self._retire(member, grace_seconds)

    def _retire(self, member: _Member, grace_seconds: float) -> None:
        """Let a worker finish; kill it when it takes too long."""
        self._retired.add(member)
        member.ready = False
        member.ending = self._reactor.callLater(
            grace_seconds + _LAST_SECONDS, member.worker.kill
        )
        member.worker.retire(grace_seconds)

    def _look_for_end(self) -> None:
        if self._ended is not None and not self._retired:
            ended, self._ended = self._ended, None
            ended.callback(None)

"""Simulated time: a clock that stays quick with many timers, and one for each process.

The timers of a process die with it and wait while it is stopped, so a crash is what it
should be: nothing of the process ever runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from attrs import define, field
from twisted.internet.base import DelayedCall
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock

MOST_AT_ONCE = 50_000
"""Calls made without time passing; more of them are a loop that does not end."""


class Hang(AssertionError):
    """Something does not come to an end."""


@define(eq=False)
class Process:
    """Whether a process runs.

    Attributes:
        dead: it never will again.
        stopped_until: it is stopped, as by SIGSTOP, until this time.
        remains: of a dead one, kept so that nothing is cleaned up by chance.
    """

    dead: bool = False
    stopped_until: float = 0.0
    remains: list[object] = field(factory=list)


class _Call(DelayedCall):
    process: Process | None = None


class SimClock(Clock):
    """Twisted's clock for tests, with a heap: same times are in order of calling."""

    def __init__(self) -> None:
        super().__init__()
        self._heap: list[tuple[float, int, _Call]] = []
        self._made = 0

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> IDelayedCall:
        """Call something later."""
        return self.call_for(None, delay, callable, args, kw)

    def call_for(
        self,
        process: Process | None,
        delay: float,
        function: Callable[..., object],
        args: tuple[object, ...],
        kw: dict[str, object],
    ) -> IDelayedCall:
        """Call something later, unless its process is dead by then."""
        call = _Call(
            self.rightNow + delay, function, args, kw, _ignore, self._push, self.seconds
        )
        call.process = process
        if process is None or not process.dead:
            self._push(call)
        else:
            process.remains.append(call)
        return call

    def _push(self, call: DelayedCall) -> None:
        self._made += 1
        assert isinstance(call, _Call)
        heappush(self._heap, (call.time, self._made, call))

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """Return what is still to be called."""
        return [call for time, _, call in self._heap if _is_due(time, call)]

    def _next(self) -> _Call | None:
        """Return what is to be called next; it stays on the heap."""
        while self._heap:
            time, _, call = self._heap[0]
            if not _is_due(time, call):
                heappop(self._heap)
                if call.process is not None and call.process.dead:
                    call.process.remains.append(call)
            elif call.delayed_time:
                heappop(self._heap)
                call.activate_delay()
                self._push(call)
            elif call.process is not None and call.process.stopped_until > time:
                heappop(self._heap)
                call.time = call.process.stopped_until
                self._push(call)
            else:
                return call
        return None

    def advance(self, amount: float) -> None:
        """Let time pass at once: all that is due finds it to be this late."""
        self.rightNow += amount
        made = 0
        while (call := self._next()) is not None and call.time <= self.rightNow:
            made = self._make(call, made)

    def run(self, seconds: float, until: Callable[[], object] = bool) -> None:
        """Let time pass, call by call, or until something is true."""
        end = self.rightNow + seconds
        made = 0
        while (call := self._next()) is not None and call.time <= end:
            if call.time > self.rightNow:
                self.rightNow, made = call.time, 0
            made = self._make(call, made)
            if until():
                return
        self.rightNow = end

    def _make(self, call: _Call, made: int) -> int:
        if made >= MOST_AT_ONCE:
            raise Hang(f"{call.func} is called again and again")
        heappop(self._heap)
        call.called = 1
        call.func(*call.args, **call.kw)
        return made + 1


class ProcessClock:
    """The clock of one process."""

    def __init__(self, clock: SimClock, process: Process) -> None:
        self._clock = clock
        self._process = process

    def seconds(self) -> float:
        """Return the time."""
        return self._clock.rightNow

    def callLater(
        self, delay: float, callable: Callable[..., object], *args: object, **kw: object
    ) -> IDelayedCall:
        """Call something later, if the process lives."""
        return self._clock.call_for(self._process, delay, callable, args, kw)

    def getDelayedCalls(self) -> Sequence[IDelayedCall]:
        """Return what is still to be called, by whomever."""
        return self._clock.getDelayedCalls()


def _is_due(time: float, call: _Call) -> bool:
    if call.cancelled or call.called or time != call.time:
        return False
    return call.process is None or not call.process.dead


def _ignore(call: object) -> None:
    """A call that is cancelled is passed over when its time comes."""

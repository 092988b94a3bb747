"""How one destination follows our change feed: what is under way, and when.

A destination's *cursor* says that it has every change of ours up to that number.  Its
changes are sent a window at a time, in parallel, and finish in any order; the cursor
moves over the contiguous part that is finished.  A name that changes while it is under
way is met again later in the feed, with its newer number: it is sent twice, harmlessly.

A change that the destination refuses is *parked* (see `parking`): it counts as finished
here.

Pure: `now` and randomness are arguments.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from attrs import define, field

MAX_PASSED = 65536


@define(eq=False)
class Window:
    """The part of the feed that is under way to one destination.

    Args:
        cursor: it has every change up to this number.
    """

    _cursor: int
    _read_to: int = field(init=False)
    _open: OrderedDict[int, None] = field(init=False, factory=OrderedDict)
    _over: set[int] = field(init=False, factory=set)
    _passed: set[int] = field(init=False, factory=set)

    @_read_to.default
    def _start(self) -> int:
        return self._cursor

    @property
    def read_to(self) -> int:
        """The highest number handed to us."""
        return self._read_to

    @property
    def under_way(self) -> int:
        """How many changes are not finished."""
        return len(self._open) - len(self._over)

    @property
    def cursor(self) -> int:
        """Everything up to this number is finished."""
        return next(iter(self._open)) - 1 if self._open else self._read_to

    def begin(self, seq: int) -> None:
        """A change is under way; numbers rise.  Those left out count as finished."""
        if seq <= self._read_to:
            raise ValueError(f"change {seq} after {self._read_to}")
        self._open[seq] = None
        self._read_to = seq

    def skip_to(self, seq: int) -> None:
        """There is nothing to send up to this number."""
        self._read_to = max(self._read_to, seq)
        self._passed.discard(seq)

    def pass_over(self, seq: int) -> None:
        """There is nothing to send for this number, once it is reached.

        A bounded many are remembered: a change may come up all the same.
        """
        if seq <= self._read_to:
            return
        if len(self._passed) >= MAX_PASSED:
            self._passed = {each for each in self._passed if each > self._read_to}
        if len(self._passed) < MAX_PASSED:
            self._passed.add(seq)

    def is_passed(self, seq: int) -> bool:
        """Return whether there is nothing to send for a number."""
        return seq in self._passed

    def skip_passed(self) -> None:
        """Move on over the numbers that come next and were passed over."""
        following = self._read_to + 1
        while following in self._passed:
            self._passed.remove(following)
            following += 1
        self._read_to = following - 1

    def finish(self, seq: int) -> None:
        """A change is delivered, or given up."""
        self._over.add(seq)
        while self._open and (first := next(iter(self._open))) in self._over:
            del self._open[first]
            self._over.remove(first)


@define(eq=False)
class BackOff:
    """How long to wait after failures in a row: twice as long each time, and jittered.

    Args:
        random: returns 0 ≤ x < 1.
        first_seconds: about, after the first failure.
        most_seconds: never longer.
    """

    _random: Callable[[], float]
    _first_seconds: float = 0.5
    _most_seconds: float = 30.0
    failures: int = field(init=False, default=0)

    def failed(self) -> float:
        """Count a failure; return how long to wait, seconds."""
        wait = min(self._first_seconds * 2.0**self.failures, self._most_seconds)
        self.failures = min(self.failures + 1, 60)
        return wait * (0.5 + self._random() / 2)

    def succeeded(self) -> None:
        """It works again."""
        self.failures = 0

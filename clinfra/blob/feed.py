"""How one destination follows our change feed: what is under way, parked, and when.

A destination's *cursor* says that it has every change of ours up to that number.  Its
changes are sent a window at a time, in parallel, and finish in any order; the cursor
moves over the contiguous part that is finished.  A name that changes while it is under
way is met again later in the feed, with its newer number: it is sent twice, harmlessly.

A change that the destination refuses for good is *parked*: noted, stepped over, tried
again now and then, and never in the way of the others.

Pure: `now` and randomness are arguments.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

from attrs import define, field, frozen

PARKED_SECONDS = 3600
"""How long a refused change rests."""

MAX_PARKED = 10_000


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

    def finish(self, seq: int) -> None:
        """A change is delivered, or given up."""
        self._over.add(seq)
        while self._open and (first := next(iter(self._open))) in self._over:
            del self._open[first]
            self._over.remove(first)


@frozen
class Parked:
    """A change that a destination refused.

    Attributes:
        reason: in its words.
        until: when to try again, unix seconds.
    """

    reason: str
    until: float


@define(eq=False)
class Parking:
    """Names that a destination refuses, up to MAX_PARKED, oldest forgotten first."""

    _names: OrderedDict[str, Parked] = field(init=False, factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[tuple[str, Parked]]:
        return iter(list(self._names.items()))

    def park(self, name: str, reason: str, now: float) -> None:
        """Put a name aside."""
        self._names.pop(name, None)
        self._names[name] = Parked(reason, now + PARKED_SECONDS)
        if len(self._names) > MAX_PARKED:
            self._names.popitem(last=False)

    def forget(self, name: str) -> None:
        """It went well after all, or there is nothing to send any more."""
        self._names.pop(name, None)

    def due(self, now: float, limit: int) -> list[str]:
        """Return names to be tried again; they are in the order they were parked."""
        found: list[str] = []
        for name, parked in self._names.items():
            if parked.until > now or len(found) >= limit:
                break
            found.append(name)
        return found


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

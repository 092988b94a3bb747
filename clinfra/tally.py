"""How many requests a product has answered, how, how fast, and how much it sent.  Pure.

Whole numbers only, so that what several workers report can be added up: times are in
microseconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from attrs import define, field

BOUNDS = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
"""Upper ends of the buckets, in seconds; one more is for all that took longer."""

NAMES = (*(f"{bound:g}" for bound in BOUNDS), "+Inf")
"""The buckets, as Prometheus calls them."""

NO_CACHE = "none"

STATES = frozenset(("hit", "miss", "stale", "validated", "pass"))
"""What there may be under the note "cache"; anything else counts as `NO_CACHE`."""

_STATUSES = ("1xx", "2xx", "3xx", "4xx", "5xx", "gone")
"""Told from the beginning: what comes into being with its first count has no rate."""


@define(eq=False)
class Durations:
    """How long things took: a histogram."""

    counts: list[int] = field(factory=lambda: [0] * len(NAMES))
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1, total: float | None = None) -> None:
        """Count something.

        Args:
            seconds: it took.
            count: of such things.
            total: seconds they took together; `seconds` each when not given.
        """
        self.counts[bisect_left(BOUNDS, seconds)] += count
        self.seconds += seconds * count if total is None else total

    def report(self) -> dict[str, Any]:
        """Return it as whole numbers, each bucket on its own."""
        return {
            "buckets": dict(zip(NAMES, self.counts, strict=True)),
            "microseconds": int(self.seconds * 1e6),
        }


@define(eq=False)
class _Cell:
    """The requests with one cache state."""

    statuses: defaultdict[int, int] = field(factory=lambda: defaultdict(int))
    body_bytes: int = 0
    durations: Durations = field(factory=Durations)


@define(eq=False)
class Tally:
    """Counts a product's requests.  Called with each, or told of equal ones together.

    Attributes:
        before_report: called before it is read, for those who tell it late.
    """

    before_report: Callable[[], None] | None = None
    _cells: dict[str, _Cell] = field(factory=lambda: {NO_CACHE: _Cell()})

    def __call__(self, exchange: Any, seconds: float) -> None:
        """Count a request; see `web.site.Site`'s access_log."""
        state = exchange.notes.get("cache", NO_CACHE)
        cell = self._cells.get(state) or self._cell(state)
        cell.statuses[exchange.status] += 1
        cell.body_bytes += exchange.bytes_out
        durations = cell.durations
        durations.counts[bisect_left(BOUNDS, seconds)] += 1
        durations.seconds += seconds

    def add(
        self,
        status: int,
        state: str,
        body_bytes: int,
        seconds: float,
        count: int,
        total: float,
    ) -> None:
        """Count equal requests.

        Args:
            state: of the cache.
            body_bytes: of each.
            seconds: that the shortest of them took, about.
            total: that all took together.
        """
        cell = self._cells.get(state) or self._cell(state)
        cell.statuses[status] += count
        cell.body_bytes += body_bytes * count
        cell.durations.add(seconds, count, total)

    def report(self) -> dict[str, Any]:
        """Return the counts: requests and bytes, and times by the state of the cache.

        Status 0 is of those whose clients went away before there was an answer.
        """
        if self.before_report is not None:
            self.before_report()
        requests = dict.fromkeys(_STATUSES, 0)
        for cell in self._cells.values():
            for status, count in cell.statuses.items():
                told = f"{status // 100}xx" if status else "gone"
                requests[told] = requests.get(told, 0) + count
        return {
            "requests": requests,
            "body_bytes": sum(cell.body_bytes for cell in self._cells.values()),
            "took": {
                state: cell.durations.report() for state, cell in self._cells.items()
            },
        }

    def _cell(self, state: str) -> _Cell:
        """Return the cell of a state that is new here; what is odd counts as none."""
        return self._cells.setdefault(state if state in STATES else NO_CACHE, _Cell())

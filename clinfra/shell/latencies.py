"""Times of many requests in little memory.  Pure."""

from __future__ import annotations

import math

from attrs import define, field

_STEP = math.log(1.01)
_LEAST_SECONDS = 1e-6


@define(eq=False)
class Latencies:
    """Counts times in steps of 1 %, from a microsecond up.

    Attributes:
        count: of the times added.
        longest: the longest of them, in seconds.
    """

    count: int = 0
    total: float = 0.0
    longest: float = 0.0
    _steps: dict[int, int] = field(factory=dict)

    def add(self, seconds: float) -> None:
        """Count one."""
        step = math.ceil(
            math.log(max(seconds, _LEAST_SECONDS) / _LEAST_SECONDS) / _STEP
        )
        self._steps[step] = self._steps.get(step, 0) + 1
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    @property
    def mean(self) -> float:
        """Return the mean in seconds; 0 of none."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, share: float) -> float:
        """Return the time within which this share was done, up to 1 % more; 0 of none.

        Args:
            share: from 0 to 1.
        """
        wanted = math.ceil(self.count * share)
        seen = 0
        for step in sorted(self._steps):
            seen += self._steps[step]
            if seen >= wanted:
                return min(self.longest, _LEAST_SECONDS * math.exp(step * _STEP))
        return 0.0

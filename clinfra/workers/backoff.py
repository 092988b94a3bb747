"""How long to wait before a fallen worker is started again.  Pure."""

from __future__ import annotations

from attrs import define, field

FIRST_SECONDS = 0.5
LONGEST_SECONDS = 60.0
STEADY_SECONDS = 60.0
"""A worker that lived as long as this has not failed: something befell it."""


@define
class Backoff:
    """The pauses of one worker's place.

    The first fall costs nothing: a worker that was killed is replaced at once.  Those
    that fall again and again wait twice as long each time.
    """

    falls: int = field(default=0, init=False)

    def pause_seconds(self, lived_seconds: float) -> float:
        """Return how long to wait, after a worker that lived so long has fallen."""
        if lived_seconds >= STEADY_SECONDS:
            self.falls = 0
        self.falls += 1
        if self.falls == 1:
            return 0.0
        return min(LONGEST_SECONDS, FIRST_SECONDS * 2.0 ** min(self.falls - 2, 30))

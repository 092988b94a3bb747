"""Stamps: 64-bit times that order every change of a blob.

``(unix seconds << 32) + (microseconds << 12) + 12 free bits``, as the original has
them.  A stamp passes 2**63 on 2038-01-19 and 2**64 in 2106; here it is an unsigned
number everywhere, and `to_signed` maps it to what a signed 64-bit column can hold
*in the same order*, so nothing happens on that day.

Pure: the clock and the random bits are arguments.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from clinfra.errors import InvalidRequest, Overloaded

LIMIT = 1 << 64
"""Stamps are below this."""

_HALF = 1 << 63


class FromFuture(InvalidRequest):
    """A stamp is too far ahead of our clock: in a while it may be taken."""


def stamp_at(seconds: float, low_bits: int = 0) -> int:
    """Return the stamp of a moment, unix seconds; `low_bits` is 0..4095."""
    whole = int(seconds)
    micros = min(int((seconds - whole) * 1_000_000), 999_999)
    return (whole << 32) + (micros << 12) + low_bits


def seconds_of(stamp: int) -> int:
    """Return the unix seconds of a stamp."""
    return stamp >> 32


def to_signed(stamp: int) -> int:
    """Return the signed 64-bit number that stands for a stamp; order is kept."""
    return stamp - _HALF


def from_signed(number: int) -> int:
    """Return the stamp that `to_signed` turned into `number`."""
    return number + _HALF


@define(eq=False)
class Stamps:
    """Gives out stamps that never repeat and never go back, whatever the clock does.

    Args:
        now: returns unix seconds.
        low_bits: returns 0..4095, so that two replicas seldom give the same stamp.
        max_skew_seconds: how far ahead of our clock a stamp from outside may be.

    Attributes:
        trouble: a sentence that says why our clock cannot be relied on (see `clocks`).
    """

    _now: Callable[[], float]
    _low_bits: Callable[[], int]
    _max_skew_seconds: float
    _last: int = 0
    trouble: str = ""

    def check_clock(self) -> None:
        """Raise Overloaded while our clock is known to be wrong."""
        if self.trouble:
            raise Overloaded(self.trouble, 10)

    def set_back(self) -> None:
        """The clock was wrong and is right: follow it, not what was given before."""
        self.trouble, self._last = "", 0

    def next(self, *after: int) -> int:
        """Return a stamp later than all given before and later than `after`.

        Raises Overloaded while our clock is known to be wrong.
        """
        self.check_clock()
        bits = self._low_bits()
        clock = stamp_at(self._now(), bits)
        # Behind a stamp from the future, too, two replicas must not give the same.
        later = (stamp + 1 + bits for stamp in after)
        self._last = max(clock, self._last + 1, *later)
        return self._last

    def check(self, stamp: int) -> int:
        """Return a stamp from outside.  Raises InvalidRequest when it cannot be true.

        A stamp far in the future would make its blob immortal: no later change of
        anybody with a right clock could win against it.
        """
        if stamp < 0:
            raise InvalidRequest(f"Stamp cannot be negative: {stamp}")
        latest = stamp_at(self._now() + self._max_skew_seconds)
        if stamp > min(latest, LIMIT - 1):
            raise FromFuture(f"Stamp too far in the future: {stamp}")
        return stamp

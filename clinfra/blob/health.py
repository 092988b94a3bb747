"""Which replicas are well, learned from real requests, and who is asked first.

A failure is a broken connection, a silence or a 5xx; a 404 is an answer like any other.
After a failure a replica is asked last for a second or so; after three in a row it is
*down*: nobody relies on it until one probe succeeds, and the pause before each probe
doubles up to half a minute.

Pure: the time and randomness are arguments.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable

from attrs import define, field

DOWN_AFTER = 3
"""Failures in a row that make a replica down."""

FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0

_SAMPLES = 200
_FEWEST_SAMPLES = 20
_UNKNOWN_P95_SECONDS = 0.25
_LEAST_HEDGE_SECONDS = 0.02


@define(eq=False)
class _Pulse:
    """One replica: its failures in a row, and when it may be tried again."""

    failures: int = 0
    failed_at: float = 0.0
    pause: float = 0.0
    probing: bool = False

    def is_resting(self, now: float) -> bool:
        # A clock that was set back must not make the pause longer.
        return 0 <= now - self.failed_at < self.pause


@define(eq=False)
class Health:
    """The health of every replica by name; one never heard of is well.

    Args:
        now: returns seconds.
        rng: orders replicas by weight and spreads the pauses.
        changed: called with a name and True or False when it comes up or goes down.
    """

    _now: Callable[[], float]
    _rng: random.Random
    _changed: Callable[[str, bool], object] = lambda name, up: None
    _pulses: dict[str, _Pulse] = field(init=False, factory=dict)

    def succeeded(self, name: str) -> None:
        """A replica has answered, whatever it said."""
        pulse = self._pulses.pop(name, None)
        if pulse is not None and pulse.failures >= DOWN_AFTER:
            self._changed(name, True)

    def failed(self, name: str) -> None:
        """A replica has not answered, or with a 5xx."""
        pulse = self._pulses.setdefault(name, _Pulse())
        now = self._now()
        pulse.probing = False
        # Requests that were under way together count as one failure once it is down.
        if pulse.failures < DOWN_AFTER or not pulse.is_resting(now):
            pulse.failures += 1
            longer = max(0, pulse.failures - DOWN_AFTER)
            pause = min(
                LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(longer, 9)
            )
            pulse.pause = pause * self._rng.uniform(0.75, 1.25)
            pulse.failed_at = now
            if pulse.failures == DOWN_AFTER:
                self._changed(name, False)

    def is_slow(self, name: str) -> None:
        """A replica lets somebody wait: others are asked first until it answers.

        For longer and longer, when that is all that is heard of it.
        """
        pulse = self._pulses.setdefault(name, _Pulse())
        now = self._now()
        if not pulse.failures and not pulse.is_resting(now):
            longer = max(FIRST_PAUSE_SECONDS, 2 * pulse.pause)
            pulse.pause = min(LONGEST_PAUSE_SECONDS, longer)
            pulse.failed_at = now

    def is_up(self, name: str) -> bool:
        """Return whether a replica may be relied on."""
        pulse = self._pulses.get(name)
        return pulse is None or pulse.failures < DOWN_AFTER

    def has_failed(self, name: str) -> bool:
        """Return whether the last that is known of a replica is a failure."""
        pulse = self._pulses.get(name)
        return pulse is not None and pulse.failures > 0

    def wants_probe(self, name: str) -> bool:
        """Return True, to one asker, when a replica that is down may be probed."""
        pulse = self._pulses.get(name)
        if (
            pulse is None
            or pulse.failures < DOWN_AFTER
            or pulse.probing
            or pulse.is_resting(self._now())
        ):
            return False
        pulse.probing = True
        return True

    def probe_abandoned(self, name: str) -> None:
        """A probe ended without telling anything."""
        pulse = self._pulses.get(name)
        if pulse is not None:
            pulse.probing = False

    def seconds_since_failure(self, name: str) -> float | None:
        """Return how long ago a replica failed, None when it is well."""
        pulse = self._pulses.get(name)
        if pulse is None or not pulse.failures:
            return None
        return max(0.0, self._now() - pulse.failed_at)

    def order(self, candidates: Iterable[tuple[str, int]]) -> list[str]:
        """Return names in the order in which to ask them.

        Those that are well come first, at random by weight; then those that failed
        lately or are down, oldest failure first.

        Args:
            candidates: names and weights; weight 0 is never asked, unless all are 0.
        """
        weighted = list(candidates)
        if any(weight for _, weight in weighted):
            weighted = [(name, weight) for name, weight in weighted if weight]
        else:
            weighted = [(name, 1) for name, _ in weighted]
        now = self._now()
        well: list[tuple[float, str]] = []
        ill: list[tuple[bool, float, str]] = []
        for name, weight in weighted:
            pulse = self._pulses.get(name)
            down = pulse is not None and pulse.failures >= DOWN_AFTER
            if pulse is not None and (down or pulse.is_resting(now)):
                ill.append((down, pulse.failed_at, name))
            else:
                # Efraimidis and Spirakis: sorting these is drawing by weight.
                well.append((-(self._rng.random() ** (1 / weight)), name))
        return [name for _, name in sorted(well)] + [name for *_, name in sorted(ill)]


@define(eq=False)
class Hedging:
    """When a read has waited long enough for a second one to be sent elsewhere.

    Second reads are a bounded share of all: `share` of them, and a few in a burst.
    """

    share: float = 0.05
    burst: float = 10.0
    _samples: deque[float] = field(init=False, factory=lambda: deque(maxlen=_SAMPLES))
    _allowance: float = field(init=False, default=1.0)
    _p95: float = field(init=False, default=_UNKNOWN_P95_SECONDS)
    _fresh: int = field(init=False, default=0)

    def took(self, seconds: float) -> None:
        """A read was answered after so long."""
        self._samples.append(seconds)
        self._allowance = min(self.burst, self._allowance + self.share)
        self._fresh += 1
        if self._fresh >= _FEWEST_SAMPLES:
            self._fresh = 0
            ordered = sorted(self._samples)
            self._p95 = ordered[len(ordered) * 95 // 100]

    @property
    def after_seconds(self) -> float:
        """How long to wait for the first read."""
        return max(_LEAST_HEDGE_SECONDS, self._p95)

    def take(self) -> bool:
        """Return whether a second read may be sent, and count it."""
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True

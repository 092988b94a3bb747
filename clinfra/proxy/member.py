"""One origin of a pool, and how far it is trusted.

Pure: the time is asked of a function.  Three things are known of a member, from three
sources:

* its **confidence**, from the answers to requests: it starts at the weight, halves
  with every failure down to a floor that never quite reaches zero, and doubles with
  every success up to the weight again.  Whoever draws members draws by it, so a bad one
  is soon asked hardly ever, and still finds its way back by itself;
* its **circuit**, from the same answers: after some failures in a row it opens, so
  that not even those few requests are spent on it, but for a trial now and then.
  One success closes it;
* whether it is **up**, from active checks, where there are any.

After a circuit closes, after checks find it up again, and when it is new among known
ones, its share grows from a tenth to the whole during `slow_start`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from attrs import define, field, frozen

MIN_CONFIDENCE = 0.008
DECREASE = 0.5
INCREASE = 2.0
FIRST_SHARE = 0.1
"""What a member that starts slowly gets of its share at first."""


@frozen
class Place:
    """Where a member is, as the configuration says.

    Attributes:
        name: "host:port" or "unix:/path".
        host, port, path: the same in parts; path for UNIX sockets only.
        weight: its share, relative to the others'.
        backup: asked only when too few others can be.
    """

    name: str
    host: str
    port: int
    path: str
    weight: float
    backup: bool = False


def parse_place(text: str, backup: bool = False) -> Place:
    """Read "host:port", "[::1]:port" or "unix:/path"; "=weight" may follow.

    Raises ValueError with a plain sentence.
    """
    name, equals, weight_text = text.strip().partition("=")
    try:
        weight = float(weight_text) if equals else 1.0
    except ValueError:
        raise ValueError(f'"{text}": the weight is not a number') from None
    if not MIN_CONFIDENCE <= weight <= 1e6:
        raise ValueError(f'"{text}": a weight is between {MIN_CONFIDENCE} and 1000000')
    if name.startswith("unix:"):
        if not name.startswith("unix:/"):
            raise ValueError(f'"{text}": a UNIX socket needs an absolute path')
        return Place(name, "", 0, name[5:], weight, backup)
    host, _, port = name.rpartition(":")
    if not host or not port.isascii() or not port.isdigit():
        raise ValueError(f'"{text}": an origin is "host:port" or "unix:/path"')
    if not 0 < int(port) < 65536:
        raise ValueError(f'"{text}": there is no such port')
    return Place(name, host.strip("[]"), int(port), "", weight, backup)


@frozen
class HealthRules:
    """What becomes of failures; times in seconds.

    Attributes:
        circuit_failures: failures in a row that open the circuit; 0 means none do.
        circuit_pause: from a circuit's opening to a trial.
        slow_start: how long it takes to get the whole share again.
        rise: good checks in a row after which a member is up.
        fall: bad ones after which it is down.
    """

    circuit_failures: int = 0
    circuit_pause: float = 5.0
    slow_start: float = 0.0
    rise: int = 2
    fall: int = 3


def _nobody(*args: Any) -> None:
    """Nobody wants to know."""


@define(eq=False)
class Member:
    """One origin: a place, at one of its addresses.

    Args:
        place: as configured.
        address: what to connect to: the place's host, or an IP address of it.
        rules: see HealthRules.
        now: returns the time in seconds.
        changed: called when it can be asked more or less than before.
        noted: called with it when its circuit opens or closes.

    Attributes:
        name: for logs: "address:port" or "unix:/path".
        weight: confidence at the start, and its ceiling.
        confidence: chance of being drawn, relative to the others.
        troubled: a success would change something.
        failures: in a row.
        opened: its circuit is open.
        open_until: when it may have a trial.
        trial_until: until when its last trial counts as under way.
        up: no check says otherwise.
        maintained: an operator took it out.
        requests, failed_requests: how many it was sent, and how many went wrong.
        checks, failed_checks: the same of checks.
        last_failure: what the last check or request failed of.
        failed_at: when that was.
        origin: the forwarder's own: its address as `web.pool` wants it.
    """

    place: Place
    address: str
    rules: HealthRules
    now: Callable[[], float] = lambda: 0.0
    changed: Callable[[], None] = _nobody
    noted: Callable[[Member], None] = _nobody
    name: str = field(init=False)
    weight: float = field(init=False)
    confidence: float = field(init=False)
    troubled: bool = field(default=False, init=False)
    failures: int = field(default=0, init=False)
    opened: bool = field(default=False, init=False)
    open_until: float = field(default=0.0, init=False)
    trial_until: float = field(default=0.0, init=False)
    up: bool = field(default=True, init=False)
    maintained: bool = field(default=False, init=False)
    requests: int = field(default=0, init=False)
    failed_requests: int = field(default=0, init=False)
    checks: int = field(default=0, init=False)
    failed_checks: int = field(default=0, init=False)
    last_failure: str = field(default="", init=False)
    failed_at: float = field(default=0.0, init=False)
    origin: Any = field(default=None, init=False)
    _warm_at: float = field(default=-inf, init=False)
    _other_checks: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        place = self.place
        host = f"[{self.address}]" if ":" in self.address else self.address
        self.name = place.name if place.path else f"{host}:{place.port}"
        self.weight = self.confidence = place.weight

    # What requests tell.

    def succeeded(self) -> None:
        """It answered."""
        if not self.troubled:
            return
        if self.opened:
            self._close()
            self.start_slowly()
            self.noted(self)
        self.failures = 0
        self.confidence = min(self.weight, self.confidence * INCREASE)
        self.troubled = self.confidence < self.weight
        self.changed()

    def failed(self, why: str = "") -> None:
        """It did not."""
        self.troubled = True
        self.failures += 1
        self.failed_requests += 1
        self._failed_of(why)
        if self.confidence > MIN_CONFIDENCE:
            self.confidence = max(MIN_CONFIDENCE, self.confidence * DECREASE)
        most = self.rules.circuit_failures
        if most and self.failures >= most:
            if not self.opened:
                self.opened = True
                self.noted(self)
            self.open_until = self.now() + self.rules.circuit_pause
            self.trial_until = 0.0
        self.changed()

    def begin_trial(self) -> None:
        """It is sent a request though its circuit is open."""
        self.trial_until = self.now() + self.rules.circuit_pause
        self.changed()

    def may_have_trial(self, now: float) -> bool:
        """Whether no trial is under way."""
        return now >= self.trial_until

    # What checks tell.

    def checked(self, good: bool, why: str = "") -> bool:
        """Take the result of a check; True when it is up now, or down, and was not."""
        self.checks += 1
        if not good:
            self.failed_checks += 1
            self._failed_of(why)
        if good == self.up:
            self._other_checks = 0
            return False
        self._other_checks += 1
        if self._other_checks < (self.rules.rise if good else self.rules.fall):
            return False
        self._other_checks = 0
        self.up = good
        if good:
            self._close()
            self.failures = 0
            self.troubled = False
            self.confidence = self.weight
            self.start_slowly()
        self.changed()
        return True

    # What operators tell.

    def maintain(self, out: bool) -> None:
        """Take it out, or back in."""
        if self.maintained and not out:
            self.start_slowly()
        self.maintained = out
        self.changed()

    # What choosers ask.

    def start_slowly(self) -> None:
        """Begin with a small share."""
        if self.rules.slow_start:
            self._warm_at = self.now() + self.rules.slow_start

    def warming(self, now: float) -> bool:
        """Whether its share still grows."""
        return now < self._warm_at

    def share(self, now: float) -> float:
        """Return its confidence, as far as its slow start has come."""
        left = self._warm_at - now
        if left <= 0:
            return self.confidence
        return self.confidence * max(FIRST_SHARE, 1 - left / self.rules.slow_start)

    def state(self, now: float) -> str:
        """Return one word for people."""
        if self.maintained:
            return "maintenance"
        if not self.up:
            return "down"
        if self.opened:
            return "open"
        return "warming" if self.warming(now) else "up"

    def report(self, now: float) -> dict[str, Any]:
        """Return what is known of it, for the admin pages."""
        told = {
            "address": self.name,
            "state": self.state(now),
            "weight": self.weight,
            "confidence": round(self.confidence, 4),
            "requests": self.requests,
            "failed_requests": self.failed_requests,
        }
        if self.place.backup:
            told["backup"] = True
        if self.checks:
            told |= {"checks": self.checks, "failed_checks": self.failed_checks}
        if self.last_failure:
            told["last_failure"] = self.last_failure
            told["seconds_since_failure"] = round(now - self.failed_at, 1)
        return told

    def _failed_of(self, why: str) -> None:
        self.last_failure = why or self.last_failure
        self.failed_at = self.now()

    def _close(self) -> None:
        self.opened = False
        self.open_until = self.trial_until = 0.0

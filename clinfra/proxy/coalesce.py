"""One fetch per key: whoever asks for what is being fetched waits for that fetch.

The first to ask gets a `Flight` and fetches; the others wait.  The flight ends once:
with an entry for everybody, with a trouble for everybody, with None when the answer
cannot be shared, and then each of the waiters fetches on its own, or with AGAIN when
whoever was to fetch left before it did, and then another of them does.
A waiter that leaves harms nobody.  Waiters do not wait for ever: after
`patience_seconds` they are let go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from clinfra.proxy.lease import Lease

log = Logger()

Waiter = Callable[[Any], None]
"""Called once, with an entry, an errors.Trouble, AGAIN, or None to fetch on its own."""

AGAIN = object()
"""Nobody fetches: join anew."""


@define(eq=False)
class Flight:
    """A fetch under way.

    Attributes:
        key: what is fetched.
        doomed: the page was purged or changed meanwhile; what comes may be sent to
            those who wait for it, but must not be kept.
        abandoned: called when nobody waits any more, once the one who fetches is gone.
        landed: it has ended.
        lease: the right to fetch that this process has among others (see `lease`).
    """

    key: bytes
    _table: Coalescer
    waiters: list[Waiter] = field(factory=list, init=False)
    doomed: bool = field(default=False, init=False)
    abandoned: Callable[[], None] | None = field(default=None, init=False)
    landed: bool = field(default=False, init=False)
    lease: Lease | None = field(default=None, init=False)
    _patience: IDelayedCall | None = field(default=None, init=False)

    def land(self, outcome: Any) -> None:
        """End the flight (once; later calls do nothing) and tell everybody waiting."""
        if self._table.flights.get(self.key) is self:
            del self._table.flights[self.key]
        self.landed = True
        self.abandoned = None  # it likely knows us, and cycles cost the collector
        lease, self.lease = self.lease, None
        if lease is not None:
            if outcome is None and not self.doomed:
                lease.unshared()
            else:
                lease.end()
        self._release(outcome)

    def _release(self, outcome: Any) -> None:
        if self._patience is not None and self._patience.active():
            self._patience.cancel()
        self._patience = None
        waiters, self.waiters = self.waiters, []
        for waiter in waiters:
            try:
                waiter(outcome)
            except Exception:
                log.failure("A request that waited for a fetch could not go on.")

    def _wait(self, waiter: Waiter) -> None:
        self.waiters.append(waiter)
        if self._patience is None:
            self._patience = self._table.reactor.callLater(
                self._table.patience_seconds, self._lose_patience
            )

    def _lose_patience(self) -> None:
        self._release(None)
        if self.abandoned is not None:
            self.abandoned()


@define(eq=False)
class Coalescer:
    """The table of fetches under way."""

    reactor: IReactorTime
    patience_seconds: float = 10.0
    flights: dict[bytes, Flight] = field(factory=dict, init=False)

    def start(self, key: bytes) -> Flight | None:
        """Return a new flight, or None when one is under way: wait for nothing."""
        if key in self.flights:
            return None
        flight = self.flights[key] = Flight(key, self)
        return flight

    def join(self, key: bytes, waiter: Waiter) -> Flight | None:
        """Return a new flight to whoever is first; otherwise None, and wait."""
        flight = self.flights.get(key)
        if flight is None:
            flight = self.flights[key] = Flight(key, self)
            return flight
        flight._wait(waiter)
        return None

    def leave(self, key: bytes, waiter: Waiter) -> None:
        """Wait no longer."""
        flight = self.flights.get(key)
        if flight is not None and waiter in flight.waiters:
            flight.waiters.remove(waiter)
            if not flight.waiters and flight.abandoned is not None:
                flight.abandoned()

    def doom(self, key: bytes) -> None:
        """What is being fetched is out of date: later askers start a fetch anew."""
        flight = self.flights.pop(key, None)
        if flight is not None:
            flight.doomed = True

    def land_all(self) -> None:
        """Let everybody go (at stop)."""
        for flight in list(self.flights.values()):
            flight.doomed = True
            flight.land(None)

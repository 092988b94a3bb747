"""One piece of work for each key, however many wait for it.

Whoever asks first starts it; whoever asks while it lasts waits for the same.  A waiter
that leaves harms nobody.  When all have left, the work is cancelled, unless it has gone
too far for that.  What it made is at hand until the work has ended, which may be later:
when the result is stored as well.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from clinfra.errors import Trouble

T = TypeVar("T")

log = Logger()


@define(eq=False)
class Flight(Generic[T]):
    """A piece of work under way."""

    _waiters: list[Deferred[T]] = field(init=False, factory=list)
    _work: Deferred[None] | None = field(init=False, default=None)
    _committed: bool = field(init=False, default=False)
    _outcome: Callable[[], Deferred[T]] | None = field(init=False, default=None)

    def commit(self) -> None:
        """From now on it is finished although nobody may wait any more."""
        self._committed = True

    def land(self, result: T) -> None:
        """Tell everybody; the work itself may go on."""
        self._outcome = lambda: succeed(result)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(result)

    def _crash(self, error: Exception) -> None:
        self._outcome = lambda: fail(error)
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.errback(error)


@define(eq=False)
class Flights(Generic[T]):
    """The table of what is under way."""

    _flights: dict[str, Flight[T]] = field(init=False, factory=dict)

    def __len__(self) -> int:
        return len(self._flights)

    def join(
        self, key: str, work: Callable[[Flight[T]], Coroutine[Any, Any, None]]
    ) -> Deferred[T]:
        """Wait for what is made under a key; cancelling is leaving.

        Args:
            work: makes it when nobody does yet, and must `land` it; what it raises
                before is told to everybody.
        """
        flight = self._flights.get(key)
        if flight is not None and flight._outcome is not None:
            return flight._outcome()
        first = flight is None
        if flight is None:
            flight = self._flights[key] = Flight()
        joined = flight
        waiter: Deferred[T] = Deferred(lambda left: self._leave(key, joined, left))
        flight._waiters.append(waiter)
        if first:
            flight._work = Deferred.fromCoroutine(work(flight))
            flight._work.addBoth(self._over, key, flight)
        return waiter

    def _leave(self, key: str, flight: Flight[T], waiter: Deferred[T]) -> None:
        flight._waiters.remove(waiter)
        if not flight._waiters and not flight._committed and flight._work is not None:
            self._forget(key, flight)
            flight._work.cancel()

    def _over(self, result: Failure | None, key: str, flight: Flight[T]) -> None:
        self._forget(key, flight)
        if not isinstance(result, Failure):
            return
        told = flight._waiters
        if isinstance(result.value, Exception):
            flight._crash(result.value)
        if not told and not result.check(Trouble, CancelledError):
            log.failure("Work that nobody waits for has failed.", failure=result)

    def _forget(self, key: str, flight: Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

"""One piece of work, however many wait for it."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import NotFound
from clinfra.image.flights import Flight, Flights


class FlightsTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.flights: Flights[str] = Flights()
        self.started = 0
        self.committed = False
        self.gate: Deferred[str] = Deferred()
        self.afterwards: Deferred[None] = Deferred()

    async def work(self, flight: Flight[str]) -> None:
        self.started += 1
        if self.committed:
            flight.commit()
        flight.land(await self.gate)
        await self.afterwards

    def join(self) -> Deferred[str]:
        return self.flights.join("key", self.work)

    def test_together(self) -> None:
        """All who ask get the same; so do those who ask until the work has ended."""
        waiting = [self.join() for _ in range(3)]
        self.gate.callback("made")
        for each in waiting:
            self.assertEqual("made", self.successResultOf(each))
        self.assertEqual("made", self.successResultOf(self.join()))
        self.assertEqual((1, 1), (self.started, len(self.flights)))
        self.afterwards.callback(None)
        self.assertEqual(0, len(self.flights))

    def test_trouble(self) -> None:
        """All get the same trouble, and the next one to ask starts anew."""
        waiting = [self.join() for _ in range(3)]
        self.gate.errback(NotFound("nothing"))
        for each in waiting:
            self.failureResultOf(each, NotFound)
        self.gate = Deferred()
        self.assertNoResult(self.join())
        self.assertEqual(2, self.started)

    def test_leave(self) -> None:
        """One who leaves harms nobody; when all have left, the work is cancelled."""
        first, second = self.join(), self.join()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertNoResult(second)
        self.assertEqual(1, len(self.flights))
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.assertEqual(0, len(self.flights))
        # What it waited for was cancelled, and the work with it.
        self.gate.callback("too late")
        self.assertEqual(1, self.started)

    def test_committed(self) -> None:
        """Work that has gone too far is finished for who may still come."""
        self.committed = True
        first = self.join()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        later = self.join()
        self.gate.callback("made")
        self.assertEqual("made", self.successResultOf(later))
        self.assertEqual(1, self.started)

    def test_bug(self) -> None:
        """A bug that nobody waits for is logged; others are told."""
        self.committed = True
        first = self.join()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.gate.errback(ZeroDivisionError())
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.gate = Deferred()
        second = self.join()
        self.gate.errback(ZeroDivisionError())
        self.failureResultOf(second, ZeroDivisionError)

    def test_at_once(self) -> None:
        """Work that need not wait leaves nothing behind."""
        self.gate.callback("made")
        self.afterwards.callback(None)
        self.assertEqual("made", self.successResultOf(self.join()))
        self.assertEqual(0, len(self.flights))

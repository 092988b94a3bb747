"""What takes too long is ended, and whoever waits for it hears of that."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.time_limit import LOOK_SECONDS, TimeLimit


class TimeLimitTests(SynchronousTestCase):
    """Work that may take ten seconds."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.limit = TimeLimit(self.clock)
        self.cancelled: list[Deferred[str]] = []

    def begin(self) -> tuple[Deferred[str], Deferred[Any]]:
        """Return what the work waits for, and how it ends."""
        what: Deferred[str] = Deferred(self.cancelled.append)

        async def work() -> str:
            return await what

        return what, Deferred.fromCoroutine(self.limit.keep(10, work()))

    def test_in_time(self) -> None:
        """It returns what the work returns, or raises what it raises."""
        what, ending = self.begin()
        other, failing = self.begin()
        self.clock.advance(9)
        what.callback("done")
        other.errback(LookupError())
        self.assertEqual("done", self.successResultOf(ending))
        self.failureResultOf(failing, LookupError)
        self.clock.advance(LOOK_SECONDS)
        self.assertEqual(([], []), (self.cancelled, self.clock.getDelayedCalls()))

    def test_too_late(self) -> None:
        """After its time it is cancelled; what began later goes on."""
        what, ending = self.begin()
        self.clock.advance(5)
        _, later = self.begin()
        self.clock.pump([LOOK_SECONDS] * 6)
        self.failureResultOf(ending, TimeoutError)
        self.assertEqual([what], self.cancelled)
        self.assertNoResult(later)
        self.clock.pump([LOOK_SECONDS] * 5)
        self.failureResultOf(later, TimeoutError)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_given_up(self) -> None:
        """Who gives up waiting gives up the work."""
        what, ending = self.begin()
        ending.cancel()
        self.failureResultOf(ending, CancelledError)
        self.assertEqual([what], self.cancelled)

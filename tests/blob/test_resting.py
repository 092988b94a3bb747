"""Pauses: who waits, for how long, and who tries first."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.resting import Pause, Rest


class PauseTests(SynchronousTestCase):
    """A pause that all try after."""

    def test_all_at_once(self) -> None:
        """Whoever waits goes on when it is over, or ended."""
        clock, over = Clock(), list[None]()
        pause = Pause(clock, lambda: over.append(None))
        pause.begin(3)
        pause.begin(1)
        waiting = [Deferred.fromCoroutine(pause.wait()) for _ in range(3)]
        clock.advance(2)
        self.assertTrue(pause.active)
        clock.advance(1)

        self.assertEqual((True, True, True), tuple(each.called for each in waiting))
        self.assertEqual((False, [None]), (pause.active, over))
        pause.begin(1)
        waiter = Deferred.fromCoroutine(pause.wait())
        pause.end()
        self.successResultOf(waiter)
        self.assertEqual([], clock.getDelayedCalls())


class RestTests(SynchronousTestCase):
    """A rest after which one tries."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.rest = Rest(self.clock, 2)
        self.rest.begin()
        self.waiting = [Deferred.fromCoroutine(self.rest.over()) for _ in range(5)]

    def trying(self) -> int:
        return sum(each.called for each in self.waiting)

    def test_one_by_one(self) -> None:
        """Each time one tries, until one gets through; then all may."""
        self.assertEqual(0, self.trying())
        for tried in (1, 2, 3):
            self.clock.advance(2)
            self.assertEqual(tried, self.trying())
            self.rest.begin()
        self.rest.end()

        self.assertEqual(5, self.trying())
        self.assertFalse(self.rest.active)
        self.successResultOf(Deferred.fromCoroutine(self.rest.over()))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_never_heard_of(self) -> None:
        """When the one that tries is not heard of any more, another one does."""
        self.clock.advance(2)
        self.clock.advance(2)
        self.assertEqual(2, self.trying())

    def test_given_up(self) -> None:
        """Those that have stopped waiting do not get their turn."""
        for each in self.waiting[:4]:
            each.addErrback(lambda failure: None)
            each.cancel()
        self.clock.advance(2)

        self.assertEqual(5, self.trying())

    def test_nobody_there(self) -> None:
        """When nobody waits it is over, so that whoever comes next tries."""
        for each in self.waiting:
            each.addErrback(lambda failure: None)
            each.cancel()
        self.clock.advance(2)

        self.assertFalse(self.rest.active)

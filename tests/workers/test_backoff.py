"""How soon a fallen worker is started again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.workers.backoff import LONGEST_SECONDS, STEADY_SECONDS, Backoff


class BackoffTests(SynchronousTestCase):
    """The first time at once, then ever later."""

    def test_pauses(self) -> None:
        """A worker that dies at once again and again waits twice as long each time."""
        backoff = Backoff()
        pauses = [backoff.pause_seconds(0.1) for _ in range(5)]
        self.assertEqual([0.0, 0.5, 1.0, 2.0, 4.0], pauses)

    def test_steady(self) -> None:
        """One that worked for a while is replaced at once."""
        backoff = Backoff()
        for _ in range(10):
            backoff.pause_seconds(0.1)
        self.assertEqual(0.0, backoff.pause_seconds(STEADY_SECONDS))

    @settings(deadline=None)
    @given(st.lists(st.floats(0, 100), max_size=50))
    def test_bounded(self, lives: list[float]) -> None:
        """Nobody waits for ever."""
        backoff = Backoff()
        for lived in lives:
            self.assertLessEqual(backoff.pause_seconds(lived), LONGEST_SECONDS)

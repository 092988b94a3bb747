"""Clusters on bad days keep what they promised."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.sim.chaos import Chaos

SEEDS = 40


class ChaosTests(SynchronousTestCase):
    """Each seed is a cluster, its clients and its bad days; a seed replays exactly."""

    def test_seeds(self) -> None:
        """Whatever breaks, nothing answered is lost, and all agree afterwards."""
        answered = 0
        for seed in range(SEEDS):
            chaos = Chaos(seed)
            try:
                chaos.run()
            except BaseException:
                print("\n".join([f"seed {seed}", *chaos.history]))
                raise
            answered += chaos.answered

        self.assertGreater(answered, 20 * SEEDS)
        self.flushLoggedErrors()

    def test_replays(self) -> None:
        """The same seed is the same story, to the last answer."""
        histories = []
        for _ in range(2):
            chaos = Chaos(4)
            chaos.run()
            histories.append(chaos.history)

        self.assertEqual(histories[0], histories[1])
        self.flushLoggedErrors()

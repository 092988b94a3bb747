"""Clusters on bad days keep what they promised, and bugs would be found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests import LESS
from tests.sim.chaos import Chaos
from tests.sim.clock import Hang
from tests.sim.plants import PLANTS
from tests.sim.promises import Broken

SEEDS = 8 if LESS else 200

QUICKLY_FOUND = {
    "merge-last-arrival": 1,
    "merge-ties-by-arrival": 27,
    "merge-mixes": 1,
    "tombstone-early": 10,
    "skip-fsync": 2,
    "skip-directory-sync": 1,
    "lose-tail": 2,
    "forget-purges": 25,
    "cursor-before-ack": 1,
    "feed-skips": 6,
    "feed-sleeps": 0,
}
"""Plants that a few seeds are enough for, and the seed that found each.

`python -m tests.sim --plant all` has all.
"""

FEW_SEEDS = 80

TELL = """
import hashlib
from tests.sim.chaos import Chaos

for seed in (0, 23):
    chaos = Chaos(seed)
    chaos.run()
    print(seed, hashlib.sha256(repr(chaos.world.history).encode()).hexdigest())
"""
"""Seed 23 has connections that come to their ends together."""


class ChaosTests(SynchronousTestCase):
    """Each seed is a cluster, its clients and its bad days; a seed replays exactly."""

    def tearDown(self) -> None:
        self.flushLoggedErrors()

    def test_seeds(self) -> None:
        """Whatever breaks, nothing answered is lost, and all agree afterwards."""
        self.go_through(0)

    def test_more_seeds(self) -> None:
        """So it is on other days."""
        self.go_through(1)

    def test_still_more_seeds(self) -> None:
        """And on others."""
        self.go_through(2)

    def test_last_seeds(self) -> None:
        """And on others still."""
        self.go_through(3)

    def go_through(self, quarter: int) -> None:
        answered = 0
        for seed in range(SEEDS // 4 * quarter, SEEDS // 4 * (quarter + 1)):
            chaos = Chaos(seed)
            try:
                chaos.run()
            except BaseException as error:
                print(f"seed {seed}\n{chaos.world.story(getattr(error, 'name', ''))}")
                raise
            answered += chaos.clients.answered

        self.assertGreater(answered, 20 * (SEEDS // 4))

    def test_replays(self) -> None:
        """The same seed is the same story, to the last answer."""
        histories = []
        for _ in range(2):
            chaos = Chaos(4)
            chaos.run()
            histories.append(chaos.world.history)

        self.assertEqual(histories[0], histories[1])

    def test_replays_elsewhere(self) -> None:
        """It is the same story in any process, however that hashes."""
        root = Path(__file__).parents[2]
        told = [
            subprocess.run(
                [sys.executable, "-c", TELL],
                env={**os.environ, "PYTHONHASHSEED": hash_seed},
                cwd=root,
                stdout=subprocess.PIPE,
                check=True,
            ).stdout
            for hash_seed in ("1", "2")
        ]

        self.assertEqual(2, told[0].count(b"\n"))
        self.assertEqual(told[0], told[1])

    def test_plants(self) -> None:
        """A bug that is planted is found."""
        for name, first in QUICKLY_FOUND.items():
            with PLANTS[name]():
                seeds = range(first, first + FEW_SEEDS)
                self.assertTrue(any(map(self.finds, seeds)), name)

    def finds(self, seed: int) -> bool:
        try:
            Chaos(seed).run()
        except (Broken, Hang):
            return True
        except Exception:
            # It may have broken down of the bug; but that is not what is to find it.
            return False
        return False

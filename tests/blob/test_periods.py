"""Periods that an operator sets are held against one another."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.cluster_file import read_topology
from clinfra.config import BlobConfig
from clinfra.errors import ConfigProblems


class PeriodTests(SynchronousTestCase):
    """Together."""

    def problems(self, **periods: Any) -> list[str]:
        try:
            read_topology(BlobConfig(**periods))
        except ConfigProblems as problems:
            return list(problems.problems)
        return []

    def test_good(self) -> None:
        """The defaults are, and so is what is at the bound."""
        self.assertEqual([], self.problems())
        self.assertEqual(
            [],
            self.problems(compare_interval=20, parked_retry=20, tombstone_time=60),
        )

    def test_tombstones_outlive(self) -> None:
        """Deletes are remembered for several comparisons, and several tries."""
        (problem,) = self.problems(
            compare_interval=1000, parked_retry=1, tombstone_time=2999
        )
        self.assertIn("3 times blob.compare_interval, 3000 s", problem)
        (problem,) = self.problems(parked_retry=4000, tombstone_time=11_000)
        self.assertIn("blob.tombstone_time: must be at least 3 times", problem)
        self.assertIn("blob.parked_retry", problem)

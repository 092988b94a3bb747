"""Health: who is asked first, who is down, when a second read is worth it."""

from __future__ import annotations

import random
from collections import Counter
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.health import DOWN_AFTER, LONGEST_PAUSE_SECONDS, Health, Hedging

WEIGHTS = [("a", 1), ("b", 1), ("c", 1)]


class HealthTests(SynchronousTestCase):
    """One replica's failures and everybody's order."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.changes: list[tuple[str, bool]] = []
        self.health = Health(
            self.clock.seconds,
            random.Random(1),
            lambda name, up: self.changes.append((name, up)),
        )

    def fail(self, name: str, times: int) -> None:  # type: ignore[override] # a helper
        for _ in range(times):
            self.health.failed(name)

    def test_by_weight(self) -> None:
        """Replicas that are well are asked first in proportion to their weights."""
        firsts = Counter(
            self.health.order([("a", 3), ("b", 1), ("c", 0)])[0] for _ in range(4000)
        )
        self.assertEqual({"a", "b"}, set(firsts))
        self.assertTrue(2.5 < firsts["a"] / firsts["b"] < 3.5, firsts)

    def test_weight_zero(self) -> None:
        """A replica of weight 0 is never asked, unless all have it."""
        self.fail("a", 9)
        self.assertEqual(["a"], self.health.order([("a", 1), ("b", 0)]))
        self.assertEqual({"a", "b"}, set(self.health.order([("a", 0), ("b", 0)])))

    def test_one_failure(self) -> None:
        """Who failed once is asked last for a moment, and is still up."""
        self.fail("a", 1)
        self.assertEqual("a", self.health.order(WEIGHTS)[-1])
        self.assertTrue(self.health.is_up("a"))
        self.clock.advance(2)
        firsts = {self.health.order(WEIGHTS)[0] for _ in range(100)}
        self.assertIn("a", firsts)

    def test_oldest_failure_first(self) -> None:
        """Of those that failed, the one whose failure is oldest is tried first."""
        for name in ("b", "a"):
            self.fail(name, DOWN_AFTER)
            self.clock.advance(0.1)
        self.assertEqual(["c", "b", "a"], self.health.order(WEIGHTS))

    def test_down_and_back(self) -> None:
        """Three failures in a row take a replica down; one success brings it back."""
        self.fail("a", DOWN_AFTER - 1)
        self.health.succeeded("a")
        self.fail("a", DOWN_AFTER - 1)
        self.assertTrue(self.health.is_up("a"))
        self.fail("a", 1)
        self.assertFalse(self.health.is_up("a"))
        self.assertIsNotNone(self.health.seconds_since_failure("a"))
        self.health.succeeded("a")
        self.assertTrue(self.health.is_up("a"))
        self.assertIsNone(self.health.seconds_since_failure("a"))
        self.assertEqual([("a", False), ("a", True)], self.changes)

    def test_probes(self) -> None:
        """A replica that is down is probed once after each pause, ever more seldom."""
        self.fail("a", DOWN_AFTER)
        times = []
        for _ in range(4000):
            if self.health.wants_probe("a"):
                self.assertFalse(self.health.wants_probe("a"))
                times.append(self.clock.seconds())
                self.health.failed("a")
            self.clock.advance(0.1)
        pauses = [b - a for a, b in pairwise(times)]
        self.assertLess(pauses[0], 4)
        self.assertGreater(min(pauses[6:]), 0.7 * LONGEST_PAUSE_SECONDS)
        self.assertLess(max(pauses), 1.4 * LONGEST_PAUSE_SECONDS)
        self.health.probe_abandoned("a")

    def test_burst_of_failures(self) -> None:
        """Requests that fail together make no longer pause than one that fails."""
        self.fail("a", 500)
        self.clock.advance(1.5)
        self.assertTrue(self.health.wants_probe("a"))

    def test_clock_set_back(self) -> None:
        """A clock that is set back leaves nobody down for longer."""
        now = 5000.0
        health = Health(lambda: now, random.Random(1))
        for _ in range(DOWN_AFTER):
            health.failed("a")
        now = 10.0
        self.assertTrue(health.wants_probe("a"))

    def test_slow(self) -> None:
        """Who lets somebody wait is asked last until it answers; it is not failing."""
        self.health.is_slow("a")
        self.assertEqual("a", self.health.order(WEIGHTS)[-1])
        self.assertIsNone(self.health.seconds_since_failure("a"))
        self.health.succeeded("a")
        self.assertIn("a", {self.health.order(WEIGHTS)[0] for _ in range(100)})

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=40))
    def test_everybody_is_asked(self, events: list[tuple[str, int]]) -> None:
        """Whatever has happened, an order names everybody exactly once."""
        clock = Clock()
        health = Health(clock.seconds, random.Random(2))
        for name, event in events:
            if event == 0:
                health.succeeded(name)
            elif event == 1:
                health.failed(name)
            elif event == 2:
                health.is_slow(name)
            else:
                clock.advance(0.7)
        self.assertEqual(["a", "b", "c"], sorted(health.order(WEIGHTS)))


class HedgingTests(SynchronousTestCase):
    """When a second read is sent, and how many."""

    def test_after_p95(self) -> None:
        """A second read is sent when the first takes longer than nearly all do."""
        hedging = Hedging()
        for n in range(200):
            hedging.took(1.0 if n % 50 == 0 else 0.1)
        self.assertEqual(0.1, hedging.after_seconds)

    def test_bounded_share(self) -> None:
        """Second reads are no more than one in twenty, and a few in a burst."""
        hedging = Hedging()
        sent = 0
        for _ in range(10_000):
            hedging.took(0.01)
            sent += hedging.take()
        self.assertLess(sent, 0.06 * 10_000)
        self.assertGreater(sent, 0.04 * 10_000)

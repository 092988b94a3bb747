"""Counting requests."""

from __future__ import annotations

from types import SimpleNamespace

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.tally import BOUNDS, NAMES, Durations, Tally


def answered(status: int, size: int = 0, cache: str = "") -> SimpleNamespace:
    """Return what is left of an exchange when it is over."""
    notes = {"cache": cache} if cache else {}
    return SimpleNamespace(status=status, bytes_out=size, notes=notes)


class TallyTests(SynchronousTestCase):
    """Counts by status, by the state of the cache, and by time."""

    def test_nothing_yet(self) -> None:
        """What will be counted is there from the beginning, as zero."""
        report = Tally().report()

        self.assertEqual({0}, set(report["requests"].values()))
        self.assertIn("5xx", report["requests"])
        self.assertEqual(0, report["took"]["none"]["microseconds"])

    def test_counts(self) -> None:
        """Each request has its class of status; its bytes and time are added."""
        tally = Tally()
        tally(answered(200, 10), 0.001)
        tally(answered(206, 5), 0.002)
        tally(answered(503, 1), 20.0)
        tally(answered(0), 1.0)

        report = tally.report()

        self.assertEqual(2, report["requests"]["2xx"])
        self.assertEqual(1, report["requests"]["5xx"])
        self.assertEqual(1, report["requests"]["gone"])
        self.assertEqual(16, report["body_bytes"])
        took = report["took"]["none"]
        self.assertEqual(21_003_000, took["microseconds"])
        self.assertEqual(
            {"0.001": 1, "0.0025": 1, "1": 1, "+Inf": 1},
            {name: count for name, count in took["buckets"].items() if count},
        )

    def test_states_of_the_cache(self) -> None:
        """Hits and misses have times of their own; what is odd makes no new series."""
        tally = Tally()
        for state in ("hit", "hit", "miss", "<odd>", ""):
            tally(answered(200, cache=state), 0.001)

        took = tally.report()["took"]

        counts = {state: sum(each["buckets"].values()) for state, each in took.items()}
        self.assertEqual({"none": 2, "hit": 2, "miss": 1}, counts)

    def test_together(self) -> None:
        """Equal requests told of together count as if they came one by one."""
        one, other = Tally(), Tally()
        for _ in range(3):
            one(answered(200, 7, "hit"), 0.0004)
        other.add(200, "hit", 7, 0.0004, 3, 0.0012)

        self.assertEqual(one.report(), other.report())

    @given(st.lists(st.floats(0, 100), max_size=30))
    @settings(deadline=None)
    def test_buckets(self, times: list[float]) -> None:
        """Every duration is in the first bucket that is as long."""
        durations = Durations()
        for seconds in times:
            durations.add(seconds)

        buckets = durations.report()["buckets"]

        self.assertEqual(list(NAMES), list(buckets))
        for bound, name in zip(BOUNDS, NAMES, strict=False):
            up_to = sum(
                count
                for other, count in buckets.items()
                if other != "+Inf" and float(other) <= float(name)
            )
            self.assertEqual(sum(each <= bound for each in times), up_to)

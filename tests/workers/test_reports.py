"""Several workers' reports as one."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.workers.reports import counts, merged

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from("abc"), inner, max_size=3)
    ),
    max_leaves=8,
)


class MergedTests(SynchronousTestCase):
    """Counts are added, shares averaged, the rest is told once."""

    def test_counts(self) -> None:
        """What was counted by each was counted by all."""
        one, two = {"hits": 3, "pools": {"a": 1}}, {"hits": 4, "pools": {"a": 2}}
        self.assertEqual({"hits": 7, "pools": {"a": 3}}, merged([one, two]))

    def test_shares(self) -> None:
        """The mean of shares is a share."""
        self.assertEqual({"health": 0.75}, merged([{"health": 0.5}, {"health": 1.0}]))

    def test_no_shares(self) -> None:
        """Amounts are added though they are not whole; times and members are not."""
        one = {"backlog_photographs": 0.5, "askable": 2, "seconds_since_failure": 7.5}
        two = {"backlog_photographs": 1.0, "askable": 1, "seconds_since_failure": 2.0}
        self.assertEqual(
            {"backlog_photographs": 1.5, "askable": 1, "seconds_since_failure": 2.0},
            merged([one, two]),
        )

    def test_reasons(self) -> None:
        """What two say alike is said once."""
        reports = [{"not_ready": ["no disk"]}, {"not_ready": ["no disk", "no net"]}]
        self.assertEqual({"not_ready": ["no disk", "no net"]}, merged(reports))

    def test_rows(self) -> None:
        """What is under way in each is under way in all."""
        rows: list[Any] = [[{"id": "1"}], [], [{"id": "2"}]]
        reports = [{"under_way": each} for each in rows]
        self.assertEqual({"under_way": [{"id": "1"}, {"id": "2"}]}, merged(reports))

    def test_names_of_some(self) -> None:
        """What only one of them knows is not lost."""
        self.assertEqual({"a": 1, "b": True}, merged([{"a": 1}, {"b": True}]))

    def test_nobody(self) -> None:
        """No workers, no report."""
        self.assertEqual({}, merged([]))

    @settings(deadline=None)
    @given(st.lists(st.dictionaries(st.sampled_from("abc"), _VALUES), max_size=3))
    def test_any(self, reports: list[dict[str, Any]]) -> None:
        """Whatever they report, there is one report with all the names."""
        names = {name for report in reports for name in report}
        self.assertEqual(names, set(merged(reports)))


class CountsTests(SynchronousTestCase):
    """What is kept of workers that have ended."""

    def test_whole_numbers(self) -> None:
        """Whole numbers are kept, and the seconds that things took; nothing else is."""
        report = {
            "requests": 3,
            "share": 0.5,
            "on": True,
            "why": ["x"],
            "inner": {"n": 1, "took": {"count": 2, "seconds": 0.5}},
        }

        self.assertEqual(
            {"requests": 3, "inner": {"n": 1, "took": {"count": 2, "seconds": 0.5}}},
            counts(report),
        )

    def test_seconds_add_up(self) -> None:
        """The seconds that counted things took are added, unlike other fractions."""
        took = {"count": 2, "seconds": 0.5}

        self.assertEqual({"count": 4, "seconds": 1.0}, merged([took, took]))
        self.assertEqual({"seconds": 0.5}, merged([{"seconds": 0.5}] * 2))

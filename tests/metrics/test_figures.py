"""From reports to samples."""

from __future__ import annotations

import re

from twisted.trial.unittest import SynchronousTestCase

from clinfra.metrics.figures import Figure, Kind, counter
from clinfra.metrics.tables import ALL, BLOB


class FigureTests(SynchronousTestCase):
    """Where a number is, and what it is called."""

    def test_plain(self) -> None:
        """A path leads to a number."""
        figure = Figure("a", "A.", "x y")

        self.assertEqual([((), 3)], list(figure.find({"x": {"y": 3}})))

    def test_stars(self) -> None:
        """A star is every name there is, and makes a label of it."""
        figure = counter("a", "A.", "pools *pool members *member n", labels={"k": "v"})
        report = {"pools": {"p": {"members": {"m": {"n": 1}, "o": {"n": 2}}}, "q": {}}}

        self.assertEqual(("pool", "member", "k"), figure.label_names)
        self.assertEqual(
            [(("p", "m", "v"), 1), (("p", "o", "v"), 2)], list(figure.find(report))
        )

    def test_not_there(self) -> None:
        """What is not known, or not as expected, is left out."""
        figure = Figure("a", "A.", "x y")

        for report in ({}, {"x": 3}, {"x": None}, {"x": {"y": None}}):
            self.assertEqual([], list(figure.find(report)))
        histogram = Figure("a", "A.", "x", Kind.HISTOGRAM)
        self.assertEqual([], list(histogram.find({"x": 3})))


class TableTests(SynchronousTestCase):
    """All metrics."""

    def test_names(self) -> None:
        """Names follow Prometheus' habits, and every metric is explained."""
        for figure in ALL:
            self.assertRegex(figure.name, r"^clinfra_[a-z]+(_[a-z]+)*$")
            self.assertFalse(figure.name.endswith("_total"), figure.name)
            self.assertRegex(figure.help, r"^[A-Z].*\.$")
            self.assertTrue(all(re.fullmatch("[a-z]+", n) for n in figure.label_names))

    def test_one_kind_each(self) -> None:
        """A name stands for one thing."""
        kinds = {(each.name, each.kind, each.label_names, each.help) for each in ALL}

        self.assertEqual(len({each.name for each in ALL}), len(kinds))

    def test_live_ratio(self) -> None:
        """The share of volumes that is needed; none of no volumes."""
        (ratio,) = [each for each in BLOB if each.name.endswith("live_ratio")]

        for store, expected in (
            ({"live_bytes": 1, "volume_bytes": 4}, [((), 0.25)]),
            ({"live_bytes": 0, "volume_bytes": 0}, []),
            ({"path": "x"}, []),
        ):
            self.assertEqual(expected, list(ratio.find({"store_disk": store})))

"""What `make bench` writes: a page and a plot."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import attrs
from docutils.core import publish_doctree
from twisted.trial.unittest import SynchronousTestCase

from benchmarks.__main__ import main
from benchmarks.figures import Bar, Measure, Reading, Result, Row, Sample
from benchmarks.page import page
from benchmarks.plot import plot

OURS = Result("clinfra", (Sample(2000, 2500, 1.5, 3.0),))
THEIRS = Result("plain <Resource>", (Sample(500, 500, 4.0, 9.0),))
SILENT = Result("nginx*", (), "did not start")
ROW = Row(
    "hot hits & more",
    Measure.PER_CORE,
    (OURS, THEIRS, SILENT),
    (Bar("plain <Resource>", 3.0), Bar("nginx*", 1.0)),
    "A note.",
)
READING = Reading("scrape", "ms", (12.0,), at_most=20.0)


class PageTests(SynchronousTestCase):
    """The tables."""

    def test_page(self) -> None:
        """It is good reStructuredText, and has every figure and every bar."""
        text = page([ROW, READING], ["today"], "x.svg")
        tree = publish_doctree(text, settings_overrides={"halt_level": 2})
        told = tree.astext()

        for each in ("today", "2 500", "5.00", "≥ 3: holds", "≥ 1: MISSED", "A note."):
            self.assertIn(each, told)
        for each in ("plain <Resource>", "nginx*", "12.0 ms", "≤ 20.0: holds"):
            self.assertIn(each, told)


class PlotTests(SynchronousTestCase):
    """The bars."""

    def bars(self, row: Row) -> dict[str, float]:
        """Return the length of each bar, ours first."""
        root = ElementTree.fromstring(plot([row]))
        space = "{http://www.w3.org/2000/svg}"
        lengths = [float(each.attrib["width"]) for each in root.iter(f"{space}rect")]
        names = [result.name for result in row.results]
        return dict(zip(names, lengths, strict=True))

    def test_lengths(self) -> None:
        """Bars are as long as figures are high; what failed has none."""
        bars = self.bars(ROW)

        self.assertAlmostEqual(5.0, bars["clinfra"] / bars["plain <Resource>"])
        self.assertEqual(0.0, bars["nginx*"])

    def test_latencies(self) -> None:
        """Of latencies it is they that are drawn."""
        bars = self.bars(attrs.evolve(ROW, measure=Measure.P99))

        self.assertAlmostEqual(3.0, bars["plain <Resource>"] / bars["clinfra"], 1)

    def test_nothing(self) -> None:
        """A run without rows has a plot without bars."""
        self.assertIn("</svg>", plot([]))


class DrawingTests(SynchronousTestCase):
    """Figures that were kept."""

    def test_kept_figures(self) -> None:
        """A page and a plot are written beside them."""
        directory = Path(tempfile.mkdtemp(prefix="clinfra-test-"))
        self.addCleanup(shutil.rmtree, directory)
        file = directory / "x.json"
        kept = {**attrs.asdict(ROW), "measure": ROW.measure.value, "ratios": {}}
        document = {
            "time": "now",
            "machine": "here",
            "python": "3",
            "plan": {"rounds": 1},
            "rows": [kept, attrs.asdict(READING)],
        }
        file.write_text(json.dumps(document), encoding="utf-8")

        self.assertEqual(0, main(["--draw", str(file)]))

        self.assertIn("hot hits", (directory / "x.rst").read_text(encoding="utf-8"))
        self.assertIn("<svg", (directory / "x.svg").read_text(encoding="utf-8"))

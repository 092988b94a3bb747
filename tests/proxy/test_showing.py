"""What reports look like: bars, trees and tables; text stays text."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.proxy.showing import Bar, Branch, hit_share, html, pool_tree


class ShowingTests(SynchronousTestCase):
    """HTML of values."""

    def test_values(self) -> None:
        """Mappings and rows are tables; nothing is a dash."""
        for value, expected in (
            ("<&", "&lt;&amp;"),
            ({"<a>": 1}, "<table><tr><th>&lt;a&gt;</th><td>1</td></tr></table>"),
            (
                [{"a": 1}, {"b": 2}],
                "<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td></td></tr>"
                "<tr><td></td><td>2</td></tr></table>",
            ),
            ((1, 2), "1<br>2"),
            ({}, "&#8211;"),
            ([], "&#8211;"),
        ):
            self.assertEqual(expected, html(value))

    def test_bars(self) -> None:
        """Browsers colour them: green from 70 %, yellow from 30 %, else red."""
        self.assertEqual(
            '<meter min="0" max="100" low="30" high="70" optimum="100" value="12.5">'
            "</meter> 12.5 % &lt;x&gt;",
            html(Bar(12.5, "<x>")),
        )

    def test_trees(self) -> None:
        """What is beneath a branch is closed at first."""
        shown = html([Branch("<a>", Bar(1), [Branch("b", Bar(2), {"c": "d"})])])
        self.assertTrue(shown.startswith("<details><summary>&lt;a&gt; <meter"))
        self.assertEqual(2, shown.count("</details>"))
        self.assertNotIn(" open", shown)

    def test_pools(self) -> None:
        """Confidence is of a member's weight; who is not asked counts nothing."""

        def member(state: str, confidence: float) -> dict[str, Any]:
            return {"state": state, "weight": 0.5, "confidence": confidence}

        (pool,) = pool_tree(
            {"web": {"members": {"a": member("up", 0.25), "b": member("down", 0.5)}}}
        )
        self.assertEqual(("web", Bar(25.0)), (pool.title, pool.bar))
        self.assertEqual(Bar(50.0, "up"), pool.inside[0].bar)
        self.assertEqual(Bar(0.0, "down"), pool.inside[1].bar)

    def test_hits(self) -> None:
        """Of no requests none were hits."""
        outcomes = {"miss": 1, "pass": 1}
        self.assertEqual(0.0, hit_share({"hits": 0, "outcomes": {}}).percent)
        self.assertEqual(75.0, hit_share({"hits": 6, "outcomes": outcomes}).percent)

"""HTML of what modules report: tables, bars, and trees that open.  Pure.

Mappings are tables of names and values, lists of mappings tables with a row each.
Whatever is in a value, it stays text.  No scripts and no styles of elements are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from attrs import frozen


@frozen
class Bar:
    """A share: green from 70 %, yellow from 30 %, else red."""

    percent: float
    text: str = ""


@frozen
class Branch:
    """A line with a bar, and what is beneath it when somebody opens it."""

    title: str
    bar: Bar
    inside: Any


def html(value: Any) -> str:
    """Return a value as HTML."""
    if isinstance(value, Bar):
        return (
            '<meter min="0" max="100" low="30" high="70" optimum="100"'
            f' value="{value.percent:.4g}"></meter> {value.percent:.3g} %'
            f" {escape(value.text)}"
        )
    if isinstance(value, Branch):
        title = f"{escape(value.title)} {html(value.bar)}"
        return f"<details><summary>{title}</summary>{html(value.inside)}</details>"
    if isinstance(value, Mapping):
        rows = "".join(
            f"<tr><th>{escape(str(name))}</th><td>{html(each)}</td></tr>"
            for name, each in value.items()
        )
        return f"<table>{rows}</table>" if rows else "&#8211;"
    if isinstance(value, list | tuple):
        if value and all(isinstance(each, Mapping) for each in value):
            return _rows(value)
        if any(isinstance(each, Branch) for each in value):
            return "".join(map(html, value))
        return "<br>".join(map(html, value)) or "&#8211;"
    return escape(str(value))


def _rows(rows: Sequence[Mapping[str, Any]]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row))
    head = "".join(f"<th>{escape(str(name))}</th>" for name in names)
    body = "".join(
        "<tr>" + "".join(f"<td>{html(row.get(n, ''))}</td>" for n in names) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def pool_tree(pools: Mapping[str, Mapping[str, Any]]) -> list[Branch]:
    """Return the report of origin pools as a tree: pools, and beneath them members.

    The bars are the confidence in a member, of its weight, and a pool's average.
    """
    return [_pool(name, report) for name, report in pools.items()]


def _pool(name: str, report: Mapping[str, Any]) -> Branch:
    members = [
        Branch(member, Bar(_confidence(told), told["state"]), told)
        for member, told in report["members"].items()
    ]
    shares = [member.bar.percent for member in members]
    average = Bar(sum(shares) / len(shares) if shares else 0.0)
    rest = {key: value for key, value in report.items() if key != "members"}
    return Branch(name, average, [*members, rest])


def _confidence(member: Mapping[str, Any]) -> float:
    """Return it in percent of a member's weight; 0 for who is not asked at all."""
    if member["state"] in ("down", "maintenance") or not member["weight"]:
        return 0.0
    return 100.0 * float(member["confidence"]) / float(member["weight"])


def hit_share(report: Mapping[str, Any]) -> Bar:
    """Return how many of the requests were answered from the cache.

    Args:
        report: of DirectCache.
    """
    hits = float(report["hits"])
    others = sum(map(float, report["outcomes"].values()))
    return Bar(100 * hits / (hits + others) if hits else 0.0, "from the cache")

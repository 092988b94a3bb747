"""Numbers, durations and tables as people read them.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

from clinfra.progress import amount

__all__ = ["amount", "columns", "duration", "plain", "plural", "rate"]


def plain(value: object) -> str:
    """Return a text without what would move a terminal's cursor or colour it."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode()
        for each in str(value)
    )


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole // 60 % 60} min"
    return f"{whole // 86400} d {whole // 3600 % 24} h"


def plural(number: int, noun: str) -> str:
    """Return "1 page", "2 pages"."""
    return f"{number} {noun}{'s' * (number != 1)}"


def rate(value: float) -> str:
    """Return so many a second: exact where there are few."""
    if value == 0:
        return "0"
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def columns(rows: Sequence[Sequence[str]], *, right: frozenset[int]) -> list[str]:
    """Return lines with their cells below one another.

    Args:
        right: positions of the columns that stand at their right edges.
    """
    if not rows:
        return []
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if n in right else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines

"""Rows as a page in reStructuredText, with the plot above it.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from benchmarks.figures import Reading, Result, Row
from benchmarks.table import number

_COLUMNS = ("", "per second", "per core", "p50 ms", "p99 ms", "ours ÷ theirs", "wanted")


def page(rows: Sequence[Row | Reading], about: Sequence[str], plot: str) -> str:
    """Return the page.

    Args:
        about: lines on where and how it was measured.
        plot: name of the file with the plot.
    """
    title = "Benchmarks"
    lines = [title, "=" * len(title), ""]
    lines += [f"- {each}" for each in about]
    lines += ["", f".. image:: {plot}", "   :alt: clinfra and its peers", ""]
    for row in rows:
        if isinstance(row, Row):
            lines += [*_row(row), ""]
    readings = [row for row in rows if isinstance(row, Reading)]
    if readings:
        lines += _readings(readings)
    return "\n".join(lines).rstrip() + "\n"


def _row(row: Row) -> Iterator[str]:
    title = f"{row.title} (compared {row.measure.value})"
    yield from (title, "-" * len(title), "")
    wanted = {bar.against: f"≥ {bar.at_least:g}" for bar in row.bars}
    missed = {bar.against for bar in row.missed()}
    yield from _table(
        _COLUMNS,
        (
            [
                result.name,
                *_figures(result),
                _ratio(row, result.name) if position else "",
                _told(wanted.get(result.name, ""), result.name in missed),
            ]
            for position, result in enumerate(row.results)
        ),
    )
    if row.note:
        yield from ("", row.note)


def _figures(result: Result) -> Sequence[str]:
    if not result.samples:
        return ("", "", "", "")
    typical = result.typical()
    values = (typical.rate, typical.per_core, typical.p50_ms, typical.p99_ms)
    return tuple(map(number, values))


def _ratio(row: Row, name: str) -> str:
    ratio = row.ratio(name)
    return "not measured" if ratio is None else f"{ratio:.2f}"


def _told(bar: str, missed: bool) -> str:
    return f"{bar}: {'MISSED' if missed else 'holds'}" if bar else ""


def _readings(readings: Sequence[Reading]) -> Iterator[str]:
    title = "Figures by themselves"
    yield from (title, "-" * len(title), "")
    rows = []
    for each in readings:
        value = each.typical()
        bounds = (("≥", each.at_least), ("≤", each.at_most))
        wanted = " and ".join(
            f"{sign} {number(n)}" for sign, n in bounds if n is not None
        )
        rows.append(
            [
                each.title,
                "not measured" if value is None else f"{number(value)} {each.unit}",
                _told(wanted, each.missed()),
            ]
        )
    yield from _table(("", "measured", "wanted"), rows)


def _table(
    head: Sequence[str], rows: Iterator[list[str]] | list[list[str]]
) -> Sequence[str]:
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for cells in (head, *rows):
        for position, cell in enumerate(cells):
            mark = "*" if position == 0 else " "
            lines.append(f"   {mark} - {_escaped(cell)}".rstrip())
    return lines


def _escaped(text: str) -> str:
    for sign in "\\*_`|":
        text = text.replace(sign, f"\\{sign}")
    return text

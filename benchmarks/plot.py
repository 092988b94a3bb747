"""Rows as bars, in SVG: ours and the peers', each row to a scale of its own.  Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.figures import Measure, Result, Row
from benchmarks.table import number

_WIDTH, _LEFT, _RIGHT = 900, 260, 120
_BAR, _GAP, _HEAD, _MARGIN = 18, 5, 30, 20

_UNITS = {
    Measure.PER_CORE: "per second of a core; longer is better",
    Measure.RATE: "per second; longer is better",
    Measure.P99: "p99 in ms; shorter is better",
}
_STYLE = """\
svg { background: #fff; font: 13px system-ui, sans-serif; }
text { fill: #222; } .title { font-weight: 600; }
.unit, .value { fill: #666; font-weight: 400; }
.ours { fill: #1769aa; } .theirs { fill: #b9c4cd; }
@media (prefers-color-scheme: dark) {
  svg { background: #16191d; } text { fill: #e6e6e6; }
  .unit, .value { fill: #a0a8b0; } .ours { fill: #4ea3e0; } .theirs { fill: #4a535c; }
}"""


def plot(rows: Sequence[Row]) -> str:
    """Return the plot of all rows, as a file."""
    shapes: list[str] = []
    top = _MARGIN
    for row in rows:
        shapes += _row(row, top)
        top += _height(row)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}"'
        f' width="{_WIDTH}" height="{top}" role="img">\n'
        "<title>clinfra and its peers</title>\n"
        f"<style>{_STYLE}</style>\n" + "\n".join(shapes) + "\n</svg>\n"
    )


def _height(row: Row) -> int:
    return _HEAD + len(row.results) * (_BAR + _GAP) + _MARGIN


def _row(row: Row, top: int) -> Iterator[str]:
    yield (
        f'<text class="title" x="{_MARGIN}" y="{top + 14}">{escape(row.title)}'
        f' <tspan class="unit">{escape(_UNITS[row.measure])}</tspan></text>'
    )
    figures = [_figure(row.measure, result) for result in row.results]
    most = max((each for each in figures if each is not None), default=0.0) or 1.0
    for position, (result, figure) in enumerate(zip(row.results, figures, strict=True)):
        y = top + _HEAD + position * (_BAR + _GAP)
        kind = "theirs" if position else "ours"
        middle = y + _BAR - 5
        name = f'<text x="{_LEFT - 10}" y="{middle}" text-anchor="end">'
        yield f"{name}{escape(result.name)}</text>"
        length = (figure or 0.0) / most * (_WIDTH - _LEFT - _RIGHT)
        yield (
            f'<rect class="{kind}" x="{_LEFT}" y="{y}" width="{length:.1f}"'
            f' height="{_BAR}" rx="2"/>'
        )
        told = "not measured" if figure is None else number(figure)
        after = f"{_LEFT + length + 6:.1f}"
        yield f'<text class="value" x="{after}" y="{middle}">{told}</text>'


def _figure(measure: Measure, result: Result) -> float | None:
    if not result.samples:
        return None
    typical = result.typical()
    if measure is Measure.P99:
        return typical.p99_ms
    return typical.per_core if measure is Measure.PER_CORE else typical.rate

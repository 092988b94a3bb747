"""Rows as text for people.  Pure."""

from __future__ import annotations

from benchmarks.figures import Bar, Result, Row

_NAME_WIDTH = 34


def format_row(row: Row) -> str:
    """Return one comparison as a block of lines, ours first."""
    bars = {bar.against: bar for bar in row.bars}
    head = (
        f"{'':{_NAME_WIDTH}}{'per second':>12}{'per core':>12}"
        f"{'p50 ms':>9}{'p99 ms':>9}{'ours ÷':>9}"
    )
    lines = [f"{row.title} (ratio of figures {row.measure.value})", head]
    for position, result in enumerate(row.results):
        line = _figures(result)
        if position > 0:
            line += _verdict(row.ratio(result.name), bars.get(result.name))
        lines.append(line.rstrip())
    if row.note:
        lines.append(f"  {row.note}")
    return "\n".join(lines)


def format_summary(rows: list[Row]) -> str:
    """Return one line per bar, and a last one that counts them."""
    lines = []
    for row in rows:
        missed = row.missed()
        for bar in row.bars:
            ratio = row.ratio(bar.against)
            shown = "not measured" if ratio is None else f"{ratio:.2f} x"
            word = "MISSED" if bar in missed else "holds"
            wanted = f"≥ {bar.at_least:g} x {bar.against}"
            lines.append(f"{word:7}{row.title}: {shown}, wanted {wanted}")
    total = sum(len(row.bars) for row in rows)
    held = total - sum(len(row.missed()) for row in rows)
    lines.append(f"{held} of {total} bars hold")
    return "\n".join(lines)


def _figures(result: Result) -> str:
    name = f"  {result.name:{_NAME_WIDTH - 2}}"
    if not result.samples:
        return f"{name}  no figures: {result.trouble}"
    typical = result.typical()
    return (
        f"{name}{_number(typical.rate):>12}{_number(typical.per_core):>12}"
        f"{_number(typical.p50_ms):>9}{_number(typical.p99_ms):>9}"
    )


def _verdict(ratio: float | None, bar: Bar | None) -> str:
    text = f"{'-' if ratio is None else f'{ratio:.2f}':>9}"
    if bar is None:
        return text
    held = ratio is not None and ratio >= bar.at_least
    return f"{text}   wanted ≥ {bar.at_least:g}: {'holds' if held else 'MISSED'}"


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"

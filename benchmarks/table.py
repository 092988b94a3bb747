"""Rows as text for people.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.figures import Bar, Reading, Result, Row

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


def format_reading(reading: Reading) -> str:
    """Return one figure that stands by itself as a block of lines."""
    line = f"{reading.title}: {_value(reading)}"
    if reading.has_bar:
        line += f"   {_wanted(reading)}: {_word(reading.missed()).strip()}"
    return f"{line}\n  {reading.note}" if reading.note else line


def format_summary(rows: Sequence[Row | Reading]) -> str:
    """Return one line per bar, and a last one that counts them."""
    lines = []
    for row in rows:
        lines += _summed(row) if isinstance(row, Row) else _summed_reading(row)
    held = sum(not line.startswith(_word(True)) for line in lines)
    return "\n".join([*lines, f"{held} of {len(lines)} bars hold"])


def _summed(row: Row) -> list[str]:
    lines = []
    missed = row.missed()
    for bar in row.bars:
        ratio = row.ratio(bar.against)
        shown = "not measured" if ratio is None else f"{ratio:.2f} x"
        wanted = f"≥ {bar.at_least:g} x {bar.against}"
        title = f"{row.title}, {row.measure.value}"
        lines.append(f"{_word(bar in missed)}{title}: {shown}, wanted {wanted}")
    return lines


def _summed_reading(reading: Reading) -> list[str]:
    if not reading.has_bar:
        return []
    title = f"{_word(reading.missed())}{reading.title}"
    return [f"{title}: {_value(reading)}, {_wanted(reading)}"]


def _word(missed: bool) -> str:
    return f"{'MISSED' if missed else 'holds':7}"


def _value(reading: Reading) -> str:
    value = reading.typical()
    if value is None:
        return f"not measured ({reading.trouble})"
    return f"{number(value)} {reading.unit}"


def _wanted(reading: Reading) -> str:
    bounds = (("≥", reading.at_least), ("≤", reading.at_most))
    told = [f"{sign} {number(bound)}" for sign, bound in bounds if bound is not None]
    return f"wanted {' and '.join(told) or 'a figure'}"


def _figures(result: Result) -> str:
    name = f"  {result.name:{_NAME_WIDTH - 2}}"
    if not result.samples:
        return f"{name}  no figures: {result.trouble}"
    typical = result.typical()
    return (
        f"{name}{number(typical.rate):>12}{number(typical.per_core):>12}"
        f"{number(typical.p50_ms):>9}{number(typical.p99_ms):>9}"
    )


def _verdict(ratio: float | None, bar: Bar | None) -> str:
    text = f"{'-' if ratio is None else f'{ratio:.2f}':>9}"
    if bar is None:
        return text
    held = ratio is not None and ratio >= bar.at_least
    return f"{text}   wanted ≥ {bar.at_least:g}: {'holds' if held else 'MISSED'}"


def number(value: float | None) -> str:
    """Return a figure as precisely as it means anything; "-" for none."""
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"

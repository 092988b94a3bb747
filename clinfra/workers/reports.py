"""One report of several workers'.  Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_TIMED = {"count", "seconds"}

_BY_NAME: Mapping[str, Callable[[Sequence[float]], float]] = {
    "askable": min,
    "backlog_photographs": sum,
    "seconds_since_failure": min,
}
"""How numbers are merged whose kind does not tell it: members that all workers may ask,
work that waits in any of them, and how long ago any of them failed."""


def counts(report: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the whole numbers of a report, and the seconds that things took."""
    if report.keys() == _TIMED:
        return report
    kept: dict[str, Any] = {}
    for name, value in report.items():
        if isinstance(value, Mapping):
            kept[name] = counts(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            kept[name] = value
    return kept


def merged(reports: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return one report of several.

    Tables are merged name by name.  Whole numbers are counts: they are added, and so
    are the seconds that a count of things took.  Other numbers are shares: the mean is
    taken.  Some names mean something else (`_BY_NAME`).  Lists of texts lose what is
    there twice, lists of tables are put one behind the other; of everything else the
    first worker's word stands.
    """
    names = dict.fromkeys(name for report in reports for name in report)
    if names.keys() == _TIMED:
        return {name: sum(each.get(name, 0) for each in reports) for name in names}
    return {
        name: _merged(name, [each[name] for each in reports if name in each])
        for name in names
    }


def _merged(name: str, values: Sequence[Any]) -> Any:
    """Return one value for what each worker reports under one name."""
    first = values[0]
    if all(isinstance(each, Mapping) for each in values):
        return merged(values)
    if any(isinstance(each, bool) or each is None for each in values):
        return first
    if all(isinstance(each, int | float) for each in values):
        whole = all(isinstance(each, int) for each in values)
        return _BY_NAME.get(name, sum if whole else _mean)(values)
    if all(isinstance(each, list | tuple) for each in values):
        items = [item for each in values for item in each]
        if all(isinstance(item, str) for item in items):
            return list(dict.fromkeys(items))
        if all(isinstance(item, Mapping) for item in items):
            return items
    return first


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)

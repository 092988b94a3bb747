"""One report of several workers'.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_TIMED = {"count", "seconds"}


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


def merged(reports: Sequence[Any]) -> Any:
    """Return one value for what each worker reports under one name.

    Whole numbers are counts: they are added.  Other numbers are rates and shares: the
    mean is taken, but for the seconds that a count of things took.  Tables are merged
    name by name.  Lists of texts lose what is there twice, lists of tables are put one
    behind the other; of everything else the first worker's word stands.
    """
    if not reports:
        return {}
    first = reports[0]
    if all(isinstance(each, Mapping) for each in reports):
        names = dict.fromkeys(name for each in reports for name in each)
        if names.keys() == _TIMED:
            return {name: sum(each.get(name, 0) for each in reports) for name in names}
        return {
            name: merged([each[name] for each in reports if name in each])
            for name in names
        }
    if any(isinstance(each, bool) or each is None for each in reports):
        return first
    if all(isinstance(each, int) for each in reports):
        return sum(reports)
    if all(isinstance(each, int | float) for each in reports):
        return sum(reports) / len(reports)
    if all(isinstance(each, list | tuple) for each in reports):
        items = [item for each in reports for item in each]
        if all(isinstance(item, str) for item in items):
            return list(dict.fromkeys(items))
        if all(isinstance(item, Mapping) for item in items):
            return items
    return first

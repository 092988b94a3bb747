"""One report of several workers'.  Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def merged(reports: Sequence[Any]) -> Any:
    """Return one value for what each worker reports under one name.

    Whole numbers are counts: they are added.  Other numbers are rates and shares: the
    mean is taken.  Tables are merged name by name.  Lists of texts lose what is there
    twice; of everything else the first worker's word stands.
    """
    if not reports:
        return {}
    first = reports[0]
    if all(isinstance(each, Mapping) for each in reports):
        names = dict.fromkeys(name for each in reports for name in each)
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
    if all(isinstance(each, list | tuple) for each in reports) and all(
        isinstance(item, str) for each in reports for item in each
    ):
        return list(dict.fromkeys(item for each in reports for item in each))
    return first

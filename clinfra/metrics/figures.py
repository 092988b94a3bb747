"""From reports to samples: which number, found where, by what name.  Pure.

A report is JSON-able: tables of tables.  A figure names the path to its number; "*pool"
in a path stands for every name there is, and makes that name the label `pool`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from typing import Any

from attrs import frozen

Labels = tuple[str, ...]


class Kind(Enum):
    """Of a metric, as Prometheus knows them."""

    GAUGE = "gauge"
    COUNTER = "counter"
    HISTOGRAM = "histogram"
    SUMMARY = "summary"


@frozen
class Figure:
    """One metric of a product.

    Attributes:
        name: without _total, which counters get.
        help: one sentence.
        path: names with blanks between, e.g. "modules Forwarder pools *pool askable".
        kind: gauges are as they are now; what ended workers had counts in the others.
            Of a histogram the path leads to a `tally.Durations` report, of a summary to
            a table of "count" and "seconds".
        value: makes a number of what is found; None is no sample.
        labels: names and values that all samples have.
    """

    name: str
    help: str
    path: str
    kind: Kind = Kind.GAUGE
    value: Callable[[Any], float | None] = lambda found: found
    labels: Mapping[str, str] = {}

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels, those in the path first."""
        wild = (step[1:] for step in self.path.split() if step.startswith("*"))
        return (*wild, *self.labels)

    def find(self, report: Mapping[str, Any]) -> Iterator[tuple[Labels, Any]]:
        """Yield label values with what is there."""
        given = tuple(self.labels.values())
        for labels, found in _walk(report, self.path.split(), ()):
            if self.kind in (Kind.HISTOGRAM, Kind.SUMMARY):
                value: Any = found if isinstance(found, Mapping) else None
            else:
                value = self.value(found)
            if value is not None:
                yield (*labels, *given), value


def counter(name: str, help: str, path: str, **more: Any) -> Figure:
    """Return the figure of what only grows."""
    return Figure(name, help, path, Kind.COUNTER, **more)


def _walk(there: Any, steps: list[str], labels: Labels) -> Iterator[tuple[Labels, Any]]:
    if not steps:
        if there is not None:
            yield labels, there
        return
    if not isinstance(there, Mapping):
        return
    step, *rest = steps
    if step.startswith("*"):
        for name, inner in there.items():
            yield from _walk(inner, rest, (*labels, str(name)))
    elif step in there:
        yield from _walk(there[step], rest, labels)

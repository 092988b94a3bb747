"""Reports into what Prometheus reads, when it asks."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib.metadata import version
from itertools import accumulate
from typing import Any

from attrs import define, field, frozen
from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from twisted.logger import Logger

from clinfra.metrics.figures import Figure, Kind, Labels
from clinfra.metrics.tables import EVERY, OF_PRODUCT, PROCESS
from clinfra.workers.reports import merged

log = Logger()

_FAMILIES: Mapping[Kind, Callable[..., Any]] = {
    Kind.GAUGE: GaugeMetricFamily,
    Kind.COUNTER: CounterMetricFamily,
    Kind.HISTOGRAM: HistogramMetricFamily,
    Kind.SUMMARY: SummaryMetricFamily,
}


@frozen
class Told:
    """What a product (or "main", the process itself) reports of itself."""

    name: str
    report: Mapping[str, Any]

    def counted(self) -> Mapping[str, Any]:
        """Return the report with what workers that have ended had counted."""
        bygone = self.report.get("crew", {}).get("bygone")
        if not bygone:
            return self.report
        whole: Mapping[str, Any] = merged([self.report, bygone])
        return whole


@define(eq=False)
class Collector:
    """Collects every metric; a collector of a prometheus_client registry.

    Args:
        tell: returns what there is to be told.
        ready: whether the process serves.
        began: unix seconds of its start.
    """

    _tell: Callable[[], Sequence[Told]]
    _ready: Callable[[], bool]
    _began: float

    def collect(self) -> Iterator[Metric]:
        """Yield the families."""
        facts = {"version": version("clinfra"), "twisted": version("Twisted")}
        facts["python"] = platform.python_version()
        yield InfoMetricFamily("clinfra_build", "What runs here.", facts)
        yield GaugeMetricFamily(
            "clinfra_start_time_seconds", "When it started.", self._began
        )
        yield GaugeMetricFamily(
            "clinfra_ready", "What /health/ready says.", float(self._ready())
        )
        families: dict[str, Any] = {}
        for told in self._tell():
            with log.failuresHandled("while measuring {name}", name=told.name):
                counted = told.counted()
                for figures, label in (
                    (PROCESS, "process"),
                    (EVERY, "product"),
                    (OF_PRODUCT.get(told.name, ()), ""),
                ):
                    _add_all(families, figures, label, told, counted)
        yield from families.values()


def _add_all(
    families: dict[str, Any],
    figures: Iterable[Figure],
    label: str,
    told: Told,
    counted: Mapping[str, Any],
) -> None:
    """Add the samples of some figures.

    Args:
        label: whose value is the name of whom it is told of; "" for none.
        counted: the report to read counters in.
    """
    first: Labels = (told.name,) if label else ()
    for figure in figures:
        report = told.report if figure.kind is Kind.GAUGE else counted
        family = families.get(figure.name)
        if family is None:
            # Told even when there is nothing to count yet.
            names = ((label,) if label else ()) + figure.label_names
            make = _FAMILIES[figure.kind]
            family = families[figure.name] = make(
                figure.name, figure.help, labels=names
            )
        for labels, found in figure.find(report):
            _add(family, figure.kind, [*first, *labels], found)


def _add(family: Any, kind: Kind, labels: list[str], found: Any) -> None:
    if kind is Kind.HISTOGRAM:
        buckets = found["buckets"]
        rising = zip(buckets, accumulate(buckets.values()), strict=True)
        family.add_metric(labels, list(rising), found["microseconds"] / 1e6)
    elif kind is Kind.SUMMARY:
        family.add_metric(labels, found["count"], found["seconds"])
    else:
        family.add_metric(labels, float(found))


@define(eq=False)
class Metrics:
    """The page for Prometheus."""

    _registry: CollectorRegistry = field(init=False)
    _collector: Collector

    @_registry.default
    def _make_registry(self) -> CollectorRegistry:
        return CollectorRegistry(auto_describe=False)

    def __attrs_post_init__(self) -> None:
        self._registry.register(self._collector)

    def page(self, accept: str) -> tuple[str, bytes]:
        """Return content type and body.

        Args:
            accept: what the client takes: OpenMetrics, or the older text.
        """
        encode, content_type = choose_encoder(accept)
        return content_type, encode(self._registry)

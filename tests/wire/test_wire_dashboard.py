"""The dashboard and the alert rules speak of what /metrics tells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from clinfra.metrics.figures import Kind
from clinfra.metrics.tables import ALL, EVERY, PROCESS
from tests.support import ROOT, ClinfraProcess
from tests.wire.scraping import Scrape

OUTSIDE = {"up"}
"""What Prometheus itself knows."""

_SUFFIXES = {
    Kind.GAUGE: ("",),
    Kind.COUNTER: ("_total",),
    Kind.HISTOGRAM: ("_bucket", "_sum", "_count"),
    Kind.SUMMARY: ("_sum", "_count"),
}


def expressions() -> Iterator[tuple[str, str]]:
    """Yield each expression with what it is for."""
    rules = yaml.safe_load((ROOT / "etc" / "alerts.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    dashboard = json.loads((ROOT / "etc" / "grafana.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            told = target["expr"].replace("$__rate_interval", "5m")
            yield panel["title"], told.replace('"$instance"', '".*"')


def selectors(expression: Any) -> Iterator[Any]:
    """Yield every selection of series in an expression."""
    found: list[Any] = []

    def visit(node: Any) -> bool:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        elif isinstance(node, promql_parser.MatrixSelector):
            found.append(node.vector_selector)
        return True

    promql_parser.walk(expression, visit)
    return iter(found)


@pytest.fixture(scope="module")
def scrape() -> Iterator[Scrape]:
    """What a clinfra tells that runs everything."""
    with ClinfraProcess() as clinfra:
        yield Scrape(clinfra)


def test_all_metrics_exist(scrape: Scrape) -> None:
    """Every name in an expression is one of a metric that a running clinfra has."""
    there = scrape.names | {
        figure.name + suffix
        for figure in ALL
        if figure.name in scrape.kinds or figure.name + "_total" in scrape.kinds
        for suffix in _SUFFIXES[figure.kind]
    }
    unknown = {
        (title, each.name)
        for title, text in expressions()
        for each in selectors(promql_parser.parse(text))
        if each.name not in there | OUTSIDE
    }

    assert unknown == set()
    assert sum(1 for _ in expressions()) > 80


def test_every_metric_is_told(scrape: Scrape) -> None:
    """There is no metric in the tables that a running clinfra does not tell of."""
    missing = {figure.name for figure in ALL} - scrape.kinds.keys()

    assert missing == set()


def test_labels_exist() -> None:
    """Series are chosen by labels that they have."""
    labels = {
        figure.name + suffix: {
            *("instance", "job", "le"),
            *(("product",) if figure in EVERY else ()),
            *(("process",) if figure in PROCESS else ()),
            *figure.label_names,
        }
        for figure in ALL
        for suffix in _SUFFIXES[figure.kind]
    }
    unknown = {
        (title, each.name, matcher.name)
        for title, text in expressions()
        for each in selectors(promql_parser.parse(text))
        for matcher in each.matchers.matchers
        if matcher.name not in labels.get(each.name, {"instance", "job"})
    }

    assert unknown == set()


def test_every_metric_is_looked_at() -> None:
    """What is shown nowhere nobody needs to count, but for a few."""
    seen = {
        each.name
        for _, text in expressions()
        for each in selectors(promql_parser.parse(text))
    }
    unseen = {
        figure.name
        for figure in ALL
        if not any(figure.name + s in seen for s in _SUFFIXES[figure.kind])
    }

    assert unseen == {
        "clinfra_blob_commits_waiting",
        "clinfra_blob_disk_free_inodes",
        "clinfra_blob_fenced",
        "clinfra_blob_filling",
        "clinfra_blob_handoff_oldest_seconds",
        "clinfra_blob_healed",
        "clinfra_blob_hot_bytes",
        "clinfra_blob_hot_hits",
        "clinfra_blob_hot_misses",
        "clinfra_blob_purged",
        "clinfra_blob_repaired",
        "clinfra_blob_replication_resting",
        "clinfra_blob_replication_sent",
        "clinfra_blob_scrubbed",
        "clinfra_blob_scrubbed_bytes",
        "clinfra_blob_volumes",
        "clinfra_proxy_cache_entries",
        "clinfra_proxy_cache_evicted",
        "clinfra_proxy_origin_in_flight",
        "clinfra_proxy_pool_panic",
    }


def test_alerts_say_what_to_do() -> None:
    """Each alert has a severity and a sentence, which names what it is about."""
    rules = yaml.safe_load((ROOT / "etc" / "alerts.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"]]

    assert len({rule["alert"] for rule in alerts}) == len(alerts)
    for rule in alerts:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert "$labels" in rule["annotations"]["summary"]

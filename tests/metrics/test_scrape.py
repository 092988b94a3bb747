"""The page for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as read_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from clinfra.metrics.scrape import Collector, Metrics, Told
from clinfra.tally import Tally
from clinfra.workers.reports import counts

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class ScrapeTests(SynchronousTestCase):
    """Samples of reports."""

    def setUp(self) -> None:
        self.told: list[Told] = []
        self.ready = True
        collector = Collector(lambda: self.told, lambda: self.ready, 1700000000.0)
        self.metrics = Metrics(collector)

    def scrape(self) -> Samples:
        content_type, body = self.metrics.page("")
        self.assertIn("text/plain", content_type)
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(body.decode())
            for sample in family.samples
        }

    def value(self, name: str, **labels: str) -> float | None:
        return self.scrape().get((name, frozenset(labels.items())))

    def tell(self, name: str, report: Mapping[str, Any]) -> None:
        self.told = [Told(name, report)]

    def test_readiness(self) -> None:
        """What /health/ready says is a number here."""
        self.assertEqual(1, self.value("clinfra_ready"))
        self.ready = False
        self.assertEqual(0, self.value("clinfra_ready"))

    def test_requests(self) -> None:
        """Requests are told by status class, times as a histogram."""
        tally = Tally()
        tally.add(200, "hit", 10, 0.0003, 5, 0.0015)
        tally.add(200, "hit", 10, 0.02, 1, 0.02)
        self.tell("proxy", {"tally": tally.report()})

        def hits(name: str, **labels: str) -> float | None:
            full = f"clinfra_request_seconds_{name}"
            return self.value(full, product="proxy", cache="hit", **labels)

        self.assertEqual(
            6, self.value("clinfra_requests_total", product="proxy", status="2xx")
        )
        self.assertEqual(
            60, self.value("clinfra_response_bytes_total", product="proxy")
        )
        self.assertEqual(5, hits("bucket", le="0.0005"))
        self.assertEqual(5, hits("bucket", le="0.01"))
        self.assertEqual(6, hits("bucket", le="0.025"))
        self.assertEqual(6, hits("bucket", le="+Inf"))
        self.assertEqual(6, hits("count"))
        self.assertAlmostEqual(0.0215, hits("sum") or 0.0)

    def test_ended_workers(self) -> None:
        """Counters go on from what ended workers had counted; gauges do not."""
        tally = Tally()
        tally.add(200, "", 1, 0.0003, 5, 0.0015)
        there = {"tally": tally.report(), "listener": {"connections": 3}}
        self.tell("proxy", {**there, "crew": {"bygone": counts(there)}})

        self.assertEqual(
            10, self.value("clinfra_requests_total", product="proxy", status="2xx")
        )
        self.assertEqual(
            10,
            self.value("clinfra_request_seconds_count", product="proxy", cache="none"),
        )
        self.assertEqual(3, self.value("clinfra_connections", product="proxy"))

    def test_no_workers_left(self) -> None:
        """Counters do not fall even when no worker is there to report."""
        tally = Tally()
        tally.add(200, "", 1, 0.0003, 5, 0.0015)
        self.tell("proxy", {"crew": {"bygone": {"tally": tally.report()}}})

        self.assertEqual(
            5, self.value("clinfra_requests_total", product="proxy", status="2xx")
        )

    def test_odd_reports(self) -> None:
        """A report that cannot be measured takes no other with it."""
        good = Told("image", {"tally": Tally().report()})
        self.told = [Told("proxy", {"tally": {"body_bytes": "many"}}), good]

        self.assertEqual(0, self.value("clinfra_response_bytes_total", product="image"))
        self.assertEqual(1, len(self.flushLoggedErrors()))

    def test_hostile_names(self) -> None:
        """Names in labels cannot break out of them."""
        name = 'evil"} 1\n# x{a="'
        member = {"confidence": 0.5, "state": "down"}
        self.tell(
            "proxy",
            {"modules": {"Forwarder": {"pools": {name: {"members": {"m": member}}}}}},
        )

        self.assertEqual(
            0.5, self.value("clinfra_proxy_origin_confidence", pool=name, member="m")
        )
        self.assertEqual(
            0, self.value("clinfra_proxy_origin_up", pool=name, member="m")
        )

    def test_openmetrics(self) -> None:
        """Who asks for OpenMetrics gets that."""
        self.tell("proxy", {"tally": Tally().report()})
        content_type, body = self.metrics.page("application/openmetrics-text")

        self.assertIn("openmetrics", content_type)
        names = {family.name for family in read_openmetrics(body.decode())}
        self.assertIn("clinfra_requests", names)

"""What the charts of the console begin with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from twisted.application.service import Service
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from clinfra.admin.history import MOST_MOMENTS, PERIOD_SECONDS, History, totals
from clinfra.admin.service import AdminService, make_admin_service
from clinfra.interfaces import IProduct
from tests.web.clients import Client, make_site


@implementer(IProduct)
class Blobs(Service):
    """A blob store that is read once in a second."""

    name = "blob"
    resource = None
    lane = None
    broken = False

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def open(self) -> None:
        pass

    def report(self) -> Mapping[str, Any]:
        if self.broken:
            raise RuntimeError("the disk is gone")
        return {"events": {"get": {"total": int(self._clock.seconds())}}}


class TotalsTests(SynchronousTestCase):
    """What is drawn of reports."""

    def test_products(self) -> None:
        """Whatever is there of it, and nothing of what is not drawn."""
        cache = {"hits": 5, "miss": 2, "stale": 1, "entries": 9}
        reports: Mapping[str, Mapping[str, Any]] = {
            "proxy": {"requests": 9, "modules": {"DirectCache": cache}},
            "blob": {"events": {"put": {"total": 4}, "list": {"total": 3}}},
            "image": {"kinds": {"demand": {"rendered": 7}}},
            "admin": {"x": 1},
        }

        self.assertEqual(
            {
                "proxy": {"all": 9, "hits": 5, "misses": 3},
                "blob": {"reads": 0, "writes": 4, "deletes": 0},
                "image": {"uploads": 0, "on demand": 7},
            },
            totals(reports),
        )
        bare = totals({"proxy": {}, "image": {}})
        self.assertEqual({"uploads": 0, "on demand": 0}, bare["image"])


class HistoryTests(SynchronousTestCase):
    """The last minutes."""

    def test_bounded(self) -> None:
        """It remembers five minutes, whatever happens."""
        clock = Clock()
        history = History(lambda: {"proxy": {}}, clock.seconds)
        for _ in range(3 * MOST_MOMENTS):
            history.look()
            clock.advance(PERIOD_SECONDS)
        told = history.told()

        self.assertEqual(MOST_MOMENTS, len(told["moments"]))
        self.assertEqual(300, told["moments"][0]["seconds_ago"])
        self.assertEqual(PERIOD_SECONDS, told["moments"][-1]["seconds_ago"])


class ServiceTests(SynchronousTestCase):
    """GET /history."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.product = Blobs(self.clock)
        self.service: AdminService = make_admin_service(
            products=[self.product],
            purge=None,
            state=lambda: "running",
            uptime_seconds=self.clock.seconds,
            version="1",
            proxy_ports=lambda: [],
            default_port=80,
            reactor=self.clock,
        )
        self.service.startService()
        self.addCleanup(self.service.stopService)

    def reads(self) -> list[tuple[float, int]]:
        """Return how long ago there had been how many."""
        site, clock = make_site(resource=self.service.resource)
        client = Client(site, clock)
        client.send(b"GET /history HTTP/1.1\r\nHost: localhost\r\n\r\n")
        (answer,) = client.answers()
        return [
            (each["seconds_ago"], each["totals"]["blob"]["reads"])
            for each in json.loads(answer.body)["moments"]
        ]

    def test_told(self) -> None:
        """There is a moment for every two seconds since the start."""
        self.clock.pump([1] * 5)

        self.assertEqual([(5, 0), (3, 2), (1, 4)], self.reads())

    def test_stopped(self) -> None:
        """Whoever stops remembers no more, and leaves no call behind."""
        self.service.stopService()
        self.clock.pump([1] * 5)

        self.assertEqual([(5, 0)], self.reads())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_failing(self) -> None:
        """A report that fails costs a moment, and is logged."""
        self.product.broken = True
        self.clock.advance(2)
        self.product.broken = False
        self.clock.advance(2)

        self.assertEqual([(4, 0), (0, 4)], self.reads())
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

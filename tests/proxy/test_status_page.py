"""StatusPage: for those who may see it, and safe whatever is in it."""

from __future__ import annotations

import json
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import ModuleConfig
from tests.proxy.stage import Stage


class StatusPageTests(SynchronousTestCase):
    """What is going on."""

    def stage(self, **options: Any) -> Stage:
        """Return a stage with a status page for its client."""
        options = {"match": "/status$", "networks": ["192.0.2.0/24"], **options}
        module = ModuleConfig(use="StatusPage", options=options)
        return Stage(
            self,
            lambda asked: None,
            first=(module,),
            trusted_proxies=("192.0.2.7",),
        )

    def test_page(self) -> None:
        """It shows requests under way and modules; scripts in addresses stay text."""
        stage = self.stage()
        stage.ask("/<script>alert(1)</script>", "User-Agent: x")
        answer = stage.get("/status")

        self.assertEqual(200, answer.status)
        text = answer.body.decode()
        self.assertNotIn("<script>", text)
        self.assertIn("&lt;script&gt;", text)
        for part in ("Server Statistics", "Active Requests", "DirectCache", "o1:80"):
            self.assertIn(part, text)
        self.assertIn("default-src 'none'", answer.fields["Content-Security-Policy"])
        self.assertIn("no-store", answer.fields["Cache-Control"])

    def test_json(self) -> None:
        """The same for programs."""
        stage = self.stage()
        sections = json.loads(stage.get("/status?json").body)

        self.assertEqual(1, sections["Server Statistics"]["requests active"])
        (active,) = sections["Active Requests"]
        self.assertEqual("GET example.com/status?json", active["request"])

    def test_over(self) -> None:
        """Requests that are over are no more shown."""
        stage = self.stage()
        stage.ask("/a").hang_up()
        stage.turn()
        sections = json.loads(stage.get("/status?json").body)

        self.assertEqual(1, len(sections["Active Requests"]))

    def test_strangers(self) -> None:
        """For others the page is not there: the origin is asked."""
        stage = self.stage()
        stage.ask("/status", "X-Forwarded-For: 198.51.100.1")

        self.assertEqual(1, len(stage.asked))

    def test_proxies_that_are_not_trusted(self) -> None:
        """Who asks through one is not known: the page is not there."""
        stage = self.stage(networks=["192.0.2.7"])
        stage.ask("/status", "Via: 1.1 somebody")

        self.assertEqual(1, len(stage.asked))

    def test_off(self) -> None:
        """Without a pattern there is none."""
        stage = self.stage(match="")
        stage.ask("/status")

        self.assertEqual(1, len(stage.asked))

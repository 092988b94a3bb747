"""StatusPage: for those who may see it, and safe whatever is in it."""

from __future__ import annotations

import json
import os
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import ModuleConfig
from tests.proxy.stage import Stage


class StatusPageTests(SynchronousTestCase):
    """What is going on."""

    def stage(self, **options: Any) -> Stage:
        """Return a stage with a status page for its client."""
        modules = options.pop("modules", {})
        options = {"match": "/status$", "networks": ["192.0.2.0/24"], **options}
        module = ModuleConfig(use="StatusPage", options=options)
        return Stage(
            self,
            lambda asked: None,
            first=(module,),
            modules=modules,
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

    def test_pools(self) -> None:
        """Pools are a tree of bars: how much they, and their members, are trusted."""
        stage = self.stage()
        stage.ask("/a")
        text = stage.get("/status").body.decode()

        self.assertIn("<details><summary>origin <meter", text)
        self.assertIn("<details><summary>o1:80 <meter", text)
        self.assertIn("100 % up</summary>", text)
        self.assertIn("<td>(Default)</td>", text)
        self.assertIn("share of hits", text)

    def test_listings(self) -> None:
        """Rules that stamp, and options that are not the usual ones, are told."""
        stamps = [{"paths": ["/<b>"], "methods": ["GET"], "set": {"X-A": "1"}}]
        stage = self.stage(
            modules={
                "HeaderStamper": {"modify_request_headers": stamps},
                "DirectCache": {"pass_ttl": 7},
            }
        )
        sections = json.loads(stage.get("/status?json").body)

        (row,) = sections["HeaderStamper"]["modify_request_headers"]
        when = "paths: /<b>; methods: GET"
        self.assertEqual({"when": when, "header": "X-A", "new value": "1"}, row)
        self.assertEqual({"pass_ttl": 7}, sections["DirectCache"]["options"])
        self.assertIn("paths: /&lt;b&gt;", stage.get("/status").body.decode())

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

    def test_bytes(self) -> None:
        """Of each request it is told how much has gone which way."""
        stage = self.stage()
        body = b"x" * 300
        stage.script = lambda asked: (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + b"y" * 2048
        )
        stage.ask("/a", method="POST", body=body)
        stage.pass_time(3)
        sections = json.loads(stage.get("/status?json").body)

        row = sections["Active Requests"][0]
        pid, _, number = row.pop("id").partition("-")
        self.assertEqual((str(os.getpid()), "1"), (pid, number))
        self.assertEqual(
            {
                "request": "POST example.com/a",
                "milliseconds": 3000,
                "status": 200,
                "phase": "deliver",
                "client": "192.0.2.7",
                "bytes in": "300 B",
                "bytes out": "2.00 KB",
                "origin": "o1:80",
                "origin bytes in": "2.00 KB",
                "origin bytes out": "300 B",
            },
            row,
        )

    def test_report(self) -> None:
        """The admin pages list what is under way as well, oldest first, page or not."""
        stage = self.stage(match="")
        stage.ask("/a")
        stage.pass_time(1)
        stage.ask("/b")
        rows = stage.proxy.report()["under_way"]

        asked = [(row["request"], row["milliseconds"]) for row in rows]
        self.assertEqual([("GET example.com/a", 1000), ("GET example.com/b", 0)], asked)

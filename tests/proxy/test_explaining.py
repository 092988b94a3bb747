"""`clinfra proxy check`: what would happen to a request."""

from __future__ import annotations

import contextlib
import io
import tomllib
from pathlib import Path

from clinfra.cli import main
from clinfra.proxy.loading import BUILT_IN
from tests.proxy.test_blocker import Directory

FRONT = """
[proxy]
default_pool = "app"
trusted_proxies = ["10.0.0.0/8"]
[proxy.pools.app]
members = ["127.0.0.1:9001", "127.0.0.1:9002"]
[[proxy.modules]]
use = "Blocker"
[[proxy.modules.rules]]
name = "bad network"
networks = ["203.0.113.0/24"]
[[proxy.modules]]
use = "Throttler"
[[proxy.modules.limits]]
rate = 1
[[proxy.modules]]
use = "Redirector"
moves = [["^www.example.com/old", "/old", "/new"]]
[[proxy.modules.rules]]
match = "^www.example.com/r/(.*)"
rewrite = '/real/\\1'
[[proxy.modules]]
use = "HeaderStamper"
[[proxy.modules.modify_request_headers]]
set = { "X-Front" = "clinfra" }
drop = ["Cookie"]
[[proxy.modules]]
use = "DirectCache"
[[proxy.modules]]
use = "Forwarder"
[[proxy.modules]]
use = "Exceptions"
"""


class ExplainingTests(Directory):
    """Phase by phase."""

    def explain(self, *words: str, status: int = 0) -> list[str]:
        """Return what is printed, a line each."""
        front = self.write("front.toml", FRONT)
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            got = main(["proxy", "check", "--config", front, *words])
        self.assertEqual(status, got, out.getvalue())
        return [" ".join(line.split()) for line in out.getvalue().splitlines()]

    def assert_told(self, lines: list[str], *expected: str) -> None:
        """Assert that these are told in this order."""
        position = 0
        for line in expected:
            self.assertIn(line, lines[position:])
            position = lines.index(line, position) + 1

    def test_a_miss(self) -> None:
        """Rewritten, stamped, forwarded, kept."""
        lines = self.explain(
            "http://www.example.com/r/a?b",
            "--header",
            "Cookie: a=1",
            "--answer",
            "Cache-Control: max-age=60",
        )
        self.assert_told(
            lines,
            "GET http://www.example.com/r/a?b",
            "rules see it as www.example.com/r/a?b, from 127.0.0.1",
            "received Redirector: is for www.example.com/real/a?b",
            "route Forwarder: pool app",
            "lookup DirectCache: miss",
            "forward HeaderStamper: drops Cookie",
            "HeaderStamper: sets X-Front: clinfra",
            "Forwarder: GET /real/a?b for www.example.com to the pool 'app'"
            " (127.0.0.1:9001, 127.0.0.1:9002)",
            "answer 200",
        )
        self.assertTrue(any("Cache-Status: clinfra; fwd=uri-miss" in x for x in lines))
        self.assertTrue(any("stored" in line for line in lines))

    def test_answers(self) -> None:
        """Redirects and refusals, and who gave them; clients seen through proxies."""
        lines = self.explain("www.example.com/old/1")
        self.assert_told(
            lines,
            "received Redirector: answers 301",
            "answer 301",
            "Location: http://www.example.com/new/1",
            "the access log has rule=moves[0]",
        )
        lines = self.explain(
            "https://x/",
            "--client",
            "10.1.1.1",
            "--header",
            "X-Forwarded-For: 203.0.113.9",
        )
        self.assert_told(
            lines,
            "rules see it as x/, from 203.0.113.9",
            "received Blocker: raises Blocked: This request is not allowed here.",
            "failed Exceptions: answers 403",
            "answer 403",
            "the access log has blocked=bad network",
        )

    def test_bad_requests(self) -> None:
        """What is refused before any rule sees it, and what is no request at all."""
        (line,) = self.explain("http://x/ y")
        self.assertTrue(line.startswith("answered 400 before any rule"), line)
        (line,) = self.explain("ftp://x/", status=2)
        self.assertIn("is not an http URL", line)
        with self.assertRaises(SystemExit), contextlib.redirect_stderr(io.StringIO()):
            self.explain("http://x/", "--header", "no colon")

    def test_drop_ins_that_wait(self) -> None:
        """A module that waits for somebody else is told of, not waited for."""
        rules = self.directory / "rules"
        rules.mkdir()
        Path(rules / "slow.py").write_text(
            "from twisted.internet.defer import Deferred\n"
            "class Slow:\n"
            "    def received(self, request): return Deferred()\n",
            encoding="utf-8",
        )
        lines = self.explain("x/", "--set", f"proxy.rules_dir={rules}")

        self.assert_told(
            lines,
            "received Slow: waits for something",
            "it waits for something that cannot be had here",
        )


class ModulesTests(Directory):
    """`clinfra proxy modules`: what the built-in modules can be told."""

    def test_reference(self) -> None:
        """What is printed is a configuration that means the defaults."""
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(0, main(["proxy", "modules"]))
        text = out.getvalue()
        names = [module["use"] for module in tomllib.loads(text)["proxy"]["modules"]]
        self.assertEqual(sorted(BUILT_IN), sorted(names))

        path = self.write("front.toml", "[proxy]", text)
        with contextlib.redirect_stdout(out):
            self.assertEqual(0, main(["check", "--config", path]), out.getvalue())

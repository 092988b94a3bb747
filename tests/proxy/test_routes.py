"""Which pool a request goes to."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import Pattern, RouteConfig
from clinfra.proxy.routes import Routes
from tests.proxy.test_message import request


class RouteTests(SynchronousTestCase):
    """Which pool."""

    def test_first_match_wins(self) -> None:
        """By prefix, by pattern, by both; else the default."""
        routes = Routes.of(
            (
                RouteConfig(pool="both", prefix="/a", match=Pattern("x$")),
                RouteConfig(pool="prefix", prefix="/a/", strip_prefix=True),
                RouteConfig(pool="pattern", match=Pattern(r"^other\.example/")),
            ),
            "default",
        )
        for target, host, name, forwarded in (
            ("/a/x", "example.com", "both", ""),
            ("/a/y?z", "example.com", "prefix", "/y?z"),
            ("/b", "other.example", "pattern", ""),
            ("/b", "example.com", "default", ""),
        ):
            it = request(target, host)
            routes.choose(it)
            self.assertEqual((name, forwarded), (it.pool, it.forward_target))

    def test_refusals(self) -> None:
        """Routes that cannot mean anything are refused."""
        for config in (
            RouteConfig(prefix="/"),
            RouteConfig(pool="x"),
            RouteConfig(pool="x", prefix="/a", strip_prefix=True),
        ):
            with self.assertRaises(ValueError):
                Routes.of((config,), "")

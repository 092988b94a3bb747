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

    def test_many(self) -> None:
        """Many routes choose what a few would: the first that matches."""
        configs = [
            RouteConfig(pool=f"p{n}", prefix=f"/a.{n}/", strip_prefix=True)
            if n % 2
            else RouteConfig(pool=f"m{n}", match=Pattern(rf"/b\.{n}(x|$)"))
            for n in range(100)
        ]
        configs.insert(50, RouteConfig(pool="all", prefix="/a.6", match=Pattern("y$")))
        routes = Routes.of(configs, "default")
        for target, name, forwarded in (
            ("/a.7/x", "p7", "/x"),
            ("/aX7/x", "default", ""),
            ("/b.44", "m44", ""),
            ("/a.61/y", "all", ""),
            ("/a.61/x", "p61", "/x"),
            ("/c", "default", ""),
        ):
            it = request(target, "example.com")
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

"""Pools, weights and confidence; routes."""

from __future__ import annotations

from random import Random

from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import Pattern, PoolConfig, RouteConfig
from clinfra.proxy.origins import MIN_CONFIDENCE, OriginPool, Origins, parse_member
from clinfra.proxy.routes import Routes
from tests.proxy.test_message import request


def pool(*members: str) -> OriginPool:
    """Return a pool."""
    made = tuple(map(parse_member, members))
    return OriginPool("p", made, PoolConfig(), Random(1))


class MemberTests(SynchronousTestCase):
    """One origin."""

    def test_parse(self) -> None:
        """Host, port, weight; UNIX paths."""
        for text, host, port, path, weight in (
            ("a:80", "a", 80, "", 1),
            ("a:80=0.5", "a", 80, "", 0.5),
            ("[::1]:80", "::1", 80, "", 1),
            ("unix:/run/x=3", "", 0, "/run/x", 3),
        ):
            it = parse_member(text)
            self.assertEqual(
                (host, port, path, weight), (it.host, it.port, it.path, it.weight)
            )

    def test_refusals(self) -> None:
        """Anything else is a ValueError with a plain sentence."""
        for text in ("", "a", "a:b", "a:0", "a:80=x", "a:80=0", "unix:x", ":80"):
            with self.assertRaises(ValueError):
                parse_member(text)

    def test_confidence(self) -> None:
        """Halved by each failure down to a floor, doubled up to the weight."""
        it = parse_member("a:80")
        for expected in (0.5, 0.25, 0.125):
            it.failed()
            self.assertEqual(expected, it.confidence)
        for _ in range(20):
            it.failed()
        self.assertEqual(MIN_CONFIDENCE, it.confidence)
        for _ in range(20):
            it.succeeded()
        self.assertEqual(1.0, it.confidence)


class PoolTests(SynchronousTestCase):
    """Choosing a member."""

    def test_weights(self) -> None:
        """Members are drawn as often as they weigh."""
        it = pool("a:1=3", "b:1=1")
        drawn = [it.choose() for _ in range(4000)]

        share = drawn.count(it.members[0]) / 4000
        self.assertTrue(0.7 < share < 0.8, share)

    def test_retry_prefers_another(self) -> None:
        """A member that was tried is drawn again only when all were."""
        it = pool("a:1", "b:1")
        a, b = it.members
        for _ in range(50):
            self.assertIs(b, it.choose((a,)))
        self.assertIn(it.choose((a, b)), (a, b))

    def test_empty(self) -> None:
        """An empty pool has nobody to choose."""
        self.assertIsNone(pool().choose())


class OriginsTests(SynchronousTestCase):
    """All pools."""

    def test_built_in(self) -> None:
        """Built-in pools are asked for late, configured ones win."""
        origins = Origins(
            {"blob": PoolConfig(members=("mine:1",))},
            lambda: {"blob": "127.0.0.1:1", "image": "127.0.0.1:2"},
            Random(1),
        )
        names = {
            name: [member.name for member in found.members]
            for name in ("blob", "image", "none")
            if (found := origins.pool(name)) is not None
        }

        self.assertEqual({"blob": ["mine:1"], "image": ["127.0.0.1:2"]}, names)

    def test_ad_hoc(self) -> None:
        """The same members are the same pool, and keep their confidence."""
        origins = Origins({}, dict, Random(1))
        one = origins.ad_hoc(("a:1", "b:1"), PoolConfig())

        self.assertIs(one, origins.ad_hoc(("a:1", "b:1"), PoolConfig()))


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

"""Throttler, its buckets, and answers sent slowly."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import CacheConfig, ModuleConfig
from clinfra.errors import ConfigProblems
from clinfra.proxy import buckets as buckets_module
from clinfra.proxy.buckets import Buckets
from tests.proxy.stage import Stage, response

FRESH = "Cache-Control: max-age=600"


class BucketTests(SynchronousTestCase):
    """Token buckets."""

    def test_burst_then_rate(self) -> None:
        """At first a burst, then one each time one was filled in."""
        buckets = Buckets(rate=2, burst=3)
        waits = []
        for now in (0, 0, 0, 0, 0.25, 0.5, 0.5):
            waits.append(buckets.wait("a", now))
            if not waits[-1]:
                buckets.take("a", now)

        self.assertEqual([0, 0, 0, 0.5, 0.25, 0, 0.5], waits)
        self.assertEqual(0, buckets.wait("b", 0), "others have buckets of their own")

    @settings(max_examples=100, deadline=None)
    @given(st.lists(st.floats(0, 5), max_size=40), st.integers(1, 5))
    def test_never_more(self, pauses: list[float], burst: int) -> None:
        """In no time are there more than the burst and the rate allow."""
        buckets = Buckets(rate=1, burst=burst)
        now, passed = 0.0, []
        for pause in pauses:
            now += pause
            if not buckets.wait("a", now):
                buckets.take("a", now)
                passed.append(now)
        for first in range(len(passed)):
            for last in range(first, len(passed)):
                most = burst + passed[last] - passed[first]
                self.assertLessEqual(last - first + 1, most + 1e-6)

    def test_bounded(self) -> None:
        """Full buckets are dropped; when none is, the oldest."""
        self.patch(buckets_module, "MOST_BUCKETS", 10)
        buckets = Buckets(rate=1, burst=1)
        for number in range(30):
            buckets.take(str(number), 0)
        self.assertEqual((10, 20), (len(buckets), buckets.forgotten))
        buckets.take("new", 100)

        self.assertEqual(1, len(buckets))

    def test_shared(self) -> None:
        """Two that share a bucket let through what one would."""
        one, other = (Buckets(rate=1, burst=10) for _ in range(2))
        state = None
        for _ in range(6):
            one.take("a", 0)
        state = one.share("a", one.drain()["a"], state, 0)
        self.assertEqual({}, one.drain())
        other.take("a", 1)
        drained = other.drain()["a"]
        other.take("a", 1)  # while the answer is on its way
        state = other.share("a", drained, state, 1)
        self.assertEqual(0, other.wait("a", 1))
        for _ in range(3):
            other.take("a", 1)
        self.assertEqual(1, other.wait("a", 1), "10 + 1 - 6 - 5 are none")
        state = other.share("a", other.drain()["a"], state, 1)
        one.take("a", 1)
        state = one.share("a", one.drain()["a"], state, 1)
        self.assertEqual(2, one.wait("a", 1))

        for broken in (None, b"", b"nonsense"):
            one.take("b", 0)
            one.share("b", 1, broken, 0)
        self.assertEqual(0, one.wait("b", 0))


class ThrottlerTests(SynchronousTestCase):
    """Limits."""

    def stage(
        self, *limits: dict[str, Any], body: bytes = b"ok", **config: Any
    ) -> Stage:
        """Return a stage with limits, whose origin's answers are kept."""
        module = ModuleConfig(use="Throttler", options={"limits": limits})
        return Stage(
            self, lambda asked: response(body, FRESH), first=(module,), **config
        )

    def statuses(self, stage: Stage, *requests: tuple[str, ...]) -> list[int]:
        """Return the statuses of requests: target and fields."""
        return [stage.get(*each).status for each in requests]

    def test_hits_count(self) -> None:
        """Requests answered from memory by the lane count as others do."""
        stage = self.stage({"rate": 1, "burst": 4, "name": "all"})
        statuses = self.statuses(stage, *([("/a",)] * 6))

        self.assertEqual([200, 200, 200, 200, 429, 429], statuses)
        self.assertGreater(stage.proxy.pipeline.hits, 1)
        answer = stage.get("/a")
        self.assertEqual("1", answer.fields["Retry-After"])
        stage.pass_time(2)
        self.assertEqual([200, 200, 429], self.statuses(stage, *([("/a",)] * 3)))
        report = stage.proxy.report()["modules"]["Throttler"]["all"]
        self.assertEqual((6, 4), (report["passed"], report["refused"]))

    def test_per(self) -> None:
        """Clients, networks, keys and rules have buckets of their own."""

        def client(address: str) -> str:
            return f"X-Forwarded-For: {address}"

        one, near, far = map(client, ("10.0.0.1", "10.0.0.2", "10.0.1.1"))
        for per, expected in (
            ("client", [200, 429, 200, 200]),
            ("network", [200, 429, 429, 200]),
            ("rule", [200, 429, 429, 429]),
            ("header:X-Forwarded-For", [200, 429, 200, 200]),
            ("header:X-Key", [200, 200, 200, 200]),
            ("host", [200, 429, 429, 429]),
            ("pool", [200, 429, 429, 429]),
        ):
            stage = self.stage(
                {"per": per, "rate": 0.1}, trusted_proxies=("192.0.2.7",)
            )
            requests = [("/a", each) for each in (one, one, near, far)]
            self.assertEqual(expected, self.statuses(stage, *requests), per)

    def test_clients_of_ipv6(self) -> None:
        """Nobody gets a new bucket by taking another address of the same network."""
        stage = self.stage(
            {"per": "client", "rate": 0.1}, trusted_proxies=("192.0.2.7",)
        )
        clients = ("2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1")
        requests = [("/a", f"X-Forwarded-For: {client}") for client in clients]

        self.assertEqual([200, 429, 200], self.statuses(stage, *requests))

    def test_only_some(self) -> None:
        """A limit counts what it matches, and not those who are excepted."""
        stage = self.stage(
            {"paths": ["/api/*"], "methods": ["GET"], "rate": 0.1},
            {"hosts": ["busy.example"], "rate": 0.1, "networks": ["10.0.0.0/8"]},
            {"query": {"q": "*"}, "rate": 0.1, "except_networks": ["192.0.2.0/24"]},
        )
        requests = [("/api/a",), ("/b",), ("/b",), ("/api/b",), ("/b?q=1",)] * 2
        statuses = self.statuses(stage, *requests)
        self.assertEqual([200, 200, 200, 429, 200, 429, 200, 200, 429, 200], statuses)
        for _ in range(3):
            self.assertEqual(200, stage.get("/c", host="busy.example").status)

    def test_wait(self) -> None:
        """Requests are held back in order, those that would wait too long refused."""
        stage = self.stage({"rate": 1, "wait": 2})
        clients = [stage.ask("/a") for _ in range(4)]
        answered = []
        for _ in range(3):
            answered.append(
                [
                    bool(client.answers()) and client.answers()[0].status
                    for client in clients
                ]
            )
            stage.pass_time(1)
        self.assertEqual([200, False, False, 429], answered[0])
        self.assertEqual([200, 200, False, 429], answered[1])
        self.assertEqual([200, 200, 200, 429], answered[2])

    def test_gone_while_waiting(self) -> None:
        """Who hangs up while being held back leaves no timer behind."""
        stage = self.stage({"rate": 0.1, "wait": 30})
        stage.get("/a")
        client = stage.ask("/a")
        client.hang_up()
        stage.turn()

        self.assertEqual(0, stage.proxy.pipeline.active)
        self.assertEqual(1, len(stage.asked))

    def test_slow(self) -> None:
        """Over the limit, answers come slowly; hits and what an origin sends alike."""
        body = bytes(10_000)
        stage = self.stage({"rate": 0.01, "slow": 1000}, body=body)
        self.assertEqual(body, stage.get("/a").body)
        for target in ("/a", "/b"):
            client = stage.ask(target)
            stage.pass_time(3)
            self.assertLess(len(client.received), 4500)
            stage.pass_time(9)
            (answer,) = client.answers()
            self.assertEqual(body, answer.body)

    def test_mistakes(self) -> None:
        """What is wrong is told at once."""
        for limit, expected in (
            ({"per": "moon"}, 'limits[0]: per: "moon" is not what can be counted'),
            ({"rate": 0}, "limits[0].rate: 0.0 is less"),
            ({"slow": 1, "wait": 1}, "limits[0]: either wait or slow"),
            ({"networks": ["x"]}, "limits[0]: 'x' does not appear"),
            ({"shared": True}, "limits: shared ones need proxy.cache.memcached"),
        ):
            with self.assertRaises(ConfigProblems) as caught:
                self.stage(limit)
            self.assertIn(expected, str(caught.exception))

    def test_shared_without_memcached(self) -> None:
        """While memcached is away, each process counts alone."""
        stage = self.stage(
            {"rate": 0.1, "shared": True},
            cache=CacheConfig(memcached=("nowhere:11211",)),
        )
        stage.dead.add("nowhere:11211")
        stage.proxy.startService()
        self.addCleanup(stage.proxy.stopService)
        statuses = []
        for _ in range(2):
            statuses.append(stage.get("/a").status)
            stage.pass_time(1)
        self.assertEqual([200, 429], statuses)

"""A server whose clock is ahead finds out, and promises nothing meanwhile."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.stamps import stamp_at
from tests.sim.cluster import Cluster, Host


class ClockTests(SynchronousTestCase):
    """Clocks that are wrong by more than is taken for true."""

    def setUp(self) -> None:
        self.addCleanup(self.flushLoggedErrors)

    def cluster(self, *layout: list[int]) -> tuple[Cluster, list[Host]]:
        cluster = Cluster(layout)
        self.addCleanup(cluster.close)
        cluster.run(5)
        return cluster, list(cluster.hosts.values())

    def not_ready(self, host: Host) -> list[str]:
        assert host.service is not None
        return list(host.service.report()["not_ready"])

    def test_refused(self) -> None:
        """What the others refuse is the last that is answered; all is told."""
        cluster, (first, *others) = self.cluster([3])
        there = cluster.put(first, "/there", b"x").told["name"]
        first.offset = 400
        before = cluster.put(first, "/before", b"x")
        self.assertEqual(b"1/3", before.fields[b"x-clblob-copies"])
        cluster.run(1)

        sentence = "400 seconds ahead of others"
        for answer in (
            cluster.put(first, "/after", b"x"),
            cluster.delete(first, f"/{there}"),
        ):
            self.assertEqual(503, answer.status)
            self.assertIn(sentence, answer.body.decode())
            self.assertEqual(b"10", answer.fields[b"retry-after"])
        (reason,) = self.not_ready(first)
        told = cluster.get(first, "/_status").told["clock"]
        self.assertIn(sentence, reason)
        self.assertEqual(reason, told["trouble"])
        self.assertEqual({"c0b0r1": 400.0, "c0b0r2": 400.0}, told["ahead_seconds"])
        self.assertEqual(b"x", cluster.get(first, f"/{there}").body)
        for host in others:
            self.assertEqual(200, cluster.put(host, "/after", b"y").status)
        cluster.run(1)
        self.assertIn("000_after", first.rows())

    def test_set_right(self) -> None:
        """Soon after the clock is right it writes again."""
        cluster, (first, *_) = self.cluster([3])
        first.offset = 400
        cluster.put(first, "/before", b"x")
        cluster.run(60)
        self.assertEqual(503, cluster.put(first, "/a", b"x").status)
        first.offset = 0
        cluster.run(11)

        self.assertEqual([], self.not_ready(first))
        answer = cluster.put(first, "/a", b"x")
        self.assertEqual(
            (200, b"2/3"), (answer.status, answer.fields[b"x-clblob-copies"])
        )

    def test_from_the_start(self) -> None:
        """Who starts with such a clock does not take a single write, for nobody."""
        cluster, (first, *_) = self.cluster([2], [1])
        cluster.crash(first)
        first.offset = 400
        cluster.start(first)
        cluster.run(1)

        self.assertEqual(503, cluster.put(first, "/a", b"x").status)
        self.assertEqual(set(), set(first.rows()))

    def test_given_stamps(self) -> None:
        """Stamps of others are as good as ever: clients may give some."""
        cluster, (first, second) = self.cluster([2])
        first.offset = 400
        cluster.put(first, "/before", b"x")
        cluster.run(1)
        stamp = stamp_at(cluster.clock.seconds())
        answer = cluster.put(first, f"/a?modified={stamp}", b"x")
        cluster.run(5)

        self.assertEqual(200, answer.status)
        self.assertIn("000_a", second.rows())

    def test_one_is_late(self) -> None:
        """One clock that is late does not keep the others from writing."""
        cluster, (first, second, third) = self.cluster([3])
        third.offset = -400
        for n in range(9):
            cluster.put(first, f"/{n}", b"x")
        cluster.run(400)

        for host in (first, second, third):
            self.assertEqual([], self.not_ready(host))
            self.assertEqual(200, cluster.put(host, "/more", b"x").status)

    def test_nobody_to_ask(self) -> None:
        """Who is alone trusts his clock."""
        cluster, (first,) = self.cluster([1])
        first.offset = 4000
        cluster.run(400)

        self.assertEqual(200, cluster.put(first, "/a", b"x").status)

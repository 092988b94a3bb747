"""Replicas that were away for too long, in simulated clusters."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import Seconds
from tests.sim.cluster import Cluster, Host

DAY = 86400.0


class RejoinTests(SynchronousTestCase):
    """What was deleted stays deleted, what was not stays."""

    def cluster(self, *layout: list[int], **config: Any) -> tuple[Cluster, list[Host]]:
        cluster = Cluster(
            layout,
            purge_interval=Seconds(600),
            expiration_delay=Seconds(3600),
            **config,
        )
        self.addCleanup(cluster.close)
        return cluster, list(cluster.hosts.values())

    def rejoin(self, host: Host) -> Any:
        assert host.service is not None
        return host.service.report()["rejoin"]

    def turned_back(self, **config: Any) -> tuple[Cluster, list[Host], list[str]]:
        """Delete a blob and forget that; then restore an old backup of a replica.

        The backup has the blob, another one that still is, and one that nobody got.
        """
        cluster, hosts = self.cluster([3], **config)
        first, second, _ = hosts
        gone, there = (
            cluster.put(first, f"/{name}?copies=all", name.encode()).told["name"]
            for name in ("gone", "there")
        )
        cluster.run(1000)
        cluster.crash(second)
        alive = second.disk.image(power_failed=False)
        cluster.start(second)
        for host in hosts:
            if host is not second:
                cluster.network.cut(host.ip, second.ip)
        unsent = cluster.put(second, "/unsent", b"unsent").told["name"]
        cluster.crash(second)
        backup = second.disk.image(power_failed=False)
        cluster.network.join()
        second.disk = alive
        cluster.start(second)
        cluster.delete(first, f"/{gone}")
        cluster.run(3 * 3600)
        self.assertEqual([{there}] * 3, [set(host.rows()) for host in hosts])
        cluster.crash(second)
        second.disk = backup
        cluster.start(second)
        return cluster, hosts, [gone, there, unsent]

    def test_turned_back(self) -> None:
        """What all have forgotten is set aside; what nobody got is kept, and sent."""
        cluster, hosts, (gone, there, unsent) = self.turned_back()
        self.assertEqual({gone, there, unsent}, set(hosts[1].rows()))
        assert hosts[1].service is not None
        (reason,) = hosts[1].service.report()["not_ready"]
        self.assertIn("it was away", reason)
        cluster.run(1000)
        self.assertEqual([], hosts[1].service.report()["not_ready"])

        for host in hosts:
            self.assertEqual({there, unsent}, set(host.rows()))
            self.assertEqual(404, cluster.get(host, f"/{gone}").status)
            self.assertEqual(b"unsent", cluster.get(host, f"/{unsent}").body)
        report = self.rejoin(hosts[1])
        self.assertEqual((False, 1), (report["fenced"], report["forgotten"]))
        (kept,) = cluster.finish(cluster.ask(hosts[1], "GET", "/_quarantine")).told
        self.assertEqual((gone, 4), (kept["name"], kept["kept"]))
        self.assertIn("deleted while this replica was away", kept["why"])

    def test_trust(self) -> None:
        """Without the fence what was deleted is back, everywhere."""
        cluster, hosts, (gone, _, _) = self.turned_back(rejoin="trust")
        cluster.run(1000)

        for host in hosts:
            self.assertEqual(200, cluster.get(host, f"/{gone}").status)

    def test_meanwhile(self) -> None:
        """While nothing is proven, what may be deleted is served as others have it."""
        cluster, (_, second, third), (gone, there, unsent) = self.turned_back()

        self.assertTrue(self.rejoin(second)["fenced"])
        asked = [
            cluster.ask(second, *request)
            for request in (
                ("GET", "/_list?checksum=false"),
                ("GET", f"/{gone}"),
                ("GET", f"/{there}"),
                ("GET", f"/{unsent}"),
                ("PUT", "/new", b"new"),
            )
        ]
        self.assertTrue(self.rejoin(second)["fenced"])
        listed, *read, put = map(cluster.finish, asked)

        self.assertEqual([404, 200, 200], [answer.status for answer in read])
        self.assertEqual(503, listed.status)
        self.assertEqual(b"2/3", put.fields[b"x-clblob-copies"])
        self.assertEqual(404, cluster.get(third, f"/{gone}").status)

    def test_told_to_trust(self) -> None:
        """An operator can open the fence."""
        cluster, (_, second, _), (gone, _, _) = self.turned_back()
        answer = cluster.finish(cluster.ask(second, "POST", "/_trust"))

        self.assertEqual({"queued": True}, answer.told)
        self.assertEqual(200, cluster.get(second, f"/{gone}").status)
        answer = cluster.finish(cluster.ask(second, "POST", "/_trust"))
        self.assertEqual({"queued": False}, answer.told)

    def test_killed_while_fenced(self) -> None:
        """Who dies before anything is proven is fenced again."""
        cluster, hosts, (_, there, unsent) = self.turned_back()
        cluster.run(0.5)
        cluster.crash(hosts[1])
        cluster.start(hosts[1])
        self.assertTrue(self.rejoin(hosts[1])["fenced"])
        cluster.run(1000)

        for host in hosts:
            self.assertEqual({there, unsent}, set(host.rows()))

    def test_remembered(self) -> None:
        """A delete that a witness may forget any time is learnt before it does."""
        cluster, (first, second) = self.cluster([2], compare_interval=Seconds(200))
        stored = cluster.put(first, "/a?copies=all", b"x").told["name"]
        cluster.run(700)
        cluster.crash(second)
        backup = second.disk.image(power_failed=False)
        cluster.start(second)
        cluster.delete(first, f"/{stored}")
        cluster.run(3300)
        cluster.crash(second)
        second.disk = backup
        cluster.start(second)
        self.assertTrue(self.rejoin(second)["fenced"])
        while self.rejoin(second)["fenced"]:
            cluster.run(0.01)

        (row,) = second.rows().values()
        self.assertTrue(row.expiry.passed(cluster.clock.seconds()))
        cluster.run(4000)
        self.assertEqual([{}, {}], [first.rows(), second.rows()])

    def test_not_long(self) -> None:
        """Who was away for less than deletes are remembered is not fenced."""
        cluster, (first, second) = self.cluster([2])
        cluster.put(first, "/a", b"x")
        cluster.run(1000)
        cluster.crash(second)
        cluster.run(1800)
        cluster.start(second)

        self.assertFalse(self.rejoin(second)["fenced"])

    def test_all_off(self) -> None:
        """A cluster that was switched off for a month is soon back, with everything."""
        cluster, hosts = self.cluster([2, 1], [2])
        names = [cluster.put(host, f"/n{n}", b"x") for n, host in enumerate(hosts)]
        stored = [answer.told["name"] for answer in names]
        cluster.run(1000)
        for host in hosts:
            cluster.crash(host)
        cluster.clock.advance(30 * DAY)
        for host in hosts:
            cluster.start(host)
        self.assertTrue(all(self.rejoin(host)["fenced"] for host in hosts))
        cluster.run(30)

        self.assertFalse(any(self.rejoin(host)["fenced"] for host in hosts))
        for host in hosts:
            self.assertEqual(0, self.rejoin(host)["forgotten"])
            for name in stored:
                self.assertEqual(b"x", cluster.get(host, f"/{name}").body)

    def test_alone(self) -> None:
        """Who cannot ask anybody serves after ten minutes."""
        cluster, (first, second) = self.cluster([2])
        stored = cluster.put(first, "/a", b"x").told["name"]
        cluster.run(1000)
        for host in (first, second):
            cluster.crash(host)
        cluster.clock.advance(DAY)
        cluster.start(second)
        cluster.run(500)

        self.assertEqual(503, cluster.get(second, f"/{stored}").status)
        cluster.run(200)
        self.assertEqual(b"x", cluster.get(second, f"/{stored}").body)
        self.assertIn("not all", self.rejoin(second)["opened"])

    def test_wiped_peer(self) -> None:
        """Who lost everything has forgotten nothing: it gets all back."""
        cluster, (first, second) = self.cluster([2])
        stored = cluster.put(first, "/a", b"x").told["name"]
        cluster.run(1000)
        cluster.crash(second)
        cluster.wipe(first)
        cluster.start(first)
        # It asks for its peer every two seconds.
        cluster.run(1000)
        cluster.clock.advance(DAY)
        cluster.run(10)
        cluster.start(second)
        cluster.run(1000)

        for host in (first, second):
            self.assertEqual(b"x", cluster.get(host, f"/{stored}").body)

    def test_other_cluster(self) -> None:
        """Where a bucket has one replica, another cluster is the witness."""
        cluster, (first, second) = self.cluster([1], [1])
        gone, there = (
            cluster.put(first, f"/{name}", b"x").told["name"]
            for name in ("gone", "there")
        )
        cluster.run(1000)
        cluster.crash(second)
        backup = second.disk.image(power_failed=False)
        cluster.start(second)
        cluster.delete(first, f"/{gone}")
        cluster.run(3 * 3600)
        cluster.crash(second)
        second.disk = backup
        cluster.start(second)
        cluster.run(1000)

        for host in (first, second):
            self.assertEqual({there}, set(host.rows()))

"""Repair in simulated clusters: what the feed does not bring, comparing does."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob import between
from clinfra.blob.trees import leaf_of
from clinfra.config import Seconds
from tests.sim.cluster import Cluster, Host

DAY = 86400.0


class RepairTests(SynchronousTestCase):
    """Comparing, and forgetting."""

    def cluster(
        self, *layout: list[int], purge_hours: float = 1, **config: Any
    ) -> tuple[Cluster, list[Host]]:
        cluster = Cluster(
            layout,
            purge_interval=Seconds(purge_hours * 3600),
            expiration_delay=Seconds(3600),
            **config,
        )
        self.addCleanup(cluster.close)
        return cluster, list(cluster.hosts.values())

    def states(self, host: Host) -> dict[str, object]:
        return {name: row.state for name, row in host.rows().items()}

    def test_wiped_replica(self) -> None:
        """A replica that lost its disk gets everything back, deletes included."""
        cluster, (first, second, other) = self.cluster([2], [1])
        names = [
            cluster.put(first, f"/n{n}", b"%d" % n).told["name"] for n in range(300)
        ]
        cluster.delete(first, f"/{names[7]}?ttl=100000")
        cluster.run(5)
        for host in (second, other):
            cluster.wipe(host)
            cluster.start(host)
        cluster.run(1000)

        self.assertEqual(300, len(first.rows()))
        self.assertEqual(self.states(first), self.states(second))
        self.assertEqual(self.states(first), self.states(other))
        assert first.service is not None and second.service is not None
        repaired = first.service.repair.repaired + second.service.repair.repaired
        self.assertGreaterEqual(repaired, 300)

    def test_all_started_at_once(self) -> None:
        """After a power cut nobody waits for the next comparison but one."""
        cluster, hosts = self.cluster([3])
        for host in hosts:
            cluster.put(host, f"/of-{host.name}?replicate=replica", b"x")
        for host in hosts:
            cluster.crash(host)
        for host in hosts:
            cluster.start(host)
        cluster.run(60)

        for host in hosts:
            self.assertEqual(3, len(host.rows()))

    def test_equal_replicas_compare_quietly(self) -> None:
        """Between equal replicas only branches travel, and nothing is sent."""
        cluster, (first, second) = self.cluster([2])
        for n in range(50):
            cluster.put(first, f"/n{n}", b"x")
        cluster.run(2000)

        for host in (first, second):
            assert host.service is not None
            report = host.service.repair.report()
            self.assertEqual((True, 0), (report["trees"], report["repaired"]))
            (told,) = report["destinations"].values()
            self.assertLess(told["compared_seconds"], 500)
            self.assertEqual((0, None), (told["lacked"], told["trouble"]))
            status = cluster.get(host, "/_status").told
            self.assertEqual(set(report), set(status["repair"]))

    def test_reported(self) -> None:
        """What others lacked, and why they cannot be compared with, is told."""
        cluster, (first, second) = self.cluster([2], compare_interval=Seconds(50))
        for n in range(20):
            cluster.put(first, f"/n{n}", b"x")
        cluster.run(100)
        cluster.crash(second)
        second.index._rows.clear()
        cluster.start(second)
        lacked = 0
        assert first.service is not None
        for _ in range(20):
            cluster.run(5)
            (told,) = first.service.repair.report()["destinations"].values()
            lacked = max(lacked, told["lacked"])
        self.assertEqual(20, lacked)
        cluster.network.crash(second.ip)
        cluster.run(100)
        (told,) = first.service.repair.report()["destinations"].values()

        self.assertGreater(told["compared_seconds"], 30)

    def test_delete_outlives_absence(self) -> None:
        """A delete is not forgotten while a peer is away that has not heard of it."""
        cluster, (first, second) = self.cluster([2])
        stored = cluster.put(first, "/a", b"x").told["name"]
        cluster.run(5)
        cluster.crash(second)
        cluster.delete(first, f"/{stored}")
        # The cursor is lost as well: only comparing is left.
        first.index._rows[stored] = evolve(first.index._rows[stored], fanout=0)
        cluster.run(2 * DAY)
        row = first.rows()[stored]

        self.assertEqual((None, None), (row.data, row.at))
        cluster.start(second)
        cluster.run(3000)
        self.assertEqual(404, cluster.get(second, f"/{stored}").status)
        self.assertEqual(404, cluster.get(first, f"/{stored}").status)

    def test_forgotten_at_last(self) -> None:
        """When all have heard of a delete it is forgotten, everywhere."""
        cluster, hosts = self.cluster([2], [1])
        stored = cluster.put(hosts[0], "/a", b"x").told["name"]
        cluster.run(5)
        cluster.delete(hosts[0], f"/{stored}")
        cluster.run(4 * 3600)

        self.assertEqual([{}, {}, {}], [host.rows() for host in hosts])
        self.assertEqual(404, cluster.get(hosts[0], f"/{stored}").status)

    def test_each_replica_elsewhere(self) -> None:
        """Each replica of another cluster has to hear of a delete, not any of them."""
        cluster, (first, second, third) = self.cluster([1], [2])
        stored = cluster.put(first, "/a", b"x").told["name"]
        cluster.run(1000)
        cluster.crash(third)
        cluster.delete(first, f"/{stored}")
        cluster.run(12 * 3600)

        self.assertEqual({stored}, set(first.rows()))
        cluster.network.cut(second.ip, third.ip)
        cluster.start(third)
        cluster.run(1000)
        self.assertEqual(404, cluster.get(third, f"/{stored}").status)
        cluster.network.join()
        cluster.run(4 * 3600)
        self.assertEqual([{}, {}, {}], [host.rows() for host in (first, second, third)])

    def test_full_leaf(self) -> None:
        """A leaf with more rows than an answer has room for is compared whole."""
        self.patch(between, "MAX_ROWS", 3)
        cluster, (first, second) = self.cluster([2])
        cluster.run(1)
        prefix = cluster.put(first, "/a", b"x").told["name"].removesuffix("a")
        names = [
            name
            for name in (f"{prefix}n{n}" for n in range(600_000))
            if leaf_of(name) in (7, 8, 9)
        ]
        self.assertGreater(len(names), 15)
        for name in names:
            cluster.put(first, f"/{name}?encoded=1&replicate=replica", b"x")
        cluster.run(800)

        self.assertEqual(len(names) + 1, len(second.rows()))
        report = self.repair(first)
        self.assertEqual((len(names), 0), (report["repaired"], self.lacked(report)))

    def repair(self, host: Host) -> Any:
        assert host.service is not None
        return host.service.repair.report()

    def lacked(self, report: Any) -> Any:
        (told,) = report["destinations"].values()
        return told["lacked"]

    def test_from_original(self) -> None:
        """Who lost his disk pulls what an original has, wherever that is."""
        for layout, name in (([2],), "c0b0r1"), (([1], [1]), "c1b0r0"):
            cluster = Cluster(layout, originals={name})
            self.addCleanup(cluster.close)
            (host,) = cluster.hosts.values()
            (original,) = cluster.originals.values()
            stored = [
                cluster.put(host, f"/n{n}", b"%d" % n).told["name"] for n in range(20)
            ]
            cluster.delete(host, f"/{stored[3]}")
            cluster.run(5)
            original.blobs["0001_elsewhere"] = (5, 0, 5, b"x")
            cluster.wipe(host)
            cluster.start(host)
            cluster.run(60)

            self.assertEqual(b"7", cluster.get(host, f"/{stored[7]}").body)
            self.assertEqual(404, cluster.get(host, f"/{stored[3]}").status)
            self.assertEqual(set(stored), set(host.rows()))
            # Later only what is young is pulled, and seldom.
            original.asked.clear()
            cluster.run(2 * 3600)
            lists = [line for line in original.asked if line.startswith(b"GET /_list")]
            self.assertEqual(
                [], [line for line in lists if b"modified_start" not in line]
            )
            self.assertLess(len(lists), 8)

    def test_from_future(self) -> None:
        """What was written by a clock that was ahead arrives when its time has come."""
        cluster, (first, *others) = self.cluster([2], [1])
        first.offset = 600
        cluster.put(first, "/a", b"x")
        first.offset = 0
        cluster.run(60)
        self.assertEqual([{}, {}], [host.rows() for host in others])
        cluster.run(840)

        for host in others:
            self.assertEqual(self.states(first), self.states(host))

    def test_from_future_at_original(self) -> None:
        """The same, when only an original has it any more: it is soon asked again."""
        cluster = Cluster([[2]], originals={"c0b0r1"})
        self.addCleanup(cluster.close)
        (host,) = cluster.hosts.values()
        host.offset = 600
        told = cluster.put(host, "/a", b"x").told
        cluster.run(5)
        host.offset = 0
        cluster.wipe(host)
        cluster.start(host)
        cluster.run(60)
        self.assertEqual({}, host.rows())
        cluster.run(840)

        self.assertEqual([told["name"]], list(host.rows()))
        self.assertEqual(b"x", cluster.get(host, f"/{told['name']}").body)

    def test_late_request(self) -> None:
        """What was asked before a delete and comes late brings nothing back."""
        cluster = Cluster([[2]], purge_interval=Seconds(1), expiration_delay=Seconds(1))
        self.addCleanup(cluster.close)
        first, second = cluster.hosts.values()
        told = cluster.put(first, "/a", b"x").told
        cluster.delete(first, f"/{told['name']}")
        cluster.run(240)
        stamps = f"modified={told['modified']}&modified_deleted={told['modified']}"
        cluster.put(
            second, f"/{told['name']}?{stamps}&encoded=1&replicate=replica", b"x"
        )
        self.assertEqual(404, cluster.get(second, f"/{told['name']}").status)
        cluster.run(3600)

        self.assertEqual([{}, {}], [first.rows(), second.rows()])

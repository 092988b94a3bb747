"""Replication in simulated clusters: what one replica takes, all get."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.sim.cluster import Cluster


class ReplicationTests(SynchronousTestCase):
    """Classic delivery."""

    def cluster(self, *layout: list[int]) -> Cluster:
        cluster = Cluster(layout)
        self.addCleanup(cluster.close)
        return cluster

    def test_to_peers_and_clusters(self) -> None:
        """A PUT travels to the peers, one replica of each other cluster, its peers."""
        cluster = self.cluster([3], [2])
        first = cluster.hosts["c0b0r0"]
        answer = cluster.put(first, "/a", b"hello")
        cluster.run(5)

        self.assertEqual(200, answer.status)
        stored = answer.told["name"]
        states = {host.rows()[stored].state for host in cluster.hosts.values()}
        self.assertEqual({first.rows()[stored].state}, states)
        for host in cluster.hosts.values():
            self.assertEqual(b"hello", cluster.get(host, f"/{stored}").body)

    def test_delete_travels(self) -> None:
        """A DELETE travels too, without the bytes."""
        cluster = self.cluster([2], [1])
        first = cluster.hosts["c0b0r0"]
        stored = cluster.put(first, "/a", b"hello").told["name"]
        cluster.run(5)
        cluster.delete(cluster.hosts["c1b0r0"], f"/{stored}")
        cluster.run(5)

        for host in cluster.hosts.values():
            self.assertEqual(404, cluster.get(host, f"/{stored}").status)
        self.assertEqual(
            1, len({h.rows()[stored].state for h in cluster.hosts.values()})
        )

    def test_dead_peer_catches_up(self) -> None:
        """Who was away gets everything, also after the sender was restarted."""
        cluster = self.cluster([2], [1, 1])
        first, second = cluster.hosts["c0b0r0"], cluster.hosts["c0b0r1"]
        cluster.crash(second)
        names = [
            cluster.put(first, f"/n{n}", b"%d" % n).told["name"] for n in range(50)
        ]
        cluster.run(5)
        cluster.crash(first)
        cluster.start(first)
        cluster.run(5)
        cluster.start(second)
        cluster.run(120)

        self.assertEqual(set(names), set(second.rows()))
        for name in names:
            self.assertEqual(first.rows()[name].state, second.rows()[name].state)
        report = first.service.replication.report() if first.service else {}
        self.assertEqual([0] * 3, [each["under_way"] for each in report.values()])

    def test_dead_bucket_blocks_nobody(self) -> None:
        """A dead bucket elsewhere does not hold up what goes to the other buckets."""
        cluster = self.cluster([1], [1, 1])
        first, dead = cluster.hosts["c0b0r0"], cluster.hosts["c1b0r0"]
        cluster.crash(dead)
        for n in range(200):
            cluster.put(first, f"/n{n}", b"x")
        cluster.run(5)
        alive = cluster.hosts["c1b1r0"].rows()

        self.assertGreater(len(alive), 50)
        wanted = {name for name in first.rows() if name.startswith("00001")}
        self.assertEqual(wanted, set(alive))

    def test_coalesced(self) -> None:
        """Who was away gets the last state of a name once, not each it ever had."""
        cluster = self.cluster([2])
        first, second = cluster.hosts["c0b0r0"], cluster.hosts["c0b0r1"]
        cluster.crash(second)
        for n in range(100):
            cluster.put(first, "/a", b"%d" % n)
        cluster.start(second)
        cluster.run(60)

        (row,) = second.rows().values()
        assert second.service is not None and first.service is not None
        self.assertEqual(b"99", cluster.get(second, f"/{row.name}").body)
        (report,) = first.service.replication.report().values()
        self.assertLess(report["sent"], 20)

    def test_refused_name_is_parked(self) -> None:
        """A name a peer will never take is put aside; the others go on, it is told."""
        cluster = self.cluster([2])
        first, second = cluster.hosts["c0b0r0"], cluster.hosts["c0b0r1"]
        second.offset = -4000.0
        cluster.put(first, "/a", b"from its future")
        cluster.put(first, "/b?modified=5", b"long ago")
        cluster.run(10)
        assert first.service is not None
        (report,) = first.service.replication.report().values()

        self.assertEqual((0, 1), (report["under_way"], report["parked"]))
        self.assertEqual({"000_b"}, set(second.rows()))
        second.offset = 0.0
        self.flushLoggedErrors()
        cluster.run(2 * 3600)
        self.assertEqual({"000_a", "000_b"}, set(second.rows()))

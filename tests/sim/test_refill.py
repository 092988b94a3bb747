"""Filling wiped replicas in simulated clusters: all at once, from one peer."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.reading import SMALL_BYTES
from tests.sim.cluster import Cluster, Host


class RefillTests(SynchronousTestCase):
    """A replica that lost its disk."""

    def cluster(self, *layout: list[int], **config: Any) -> tuple[Cluster, list[Host]]:
        cluster = Cluster(layout, **config)
        self.addCleanup(cluster.close)
        cluster.run(5)
        return cluster, list(cluster.hosts.values())

    def states(self, host: Host) -> dict[str, object]:
        return {name: row.state for name, row in host.rows().items()}

    def report(self, host: Host) -> dict[str, Any]:
        assert host.service is not None
        return dict(host.service.refill.report())

    def test_new_bucket(self) -> None:
        """Replicas that are all new find out that there is nothing to be had."""
        _, hosts = self.cluster([3], [2])
        self.assertEqual([False] * 5, [self.report(host)["filling"] for host in hosts])

    def test_new_bucket_is_open_at_once(self) -> None:
        """When all replicas have been asked, nobody waits for them to be filled."""
        cluster = Cluster([[3], [1]])
        self.addCleanup(cluster.close)
        asked = [cluster.ask(h, "GET", "/000_a") for h in cluster.hosts.values()]
        self.assertEqual([404] * 4, [cluster.finish(each).status for each in asked])
        self.assertTrue(self.report(cluster.hosts["c0b0r0"])["unsure"])

    def test_new_bucket_with_one_away(self) -> None:
        """A replica that was never started is waited for, but not for long."""
        cluster = Cluster([[3]])
        self.addCleanup(cluster.close)
        first, second, third = cluster.hosts.values()
        cluster.crash(third)
        self.assertEqual(503, cluster.get(first, "/000_a").status)
        cluster.run(6)
        for host in (first, second):
            self.assertEqual(404, cluster.get(host, "/000_a").status)
            self.assertEqual(200, cluster.get(host, "/_tree").status)
            self.assertTrue(self.report(host)["filling"])
        cluster.start(third)
        cluster.run(5)
        for host in (first, second, third):
            self.assertFalse(self.report(host)["filling"])

    def test_everything_comes(self) -> None:
        """Blobs, small and large, and deletes come in one stream, checked."""
        cluster, (first, second) = self.cluster([2])
        stored = [
            cluster.put(first, f"/n{n}", b"%d" % n).told["name"] for n in range(300)
        ]
        large = bytes(range(256)) * (SMALL_BYTES // 100)
        stored.append(cluster.put(first, "/large", large).told["name"])
        stored.append(cluster.put(first, "/last", b"last").told["name"])
        cluster.delete(first, f"/{stored[7]}")
        cluster.delete(first, f"/{stored[8]}?ttl=100000")
        cluster.run(5)
        cluster.wipe(second)
        cluster.start(second)
        cluster.run(3)

        report = self.report(second)
        self.assertEqual(
            (False, 302, 0), tuple(report[k] for k in ("filling", "blobs", "left_out"))
        )
        self.assertEqual(self.states(first), self.states(second))
        self.assertEqual(large, cluster.get(second, f"/{stored[300]}").body)
        self.assertEqual(404, cluster.get(second, f"/{stored[7]}").status)
        # Nothing of it is sent on, or sent again.
        cluster.run(1000)
        assert first.service is not None and second.service is not None
        self.assertEqual(0, second.service.replication.deliveries["peer:c0b0r0"].sent)
        self.assertEqual(0, first.service.repair.repaired)
        self.assertEqual(0, second.service.repair.repaired)

    def test_next_peer_and_going_on(self) -> None:
        """When the peer that streams dies, another one is asked; nothing is missed."""
        cluster, (first, second, third) = self.cluster([3])
        for n in range(400):
            cluster.put(first, f"/n{n}", b"%d" % n * 3000)
        cluster.run(5)
        cluster.wipe(third)
        cluster.start(third)
        for _ in range(400):
            cluster.run(0.01)
            if source := self.report(third)["source"]:
                break
        cluster.crash(cluster.hosts[source])
        cluster.run(20)

        self.assertFalse(self.report(third)["filling"])
        left = second if source == first.name else first
        self.assertEqual(400, len(third.rows()))
        self.assertEqual(self.states(left), self.states(third))

    def test_restart_goes_on(self) -> None:
        """A replica that is killed while it is filled goes on where it was."""
        cluster, (first, second) = self.cluster([2])
        for n in range(300):
            cluster.put(first, f"/n{n}", b"x" * 10)
        cluster.run(5)
        cluster.wipe(second)
        cluster.start(second)
        cluster.crash(second)
        second.index._notes["filling"] = '{"c0b0r0": 100}'
        cluster.start(second)
        cluster.run(5)
        self.assertEqual(
            (False, 200),
            (self.report(second)["filling"], self.report(second)["blobs"]),
        )

    def test_writes_meanwhile(self) -> None:
        """What is written while a replica is filled is there too, the newest of it."""
        cluster, (first, second) = self.cluster([2])
        stored = [cluster.put(first, f"/n{n}", b"old").told["name"] for n in range(200)]
        cluster.run(5)
        cluster.wipe(second)
        cluster.start(second)
        for n in range(50):
            host = second if n % 2 else first
            self.assertEqual(
                200, cluster.put(host, f"/{stored[n]}?encoded=1", b"new").status
            )
        cluster.run(30)
        self.assertEqual(self.states(first), self.states(second))
        for n in (0, 1, 48, 49):
            self.assertEqual(b"new", cluster.get(second, f"/{stored[n]}").body)

    def test_sent_on_at_once(self) -> None:
        """What a stream makes of a change that is yet to be sent on is sent on, too.

        Nobody need write anything for that.
        """
        cluster, (first, second) = self.cluster([2])
        stored = [cluster.put(first, f"/n{n}", b"new").told["name"] for n in range(300)]
        cluster.run(5)
        cluster.wipe(second)
        cluster.start(second)
        cluster.put(second, f"/{stored[9]}?encoded=1&modified=5", b"old")
        cluster.run(60)
        assert second.service is not None
        report = second.service.replication.report()["peer:c0b0r0"]
        self.assertEqual(
            (second.index.last_seq(), 0, 0),
            tuple(report[key] for key in ("cursor", "waiting", "lag_seconds")),
        )

    def test_a_miss_is_not_sure(self) -> None:
        """Until it is filled, a replica says 404 only when its peers do, else 503.

        But it does not wait for ever for peers that are away.
        """
        cluster, (first, second, other) = self.cluster([2], [1])
        stored = cluster.put(first, "/a", b"x").told["name"]
        cluster.run(5)
        cluster.wipe(second)
        cluster.crash(first)
        cluster.crash(other)
        cluster.start(second)
        cluster.run(2)
        self.assertTrue(self.report(second)["filling"])
        self.assertEqual(503, cluster.get(second, f"/{stored}").status)
        cluster.run(5)
        self.assertTrue(self.report(second)["filling"])
        self.assertEqual(404, cluster.get(second, f"/{stored}").status)
        cluster.start(first)
        cluster.run(40)
        self.assertEqual(b"x", cluster.get(second, f"/{stored}").body)
        self.assertFalse(self.report(second)["filling"])

    def test_half_of_it(self) -> None:
        """A peer that dies while it streams is waited for much longer."""
        cluster, (first, second) = self.cluster([2])
        cluster.put(first, "/a", b"x" * (SMALL_BYTES * 8))
        cluster.run(5)
        cluster.wipe(second)
        cluster.start(second)
        for _ in range(400):
            cluster.run(0.001)
            if self.report(second)["source"]:
                break
        cluster.crash(first)
        cluster.run(60)
        self.assertEqual(503, cluster.get(second, "/000_b").status)
        cluster.run(600)
        self.assertEqual(404, cluster.get(second, "/000_b").status)

    def test_no_proof_of_absence(self) -> None:
        """While a replica is filling its trees prove nothing to anybody."""
        cluster, (first, second) = self.cluster([2])
        cluster.put(first, "/a", b"x")
        cluster.run(5)
        cluster.crash(first)
        cluster.wipe(second)
        cluster.start(second)
        cluster.run(3)
        self.assertEqual(503, cluster.get(second, "/_tree").status)

    def test_strangers(self) -> None:
        """The stream is for replicas of the cluster file."""
        cluster, (first, _) = self.cluster([2])
        self.assertEqual(403, cluster.get(first, "/_stream?after=0").status)

    def test_damage_is_left_out(self) -> None:
        """What is damaged on the way, or at the source, is not kept."""
        cluster, (first, second) = self.cluster([2])
        stored = [
            cluster.put(first, f"/n{n}", b"body %d" % n).told["name"] for n in range(5)
        ]
        cluster.run(5)
        first.flip(stored[3])
        cluster.wipe(second)
        cluster.start(second)
        cluster.run(3)
        report = self.report(second)
        self.assertEqual(
            (False, 4, 1), tuple(report[k] for k in ("filling", "blobs", "left_out"))
        )

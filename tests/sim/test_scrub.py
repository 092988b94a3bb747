"""Damage that the scrubber finds is put right from other replicas."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from tests.sim.cluster import Cluster, Host


class ScrubTests(SynchronousTestCase):
    """Scrubbing one replica of several."""

    def cluster(self, *layout: list[int]) -> Cluster:
        cluster = Cluster(layout)
        self.addCleanup(cluster.close)
        return cluster

    def scrub(self, cluster: Cluster, host: Host) -> None:
        assert host.service is not None
        cluster.finish(Deferred.fromCoroutine(host.service.scrubber.scrub()), 600)

    def test_from_peer_or_elsewhere(self) -> None:
        """What rots comes back from a peer, or from another cluster."""
        for layout in ([3], [1]), ([1], [1]):
            cluster = self.cluster(*layout)
            host = cluster.hosts["c0b0r0"]
            stored = [
                cluster.put(host, f"/n{n}", b"body %d" % n * 50).told["name"]
                for n in range(5)
            ]
            cluster.run(5)
            cluster.crash(host)
            for name in stored[1:4]:
                host.flip(name)
            cluster.start(host)
            self.scrub(cluster, host)
            assert host.service is not None

            scrubber = host.service.scrubber
            self.assertEqual((3, {}), (scrubber.healed, scrubber.damaged))
            for number, name in enumerate(stored):
                at = host.rows()[name].at
                assert at is not None
                body = b"body %d" % number * 50
                store = host.service.replica.store
                self.assertEqual(body, store.read(at, 0, len(body)))

    def test_when_they_are_back(self) -> None:
        """While nobody else is there it waits, and gets its bytes when they are."""
        cluster = self.cluster([2])
        host, peer = cluster.hosts["c0b0r0"], cluster.hosts["c0b0r1"]
        stored = cluster.put(host, "/a", b"hello").told["name"]
        cluster.run(5)
        cluster.crash(host)
        cluster.crash(peer)
        host.flip(stored)
        cluster.start(host)
        self.scrub(cluster, host)
        assert host.service is not None
        self.assertEqual([stored], list(host.service.scrubber.damaged))
        cluster.start(peer)
        cluster.run(2 * 3600 + 60)

        self.assertEqual({}, host.service.scrubber.damaged)
        self.assertEqual(b"hello", cluster.get(host, f"/{stored}").body)

    def test_lost_end(self) -> None:
        """What was at the lost end of a volume comes back before anybody misses it."""
        cluster = self.cluster([2])
        host, peer = cluster.hosts.values()
        stored = [
            cluster.put(host, f"/n{n}", b"body %d" % n).told["name"] for n in range(20)
        ]
        cluster.run(5)
        for away in (0.0, 4.0):
            cluster.crash(host)
            if away:
                cluster.crash(peer)
            at = host.rows()[stored[12]].at
            assert at is not None
            host.file_of(at).resize(at.offset + 20)
            cluster.start(host)
            if away:
                cluster.run(away)
                cluster.start(peer)
            cluster.run(1 + 2 * away)
            assert host.service is not None

            self.assertEqual({}, host.service.scrubber.damaged)
            self.assertEqual(8, host.service.scrubber.healed)
            for number, name in enumerate(stored):
                at = host.rows()[name].at
                assert at is not None
                body = b"body %d" % number
                self.assertEqual(body, host.store.read(at, 0, len(body)))

    def test_deleted_is_not_read(self) -> None:
        """What was deleted is 404, were its bytes damaged too."""
        cluster = self.cluster([2])
        host = cluster.hosts["c0b0r0"]
        stored = cluster.put(host, "/a", b"hello").told["name"]
        cluster.delete(host, f"/{stored}")
        cluster.run(5)
        cluster.crash(host)
        host.flip(stored)
        cluster.start(host)

        self.assertEqual(404, cluster.get(host, f"/{stored}").status)

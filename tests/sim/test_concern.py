"""Write concern in simulated clusters: who is told what, and whether it is so."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.concern import ALL, QUORUM, Wish, parse_wish
from clinfra.errors import InvalidRequest
from tests.sim.cluster import Answer, Cluster, Host


class ConcernTests(SynchronousTestCase):
    """Copies before the answer."""

    def cluster(self, *layout: list[int]) -> tuple[Cluster, list[Host]]:
        cluster = Cluster(layout)
        self.addCleanup(cluster.close)
        return cluster, list(cluster.hosts.values())

    def told(self, answer: Answer) -> tuple[int, bytes, bytes]:
        fields = answer.fields
        return (
            answer.status,
            fields[b"x-clblob-copies"],
            fields[b"x-clblob-clusters"],
        )

    def test_two_by_default(self) -> None:
        """A change is on two disks before it is answered; the feed does not repeat."""
        cluster, hosts = self.cluster([3])
        answer = cluster.put(hosts[0], "/a", b"hello")

        self.assertEqual((200, b"2/3", b"1/1"), self.told(answer))
        self.assertGreaterEqual(sum("000_a" in host.rows() for host in hosts), 2)
        cluster.run(5)
        self.assertEqual(3, sum("000_a" in host.rows() for host in hosts))
        assert hosts[0].service is not None
        reports = hosts[0].service.replication.report().values()
        self.assertEqual(1, sum(report["sent"] for report in reports))

    def test_alone_alive(self) -> None:
        """With one replica left writes go on, and say that there is one copy."""
        cluster, hosts = self.cluster([2])
        cluster.crash(hosts[1])
        before = cluster.clock.seconds()
        answers = [cluster.put(hosts[0], f"/n{n}", b"x") for n in range(10)]

        self.assertEqual({(200, b"1/2", b"1/1")}, {self.told(a) for a in answers})
        self.assertLess(cluster.clock.seconds() - before, 1)

    def test_silent_peer(self) -> None:
        """A peer that says nothing costs a bounded time, and soon none."""
        cluster, hosts = self.cluster([2])
        cluster.network.cut(hosts[0].ip, hosts[1].ip)
        before = cluster.clock.seconds()
        answer = cluster.put(hosts[0], "/a", b"x")

        self.assertEqual((200, b"1/2", b"1/1"), self.told(answer))
        self.assertLess(cluster.clock.seconds() - before, 1.2)

    def test_next_peer(self) -> None:
        """When a peer fails, the next one takes the second copy."""
        cluster, hosts = self.cluster([3])
        cluster.crash(hosts[1])
        answers = [cluster.put(hosts[0], f"/n{n}", b"x") for n in range(5)]

        self.assertEqual({(200, b"2/3", b"1/1")}, {self.told(a) for a in answers})

    def test_all_and_clusters(self) -> None:
        """A client may ask for all copies, and for other clusters."""
        cluster, hosts = self.cluster([3], [2])
        answer = cluster.put(hosts[0], "/a?copies=all&clusters=2", b"x")

        self.assertEqual((200, b"3/3", b"2/2"), self.told(answer))
        self.assertGreaterEqual(sum(bool(host.rows()) for host in hosts), 4)
        answer = cluster.delete(hosts[0], "/00000_a?copies=quorum")
        self.assertEqual((200, b"2/3", b"1/2"), self.told(answer))

    def test_require(self) -> None:
        """Short of what is required the answer is 503; the blob stays and travels."""
        cluster, hosts = self.cluster([2])
        cluster.crash(hosts[1])
        answer = cluster.put(hosts[0], "/a?copies=2&require", b"x")

        self.assertEqual((503, b"1/2", b"1/1"), self.told(answer))
        self.assertIn("000_a", hosts[0].rows())
        cluster.start(hosts[1])
        cluster.run(60)
        self.assertIn("000_a", hosts[1].rows())
        answer = cluster.put(hosts[0], "/a?copies=all&require", b"x")
        self.assertEqual((200, b"2/2", b"1/1"), self.told(answer))


class WishTests(SynchronousTestCase):
    """The parameters."""

    def test_parsed(self) -> None:
        """Words and numbers; nothing asked is the default."""
        self.assertEqual(Wish(), parse_wish(b"ttl=5"))
        self.assertEqual(
            Wish(ALL, 2, True), parse_wish(b"copies=all&clusters=2&require")
        )
        self.assertEqual(Wish(QUORUM), parse_wish(b"copies=quorum"))
        self.assertEqual(Wish(3), parse_wish(b"copies=3"))

    def test_refused(self) -> None:
        """What is no number of copies is refused."""
        for query in (b"copies=0", b"copies=-1", b"copies=x", b"copies", b"clusters=0"):
            self.assertRaises(InvalidRequest, parse_wish, query)

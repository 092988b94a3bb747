"""Write concern in simulated clusters: who is told what, and whether it is so."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from zlib import crc32

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.concern import ALL, QUORUM, Wish, parse_wish
from clinfra.blob.records import (
    BYTES,
    EVERYWHERE,
    Data,
    Expiry,
    Locator,
    Row,
    State,
)
from clinfra.blob.stamps import stamp_at
from clinfra.blob.store import Entry
from clinfra.errors import InvalidRequest, StorageFull
from tests.blob.support import NOW
from tests.sim.cluster import Answer, Cluster, Host
from tests.sim.disk import SimStore

NOW_STAMP = stamp_at(NOW)


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


class AheadTests(SynchronousTestCase):
    """A small blob travels to its peers while it is being written here."""

    def setUp(self) -> None:
        self.cluster = Cluster([[2]])
        self.addCleanup(self.cluster.close)
        self.here, self.there = self.cluster.hosts.values()
        # By now they know of each other that they take batches.
        self.assertEqual(200, self.cluster.put(self.here, "/first", b"1").status)
        self.cluster.run(1)

    def failing(self, error: Exception) -> None:
        """Let the disk here take nothing until further notice."""

        broken, real = self.here.store, SimStore.append

        def append(
            store: SimStore, entries: Sequence[Entry], now: float
        ) -> list[Locator]:
            if store is broken:
                raise error
            return real(store, entries, now)

        self.failure = self.patch(SimStore, "append", append)

    def stamp(self, host: Host, name: str) -> int | None:
        row = host.rows().get(name)
        return row.data.modified if row is not None and row.data is not None else None

    def test_full_here(self) -> None:
        """A full disk here is 507, whatever the peer has; then both have the same."""
        self.failing(StorageFull("full"))
        answer = self.cluster.put(self.here, "/a", b"never acknowledged")

        self.assertEqual(507, answer.status)
        self.cluster.run(1)
        self.assertIsNone(self.stamp(self.here, "000_a"))
        self.assertIsNotNone(self.stamp(self.there, "000_a"))
        self.failure.restore()
        self.cluster.run(700)
        self.assertEqual(
            self.stamp(self.there, "000_a"), self.stamp(self.here, "000_a")
        )
        for host in (self.here, self.there):
            self.assertEqual(
                b"never acknowledged", self.cluster.get(host, "/000_a").body
            )

    def test_written_again(self) -> None:
        """What is acknowledged later wins over what failed, everywhere, at once."""
        self.failing(OSError(5, "broken"))
        self.assertEqual(500, self.cluster.put(self.here, "/a", b"old").status)
        self.flushLoggedErrors(OSError)
        self.failure.restore()
        answer = self.cluster.put(self.here, "/a?copies=2&require", b"new")

        self.assertEqual(200, answer.status)
        for host in (self.here, self.there):
            self.assertEqual(b"new", self.cluster.get(host, "/000_a").body)
        self.assertEqual(
            self.stamp(self.there, "000_a"), self.stamp(self.here, "000_a")
        )

    def test_crash_in_between(self) -> None:
        """Dying before the bytes are written here leaves two equal replicas, too."""
        self.failing(OSError(5, "dying"))
        asking = self.cluster.ask(self.here, "PUT", "/a", b"unanswered")
        self.cluster.run(0.5)
        self.flushLoggedErrors(OSError)
        self.cluster.crash(self.here)
        asking.addErrback(lambda failure: None)
        self.cluster.start(self.here)
        self.cluster.run(700)

        self.assertIsNotNone(self.stamp(self.there, "000_a"))
        self.assertEqual(
            self.stamp(self.there, "000_a"), self.stamp(self.here, "000_a")
        )

    def test_feed_passes_over(self) -> None:
        """What went ahead is not sent again, and the cursor moves over it."""
        for n in range(20):
            self.cluster.put(self.here, f"/n{n}", b"x")
        self.cluster.run(5)
        assert self.here.service is not None and self.there.service is not None
        told = [
            next(iter(host.service.replication.report().values()))
            for host in (self.here, self.there)
            if host.service is not None
        ]

        self.assertEqual([(0, 21), (0, 21)], [(t["sent"], t["cursor"]) for t in told])

    def test_other_state(self) -> None:
        """What was sent ahead counts only for the very state that was committed."""
        assert self.here.service is not None
        concern = self.here.service.blobs.concern
        old, new = (
            Row(
                "000_a",
                State(
                    Data(stamp, sha256(body).digest(), 3, crc32(body)), Expiry(stamp, 0)
                ),
                None,
                9,
                None,
                EVERYWHERE | BYTES,
            )
            for stamp, body in ((NOW_STAMP, b"old"), (NOW_STAMP + 1, b"new"))
        )
        ahead = concern.ahead(EVERYWHERE, Wish())
        assert ahead is not None
        ahead(old, b"old")

        self.assertEqual({"c0b0r1"}, set(ahead.begun(old)))
        self.assertEqual({}, dict(ahead.begun(new)))


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

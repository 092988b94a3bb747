"""The original's faults that concern a cluster, each proven absent.

Numbers are those of WIRE part 4; "live" are those of its list "seen live as well".

======== ============================================================= ==============
fault    what                                                          proven in
======== ============================================================= ==============
1        a retried upload stores an empty or cut blob                  `test_router`
2, 3     a restart overwrites good bytes, or gives them to another     `test_faults`,
                                                                       `test_original`
4        racing PUTs end with old bytes under the new stamp            `test_faults`
5, 26    purge removes what was put again; one bad blob ends it        `test_expire`
6        deleted blobs come back                                       here
7        half transactions                                             `test_faults`
8        events are linked to names by numbers that are used again     here
9        ties never converge                                           here
10       two names with one stamp hide each other in a sync            `test_admin`
11       lost and rotten bytes are not noticed                         here,
                                                                       `test_scrub`
12       weak digests, deletes without data are not compared           here
13       names are not durable                                         `test_store`
14       acknowledged with one copy (live 1)                           here
15       one dead bucket stops a whole cluster                         here
16       what cannot be delivered stops everything (live 4)            here
17       counters that drift leave events undelivered                  here
18       repair is off by default, one-way, and within a cluster       here
19       the walk through windows gets stuck                           `test_admin`
20       a 404 marks a replica as failed (live 19)                     here
21       the queue grows with every change                             here
22       the present bytes are sent under an old stamp                 here
23       no fallback for reads                                         `test_router`
24       any stamp is trusted (live 12)                                here
25       deleted blobs are served (live 2)                             here
27, 28   names that brick a replica, or leave the store (live 14)      `test_faults`;
                                                                       sent on: here
29       anybody's GET purges and syncs                                `test_admin`
30       cheap denial of service                                       `test_faults`
31       stored scripts                                                `test_faults`
32       names are not escaped on their way (live 5)                   here
33       length-less PUTs cannot be forwarded (live 17)                `test_router`
34       500 for clients' mistakes                                     `test_resource`
35 … 39  what configcheck does not see (live 18)                      `test_configcheck`
live 3   a forwarded PUT fails over without its body                   `test_router`
live 6   a backlog drains slowly                                       here
live 7   a 500 leaves index and store disagreeing                      `test_faults`
live 8   sync compares rows only, pulls only                           here: 11, 18
live 9   equal stamps, crash between index and rename                  `test_original`
live 10  racing PUTs                                                   `test_faults`
live 11  a partition heals                                             here
live 20  a hung peer costs its time-out                                here,
                                                                       `test_router`
live 21  kill -9                                                       `tests/wire`
======== ============================================================= ==============
"""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.stamps import stamp_at
from clinfra.config import Seconds
from clinfra.web.pool import Origin
from tests.blob.support import NOW
from tests.sim.cluster import Answer, Cluster, Host
from tests.sim.original import Original

SECOND = 1 << 32
DAY = 86400.0


class ClusterFaultCase(SynchronousTestCase):
    """A simulated cluster."""

    def start(self, *layout: list[int], **config: Any) -> list[Host]:
        """Start a cluster; return its replicas."""
        self.cluster = Cluster(layout, **config)
        self.addCleanup(self.cluster.close)
        return list(self.cluster.hosts.values())

    def put(self, host: Host, target: str, body: bytes = b"x") -> str:
        """PUT; return the stored name."""
        answer = self.cluster.put(host, target, body)
        self.assertEqual(200, answer.status, answer.body)
        name: str = answer.told["name"]
        return name

    def original(self, host: Host) -> Original:
        """Let an original be at a replica's address."""
        self.cluster.crash(host)
        original = Original()
        self.cluster.network.listeners[Origin(host.ip, 80)] = original
        return original

    def assert_equal_replicas(self, *hosts: Host) -> None:
        """Check that replicas know the same of every name."""
        states = [
            {name: row.state for name, row in host.rows().items()} for host in hosts
        ]
        for state in states[1:]:
            self.assertEqual(states[0], state)


class FaultTests(ClusterFaultCase):
    """One test for each fault, in the order of the table."""

    def test_06_deleted_stays_deleted(self) -> None:
        """A peer that was away over delete and purge does not bring the blob back."""
        first, second, third = self.start(
            [3], purge_interval=Seconds(600), expiration_delay=Seconds(600)
        )
        name = self.put(first, "/a")
        self.cluster.run(5)
        self.cluster.crash(second)
        self.cluster.delete(first, f"/{name}")
        self.cluster.run(2 * DAY)
        self.cluster.start(second)
        self.assertEqual(200, self.cluster.finish(self._sync(first)).status)
        self.cluster.run(7200)

        for host in (first, second, third):
            self.assertEqual(404, self.cluster.get(host, f"/{name}").status)

    def _sync(self, host: Host) -> Deferred[Answer]:
        return self.cluster.ask(host, "POST", "/_sync")

    def test_08_purged_names_leave_nothing(self) -> None:
        """A change that waits for a dead peer never becomes another name's."""
        first, second = self.start(
            [2], purge_interval=Seconds(60), expiration_delay=Seconds(0)
        )
        self.cluster.crash(second)
        for n in range(20):
            self.cluster.delete(first, "/" + self.put(first, f"/old{n}?ttl=1"))
        self.cluster.run(600)
        new = {self.put(first, f"/new{n}", b"%d" % n) for n in range(20)}
        self.cluster.start(second)
        self.cluster.run(600)

        got = {name: row for name, row in second.rows().items() if row.data is not None}
        self.assertEqual(new, set(got))
        for name in new:
            body = self.cluster.get(second, f"/{name}").body
            self.assertEqual(name.removeprefix("000_new").encode(), body)

    def test_09_ties_converge(self) -> None:
        """Different bytes under one stamp end as the same bytes everywhere."""
        hosts = self.start([2], [1])
        stamp = stamp_at(NOW)
        for one in hosts:
            for other in hosts:
                self.cluster.network.cut(one.ip, other.ip)
        for host, body in zip(hosts, (b"AAAA", b"BBBB", b"CC"), strict=True):
            self.put(host, f"/a?modified={stamp}", body)
        self.cluster.network.join()
        self.cluster.run(1000)

        self.assert_equal_replicas(*hosts)
        got = {self.cluster.get(host, "/00000_a").body for host in hosts}
        self.assertEqual(1, len(got))

    def test_11_lost_bytes_come_back(self) -> None:
        """Bytes that are gone or rotten are served from a peer, and mended."""
        first, second = self.start([2])
        name = self.put(first, "/a", b"good bytes")
        self.cluster.run(5)
        assert first.service is not None
        at = first.rows()[name].at
        assert at is not None
        first.file_of(at).content[-20:-8] = bytes(12)
        first.service.replica.hot.drop(name)

        self.assertEqual(b"good bytes", self.cluster.get(first, f"/{name}").body)
        self.cluster.run(5)
        self.cluster.crash(second)
        first.service.replica.hot.drop(name)
        self.assertEqual(b"good bytes", self.cluster.get(first, f"/{name}").body)
        self.flushLoggedErrors()

    def test_12_everything_is_compared(self) -> None:
        """Ends, bytes and deletes of what was never seen differ, and are repaired."""
        first, second = self.start([2])
        stamp = stamp_at(NOW)
        local = "replicate=replica&"
        for host, body in ((first, b"1"), (second, b"2")):
            self.put(host, f"/bytes?{local}modified={stamp}", body)
        for host, end in ((first, 0), (second, int(NOW) + 99999)):
            query = f"{local}modified={stamp}&deleted={end}"
            self.put(host, f"/end?{query}&modified_deleted={stamp}")
        self.cluster.delete(first, f"/000_never?{local}ttl=99999")
        # As many, and the same average.
        self.put(first, f"/left?{local}modified={stamp + SECOND}")
        self.put(second, f"/right?{local}modified={stamp + SECOND}")
        self.cluster.run(2000)

        self.assertEqual(5, len(first.rows()))
        self.assert_equal_replicas(first, second)

    def test_14_two_copies(self) -> None:
        """What was answered 200 outlives the machine that answered it."""
        first, second = self.start([2])
        names = []
        for n in range(20):
            answer = self.cluster.put(first, f"/n{n}", b"%d" % n)
            # One copy that arrives a moment later would not do.
            self.assertEqual(b"2/2", answer.fields[b"x-clblob-copies"])
            names.append(answer.told["name"])
        self.cluster.wipe(first)

        for n, name in enumerate(names):
            self.assertEqual(b"%d" % n, self.cluster.get(second, f"/{name}").body)

    def test_15_dead_bucket(self) -> None:
        """A dead bucket holds up nothing that goes to other buckets of its cluster."""
        first, dead, alive = self.start([1], [1, 1])
        self.cluster.crash(dead)
        names = [self.put(first, f"/n{n}") for n in range(200)]
        self.cluster.run(3)

        wanted = {name for name in names if name.startswith("00001")}
        self.assertEqual(wanted, set(alive.rows()))

    def test_16_damage_here_blames_nobody(self) -> None:
        """Bytes that we lost are not sent for ever, nor do they blame a peer."""
        first, second = self.start([2])
        self.cluster.crash(second)
        names = [self.put(first, f"/n{n}", b"%d" % n * 100) for n in range(20)]
        assert first.service is not None
        at = first.rows()[names[0]].at
        assert at is not None
        first.file_of(at).content[100:400] = bytes(300)
        for name in names:
            first.service.replica.hot.drop(name)
        self.cluster.start(second)
        self.cluster.run(120)

        (report,) = first.service.replication.report().values()
        self.assertEqual(0, report["under_way"])
        self.assertLess(15, len(second.rows()))
        self.assertLess(0, report["parked"])
        self.assertTrue(first.service.peers.health.is_up("c0b0r1"))
        self.flushLoggedErrors()

    def test_16_poison(self) -> None:
        """A name that an original answers with 500 for ever holds up no other."""
        first, second = self.start([2])
        original = self.original(second)
        original.broken.add("000_bad")
        self.cluster.run(5)
        self.put(first, "/bad")
        names = {self.put(first, f"/n{n}") for n in range(300)}
        self.cluster.run(60)

        self.assertEqual(names, set(original.blobs))
        assert first.service is not None
        (report,) = first.service.replication.report().values()
        self.assertEqual((0, 1), (report["under_way"], report["parked"]))
        tries = sum(b"000_bad" in line for line in original.changes())
        self.assertLess(tries, 20)
        self.assertTrue(first.service.peers.health.is_up("c0b0r1"))
        self.flushLoggedErrors()

    def test_16_poison_kept(self) -> None:
        """Nor does it among the changes that are kept until somebody is back."""
        first, owner = self.start([1, 1])
        self.cluster.crash(owner)
        for name in ("bad", "good", "fine"):
            self.put(first, f"/001_{name}?encoded=1")
        original = self.original(owner)
        original.broken.add("001_bad")
        self.cluster.run(60)

        self.assertEqual({"001_good", "001_fine"}, set(original.blobs))

    def test_17_restart_between(self) -> None:
        """What was committed and never sent is sent after a restart, by the feed."""
        first, second = self.start([2])
        self.cluster.network.cut(first.ip, second.ip)
        name = self.put(first, "/a")
        self.cluster.crash(first)
        self.cluster.network.join()
        self.cluster.start(first)
        self.cluster.run(60)

        self.assertIn(name, second.rows())

    def test_18_repair_by_itself(self) -> None:
        """What each side alone has both have, and other clusters, without a command."""
        first, second, other = self.start([2], [1])
        alone = [
            self.put(host, f"/of-{host.name}?replicate=replica")
            for host in (first, second, other)
        ]
        self.cluster.run(2000)

        self.assertEqual(set(alone), set(first.rows()))
        self.assert_equal_replicas(first, second, other)

    def test_20_not_found_is_no_failure(self) -> None:
        """Asking for what is nowhere makes no replica look ill."""
        first, _, second = self.start([1, 2])
        for n in range(50):
            self.assertEqual(404, self.cluster.get(first, f"/001_no{n}").status)

        assert first.service is not None
        health = first.service.peers.health
        self.assertIsNone(health.seconds_since_failure(second.name))

    def test_21_backlog_is_bounded(self) -> None:
        """A name changed a thousand times is sent to who was away about once."""
        first, second = self.start([2])
        self.cluster.crash(second)
        for n in range(300):
            self.put(first, "/a", b"%d" % n)
        self.assertEqual(1, len(first.rows()))
        original = self.original(second)
        self.cluster.run(60)

        self.assertLess(len(original.changes()), 10)
        self.assertEqual(b"299", original.blobs["000_a"][3])

    def test_22_bytes_and_stamp_belong_together(self) -> None:
        """However fast a name changes, no peer gets one PUT's bytes as another's."""
        first, second = self.start([2])
        original = self.original(second)
        self.cluster.run(3)
        stamp = stamp_at(NOW)
        for n in range(100):
            sent = f"/a?modified={stamp + n}&copies=1"
            self.cluster.ask(first, "PUT", sent, b"%d" % (stamp + n))
            self.cluster.run(0.003)
        self.cluster.run(60)

        for request in original.asked:
            if request.startswith(b"PUT"):
                told = request.partition(b"modified=")[2].partition(b"&")[0]
                self.assertEqual(told, request.rpartition(b"\r\n")[2])
        self.assertEqual(stamp + 99, original.blobs["000_a"][0])

    def test_24_stamps_of_the_far_future(self) -> None:
        """No client, forward, peer or sync plants a stamp that nobody can beat."""
        first, second, third = self.start([2, 1])
        original = self.original(second)
        far = stamp_at(NOW) + 10_000_000 * SECOND
        for bad in (far, (1 << 63) - 2, (1 << 63) - 1):
            for host in (first, third):
                for key in ("modified", "modified_deleted"):
                    sent = f"/000_a?encoded=1&{key}={bad}"
                    answer = self.cluster.put(host, sent, b"x")
                    self.assertEqual(400, answer.status, sent)
        original.blobs["000_a"] = far, 0, far, b"of the future"
        self.cluster.finish(self._sync(first))
        self.cluster.run(30)
        self.assertEqual({}, first.rows())
        self.put(first, "/a?modified=5", b"works")
        self.cluster.delete(first, "/000_a")
        self.assertEqual(404, self.cluster.get(first, "/000_a").status)

    def test_25_deleted_everywhere_at_once(self) -> None:
        """After a DELETE was answered nobody who heard of it serves the blob."""
        hosts = self.start([2, 1], [1])
        name = self.put(hosts[0], "/00000_a?encoded=1")
        self.cluster.run(2)
        self.cluster.delete(hosts[1], f"/{name}?copies=all&clusters=2")

        for host in hosts:
            self.assertEqual(404, self.cluster.get(host, f"/{name}").status)

    def test_27_originals_are_not_bricked(self) -> None:
        """Names that an original cannot file are kept here and never sent to one."""
        first, second = self.start([2])
        original = self.original(second)
        for name in ("x%2Fy", "n" * 300, "x/y/z"):
            answer = self.cluster.put(first, f"/{name}", b"kept")
            self.assertEqual(200, answer.status, name)
        good = self.put(first, "/good")
        self.cluster.run(60)

        self.assertEqual({good}, set(original.blobs))
        self.assertEqual(1, len(original.changes()))
        assert first.service is not None
        (report,) = first.service.replication.report().values()
        self.assertEqual((0, 3), (report["under_way"], report["parked"]))
        self.assertTrue(first.service.peers.health.is_up("c0b0r1"))
        self.flushLoggedErrors()

    def test_32_names_arrive_as_they_are(self) -> None:
        """Every name a client may give arrives everywhere as that name."""
        hosts = self.start([2, 1], [1])
        original = self.original(hosts[1])
        self.cluster.run(3)
        given = (
            *("%3F", "%23", "%25", "%2541", "%20", "a%20", "%22", "%3C%3E", "%5C"),
            *("%C3%BC", "%E2%82%AC", "%F0%9F%98%80", "&", "=", "+", "a%26b=c", ";"),
            *("%7B%7D", "%60", "%5E", "%7C", "%C2%85", "%EF%BB%BF", "e%CC%81", "'"),
        )
        names = [
            self.put(hosts[0], f"/00000_n{name}?encoded=1", name.encode())
            for name in given
        ]
        self.cluster.run(30)

        self.assertEqual(len(given), len(set(names)))
        self.assertEqual(set(names), set(hosts[3].rows()))
        self.assertEqual(set(names), set(original.blobs))
        for name, raw in zip(names, given, strict=True):
            self.assertEqual(raw.encode(), original.blobs[name][3])
            got = self.cluster.get(hosts[2], f"/00000_n{raw}")
            self.assertEqual(raw.encode(), got.body)

    def test_live_06_backlog_drains(self) -> None:
        """A backlog goes as fast as the peer takes it, not by the clock."""
        first, second = self.start([2])
        self.cluster.crash(second)
        for n in range(1000):
            self.put(first, f"/n{n}?copies=1")
        self.cluster.start(second)
        self.cluster.run(40)

        self.assertEqual(1000, len(second.rows()))

    def test_live_11_partition(self) -> None:
        """Both sides of a partition accept; the last PUT and the last DELETE win."""
        first, second = self.start([2])
        self.put(first, "/a", b"old")
        self.cluster.run(2)
        self.cluster.network.cut(first.ip, second.ip)
        self.put(first, "/a", b"new")
        self.cluster.delete(second, "/000_b")
        self.put(first, "/b", b"later than its delete")
        self.cluster.delete(second, "/000_a")
        self.cluster.network.join()
        self.cluster.run(100)

        self.assert_equal_replicas(first, second)
        for host in (first, second):
            self.assertEqual(404, self.cluster.get(host, "/000_a").status)
            self.assertEqual(200, self.cluster.get(host, "/000_b").status)

    def test_live_20_hung_peer(self) -> None:
        """A peer that accepts and says nothing costs a moment, then nothing."""
        first, second = self.start([2])
        self.cluster.network.cut(first.ip, second.ip)
        before = self.cluster.clock.seconds()
        self.put(first, "/a")
        self.assertLess(self.cluster.clock.seconds() - before, 2)
        self.cluster.run(60)
        before = self.cluster.clock.seconds()
        self.put(first, "/b")
        self.assertLess(self.cluster.clock.seconds() - before, 0.2)


class OldRowsTests(ClusterFaultCase):
    """Rows whose place in the feed is lost."""

    def test_12_lost_cursor_bits(self) -> None:
        """A change that is to be sent to nobody still reaches all by comparing."""
        first, second = self.start([2])
        self.cluster.network.cut(first.ip, second.ip)
        name = self.put(first, "/a")
        first.index._rows[name] = evolve(first.index._rows[name], fanout=0)
        self.cluster.crash(first)
        self.cluster.network.join()
        self.cluster.start(first)
        self.cluster.run(2000)

        self.assert_equal_replicas(first, second)

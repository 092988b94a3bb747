"""Originals hear what has ended, in simulated clusters: deleted blobs stay deleted."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob import telling
from clinfra.blob.records import Expiry, Row, State
from clinfra.blob.telling import Told
from clinfra.config import Seconds
from tests.sim.cluster import Cluster, Host

DAY = 86400.0

BEYOND = 12
"""Days after which deletes may be forgotten."""

BUCKET = ([3],), "c0b0r2"
ELSEWHERE = ([2], [1]), "c1b0r0"
"""Where the original is, in the same bucket or in another cluster."""


class TellingTests(SynchronousTestCase):
    """A delete that an original has not got is not forgotten, and gets there."""

    def cluster(
        self, where: tuple[Sequence[Sequence[int]], str] = ELSEWHERE
    ) -> list[Host]:
        """Make a cluster with one original, which is last; return ours."""
        layout, name = where
        self.sim = Cluster(layout, originals={name}, expiration_delay=Seconds(3600))
        self.addCleanup(self.sim.close)
        (self.original,) = self.sim.originals.values()
        self.original_ip = self.sim.topology.peers[name].ip
        return list(self.sim.hosts.values())

    def put(self, host: Host, plain: str, more: str = "") -> str:
        """Put a blob; the original gets it."""
        stored: str = self.sim.put(host, f"/{plain}?{more}", b"x").told["name"]
        self.sim.run(30)
        self.assertIsNotNone(self.original.blobs[stored][0])
        return stored

    def cut(self) -> None:
        """Cut the original from everybody."""
        for host in self.sim.hosts.values():
            self.sim.network.cut(host.ip, self.original_ip)

    def delete_and_lose(self, host: Host, *names: str) -> None:
        """Have deletes acknowledged by who loses his disk, and with it the feed."""
        self.cut()
        for stored in names:
            answer = self.sim.delete(host, f"/{stored}")
            self.assertEqual(b"2/", answer.fields[b"x-clblob-copies"][:2])
        self.sim.wipe(host)

    def pass_days(self, days: int) -> None:
        """Let days pass, and what is done each day be done."""
        for _ in range(days):
            self.sim.clock.advance(DAY)
            self.sim.run(5)
        self.sim.run(4000)

    def check_gone(self, *names: str, hosts: Sequence[Host]) -> None:
        """Check that names are forgotten everywhere, and what reads of them find."""
        for stored in names:
            for host in hosts:
                self.assertNotIn(stored, host.rows())
                self.assertEqual(404, self.sim.get(host, f"/{stored}").status)
        self.sim.run(60)
        for stored in names:
            for host in hosts:
                self.assertNotIn(stored, host.rows())

    def ended(self, stored: str) -> bool:
        """Return whether a blob has ended at the original."""
        return self.original.blobs[stored][1] != 0

    def test_owed_by_a_lost_disk(self) -> None:
        """A delete of which only the sender knew that it was to be sent arrives."""
        for where in (ELSEWHERE, BUCKET):
            first, second = self.cluster(where)
            stored = self.put(first, "a")
            self.delete_and_lose(first, stored)
            self.sim.network.join()
            self.sim.start(first)
            self.sim.run(60)
            self.assertTrue(self.ended(stored))

            self.pass_days(BEYOND)
            self.check_gone(stored, hosts=(first, second))

    def test_told_within_hours(self) -> None:
        """So does one that comes to a replica that has told all it knew."""
        first, _ = self.cluster()
        stored, other = self.put(first, "a"), self.put(first, "b")
        self.sim.delete(first, f"/{other}")
        self.sim.run(2 * 3600)
        self.delete_and_lose(first, stored)
        self.sim.network.join()
        self.assertFalse(self.ended(stored))
        self.sim.run(2 * 3600)

        self.assertTrue(self.ended(stored))

    def test_ended_long_ago(self) -> None:
        """And one that is heard of late: its end was before what was told last."""
        first, _ = self.cluster()
        stored = self.put(first, "a")
        self.sim.run(2 * 3600)
        self.cut()
        ended = int(self.sim.clock.seconds()) - 7000
        self.sim.delete(first, f"/{stored}?deleted={ended}")
        self.sim.wipe(first)
        self.sim.network.join()
        self.sim.run(2 * 3600)

        self.assertEqual(ended, self.original.blobs[stored][1])

    def test_older_without_end(self) -> None:
        """A blob that replaced another and has ended does not leave the older one."""
        first, second = self.cluster()
        stored = self.put(first, "a")
        self.cut()
        self.sim.put(first, f"/{stored}?encoded=1&ttl=600&copies=2", b"newer")
        self.sim.wipe(first)
        self.sim.run(2 * 3600)
        self.sim.network.join()
        self.sim.start(first)
        self.sim.run(2 * 3600)
        self.assertTrue(self.ended(stored))

        self.pass_days(BEYOND)
        self.check_gone(stored, hosts=(first, second))

    def test_away_for_long(self) -> None:
        """While an original is away, nothing is forgotten that it may not know."""
        for where in (ELSEWHERE, BUCKET):
            first, second = self.cluster(where)
            stored = self.put(first, "a")
            self.delete_and_lose(first, stored)
            self.sim.start(first)
            self.pass_days(BEYOND)
            for host in (first, second):
                self.assertIn(stored, host.rows())
            self.sim.network.join()
            self.sim.run(2 * 3600)

            self.assertTrue(self.ended(stored))
            self.pass_days(1)
            self.check_gone(stored, hosts=(first, second))

    def test_refused(self) -> None:
        """A name that it answers with 500 waits; what else has ended does not."""
        self.patch(telling, "BATCH", 2)
        first, second = self.cluster()
        names = [self.put(first, f"n{n}") for n in range(5)]
        sick, *others = names
        self.delete_and_lose(first, *names)
        self.original.broken.add(sick)
        self.sim.network.join()
        self.sim.start(first)
        self.sim.run(2 * 3600)
        for stored in others:
            self.assertTrue(self.ended(stored))
            # It purges, too; what it lists is pulled.
            del self.original.blobs[stored]
        self.pass_days(BEYOND)
        self.assertFalse(self.ended(sick))
        self.check_gone(*others, hosts=(first, second))
        for host in (first, second):
            self.assertIn(sick, host.rows())

        self.original.broken.clear()
        self.pass_days(1)
        self.assertTrue(self.ended(sick))
        self.check_gone(sick, hosts=(first, second))

    def test_asked_once(self) -> None:
        """What it has heard of is not asked for again, after a restart neither."""
        first, second = self.cluster()
        names = [self.put(first, f"n{n}") for n in range(4)]
        for stored in names:
            self.sim.delete(first, f"/{stored}")
        self.sim.run(2 * 3600)
        asked = [line for line in self.original.asked if b"response=info" in line]
        self.assertEqual(8, len(asked))
        for host in (first, second):
            self.sim.crash(host)
            self.sim.start(host)
        self.original.asked.clear()
        self.sim.run(2 * 3600)

        asked = [line for line in self.original.asked if b"response=info" in line]
        self.assertEqual([], asked)


class ToldTests(SynchronousTestCase):
    """What an original has heard of."""

    def row(self, name: str, seq: int, deleted: int) -> Row:
        return Row(name, State(None, Expiry(1, deleted)), None, seq)

    def test_has(self) -> None:
        """What changed by then, and ended by then, and was not refused."""
        told = Told(5, 100, frozenset({"sick"}))
        self.assertTrue(told.has(self.row("a", 5, 100)))
        self.assertFalse(told.has(self.row("a", 6, 100)))
        self.assertFalse(told.has(self.row("a", 5, 101)))
        self.assertFalse(told.has(self.row("a", 5, 0)))
        self.assertFalse(told.has(self.row("sick", 5, 100)))

    def test_any_name(self) -> None:
        """Of rows that stand for others it is only sure when nothing was refused."""
        self.assertTrue(Told(5, 100).has(self.row("", 5, 100)))
        told = Told(5, 100, frozenset({"sick"}))
        self.assertFalse(told.has(self.row("", 5, 100)))

"""Changes that were kept for others and come days later, in simulated clusters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.handoff import ASIDE_SECONDS
from clinfra.config import Seconds
from tests.sim.cluster import Cluster
from tests.sim.disk import Disk

DAY = 86400.0

FORGET_SECONDS = 1800.0
"""After so long a delete is forgotten."""


class LateTests(SynchronousTestCase):
    """What was deleted and forgotten meanwhile does not come back; the rest arrives."""

    def cluster(self, *layout: Sequence[int]) -> None:
        """Make a cluster; its first bucket has keepers, its second one who forwards."""
        self.sim = Cluster(
            layout, purge_interval=Seconds(60), expiration_delay=Seconds(600)
        )
        self.addCleanup(self.sim.close)
        hosts = self.sim.hosts
        self.other = hosts["c0b1r0"]
        self.keepers = [host for name, host in hosts.items() if "b0" in name]
        place = self.sim.topology.place
        plain = [f"n{n}" for n in range(60)]
        names = [place(each, encoded=False) for each in plain]
        self.names = [
            each.stored for each in names if set(each.buckets.values()) == {0}
        ]

    def keep(self, stored: str, body: bytes = b"late", more: str = "") -> None:
        """Put a blob that nobody can take just now."""
        put = self.sim.put(self.other, f"/{stored}?encoded=1{more}", body)
        self.assertEqual((200, b"1"), (put.status, put.fields[b"x-clblob-handoff"]))

    def cut(self) -> None:
        """Cut who forwards from all keepers."""
        for host in self.keepers:
            self.sim.network.cut(self.other.ip, host.ip)
        self.sim.run(5)

    def deleted_meanwhile(self) -> tuple[str, str]:
        """Have one name put late that is deleted and forgotten, and one that is new."""
        gone, new = self.names[:2]
        for stored in self.names[:8]:
            self.sim.put(self.keepers[0], f"/{stored}?encoded=1&copies=all", b"old")
        self.sim.delete(self.keepers[0], f"/{self.names[1]}")
        self.sim.run(FORGET_SECONDS)
        self.assertNotIn(new, self.keepers[0].rows())
        self.cut()
        self.keep(gone)
        self.keep(new)
        self.sim.crash(self.other)
        self.sim.network.join()
        self.assertEqual(200, self.sim.delete(self.keepers[0], f"/{gone}").status)
        self.sim.run(FORGET_SECONDS)
        for host in self.keepers:
            self.assertNotIn(gone, host.rows())
        return gone, new

    def handoff(self) -> tuple[int, int, int]:
        assert self.other.service is not None
        told: Any = self.other.service.report()["handoff"]
        return told["waiting"], told["aside"], told["delivered"]

    def come_back(self) -> None:
        """Have who kept it start again, and deliver; all is as it was put aside."""
        self.sim.start(self.other)
        self.sim.run(60)
        self.assertEqual((0, 2, 0), self.handoff())
        self.sim.run(2 * ASIDE_SECONDS)
        self.assertEqual((0, 2, 0), self.handoff())

    def nobody_has(self, *names: str) -> None:
        for host in (*self.keepers, self.other):
            for stored in names:
                self.assertNotIn(stored, host.rows())
                self.assertEqual(404, self.sim.get(host, f"/{stored}").status)

    def test_deleted_meanwhile(self) -> None:
        """Who has forgotten a delete that is later refuses what he does not know."""
        self.cluster([2, 1])
        names = self.deleted_meanwhile()
        self.come_back()

        self.nobody_has(*names)

    def test_keepers_started_again(self) -> None:
        """That they forgot something is not forgotten when they start again."""
        self.cluster([2, 1])
        names = self.deleted_meanwhile()
        for host in self.keepers:
            self.sim.crash(host, power_failed=True)
            self.sim.start(host)
        self.come_back()

        self.nobody_has(*names)

    def test_keepers_without_index(self) -> None:
        """Nor when they lose their indexes, nor when one loses everything."""
        self.cluster([2, 1])
        names = self.deleted_meanwhile()
        first, second = self.keepers
        self.sim.crash(first)
        first.disk.index.clear()
        self.sim.start(first)
        self.sim.run(60)
        self.sim.wipe(second)
        self.sim.start(second)
        self.sim.run(60)
        self.come_back()

        self.nobody_has(*names)

    def test_keeper_turned_back(self) -> None:
        """Nor when a backup from before is restored: it learns it from the others."""
        self.cluster([2, 1])
        first, second = self.keepers
        self.sim.put(first, f"/{self.names[5]}?encoded=1&copies=all", b"old")
        self.sim.run(1000)
        backup: Disk = second.disk.image(power_failed=False)
        names = self.deleted_meanwhile()
        self.sim.crash(second)
        second.disk = backup
        self.sim.start(second)
        self.sim.start(self.other)
        self.sim.run(1000)

        self.assertEqual((0, 2, 0), self.handoff())
        self.nobody_has(*names)

    def test_still_known(self) -> None:
        """A delete that is remembered decides as ever; what is new is taken."""
        self.cluster([2, 1])
        gone, new = self.names[:2]
        self.sim.put(self.keepers[0], f"/{gone}?encoded=1&copies=all", b"old")
        self.cut()
        self.keep(gone)
        self.keep(new)
        self.sim.crash(self.other)
        self.sim.network.join()
        self.sim.delete(self.keepers[0], f"/{gone}")
        self.sim.run(60)
        self.sim.start(self.other)
        self.sim.run(60)

        self.assertEqual((0, 0, 2), self.handoff())
        for host in self.keepers:
            self.assertEqual(404, self.sim.get(host, f"/{gone}").status)
            self.assertEqual(b"late", self.sim.get(host, f"/{new}").body)

    def all_away(self, *layout: Sequence[int], days: float) -> None:
        """Have all keepers away for days, and some changes kept meanwhile."""
        self.cluster(*layout)
        for stored in self.names[:6]:
            self.sim.put(self.keepers[0], f"/{stored}?encoded=1&copies=all", b"old")
        self.sim.run(1000)
        self.sim.delete(self.keepers[0], f"/{self.names[0]}")
        self.sim.run(60)
        for host in self.keepers:
            self.sim.crash(host)
        self.sim.run(60)
        for stored in self.names[:4]:
            self.keep(stored)
        # Somebody who chooses his own stamps.
        self.keep(self.names[7], more=f"&modified={1 << 40}")
        self.sim.clock.advance(days * DAY)
        self.sim.run(60)

    def all_delivered(self) -> None:
        self.assertEqual((0, 0, 5), self.handoff())
        for host in self.keepers:
            for stored in (*self.names[:4], self.names[7]):
                self.assertEqual(b"late", self.sim.get(host, f"/{stored}").body)

    def test_all_away(self) -> None:
        """After days in which no keeper was there, all is delivered."""
        for days in (0.01, 3):
            self.all_away([2, 1], days=days)
            for host in self.keepers:
                self.sim.start(host)
            self.sim.run(1000)

            self.all_delivered()

    def test_all_away_everywhere(self) -> None:
        """Nor does it matter that other buckets forget what they like."""
        self.all_away([2, 1], [1, 1], days=2)
        other = self.sim.hosts["c1b1r0"]
        for stored in self.sim.hosts["c0b1r0"].rows():
            self.sim.delete(other, f"/{stored}")
        self.sim.run(FORGET_SECONDS)
        for host in self.keepers:
            self.sim.start(host)
        self.sim.run(1000)

        self.all_delivered()

    def test_new_bucket(self) -> None:
        """What was kept for a bucket that starts for the first time is all taken."""
        self.cluster([2, 1])
        for host in self.keepers:
            self.sim.wipe(host)
        self.sim.run(60)
        for stored in self.names[:4]:
            self.keep(stored)
        for host in self.keepers:
            self.sim.start(host)
            self.sim.run(3)
        self.sim.run(60)

        self.assertEqual((0, 0, 4), self.handoff())

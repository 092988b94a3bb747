"""What a destination will not take is put aside, remembered, and tried again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.delivery import SUSPICIOUS
from clinfra.web.pool import Origin
from tests.sim.cluster import Cluster, Host
from tests.sim.original import Original


class Everything(set[str]):
    """A set of all names."""

    def __contains__(self, name: object) -> bool:
        return True


class ParkingTests(SynchronousTestCase):
    """One replica of ours, and an original as its only peer."""

    def setUp(self) -> None:
        self.cluster = Cluster([[2]])
        self.addCleanup(self.cluster.close)
        self.first, second = self.cluster.hosts.values()
        self.cluster.crash(second)
        self.original = Original()
        self.cluster.network.listeners[Origin(second.ip, 80)] = self.original
        self.addCleanup(self.flushLoggedErrors)

    def put(self, *plain: str) -> set[str]:
        return {
            self.cluster.put(self.first, f"/{name}", b"x").told["name"]
            for name in plain
        }

    def cut_off(self) -> None:
        """Make sure that nothing is sent at once: the peer is not there."""
        self.listener = self.cluster.network.listeners.pop(Origin("10.0.0.1", 80))
        self.cluster.run(1)

    def connect(self) -> None:
        self.cluster.network.listeners[Origin("10.0.0.1", 80)] = self.listener

    def report(self, host: Host | None = None) -> Mapping[str, Any]:
        service = (host or self.first).service
        assert service is not None
        service.replication.measure()
        self.cluster.run(1.1)
        report: Mapping[str, Any] = service.replication.deliveries[
            "peer:c0b0r1"
        ].report()
        return report

    def status(self) -> Mapping[str, Any]:
        told: Mapping[str, Any] = self.cluster.get(self.first, "/_status").told
        return told

    def test_thousand_at_the_head(self) -> None:
        """A thousand poisoned names hold up what comes after them for two minutes."""
        self.cut_off()
        self.original.broken = {f"000_bad{n}" for n in range(1000)}
        self.put(*(f"bad{n}" for n in range(1000)))
        good = self.put(*(f"good{n}" for n in range(20)))
        self.connect()
        self.cluster.run(150)

        self.assertEqual(good, set(self.original.blobs))
        report = self.report()
        self.assertEqual(
            (0, 0, 1000),
            tuple(report[key] for key in ("under_way", "waiting", "parked")),
        )
        self.assertLess(len(self.original.changes()), 2500)

    def test_restart(self) -> None:
        """What was put aside is known after a restart, and goes when its time comes."""
        self.original.broken = {"000_bad"}
        self.put("bad", "good")
        self.cluster.run(60)
        before = self.report()
        self.cluster.crash(self.first)
        self.cluster.start(self.first)
        self.cluster.run(5)
        after = self.report()

        self.assertEqual((1, 1), (before["parked"], after["parked"]))
        self.assertGreater(after["parked_seconds"], before["parked_seconds"])
        self.original.broken.clear()
        self.cluster.run(3700)
        self.assertEqual({"000_bad", "000_good"}, set(self.original.blobs))
        self.assertEqual(0, self.report()["parked"])

    def test_broken_for_a_while(self) -> None:
        """A peer whose disk was full gets everything soon after it is mended."""
        self.original.broken = Everything()
        names = self.put(*(f"n{n}" for n in range(3 * SUSPICIOUS)))
        self.cluster.run(300)
        self.assertEqual(len(names), self.report()["parked"])
        asked = len(self.original.changes())
        self.cluster.run(1800)
        self.assertLess(len(self.original.changes()), asked + 10)
        self.original.broken = set()
        names |= self.put("last")
        self.cluster.run(65)

        self.assertEqual(names, set(self.original.blobs))
        self.assertEqual(0, self.report()["parked"])

    def test_status(self) -> None:
        """The status tells the whole backlog, its age, and what was put aside."""
        self.original.broken = {"000_bad"}
        self.put("bad")
        self.cluster.run(60)
        self.cut_off()
        self.put(*(f"n{n}" for n in range(700)))
        self.cluster.run(100)
        told = self.status()
        peer = told["replicas"]["c0b0r1"]

        self.assertEqual((701, 700), (peer["events"], peer["waiting"]))
        self.assertTrue(peer["waiting_is_estimate"])
        self.assertLessEqual(peer["buffer_events"], 512)
        self.assertEqual((1, True), (peer["parked"], peer["resting"]))
        self.assertTrue(100 < peer["lag_seconds"] < 120, peer)
        self.assertTrue(150 < peer["parked_seconds"] < 180, peer)
        self.assertEqual("buffered replica=700 cluster=0", told["buffer_status"])

    def test_buffer(self) -> None:
        """`_buffer` sends at once what rests or was put aside, as the original did."""
        self.original.broken = {"000_bad"}
        self.put("bad", "good")
        self.cluster.run(60)
        self.cut_off()
        self.put("late")
        self.cluster.run(600)
        self.connect()
        self.original.broken.clear()
        self.assertNotIn("000_late", self.original.blobs)
        service = self.first.service
        assert service is not None
        answer = self.cluster.finish(self.cluster.ask(self.first, "POST", "/_buffer"))
        self.cluster.run(1)

        self.assertEqual({"queued": True}, answer.told)
        self.assertEqual({"000_bad", "000_good", "000_late"}, set(self.original.blobs))

"""A replica whose disk is full: deletes reach it, and the rest when there is space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import Bytes
from tests.sim.cluster import SPACE_SECONDS, Cluster
from tests.sim.disk import CAPACITY_BYTES

RESERVE_BYTES = 100_000
LARGE = bytes(80_000)
"""Too large for a batch."""


class FullTests(SynchronousTestCase):
    """Two replicas; the second one's disk fills up."""

    def setUp(self) -> None:
        self.cluster = Cluster([[2]], min_free_bytes=Bytes(RESERVE_BYTES))
        self.addCleanup(self.cluster.close)
        self.first, self.second = self.cluster.hosts.values()
        self.old = [self.put(f"old{n}", b"old") for n in range(100)]
        self.large = self.put("large", LARGE)
        self.cluster.run(10)
        self.assertEqual(self.first.rows().keys(), self.second.rows().keys())
        self.fill()

    def put(self, plain: str, body: bytes) -> str:
        answer = self.cluster.put(self.first, f"/{plain}", body)
        self.assertEqual(200, answer.status)
        stored: str = answer.told["name"]
        return stored

    def fill(self) -> None:
        """Leave less than the reserve."""
        self.second.disk.capacity = self.second.disk.used_bytes() + RESERVE_BYTES // 2
        self.cluster.run(SPACE_SECONDS)

    def make_space(self) -> None:
        self.second.disk.capacity = CAPACITY_BYTES
        self.cluster.run(SPACE_SECONDS)

    def report(self) -> Mapping[str, Any]:
        assert self.first.service is not None
        report: Mapping[str, Any] = self.first.service.replication.report()[
            "peer:c0b0r1"
        ]
        return report

    def living(self) -> set[str]:
        """Return the names that the second replica has, and that have not ended."""
        now, rows = self.cluster.clock.seconds(), self.second.rows()
        return {name for name, row in rows.items() if not row.expiry.passed(now)}

    def test_deletes(self) -> None:
        """Deletes get past any number of blobs that there is no space for."""
        for n in range(40):
            self.put(f"new{n}", b"new")
            self.put(f"large{n}", LARGE[n:])
        for stored in (*self.old, self.large):
            self.cluster.delete(self.first, f"/{stored}")
        self.cluster.run(1)

        self.assertEqual(set(), self.living())
        self.assertTrue(self.report()["full"])

    def test_deleted_after_all(self) -> None:
        """What was put anew, which it could not take, and deleted then, is gone."""
        for stored in (*self.old, self.large):
            self.cluster.put(self.first, f"/{stored}?encoded=true", LARGE)
            self.cluster.delete(self.first, f"/{stored}")
        self.cluster.run(5)

        self.assertEqual(set(), self.living())

    def test_many(self) -> None:
        """Deletes behind more than is sent at a time come by comparing."""
        for n in range(600):
            self.put(f"new{n}", b"new")
        for stored in self.old:
            self.cluster.delete(self.first, f"/{stored}?copies=1")
        self.cluster.run(1)
        self.assertEqual({*self.old, self.large}, self.living())
        self.cluster.run(400)

        self.assertEqual({self.large}, self.living())

    def test_space(self) -> None:
        """Soon after there is space it has everything."""
        new = [self.put(f"new{n}", b"new") for n in range(600)]
        new.append(self.put("new-large", LARGE))
        self.cluster.run(100)
        self.assertEqual({*self.old, self.large}, self.living())
        self.make_space()
        self.cluster.run(3)

        self.assertEqual({*self.old, self.large, *new}, self.living())
        self.assertFalse(self.report()["full"])
        self.assertEqual(0, self.report()["under_way"])

    def test_wiped(self) -> None:
        """A replacement's disk is too small: nothing is streamed, until it grows."""
        self.cluster.wipe(self.second)
        self.second.disk.capacity = RESERVE_BYTES // 2
        self.cluster.start(self.second)
        self.cluster.run(60)
        assert self.second.service is not None
        report = self.second.service.refill.report()
        self.assertEqual((True, 0), (report["filling"], report["blobs"]))
        self.make_space()
        self.cluster.run(3)

        report = self.second.service.refill.report()
        self.assertEqual((False, 101), (report["filling"], report["blobs"]))
        self.assertEqual({*self.old, self.large}, self.living())

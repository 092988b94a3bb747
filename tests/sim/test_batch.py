"""Batches in simulated clusters: many at a time, each with its own fate."""

from __future__ import annotations

import zlib
from hashlib import sha256

from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.batch import KEPT, REFUSED, Arrived, pack, unpack
from clinfra.blob.records import Data, Expiry, Row, State
from clinfra.blob.stamps import stamp_at
from clinfra.errors import InvalidRequest
from tests.blob.support import NOW
from tests.sim.cluster import Cluster


def made(name: str, body: bytes, seconds: float = 0) -> Row:
    """Return a row of a body, written some seconds after the beginning."""
    stamp = stamp_at(NOW + seconds)
    data = Data(stamp, sha256(body).digest(), len(body), zlib.crc32(body))
    return Row(name, State(data, Expiry(stamp, 0)), None)


def packed(row: Row, body: bytes | None) -> bytes:
    """Return a record as it travels, in one piece."""
    return b"".join(pack(row, body))


class BatchTests(SynchronousTestCase):
    """`POST /_replicate`."""

    def test_few_requests(self) -> None:
        """A backlog of small blobs takes a few requests."""
        cluster = Cluster([[2]])
        self.addCleanup(cluster.close)
        first, second = cluster.hosts.values()
        cluster.crash(second)
        for n in range(300):
            cluster.put(first, f"/n{n}", b"%d" % n)
        cluster.run(60)
        cluster.start(second)
        cluster.run(60)
        assert second.service is not None

        self.assertEqual(300, len(second.rows()))
        self.assertEqual(b"299", cluster.get(second, "/000_n299").body)
        told = cluster.get(second, "/_status").told["events"]
        self.assertLess(told.get("put", {"total": 0})["total"], 100)

    def test_each_its_own(self) -> None:
        """What is refused, a wrong body too, does not hinder the others."""
        cluster = Cluster([[1, 1]])
        self.addCleanup(cluster.close)
        first = cluster.hosts["c0b0r0"]
        wrong = packed(made("000_wrong", b"right"), b"wrong")
        body = b"".join(
            [
                packed(made("000_a", b"one"), b"one"),
                wrong,
                packed(made("001_elsewhere", b"x"), b"x"),
                packed(made("00001_no_such_cluster", b"x"), b"x"),
                packed(made("000_future", b"x", 4000), b"x"),
                packed(made("000_b", b"two"), b"two"),
            ]
        )
        # From an address of the cluster file.
        answer = cluster.finish(
            cluster.ask(first, "POST", "/_replicate", body, source="10.0.1.0")
        )

        expected = bytes([KEPT, REFUSED, REFUSED, REFUSED, REFUSED, KEPT])
        self.assertEqual((200, expected), (answer.status, answer.body))
        self.assertEqual({"000_a", "000_b"}, set(first.rows()))

    def test_strangers(self) -> None:
        """Who is no replica of the cluster may not."""
        cluster = Cluster([[1]])
        self.addCleanup(cluster.close)
        (first,) = cluster.hosts.values()
        answer = cluster.finish(cluster.ask(first, "POST", "/_replicate", b"x"))

        self.assertEqual(403, answer.status)

    def test_stopping(self) -> None:
        """Who is told that sending ends, and tries again, is told so again."""
        cluster = Cluster([[3]])
        self.addCleanup(cluster.close)
        service = cluster.hosts["c0b0r0"].service
        assert service is not None
        batches, told = service._batches, []
        row = made("000_a", b"x")

        def again(failure: Failure) -> None:
            told.append(failure)
            batches.send("c0b0r2", "replica", row, b"x").addErrback(told.append)

        batches.send("c0b0r1", "replica", row, b"x").addErrback(again)
        batches.stop()

        self.assertEqual(2, len(told))

    def test_records(self) -> None:
        """Records come back as they were sent; half of one is refused."""
        row = made("000_ü", b"hello")
        gone = Row("000_g", State(None, Expiry(7, -1)), None)
        raw = packed(row, b"hello") + packed(gone, None)

        self.assertEqual(
            [
                Arrived("000_ü", row.state, b"hello"),
                Arrived("000_g", gone.state, None),
            ],
            list(unpack(raw)),
        )
        for bad in (raw[:-1], b"x" + raw, raw[:130]):
            self.assertRaises(InvalidRequest, list, unpack(bad))

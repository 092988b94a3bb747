"""Servers whose configurations differ: nothing goes round in circles or is lost."""

from __future__ import annotations

import json
from typing import Any

from clinfra.blob.batch import MAX_RECORD_BYTES
from tests.blob.test_wire_tables import WireCase
from tests.sim.cluster import Host

SMALL, LARGE = b"hello", bytes(MAX_RECORD_BYTES * 3)
RETRY_SECONDS = 100.0


class OtherConfigurationTests(WireCase):
    """One says that two replicas are one bucket, the other that they are two."""

    def setUp(self) -> None:
        self.one, self.other = self.start([2], parked_retry=RETRY_SECONDS)
        self.text = self.cluster._file.read_text()
        told = json.loads(self.text)
        buckets = [
            {"replicas": [name], "write_weight": 1} for name in ("c0b0r0", "c0b0r1")
        ]
        told["clblob"]["client"]["clusters"] = [buckets]
        self.restart(self.other, json.dumps(told))

    def restart(self, host: Host, text: str) -> None:
        """Let a replica have another cluster file."""
        self.cluster._file.write_text(text)
        self.cluster.crash(host)
        self.cluster.start(host)
        self.cluster._file.write_text(self.text)
        self.cluster.run(1)

    def requests(self, host: Host) -> int:
        """Return how many changes a replica was asked for."""
        assert host.service is not None
        told: Any = host.service.report()["events"]
        return sum(told.get(kind, {"total": 0})["total"] for kind in ("put", "delete"))

    def test_replicated(self) -> None:
        """Who is sent what it does not keep refuses it, and never sends it back."""
        for name, body in (("s", SMALL), ("l", LARGE)):
            put = self.ask(self.one, "PUT", f"/000_{name}?encoded=1", body)
            # Told as it is: passed on to where it came from it would seem to be two.
            self.assertEqual(b"1/2", put.fields[b"x-clblob-copies"])
        self.assertEqual(200, self.ask(self.one, "DELETE", "/000_s").status)
        self.cluster.run(30)
        self.assertEqual({}, self.other.rows())
        self.assertEqual(3, self.requests(self.one))
        self.assertLess(self.requests(self.other), 12)
        assert self.one.service is not None
        report = self.one.service.replication.report()["peer:c0b0r1"]
        self.assertEqual(2, report["parked"])
        self.assertTrue(self.one.service.peers.is_up("c0b0r1"))

    def test_agreed_at_last(self) -> None:
        """When they agree again, what was refused arrives."""
        self.ask(self.one, "PUT", "/000_s?encoded=1", SMALL)
        self.ask(self.one, "PUT", "/000_l?encoded=1", LARGE)
        self.restart(self.other, self.text)
        self.cluster.run(RETRY_SECONDS + 70)
        self.assertEqual({"000_s", "000_l"}, set(self.other.rows()))

    def test_read_and_written_through(self) -> None:
        """Each passes on what it does not keep, once."""
        self.ask(self.one, "PUT", "/000_s?encoded=1", SMALL)
        self.assertEqual(SMALL, self.ask(self.other, "GET", "/000_s").body)
        put = self.ask(self.other, "PUT", "/000_l?encoded=1", LARGE)
        self.assertEqual(200, put.status)
        self.assertEqual(LARGE, self.ask(self.one, "GET", "/000_l").body)
        self.cluster.run(30)
        self.assertLess(self.requests(self.one) + self.requests(self.other), 12)

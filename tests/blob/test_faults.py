"""The original's faults that concern one replica, each proven absent.

Numbers are those of WIRE part 4, 3.x; what has its test elsewhere is named there:
5 and 26 in `test_expire`; 2, 3, 13 and 27 (strange files) in `test_recovery` and
`test_store`; 9 in `test_merge` and `test_resource`; 24, 25, 28, 32 and 34 in
`test_resource`.
"""

from __future__ import annotations

import os
from typing import Any

from clinfra.blob.index import Batch, VolumeMark
from clinfra.blob.stamps import stamp_at
from tests.blob.support import NOW
from tests.blob.test_recovery import DiskCase
from tests.web.clients import Client


class FaultTests(DiskCase):
    """One test for each fault."""

    def test_02_repeat_cut_short(self) -> None:
        """A repeat of a PUT that is cut short never replaces the good bytes."""
        t = stamp_at(NOW)
        self.rig.put(f"/x?modified={t}", b"twenty bytes of blob")
        head = b"PUT /x?modified=%d HTTP/1.1\r\nHost: b\r\nContent-Length: 20\r\n\r\n"
        self.rig.client.send(head % t + b"twe")
        self.reopen()

        self.assertEqual(b"twenty bytes of blob", self.rig.get("/000_x"))

    def test_03_two_names_one_stamp(self) -> None:
        """Two names with one stamp never share bytes, after a recovery neither."""
        t = stamp_at(NOW)
        self.rig.put(f"/a?modified={t}", b"of a")
        self.rig.put(f"/b?modified={t}", b"of b")
        self.reopen()

        self.assertEqual(b"of a", self.rig.get("/000_a"))
        self.assertEqual(b"of b", self.rig.get("/000_b"))
        listed = self.rig.ask("GET", "/_list?checksum=false").body
        self.assertIn(b"000_a", listed)
        self.assertIn(b"000_b", listed)

    def test_04_racing_puts(self) -> None:
        """Of racing PUTs of one name, the bytes of the latest stamp are served."""
        t = stamp_at(NOW)
        clients = [Client(self.rig.site, self.clock) for _ in range(12)]
        bodies = [b"body %02d" % n for n in range(12)]
        for n, client in enumerate(clients):
            head = (
                b"PUT /x?modified=%d HTTP/1.1\r\nHost: b\r\nContent-Length: 7\r\n\r\n"
            )
            client.send(head % (t + (n * 7) % 12) + bodies[n][:3])
        for n, client in enumerate(clients):
            client.send(bodies[n][3:])
            client.hang_up()
        latest = max(range(12), key=lambda n: (n * 7) % 12)

        self.assertEqual(bodies[latest], self.rig.get("/000_x"))
        told = self.rig.info("/000_x")
        assert told is not None
        self.assertEqual(t + 11, told["modified"])

    def test_07_half_transactions(self) -> None:
        """A change that fails half-way leaves neither row nor bytes nor number."""
        self.rig.put("/a", b"a")
        index = self.rig.service.replica.index
        seq = index.last_seq()
        real = type(index).apply

        def apply(self_: Any, batch: Batch) -> None:
            # SQLite meets the mark it cannot hold after the row is written.
            bad = Batch(batch.rows, (), {1: VolumeMark(1 << 70, 0)})
            real(self_, bad)

        patch = self.patch(type(index), "apply", apply)
        self.assertEqual(500, self.rig.ask("PUT", "/b", b"b").status)
        patch.restore()
        self.flushLoggedErrors()

        self.assertIsNone(self.rig.info("/000_b"))
        self.assertEqual(seq, index.last_seq())
        self.rig.put("/c", b"c")
        self.reopen()
        self.assertEqual(["000_a", "000_c"], list(self.state()))

    def test_11_rot_is_noticed(self) -> None:
        """A rotten small blob is an error, never wrong bytes; others are unharmed."""
        self.rig.put("/a", b"a" * 1000)
        self.rig.put("/b", b"b" * 1000)
        row = self.rig.service.replica.index.get("000_a")
        assert row is not None and row.at is not None
        path = self.volumes()[0]
        raw = bytearray(path.read_bytes())
        raw[row.at.offset + row.at.head_bytes + 500] ^= 1
        path.write_bytes(raw)

        for target in ("/000_a", "/000_a?response=data"):
            answer = self.rig.ask("GET", target)
            self.assertEqual(
                (500, b"The blob's bytes are damaged\n"), (answer.status, answer.body)
            )
        partial = self.rig.ask("GET", "/000_a", fields={"Range": "bytes=0-3"})
        self.assertEqual(500, partial.status)
        self.assertEqual(b"b" * 1000, self.rig.get("/000_b"))
        self.rig.put("/a", b"healed")
        self.assertEqual(b"healed", self.rig.get("/000_a"))

    def test_27_one_put_bricks_a_replica(self) -> None:
        """Names with slashes and long names are stored, or refused, and start again."""
        self.rig.put("/dir/a", b"1")
        self.rig.put("/" + "n" * 300, b"2")
        self.assertEqual(400, self.rig.ask("PUT", "/" + "n" * 4000, b"3").status)
        self.reopen()

        self.assertEqual(b"1", self.rig.get("/000_dir/a"))
        self.assertEqual(b"2", self.rig.get("/000_" + "n" * 300))

    def test_28_traversal(self) -> None:
        """No name reaches a file outside of the store."""
        for path in ("/..%2f..%2fEVIL", "/a/..%2f..%2f..%2findex.sqlite", "/..", "/."):
            for method in ("PUT", "GET", "DELETE"):
                body = b"x" if method == "PUT" else None
                self.assertEqual(400, self.rig.ask(method, path, body).status, path)
        names = sorted(
            path.name for path in self.directory.rglob("*") if "EVIL" in path.name
        )
        self.assertEqual([], names)

    def test_30_cheap_denial(self) -> None:
        """A list of tiny windows over all time is answered at once."""
        self.rig.put("/x?modified=1")
        self.rig.put("/y")
        answer = self.rig.ask("GET", "/_list?checksum_modulo=1&modified_start=0")

        self.assertEqual(200, answer.status)

    def test_31_stored_script(self) -> None:
        """A browser is told to believe the type."""
        self.rig.put("/x.html", b"<script>")
        answer = self.rig.ask("GET", "/000_x.html")

        self.assertEqual("nosniff", answer.fields["X-Content-Type-Options"])

    def test_2038(self) -> None:
        """12 (seen live): writes, deletes, lists and restarts work after 2038-01-19."""
        self.clock.advance(2_147_483_648 + 100 - self.clock.seconds())
        old = stamp_at(NOW)
        self.rig.put(f"/x?modified={old}", b"before")
        told = self.rig.put("/x", b"after")
        self.assertGreater(told["modified"], 1 << 63)
        self.rig.put(f"/x?modified={old + 1}", b"late")
        self.assertEqual(b"after", self.rig.get("/000_x"))
        self.rig.delete("/000_x")
        self.rig.put("/y?ttl=100", b"y")
        self.assertIn(b"000_y", self.rig.ask("GET", "/_list?checksum=false").body)
        self.assertEqual(200, self.rig.ask("GET", "/_list").status)
        before = self.state()
        self.reopen()

        self.assertEqual(before, self.state())

    def test_07_500_leaves_nothing(self) -> None:
        """7 (seen live): a failed write leaves index and store agreeing."""
        self.rig.put("/a", b"a")

        def pwritev(fd: int, buffers: Any, offset: int) -> int:
            raise OSError(5, "Input/output error")

        patch = self.patch(os, "pwritev", pwritev)
        self.assertEqual(500, self.rig.ask("PUT", "/b", b"b").status)
        self.assertEqual(500, self.rig.ask("DELETE", "/000_a").status)
        patch.restore()
        self.flushLoggedErrors(OSError)

        self.assertIsNone(self.rig.info("/000_b"))
        self.assertEqual(b"a", self.rig.get("/000_a"))
        self.rig.put("/b", b"works")
        self.reopen()
        self.assertEqual(b"works", self.rig.get("/000_b"))

"""Damage to a data directory costs what was damaged, and never anything else."""

from __future__ import annotations

import os
from collections.abc import Iterator

from clinfra.blob import expire
from clinfra.blob.rebuild import rebuild_index
from clinfra.blob.volume import Damage, Found
from clinfra.config import Bytes
from tests.blob.test_recovery import DiskCase


class RecreatedTests(DiskCase):
    """A name that is put again after it was purged."""

    def purged(self) -> None:
        self.rig.put("/a", b"old")
        self.rig.put("/keep", b"k" * 1000)
        self.rig.delete(f"/000_a?ttl={-2 * 86400}")
        self.rig.purge()

    def rebuilt(self) -> None:
        self.rig.crash()
        rebuild_index(self.directory)
        self.rig = self.open()

    def test_older_stamp(self) -> None:
        """What is put with an older stamp than was purged outlives a rebuild."""
        self.purged()
        self.rig.put("/a?modified=1000&modified_deleted=1000", b"from a peer")
        before = self.state()
        self.rebuilt()

        self.assertEqual(before, self.state())
        self.assertEqual(b"from a peer", self.rig.get("/000_a"))

    def test_never_there(self) -> None:
        """So does it when only a delete of it was ever known, before the purge."""
        for n in range(20):
            # Their volume is worth keeping.
            self.rig.delete(f"/000_other{n}?ttl=100000")
        for rebuilt_before in (False, True):
            name = f"n{rebuilt_before:d}"
            self.rig.put("/keep", b"k" * 1000)
            self.rig.delete(f"/000_{name}?ttl={-2 * 86400}")
            if rebuilt_before:
                self.rebuilt()
            self.rig.purge()
            self.rig.put(f"/{name}?modified=1000&modified_deleted=1000", b"older")
            before = self.state()
            self.rebuilt()

            self.assertEqual(before, self.state())
            self.assertEqual(b"older", self.rig.get(f"/000_{name}"))

    def test_clock_set_back(self) -> None:
        """So does what is put after the clock was set back a day."""
        self.purged()
        self.rig.crash()
        self.clock.rightNow -= 86400
        self.rig = self.open()
        self.rig.put("/a", b"new")
        self.rebuilt()

        self.assertEqual(b"new", self.rig.get("/000_a"))

    def test_numbers_go_on(self) -> None:
        """A rebuilt index goes on counting where a purge ended."""
        self.rig.put("/keep", b"k")
        self.purged()
        self.rebuilt()
        self.rig.put("/a", b"new")
        self.rebuilt()

        self.assertEqual(b"new", self.rig.get("/000_a"))

    def test_purge_moved(self) -> None:
        """A purge that compaction moved forgets no more than it did."""
        self.purged()
        self.rig.put("/a?modified=1000&modified_deleted=1000", b"new")
        for n in range(20):
            self.rig.delete(f"/000_n{n}?ttl={-2 * 86400}")
        store = self.rig.service.replica.store
        for number in store.volumes():
            store.seal(number)
        self.rig.purge()
        self.rebuilt()

        self.assertEqual(b"new", self.rig.get("/000_a"))


class DamageTests(DiskCase):
    """Files that are lost, cut or rotten."""

    def test_cut_index(self) -> None:
        """An index cut by half is noticed and rebuilt, though SQLite opens it."""
        for n in range(300):
            self.rig.put(f"/n{n}", b"%d" % n)
        self.rig.service.replica.index.sync()
        before = self.state()
        # As a killed process leaves it: the log is not empty.
        self.rig.put("/n0", b"0")
        before = self.state()
        path = self.directory / "blob" / "index.sqlite"
        saved = {
            suffix: (path.parent / f"{path.name}{suffix}").read_bytes()
            for suffix in ("", "-wal")
        }
        self.rig.crash()
        for suffix, content in saved.items():
            (path.parent / f"{path.name}{suffix}").write_bytes(content)
        os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)
        self.rig = self.open()

        self.assertEqual(before, self.state())

    def test_empty_identity(self) -> None:
        """A first start that was killed too early does not stop the next."""
        self.rig.put("/a", b"a")
        self.rig.crash()
        (self.directory / "blob" / "replica").write_bytes(b"")
        self.rig = self.open()

        self.assertEqual(b"a", self.rig.get("/000_a"))
        self.reopen()

    def test_lost_last_volume(self) -> None:
        """The number of a lost volume is not given to another."""
        self.rig.put("/lost", b"1" * 1_500_000)
        lost = self.volumes()[-1]
        self.rig.crash()
        lost.unlink()
        self.rig = self.open()
        self.rig.put("/other", b"2" * 1_500_000)

        self.assertEqual(500, self.rig.ask("GET", "/000_lost").status)
        self.assertNotIn(lost, self.volumes())

    def test_shortened_volume(self) -> None:
        """Nothing is appended to a volume that has become shorter."""
        self.rig.put("/a", b"a" * 1000)
        self.rig.put("/b", b"b" * 1000)
        path = self.volumes()[0]
        self.rig.crash()
        size = path.stat().st_size - 800
        os.truncate(path, size)
        self.rig = self.open()
        self.rig.put("/c", b"c" * 1000)

        self.assertEqual(size, path.stat().st_size)
        self.assertEqual(b"a" * 1000, self.rig.get("/000_a"))
        self.assertEqual(b"c" * 1000, self.rig.get("/000_c"))

    def test_cannot_be_compacted(self) -> None:
        """A volume that a damaged blob keeps is not read again every time."""
        self.reopen(volume_bytes=Bytes(1 << 20))
        for n in range(10):
            self.rig.put(f"/n{n}", b"%d" % n * 200_000)
        row = self.rig.service.replica.index.get("000_n0")
        assert row is not None and row.at is not None
        path = self.volumes()[0]
        with path.open("r+b") as file:
            file.seek(row.at.offset + row.at.head_bytes)
            file.write(b"rot")
        for n in range(1, 10):
            self.rig.delete(f"/000_n{n}?ttl={-2 * 86400}")
        scans: list[int] = []
        store = self.rig.service.replica.store
        scan = store.scan

        def counted(_: object, number: int, start: int) -> Iterator[Found | Damage]:
            scans.append(number)
            return scan(number, start)

        self.patch(type(store), "scan", counted)
        self.rig.purge()
        self.rig.purge()
        self.assertEqual(1, scans.count(int(path.stem, 16)))
        self.clock.advance(expire.LOOK_EVERY_SECONDS)
        self.rig.purge()

        self.assertEqual(2, scans.count(int(path.stem, 16)))

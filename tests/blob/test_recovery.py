"""A data directory survives what can happen to it: crashes, damage, a lost index."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.datadir import DataDirectory
from clinfra.blob.index import Batch, VolumeMark
from clinfra.blob.index_sqlite import SqliteIndex
from clinfra.blob.rebuild import rebuild_index
from clinfra.blob.recovery import Recovery
from clinfra.blob.store_volume import VolumeStore
from clinfra.blob.volume import VOLUME_HEAD_BYTES
from clinfra.config import Bytes
from clinfra.errors import StartupFailed, StorageFull
from tests.blob.support import NOW, Rig

INHERITED = [HealthCheck.differing_executors]
"""The same is asked of other stores, in classes derived from those here."""


class Crash(BaseException):
    """The process dies here."""


class DiskCase(SynchronousTestCase):
    """A test case with a blob store on disk that can be crashed and reopened."""

    config: Mapping[str, Any] = {}
    """What it is configured with."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="clinfra-blob-"))
        self.addCleanup(shutil.rmtree, self.directory)
        self.clock = Clock()
        self.clock.advance(NOW)
        self.rig = self.open()
        self.addCleanup(lambda: self.rig.close())

    def open(self, **config: Any) -> Rig:
        return Rig(self.directory, clock=self.clock, **{**self.config, **config})

    def reopen(self, **config: Any) -> None:
        """Crash, and start again."""
        self.rig.crash()
        self.rig = self.open(**config)

    def lose_index(self) -> None:
        """Crash, lose the index, and start again."""
        self.rig.crash()
        for path in (self.directory / "blob").glob("index.sqlite*"):
            path.unlink()
        self.rig = self.open()

    def volumes(self) -> list[Path]:
        return sorted((self.directory / "blob" / "volumes").glob("*.volume"))

    def state(self) -> dict[str, Any]:
        """Return everything a client can see of every name."""
        names = [r.name for r in self.rig.service.replica.index.names_after("", 999)]
        return {
            name: (self.rig.get(f"/{name}"), self.rig.info(f"/{name}"))
            for name in names
        }

    def fill(self) -> None:
        """Put, replace, delete and undelete some blobs of all kinds."""
        for n in range(8):
            self.rig.put(f"/n{n}", b"%d" % n * n)
        self.rig.put("/n1", b"replaced")
        self.rig.put("/n2?ttl=1000", b"short-lived")
        self.rig.put("/typed", b"x", **{"Content-Type": "image/webp"})
        self.rig.put("/big", b"big" * 500_000)
        self.rig.delete("/000_n3")
        self.rig.delete("/000_n4")
        self.rig.delete("/000_n4?deleted=0")
        self.rig.delete("/000_never")


class CrashTests(DiskCase):
    """The process dies between any two steps."""

    def test_after_everything(self) -> None:
        """What was answered is there after a crash, and nothing else."""
        self.fill()
        before = self.state()
        self.reopen()

        self.assertEqual(before, self.state())

    def put_and_crash(self, target: Any, method: str, *, after: bool) -> None:
        """PUT something; the first call of a method is the process's last."""
        real = getattr(type(target), method)

        def last(*arguments: Any) -> None:
            if after:
                real(*arguments)
            raise Crash

        store = type(self.rig.service.replica.store)
        patches = (
            self.patch(type(target), method, last),
            # A dead process takes nothing back.
            self.patch(store, "void", lambda store, places: None),
        )
        head = b"PUT /n1 HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\n"
        with self.assertRaises(Crash):
            self.rig.client.send(head + b"new")
        for patch in patches:
            patch.restore()
        self.reopen()

    def test_before_the_record(self) -> None:
        """Dead before its record was written, a PUT has never been."""
        self.fill()
        before = self.state()
        self.put_and_crash(self.rig.service.replica.store, "append", after=False)

        self.assertEqual(before, self.state())

    def test_between_record_and_index(self) -> None:
        """Dead between record and row, a PUT is taken up whole, and kept for good."""
        self.fill()
        self.put_and_crash(self.rig.service.replica.index, "apply", after=False)
        self.assertEqual(b"new", self.rig.get("/000_n1"))
        self.reopen()

        self.assertEqual(b"new", self.rig.get("/000_n1"))

    def test_before_the_answer(self) -> None:
        """Dead after the row but before the answer, a PUT is there."""
        self.fill()
        self.put_and_crash(self.rig.service.replica.index, "apply", after=True)

        self.assertEqual(b"new", self.rig.get("/000_n1"))

    def test_failed_index(self) -> None:
        """A write whose row cannot be written is an error, and never there."""
        self.fill()
        before = self.state()

        def fail(index: Any, batch: Batch) -> None:
            raise OSError(5, "Input/output error")

        index = type(self.rig.service.replica.index)
        real = index.apply
        self.patch(index, "apply", fail)
        self.assertEqual(500, self.rig.ask("PUT", "/n1", b"new").status)
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))
        self.patch(index, "apply", real)
        self.assertEqual(before, self.state())
        self.reopen()

        self.assertEqual(before, self.state())
        self.rig.put("/n1", b"works again")

    def test_full_index(self) -> None:
        """On a full disk a start reads what was refused again, and serves the rest."""
        self.fill()
        before = self.state()

        def fail(index: Any, batch: Batch) -> None:
            raise StorageFull("Not enough space to note this")

        index = type(self.rig.service.replica.index)
        full = self.patch(index, "apply", fail)
        self.assertEqual(507, self.rig.ask("PUT", "/n1", b"new").status)
        for _ in range(2):
            self.reopen()
            self.assertEqual(before, self.state())
        full.restore()
        self.rig.put("/n1", b"works again")
        self.reopen()

        self.assertEqual(b"works again", self.rig.get("/000_n1"))

    @given(st.data())
    @settings(deadline=None, max_examples=25, suppress_health_check=INHERITED)
    def test_torn_tail(self, data: st.DataObject) -> None:
        """However much of the next record reached the disk, the rest is unharmed."""
        directory = Path(tempfile.mkdtemp(prefix="clinfra-blob-"))
        rig = Rig(directory, clock=self.clock, **self.config)
        try:
            rig.put("/a", b"a" * 100)
            rig.put("/b", b"b" * 100)
            index = rig.service.replica.index
            row = index.get("000_b")
            assert row is not None and row.at is not None
            at = row.at
            # As the index is when the process dies in the middle of writing b.
            mark = VolumeMark(at.offset, at.offset - VOLUME_HEAD_BYTES)
            index.apply(Batch(forget=["000_b"], marks={at.volume: mark}))
            rig.crash()
            (path,) = (directory / "blob" / "volumes").glob("*.volume")
            cut = data.draw(st.integers(at.offset, at.offset + at.length - 1))
            os.truncate(path, cut)
            rig = Rig(directory, clock=self.clock, **self.config)
            self.assertEqual(b"a" * 100, rig.get("/000_a"))
            self.assertIsNone(rig.get("/000_b"))
            rig.put("/b", b"again")
            rig.crash()
            rig = Rig(directory, clock=self.clock, **self.config)
            self.assertEqual(b"again", rig.get("/000_b"))
        finally:
            rig.close()
            shutil.rmtree(directory)


class RebuildTests(DiskCase):
    """The index made anew from the volumes alone."""

    def rebuilt(self) -> None:
        self.rig.crash()
        rebuild_index(self.directory)
        self.rig = self.open()

    def test_same(self) -> None:
        """Every blob, delete, undelete and expiry is as before."""
        self.fill()
        before = self.state()
        self.rebuilt()

        self.assertEqual(before, self.state())

    def test_without_the_command(self) -> None:
        """A missing index is rebuilt by the start itself."""
        self.fill()
        before = self.state()
        self.lose_index()

        self.assertEqual(before, self.state())

    def test_damaged_index(self) -> None:
        """An index that is no data base any more is set aside and rebuilt."""
        self.fill()
        before = self.state()
        self.rig.crash()
        (self.directory / "blob" / "index.sqlite").write_bytes(b"rot" * 5000)
        self.rig = self.open()

        self.assertEqual(before, self.state())

    def test_old_index(self) -> None:
        """An index from a backup catches up from the volumes."""
        self.rig.put("/n1", b"old")
        self.rig.close()
        blob = self.directory / "blob"
        backup = blob / "backup"
        shutil.copy(blob / "index.sqlite", backup)
        self.rig = self.open()
        self.fill()
        before = self.state()
        self.rig.crash()
        for path in blob.glob("index.sqlite*"):
            path.unlink()
        backup.rename(blob / "index.sqlite")
        self.rig = self.open()

        self.assertEqual(before, self.state())

    def test_machine_died(self) -> None:
        """An index that lost its last commits with the machine catches up."""
        self.fill()
        self.rig.service.replica.index.sync()
        blob = self.directory / "blob"
        shutil.copy(blob / "index.sqlite", blob / "synced")
        self.rig.put("/n1", b"after the sync")
        self.rig.delete("/000_n2")
        self.rig.delete("/000_n3?deleted=0")
        self.rig.put("/new", b"n" * 2_000_000)
        before = self.state()
        self.rig.crash()
        for path in blob.glob("index.sqlite*"):
            path.unlink()
        (blob / "synced").rename(blob / "index.sqlite")
        self.rig = self.open()

        self.assertEqual(before, self.state())

    def test_purged_stay_gone(self) -> None:
        """What was deleted and purged does not come back, wherever its bytes were."""
        self.rig.put("/a", b"old bytes for ever")
        self.rig.put("/a?ttl=100", b"newer bytes, short-lived")
        self.rig.put("/b", b"deleted")
        self.rig.put("/keep", b"kept")
        self.rig.delete("/000_b")
        self.clock.advance(100 + 2 * 86400)
        self.rig.purge()
        self.assertEqual(["000_keep"], list(self.state()))
        for path in self.volumes():
            self.rig.service.replica.store.seal(int(path.stem, 16))
        self.rig.purge()
        self.rebuilt()

        self.assertIsNone(self.rig.get("/000_a"))
        self.assertIsNone(self.rig.get("/000_b"))
        self.assertEqual(b"kept", self.rig.get("/000_keep"))

    def test_undeleted_after_purge(self) -> None:
        """An undelete that comes after the purge brings nothing back, ever."""
        self.rig.put("/a", b"old")
        self.rig.put("/keep", b"k" * 1000)
        self.rig.delete(f"/000_a?ttl={-2 * 86400}")
        self.rig.purge()
        self.rig.delete("/000_a?deleted=0")
        before = self.state()
        self.rebuilt()

        self.assertEqual(before, self.state())
        self.assertIsNone(self.rig.get("/000_a"))
        self.rig.put("/a", b"new")
        self.rebuilt()
        self.assertEqual(b"new", self.rig.get("/000_a"))

    def test_rot(self) -> None:
        """A flipped bit costs the one blob it is in."""
        for n in range(5):
            self.rig.put(f"/n{n}", b"%d" % n * 100)
        row = self.rig.service.replica.index.get("000_n2")
        assert row is not None and row.at is not None
        path = self.volumes()[0]
        raw = bytearray(path.read_bytes())
        raw[row.at.offset + row.at.head_bytes + 7] ^= 4
        self.rig.crash()
        path.write_bytes(raw)
        rebuild_index(self.directory)
        self.rig = self.open()

        self.assertEqual(
            [True, True, False, True, True],
            [self.rig.get(f"/000_n{n}") is not None for n in range(5)],
        )

    def test_progress(self) -> None:
        """Whoever waits is told how much of the volumes has been read."""
        for n in range(1001):
            self.rig.put(f"/n{n}", b"x")
        self.rig.crash()
        told: list[tuple[int, int]] = []
        directory = DataDirectory(self.directory / "blob", "")
        store = VolumeStore(directory.store, volume_bytes=1 << 30)
        fresh = SqliteIndex(self.directory / "fresh.sqlite")
        Recovery(fresh, store, lambda *both: told.append(both)).run()
        fresh.close()
        store.close()
        self.rig = self.open()

        ((done, total),) = told
        size = sum(path.stat().st_size for path in self.volumes())
        self.assertLess(0.9 * total, done)
        self.assertLess(done, total)
        self.assertLessEqual(total, size)

    def test_nothing_there(self) -> None:
        """Rebuilding what is no blob store, or is in use, is refused."""
        with self.assertRaises(StartupFailed):
            rebuild_index(self.directory / "nowhere")
        with self.assertRaises(StartupFailed):
            rebuild_index(self.directory)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(["put", "short", "delete", "undelete", "older"]),
                st.integers(0, 3),
                st.binary(max_size=20),
            ),
            max_size=15,
        )
    )
    @settings(deadline=None, max_examples=15, suppress_health_check=INHERITED)
    def test_any_history(self, history: Sequence[tuple[str, int, bytes]]) -> None:
        """After any history the rebuilt index says the same."""
        directory = Path(tempfile.mkdtemp(prefix="clinfra-blob-"))
        old, self.directory = self.directory, directory
        main, self.rig = self.rig, self.open()
        try:
            for what, number, body in history:
                name = f"n{number}"
                if what == "put":
                    self.rig.put(f"/{name}", body)
                elif what == "short":
                    self.rig.put(f"/{name}?ttl=50", body)
                elif what == "older":
                    self.rig.put(f"/{name}?modified={5 + number}", body)
                elif what == "delete":
                    self.rig.delete(f"/000_{name}")
                else:
                    self.rig.delete(f"/000_{name}?deleted=0")
                self.clock.advance(1)
            before = self.state()
            self.rebuilt()
            self.assertEqual(before, self.state())
            self.rig.close()
        finally:
            self.directory, self.rig = old, main
            shutil.rmtree(directory)


class DirectoryTests(DiskCase):
    """Whose a data directory is."""

    def test_second_process(self) -> None:
        """A second process on one data directory is refused, naming the lock."""
        with self.assertRaises(StartupFailed) as caught:
            self.open()

        self.assertIn("lock", str(caught.exception))

    def test_other_replica(self) -> None:
        """A directory of another replica is refused, naming both."""
        self.rig.close()
        with self.assertRaises(StartupFailed) as caught:
            self.open(replica="other")

        self.assertIn("belongs to replica blob, not to other", str(caught.exception))
        self.rig = self.open()

    def test_unusable(self) -> None:
        """A directory that cannot be made is refused with a sentence."""
        (self.directory / "file").write_text("x")
        with self.assertRaises(StartupFailed):
            Rig(self.directory / "file")

    def test_garbage_everywhere(self) -> None:
        """Nothing that lies around in the directory stops a start."""
        self.fill()
        before = self.state()
        self.rig.crash()
        for name in ("_tmp", "foo", "volumes/foo", "volumes/tmp/foo", "index.bak"):
            (self.directory / "blob" / name).write_text("garbage")
        (self.directory / "blob/volumes/ffffffffffffffff.volume").write_bytes(b"")
        self.rig = self.open()

        self.assertEqual(before, self.state())

    def test_missing_volume(self) -> None:
        """A lost volume costs its blobs, which are errors, never wrong bytes."""
        self.rig.put("/a", b"a" * 5000)
        self.rig.put("/b?ttl=50", b"b")
        at = self.rig.service.replica.index.get("000_a")
        assert at is not None and at.at is not None
        self.rig.crash()
        self.volumes()[0].unlink()
        self.rig = self.open(volume_bytes=Bytes(1 << 20))

        self.assertEqual(500, self.rig.ask("GET", "/000_a").status)
        self.assertEqual(b"b", self.rig.get("/000_b"))
        self.rig.put("/a", b"again")
        self.assertEqual(b"again", self.rig.get("/000_a"))

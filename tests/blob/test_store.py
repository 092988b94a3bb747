"""The stores in memory and in volumes, and the faults a disk can have."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clinfra.blob import volume, volume_files
from clinfra.blob.store import IBlobStore
from clinfra.blob.store_memory import MemoryStore
from clinfra.blob.store_volume import VolumeStore
from clinfra.blob.volume import Damage
from clinfra.errors import StorageFull
from tests.blob import store_contract
from tests.blob.store_contract import NOW, entry


class MemoryStoreTests(store_contract.StoreContract):
    """The fake."""

    def make(self) -> IBlobStore:
        return MemoryStore(volume_bytes=4096)

    def test_full(self) -> None:
        """A full store takes all of a batch or nothing."""
        assert isinstance(self.store, MemoryStore)
        self.store.capacity_bytes = 1000
        with self.assertRaises(StorageFull):
            self.append(entry("a"), entry("b", bytes(2000)))

        self.assertEqual([], self.names())


class VolumeStoreTests(store_contract.StoreContract):
    """Volumes on the disk."""

    def make(self) -> IBlobStore:
        self.path = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.path)
        return VolumeStore(self.path, volume_bytes=4096)

    def files(self) -> list[Path]:
        return sorted(self.path.glob("*.volume"))

    def test_one_sync_for_a_batch(self) -> None:
        """A batch costs one sync of one file, however many records it has."""
        self.append(entry("first"))
        synced: list[int] = []
        real = os.fdatasync

        def fdatasync(fd: int) -> None:
            synced.append(fd)
            real(fd)

        self.patch(os, "fdatasync", fdatasync)
        self.append(*(entry(f"n{n}") for n in range(20)))

        self.assertEqual(1, len(synced))

    def break_writes(self, number: int, written: int = 50) -> None:
        """Let the next write end after some bytes, with an error number."""
        real = os.pwritev

        def pwritev(fd: int, buffers: Sequence[bytes], offset: int) -> int:
            real(fd, [b"".join(buffers)[:written]], offset)
            raise OSError(number, os.strerror(number))

        self.patch(os, "pwritev", pwritev)

    def test_no_space(self) -> None:
        """A full disk in the middle of a write leaves nothing, and is told as such."""
        self.append(entry("a"))
        size = self.files()[0].stat().st_size
        self.break_writes(errno.ENOSPC)
        with self.assertRaises(StorageFull):
            self.append(entry("b"), entry("c", deleted=int(NOW) + 5))
        self.store.close()
        self.store.open()

        self.assertEqual(["a"], self.names())
        self.assertEqual([size], [each.stat().st_size for each in self.files()])

    def test_input_output_error(self) -> None:
        """After a failed write the volume is not trusted with more."""
        at = self.append(entry("a"))[0]
        self.break_writes(errno.EIO)
        with self.assertRaises(OSError):
            self.append(entry("b"))

        self.assertFalse(self.store.volumes()[at.volume].active)
        self.assertEqual(["a"], self.names())

    def test_spool_without_space(self) -> None:
        """A large body that does not fit is refused and leaves nothing."""
        spool = self.store.spool("big", "")
        self.break_writes(errno.ENOSPC)
        with self.assertRaises(StorageFull):
            spool.write(b"x" * 5000)
        spool.discard()

        self.assertEqual([], list((self.path / "tmp").iterdir()))

    def test_leftovers(self) -> None:
        """Half-received bodies of a killed process are gone after a start."""
        self.store.spool("big", "").write(b"x" * 5000)
        self.store.close()
        self.store.open()

        self.assertEqual([], list((self.path / "tmp").iterdir()))

    def test_strange_files(self) -> None:
        """What does not belong there is set aside, whatever it is."""
        self.append(entry("a"))
        self.store.close()
        (self.path / "notes.txt").write_text("hello")
        (self.path / "0000000000000009.volume").write_bytes(b"no volume")
        (self.path / "00000000000000aa.volume").symlink_to("/nowhere")
        (self.path / "a directory").mkdir()
        (self.path / "tmp" / "foo").write_text("x")
        renamed = self.path / "0000000000000077.volume"
        shutil.copy(self.files()[0], renamed)
        self.store.open()

        self.assertEqual(["a"], self.names())
        self.assertEqual(5, len(list((self.path / "set-aside").iterdir())))

    def test_flipped_head(self) -> None:
        """A flipped bit in the head of a volume costs nothing."""
        (at,) = self.append(entry("a"))
        self.append(entry("gone", None))
        self.store.close()
        for path in self.files():
            raw = bytearray(path.read_bytes())
            raw[20] ^= 1
            path.write_bytes(raw)
        self.store.open()

        self.assertEqual(["a", "gone"], sorted(self.names()))
        self.assertEqual(b"body", self.body(at, 4))
        classes = [facts.ttl_class for facts in self.store.volumes().values()]
        self.assertEqual([0, volume.CHANGES_CLASS], sorted(classes))

    def test_bit_flip(self) -> None:
        """A flipped bit is met as damage, not as a record."""
        first, second, _ = self.append(entry("a"), entry("b"), entry("c"))
        path = self.files()[0]
        raw = bytearray(path.read_bytes())
        raw[second.offset + second.head_bytes] ^= 1
        path.write_bytes(raw)
        found = list(self.store.scan(first.volume, 0))

        self.assertEqual(["a", "c"], self.names())
        self.assertEqual(
            [Damage(second.offset, second.length, False)],
            [each for each in found if isinstance(each, Damage)],
        )

    def test_many_volumes(self) -> None:
        """Reading from more volumes than may be open keeps few open."""
        self.patch(volume_files, "MAX_OPEN_FILES", 4)
        places = [self.append(entry(f"n{n}", bytes(5000)))[0] for n in range(12)]
        for at in places * 2:
            self.assertEqual(bytes(5000), self.body(at, 5000))
        open_files: Any = self.store
        self.assertEqual(4, len(open_files._open_files))

    def test_volume_ages(self) -> None:
        """A volume of short-lived blobs is sealed in time to be deleted whole."""
        store = self.store
        first = store.append([entry("a", deleted=int(NOW) + 100)], NOW)[0]
        later = NOW + volume.TTL_CLASSES[0] / 3
        second = store.append([entry("b", deleted=int(later) + 100)], later)[0]

        self.assertNotEqual(first.volume, second.volume)

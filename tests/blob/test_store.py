"""The exam that every blob store passes, and the faults a disk can have."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from clinfra.blob import store_volume, volume
from clinfra.blob.records import Data, Expiry, Locator, State
from clinfra.blob.replica import _digests
from clinfra.blob.store import Entry, IBlobStore, ISpool
from clinfra.blob.store_memory import MemoryStore
from clinfra.blob.store_volume import VolumeStore
from clinfra.blob.volume import Damage, Found
from clinfra.errors import StorageFull
from clinfra.web.exchange import FileBody

NOW = 1_800_000_000.0


def entry(
    name: str,
    body: bytes | ISpool | None = b"body",
    deleted: int = 0,
    volumes: tuple[int, int] | None = None,
) -> Entry:
    """Return an entry with matching checksums."""
    data = None
    if body is not None:
        sha256, crc32, size = _digests(body)
        data = Data(5, sha256, size, crc32, "")
    return Entry(name, State(data, Expiry(5, deleted)), body, volumes)


class StoreContract(SynchronousTestCase):
    """What a store must do; hidden from test runners below."""

    store: IBlobStore

    def make(self) -> IBlobStore:
        """Return a store whose volumes are sealed at 4096 bytes, not opened."""
        raise NotImplementedError

    def setUp(self) -> None:
        self.store = self.make()
        self.store.open()

    def tearDown(self) -> None:
        self.store.close()

    def append(self, *entries: Entry) -> Sequence[Locator]:
        return self.store.append(entries, NOW)

    def names(self) -> list[str]:
        """Return the names of all good records, void ones left out."""
        return [
            found.record.name
            for number in sorted(self.store.volumes())
            for found in self.store.scan(number, 0)
            if isinstance(found, Found) and not found.record.is_void
        ]

    def body(self, at: Locator, size: int) -> bytes:
        """Return a body, read in every way a store offers."""
        body = self.store.read(at, 0, size)
        self.assertIn(self.store.read_at_once(at, 0, size), (None, body))
        piece = self.store.file_of(at, 0, size)
        if isinstance(piece, FileBody):
            self.assertEqual(body, os.pread(piece.fd, piece.length, piece.offset))
            piece.close()
        else:
            self.assertEqual(body, piece)
        return body

    def test_interface(self) -> None:
        """It has everything the interface says."""
        self.assertTrue(verifyObject(IBlobStore, self.store))

    def test_round_trip(self) -> None:
        """Bodies of any length come back, whole and in pieces."""
        bodies = [b"x" * n for n in (0, 1, 7, 8, 9, 1000)]
        places = self.append(*(entry(f"n{len(b)}", b) for b in bodies))

        for body, at in zip(bodies, places, strict=True):
            self.assertEqual(body, self.body(at, len(body)))
        self.assertEqual(bodies[5][10:30], self.store.read(places[5], 10, 20))

    def test_spool(self) -> None:
        """A large body comes in by pieces and is a record like any other."""
        spool = self.store.spool("big", "")
        for _ in range(3):
            spool.write(b"x" * 5000)
        spool.sync()
        (at,) = self.append(entry("big", spool))
        spool.discard()

        self.assertEqual(b"x" * 15000, self.body(at, 15000))
        self.assertEqual(["big"], self.names())

    def test_discarded_spool(self) -> None:
        """A body that never arrived whole leaves nothing."""
        spool = self.store.spool("big", "")
        spool.write(b"x" * 5000)
        spool.discard()
        spool.discard()

        self.assertEqual({}, dict(self.store.volumes()))

    def test_classes(self) -> None:
        """Blobs that end together share a volume, changes have their own."""
        places = self.append(
            entry("for ever"),
            entry("a day", deleted=int(NOW) + 100),
            entry("change", None),
            entry("too", deleted=int(NOW) + 200),
        )
        numbers = [at.volume for at in places]

        self.assertEqual(3, len(set(numbers)))
        self.assertEqual(numbers[1], numbers[3])
        classes = {n: each.ttl_class for n, each in self.store.volumes().items()}
        self.assertEqual([0, 86400, 1], [classes[n] for n in numbers[:3]])

    def test_sealing(self) -> None:
        """A full volume is left alone; a new one follows."""
        first = self.append(entry("a", bytes(5000)))[0].volume
        second = self.append(entry("b"))[0].volume

        self.assertGreater(second, first)
        facts = self.store.volumes()
        self.assertEqual([False, True], [facts[n].active for n in (first, second)])

    def test_void(self) -> None:
        """A record that was taken back is not found again."""
        places = self.append(entry("a"), entry("b"), entry("c"))
        self.store.void(places[1:2])

        self.assertEqual(["a", "c"], self.names())

    def test_scan_from_the_middle(self) -> None:
        """Reading begins where the index ends."""
        places = self.append(entry("a"), entry("b"))
        found = list(self.store.scan(places[0].volume, places[1].offset))

        self.assertEqual(places[1:], [f.at for f in found if isinstance(f, Found)])

    def test_truncate(self) -> None:
        """The end of a volume can be cut off, and appending goes on there."""
        first, second = self.append(entry("a"), entry("b"))
        self.store.truncate(first.volume, second.offset)
        self.append(entry("c"))

        self.assertEqual(["a", "c"], self.names())

    def test_remove(self) -> None:
        """A removed volume is gone; numbers go on rising."""
        at = self.append(entry("a"))[0]
        self.store.remove(at.volume)
        again = self.append(entry("b"))[0]

        self.assertEqual(["b"], self.names())
        self.assertGreater(again.volume, at.volume)
        with self.assertRaises(LookupError):
            self.store.read(at, 0, 4)

    def test_volumes_of_a_name(self) -> None:
        """A record remembers where bytes of its name have been."""
        at = self.append(entry("a", volumes=(1, 1)))[0]
        (found,) = self.store.scan(at.volume, 0)
        assert isinstance(found, Found)

        self.assertEqual((1, max(1, at.volume)), found.record.volumes)

    def test_reopening(self) -> None:
        """Everything is there after closing and opening, and appending goes on."""
        self.append(entry("a"))
        self.store.close()
        self.store.open()
        self.append(entry("b"))

        self.assertEqual(["a", "b"], self.names())


class MemoryStoreTests(StoreContract):
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


class VolumeStoreTests(StoreContract):
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
        self.patch(store_volume, "MAX_OPEN_FILES", 4)
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


del StoreContract  # no test of its own

"""Blobs as files: what is on the disk, what is swept, and what goes wrong."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import InvalidRequest, NotFound, StartupFailed, StorageDamaged
from clinfra.image.store_directory import ATTRIBUTE, INCOMING, Directory
from tests.image.support import new_directory

NOW = 1_800_000_000.5


class DirectoryTests(SynchronousTestCase):
    """The files of a store, on a clock."""

    def setUp(self) -> None:
        self.path = new_directory(self) / "blobs"
        self.clock = Clock()
        self.clock.advance(NOW)
        self.store = Directory(self.path, self.clock.seconds)
        self.store.open()

    def put(self, name: str, body: bytes = b"1", ttl: int | None = None) -> Path:
        """Put a blob; return its file."""
        self.store.put(name, body, ttl, None)
        return self.file(name)

    def file(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()
        return self.path / digest[:2] / digest[2:4] / name

    def files(self) -> set[Path]:
        return {each for each in self.path.rglob("*") if each.is_file()}

    def sweep(self) -> int:
        """Sweep everything once; return how many files went."""
        removed = sum(
            self.store.sweep(each) for some in self.store.leaves() for each in some
        )
        self.store.sweep_incoming()
        return removed

    def test_plain_files(self) -> None:
        """Each blob is a file of its own, two directories deep, and nothing else is."""
        file = self.put("000_x.jpg", b"picture")

        self.assertEqual(b"picture", file.read_bytes())
        self.assertEqual({file}, self.files())

    def test_names(self) -> None:
        """However a blob is called, its file lies where it should."""
        for name in ("000_a/b", "000_ü", "000_ a%2F", "000_~+!", "000_.a"):
            self.store.put(name, b"1", None, None)
        self.assertEqual(
            {3}, {len(each.relative_to(self.path).parts) for each in self.files()}
        )
        for name in ("..", "", "000_../../etc", "/etc", "000_a\0", "000_" + "x" * 300):
            with self.assertRaises(InvalidRequest):
                self.store.put(name, b"1", None, None)
            with self.assertRaises(InvalidRequest):
                self.store.delete(name)
        self.assertEqual(set(), set((self.path / INCOMING).iterdir()))

    def test_sweep(self) -> None:
        """What has expired is removed, and only that."""
        stays, replaced = self.put("000_a", ttl=61), self.put("000_b", ttl=10)
        self.put("000_c", ttl=10)
        self.put("000_d")
        self.put("000_b")
        self.clock.advance(60)

        self.assertEqual(1, self.sweep())
        self.assertEqual({stays, replaced, self.file("000_d")}, self.files())
        with self.assertRaises(NotFound):
            self.store.get("000_c")

    def test_expired_before_the_sweep(self) -> None:
        """What has expired is gone at once, and can be put again."""
        self.put("000_a", ttl=10)
        self.clock.advance(10.4)
        self.store.get("000_a")
        self.clock.advance(0.2)
        for ask in (self.store.get, self.store.info):
            with self.assertRaises(NotFound):
                ask("000_a")
        self.put("000_a", b"2")
        self.assertEqual(b"2", self.store.get("000_a")[1])

    def test_replaced_while_swept(self) -> None:
        """What is put again after the sweep saw it expired stays."""
        file = self.put("000_a", ttl=1)
        self.clock.advance(10)
        asked: list[float] = []

        def now() -> float:
            asked.append(self.clock.seconds())
            if len(asked) == 1:
                # The sweep has read that it expired, and will look again.
                self.put("000_a", b"new")
            return asked[0]

        self.assertEqual(0, Directory(self.path, now).sweep(file.parent))
        self.assertEqual(b"new", self.store.get("000_a")[1])

    def test_abandoned(self) -> None:
        """What a process left behind in the middle is removed after an hour."""
        left = self.path / INCOMING / "left"
        left.write_bytes(b"half")
        os.utime(left, (NOW, NOW))
        self.clock.advance(3500)
        self.sweep()
        self.assertTrue(left.exists())
        self.clock.advance(200)
        self.sweep()
        self.assertFalse(left.exists())

    def test_brought_from_elsewhere(self) -> None:
        """A file that came without its attribute is served, and never expires."""
        file = self.put("000_a.jpg", ttl=1)
        os.removexattr(file, ATTRIBUTE)
        os.utime(file, (NOW - 500, NOW - 500))
        self.clock.advance(1000)
        info, body = self.store.get("000_a.jpg")

        self.assertEqual(0, self.sweep())
        self.assertEqual(b"1", body)
        self.assertEqual((0, "image/jpeg"), (info.deleted, info.content_type))
        self.assertEqual(hashlib.sha256(b"1").hexdigest(), info.sha256)
        self.assertEqual(info, self.store.info("000_a.jpg"))
        os.setxattr(file, ATTRIBUTE, b"nonsense")
        self.assertEqual(info, self.store.info("000_a.jpg"))

    def test_rot(self) -> None:
        """Bytes that are not those that were stored are not served."""
        self.put("000_a", b"good").write_bytes(b"evil")

        with self.assertRaises(StorageDamaged):
            self.store.get("000_a")

    def test_full_disk(self) -> None:
        """When there is no room nothing is left, and what was there stays."""
        self.put("000_a", b"old")

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        for call in ("fsync", "setxattr"):
            with patch.object(os, call, full), self.assertRaises(OSError):
                self.store.put("000_a", b"new", None, None)
        self.assertEqual(b"old", self.store.get("000_a")[1])
        self.assertEqual({self.file("000_a")}, self.files())

    def test_removed_directories(self) -> None:
        """Directories that somebody removes are made again."""
        self.put("000_a").unlink()
        self.file("000_a").parent.rmdir()
        self.store.delete("000_a")
        self.put("000_a", b"2")

        self.assertEqual(b"2", self.store.get("000_a")[1])

    def test_no_directory(self) -> None:
        """A place that cannot be used is told at start, in one sentence."""
        file = self.path / "file"
        file.write_bytes(b"")
        with self.assertRaises(StartupFailed) as caught:
            Directory(file / "below").open()
        self.assertIn("image.blob_url: cannot use ", str(caught.exception))

        def unable(*_: Any) -> None:
            raise OSError(errno.ENOTSUP, "Operation not supported")

        with (
            patch.object(os, "setxattr", unable),
            self.assertRaises(StartupFailed) as told,
        ):
            Directory(self.path).open()
        self.assertIn("extended attributes", str(told.exception))

"""Uploads that could not be read, kept within bounds."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import StartupFailed
from clinfra.image.badfiles import BadFiles, safe_name
from tests.image.support import new_directory


class BadFilesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = new_directory(self)
        self.upload = os.memfd_create("upload")
        self.addCleanup(os.close, self.upload)
        os.write(self.upload, b"bad data")

    def bad_files(self, max_bytes: int = 20) -> BadFiles:
        bad_files = BadFiles(self.directory, max_bytes, None)
        bad_files.open()
        return bad_files

    def keep(self, bad_files: BadFiles, filename: str | None, seconds: float) -> str:
        return self.successResultOf(
            Deferred.fromCoroutine(bad_files.keep(self.upload, 8, filename, seconds))
        )

    def test_kept(self) -> None:
        """A bad upload lies there byte for byte under the original's kind of name."""
        path = self.keep(self.bad_files(), "../../te st.jpg", 1795321273.707294)
        self.assertEqual(str(self.directory / "1795321273.707294.....test.jpg"), path)
        self.assertEqual(b"bad data", Path(path).read_bytes())

    def test_bounded(self) -> None:
        """What does not fit is not kept, whoever filled the directory."""
        (self.directory / "old").write_bytes(b"12345")
        bad_files = self.bad_files()
        self.assertTrue(self.keep(bad_files, None, 1))
        self.assertEqual("", self.keep(bad_files, None, 2))
        self.assertEqual(2, len(os.listdir(self.directory)))

    def test_failing_disk(self) -> None:
        """A copy that fails is only logged."""
        bad_files = self.bad_files()
        self.assertTrue(self.keep(bad_files, None, 1))
        self.assertEqual("", self.keep(bad_files, None, 1))
        self.assertTrue(self.keep(bad_files, None, 2))

    def test_cut_short(self) -> None:
        """What cannot be copied whole is not kept at all."""
        bad_files = self.bad_files()
        unreadable = os.open(self.directory, os.O_RDONLY)
        self.addCleanup(os.close, unreadable)
        kept = Deferred.fromCoroutine(bad_files.keep(unreadable, 8, None, 1))
        self.assertEqual("", self.successResultOf(kept))
        self.assertEqual([], os.listdir(self.directory))

    def test_no_directory(self) -> None:
        """A directory that is not there is told before the start."""
        bad_files = BadFiles(self.directory / "missing", 20, None)
        self.assertRaises(StartupFailed, bad_files.open)

    def test_names(self) -> None:
        """No name leaves the directory."""

        @settings(deadline=None)
        @given(st.text(max_size=300))
        def check(filename: str) -> None:
            name = safe_name(1.5, filename)
            self.assertNotIn("/", name)
            self.assertTrue(name.startswith("1.500000.") and name.isascii())
            self.assertLessEqual(len(name), 130)

        check()

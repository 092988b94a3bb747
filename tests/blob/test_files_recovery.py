"""What `test_recovery` proves of volumes holds for a store of files as well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from clinfra.blob import layout
from clinfra.blob.rebuild import rebuild_index
from clinfra.blob.versions import GRACE_SECONDS, VERSIONS
from clinfra.config import Bytes
from clinfra.errors import ConfigProblems, StartupFailed
from tests.blob import test_recovery


class FilesCase(test_recovery.DiskCase):
    """A test case whose blobs are files."""

    config: Mapping[str, Any] = MappingProxyType({"kept": "files"})

    @property
    def files(self) -> Path:
        return self.directory / "blob" / "files"

    def file(self, name: str) -> Path:
        return self.files / layout.path_of(name)


class CrashTests(FilesCase, test_recovery.CrashTests):
    """The process dies between any two steps."""


class RebuildTests(FilesCase, test_recovery.RebuildTests):
    """The index made anew from the journal."""

    def test_rot(self) -> None:
        """A flipped bit costs the one blob it is in, and is no wrong answer."""
        for n in range(5):
            self.rig.put(f"/n{n}", b"%d" % n * 100)
        self.rig.crash()
        self.file("000_n2").write_bytes(b"2" * 99 + b"3")
        rebuild_index(self.directory)
        self.rig = self.open()

        self.assertEqual(
            [200, 200, 500, 200, 200],
            [self.rig.ask("GET", f"/000_n{n}").status for n in range(5)],
        )
        self.rig.put("/n2", b"2" * 100)
        self.assertEqual(b"2" * 100, self.rig.get("/000_n2"))


class FilesTests(FilesCase):
    """The life of files."""

    def there(self) -> list[Path]:
        return [path for path in self.files.rglob("*") if path.is_file()]

    def test_layout(self) -> None:
        """Every blob is a file where the original has it, in the end."""
        self.fill()
        before = self.state()
        self.clock.advance(GRACE_SECONDS)
        self.rig.purge()

        for name, (body, _) in before.items():
            if body is not None:
                self.assertEqual(body, self.file(name).read_bytes())
        self.assertEqual([], list((self.files / VERSIONS).iterdir()))
        self.assertEqual(before, self.state())

    def test_purged(self) -> None:
        """What is purged leaves no file."""
        self.rig.put("/a", b"a" * 100)
        self.rig.put("/big", b"b" * 2_000_000)
        for name in ("000_a", "000_big"):
            self.rig.delete(f"/{name}?ttl={-2 * 86400}")
        self.assertEqual(2, self.rig.purge())
        self.clock.advance(GRACE_SECONDS)
        self.rig.purge()

        self.assertEqual([], self.there())

    def test_compacted_journal(self) -> None:
        """When the journal is compacted, files stay as they are."""
        self.rig.crash()
        self.rig = self.open(volume_bytes=Bytes(4096))
        for n in range(60):
            self.rig.put(f"/n{n}", b"%d" % n * n)
        journal = self.volumes()[0]
        for n in range(25):
            self.rig.put(f"/n{n}", b"again %d" % n)
        self.clock.advance(GRACE_SECONDS)
        before, inodes = self.state(), {p: p.stat().st_ino for p in self.there()}
        self.rig.purge()
        self.rig.purge()

        self.assertFalse(journal.exists())
        self.assertEqual(before, self.state())
        after = {p: p.stat().st_ino for p in self.there()}
        kept = [path for path, inode in after.items() if inodes.get(path) == inode]
        self.assertEqual(60, len(after))
        self.assertGreaterEqual(len(kept), 35)
        self.reopen(volume_bytes=Bytes(4096))
        self.assertEqual(before, self.state())

    def test_from_volumes_and_not_back(self) -> None:
        """A store of volumes can go on as files; going back is refused."""
        self.rig.crash()
        volumes = self.directory / "blob" / "files"
        for path in sorted(volumes.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        volumes.rmdir()
        self.rig = self.open(kept="volume")
        self.rig.put("/old", b"in a volume")
        self.rig.crash()
        self.rig = self.open()
        self.rig.put("/new", b"a file")
        self.assertEqual(b"in a volume", self.rig.get("/000_old"))
        self.reopen()
        self.assertEqual(b"a file", self.rig.get("/000_new"))
        with self.assertRaises(ConfigProblems):
            self.open(kept="volume")

    def test_elsewhere(self) -> None:
        """The files may be elsewhere, and always in the same place."""
        self.rig.crash()
        self.file("x").parent.parent.parent.rename(self.directory / "elsewhere")
        self.config = {"kept": "files", "path": str(self.directory / "elsewhere")}
        self.rig = self.open()
        self.rig.put("/a", b"a file")
        self.reopen()
        self.assertEqual(b"a file", self.rig.get("/000_a"))
        self.rig.crash()
        with self.assertRaises(StartupFailed):
            self.open(path=str(self.directory / "other"))
        self.rig = self.open(path="")
        self.assertEqual(b"a file", self.rig.get("/000_a"))

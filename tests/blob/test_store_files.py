"""One file for each blob: the layout, and what a disk can do to it."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob import layout
from clinfra.blob.records import Locator
from clinfra.blob.store import Entry, IBlobStore
from clinfra.blob.store_files import INCOMING, MAX_OPEN_FILES, FilesStore
from clinfra.blob.store_volume import VolumeStore
from clinfra.blob.versions import GRACE_SECONDS, VERSIONS
from clinfra.errors import StorageFull
from tests.blob import store_contract
from tests.blob.store_contract import NOW, entry

LATER = NOW + GRACE_SECONDS + 1


def purge_of(body: bytes) -> Entry:
    """Return what forgets the name "a" while it has that body."""
    state = entry("a", body).state
    return Entry("a", state, None, purge=True, dropped=state.data)


class LayoutTests(SynchronousTestCase):
    """Names and paths."""

    def test_as_the_original(self) -> None:
        """A name is where the original puts it."""
        self.assertEqual("77/9b/00100_test1", layout.path_of("00100_test1"))

    @given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1))
    @example("000_" + "x" * 252)
    @example("000_a/b")
    @example("0" * 1024)
    @example("000_" + "/" * 1020)
    @example("é" * 127 + "xx")
    @settings(deadline=None)
    def test_there_and_back(self, name: str) -> None:
        """A path tells its name, and no part of it is too long for a file system."""
        path = layout.path_of("0" + name)

        self.assertEqual("0" + name, layout.name_of(path))
        self.assertLessEqual(max(len(part.encode()) for part in path.split("/")), 255)
        self.assertNotIn("..", path.split("/")[:3] if "/" in name else [])

    def test_no_path_of_ours(self) -> None:
        """A path that no name leads to is known as such."""
        for path in ("77/9b/other", "77/9b", "_tmp/1.2", "77/9b/_/=x", "x"):
            self.assertIsNone(layout.name_of(path))


class FilesStoreTests(store_contract.StoreContract):
    """The store of files passes the exam of all, and some questions of its own."""

    def make(self) -> IBlobStore:
        self.path = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.path)
        return self.files_store()

    def files_store(self) -> FilesStore:
        journal = VolumeStore(self.path / "journal", volume_bytes=4096)
        return FilesStore(self.path / "files", journal)

    @property
    def files(self) -> FilesStore:
        assert isinstance(self.store, FilesStore)
        return self.store

    def there(self) -> list[str]:
        """Return the paths of all files of blobs."""
        root = self.path / "files"
        return sorted(
            str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()
        )

    def put(self, name: str, body: bytes, *, again: Locator | None = None) -> Locator:
        volumes = (again.volume, again.volume) if again is not None else None
        return self.append(entry(name, body, volumes=volumes))[0]

    def test_plain_files(self) -> None:
        """A blob is a file of its bytes, at once, where the original has it."""
        self.put("00100_test1", b"hello")

        self.assertEqual(["77/9b/00100_test1"], self.there())
        self.assertEqual(b"hello", (self.path / "files/77/9b/00100_test1").read_bytes())

    def test_odd_names(self) -> None:
        """Names that are no file names are kept as well."""
        for name in ("000_a/b", "000_" + "x" * 1000, "000_" + "é" * 400):
            self.assertEqual(b"x" * 9, self.body(self.put(name, b"x" * 9), 9))

    def test_replaced(self) -> None:
        """Old bytes are there for who reads them, then there is one file again."""
        first = self.put("00100_test1", b"first")
        second = self.put("00100_test1", b"second", again=first)
        self.assertEqual(b"first", self.body(first, 5))
        self.assertEqual(b"second", self.body(second, 6))
        self.files.tend(LATER)

        self.assertEqual(["77/9b/00100_test1"], self.there())
        self.assertEqual(b"second", self.body(second, 6))

    def test_late_reader(self) -> None:
        """Who comes too late for old bytes never gets the new ones."""
        first = self.put("a", b"first")
        self.put("a", b"other", again=first)
        self.files.tend(LATER)
        with self.assertRaises(LookupError):
            self.files.read(first, 0, 5)

    def test_put_again_after_loss(self) -> None:
        """What is put where a file was lost is there at once."""
        first = self.put("a", b"first")
        self.put("a", b"other", again=first)
        self.files.tend(LATER)
        (self.path / "files" / layout.path_of("a")).unlink()
        self.append(purge_of(b"other"))
        again = self.put("a", b"again")

        self.assertEqual(b"again", self.body(again, 5))
        self.files.tend(LATER + GRACE_SECONDS)
        self.assertEqual(b"again", self.body(again, 5))

    def test_replaced_often(self) -> None:
        """Of any number of writes one file is left, of the last bytes."""
        at = self.put("a", b"0")
        for body in (b"1", b"2", b"1", b"1", b"0"):
            at = self.put("a", body, again=at)
            self.assertEqual(body, self.body(at, 1))
        self.files.tend(LATER)

        self.assertEqual([layout.path_of("a")], self.there())
        self.assertEqual(b"0", self.body(at, 1))

    def test_purged(self) -> None:
        """A purged file goes when nobody reads it any more, and not its successor."""
        at = self.put("a", b"first")
        purge = purge_of(b"first")
        self.append(purge)
        self.assertEqual(b"first", self.body(at, 5))
        self.files.tend(LATER)
        self.assertEqual([], self.there())
        again = self.put("a", b"again")
        self.append(purge)
        self.append(entry("a", b"third", volumes=(again.volume,) * 2))
        self.files.tend(LATER)

        self.assertEqual([layout.path_of("a")], self.there())

    def test_purge_told_again(self) -> None:
        """A purge that is only logged again leaves what came after it."""
        self.put("a", b"first")
        self.append(Entry("a", entry("a", None).state, None, purge=True))
        self.files.tend(LATER)

        self.assertEqual([layout.path_of("a")], self.there())

    def test_void_file(self) -> None:
        """What was taken back leaves no file, and the old bytes as they were."""
        first = self.put("a", b"first")
        self.store.void(self.append(entry("b", b"gone")))
        self.store.void([self.put("a", b"second", again=first)])
        self.store.void([self.put("a", b"first", again=first)])
        self.store.void(self.append(purge_of(b"first")))
        self.files.tend(LATER)

        self.assertEqual([layout.path_of("a")], self.there())
        self.assertEqual(b"first", self.body(first, 5))

    def test_same_bytes_heal(self) -> None:
        """Putting the same bytes again mends a file that rotted."""
        first = self.put("a", b"first")
        (self.path / "files" / layout.path_of("a")).write_bytes(b"firXt")
        second = self.put("a", b"first", again=first)
        self.assertEqual(b"first", self.body(second, 5))
        self.files.tend(LATER)

        self.assertEqual(b"first", self.body(second, 5))
        self.assertEqual([layout.path_of("a")], self.there())

    def test_killed_before_tidying(self) -> None:
        """Killed before old bytes were tidied up, the new ones are found."""
        first = self.put("a", b"first")
        second = self.put("a", b"second", again=first)
        self.store = self.files_store()
        self.store.open()

        self.assertEqual(b"second", self.body(second, 6))

    def test_syncs(self) -> None:
        """A batch syncs each body, each directory once, and the journal once."""
        self.put("00100_test1", b"x")
        synced: list[str] = []
        for kind in ("fsync", "fdatasync"):
            real = getattr(os, kind)

            def sync(fd: int, real: Any = real) -> None:
                synced.append(os.readlink(f"/proc/self/fd/{fd}"))
                real(fd)

            self.patch(os, kind, sync)
        volumes = (1, 1)
        self.append(*(entry(f"n{n}", b"x", volumes=volumes) for n in range(20)))

        root = str(self.path.resolve())
        self.assertEqual(1, synced.count(f"{root}/files/{VERSIONS}"))
        self.assertEqual(1, sum("/journal/" in path for path in synced))
        self.assertEqual(22, len(synced))

    def break_call(self, name: str, number: int, after: int = 0) -> None:
        """Let a system call fail from the nth time on."""
        real = getattr(os, name)
        count = 0

        def broken(*arguments: Any, **keywords: Any) -> Any:
            nonlocal count
            count += 1
            if count > after:
                raise OSError(number, os.strerror(number))
            return real(*arguments, **keywords)

        patch = self.patch(os, name, broken)
        self.addCleanup(patch.restore)
        self.broken = patch

    def test_faults(self) -> None:
        """Whichever call fails, nothing of the batch is left, and the next works."""
        first = self.put("a", b"first")
        before = self.there()
        for call in ("pwritev", "fdatasync", "fsync", "link"):
            for after in range(3):
                for number in (errno.ENOSPC, errno.EIO):
                    self.break_call(call, number, after)
                    with self.assertRaises(
                        StorageFull if number == errno.ENOSPC else OSError
                    ):
                        self.append(
                            entry("b"),
                            entry("a", b"new", volumes=(1, 1)),
                            entry("c", deleted=int(NOW) + 5),
                            entry("d", None),
                        )
                    self.broken.restore()
                    self.assertEqual(before, self.there(), (call, after, number))
                    self.assertEqual(b"first", self.body(first, 5))
        self.assertEqual(["a"], self.names())
        self.assertEqual(b"body", self.body(self.append(entry("b"))[0], 4))

    def test_crash_anywhere(self) -> None:
        """Dead at any call, the old bytes are there, and appending goes on."""

        class Dead(BaseException):
            """Nothing comes after this."""

        first = self.put("a", b"first")
        for call in ("pwritev", "fdatasync", "fsync", "link"):
            for after in range(4):
                real, count = getattr(os, call), 0

                def last(*arguments: Any, **keywords: Any) -> Any:
                    nonlocal count
                    count += 1
                    if count > after:  # noqa: B023 - called within this turn
                        raise Dead
                    return real(*arguments, **keywords)  # noqa: B023 - as above

                files = self.files_store()
                files.open()
                patches = [
                    self.patch(os, call, last),
                    self.patch(VolumeStore, "_roll_back", lambda store, before: None),
                    self.patch(Path, "unlink", lambda path, **keywords: None),
                ]
                try:
                    files.append(
                        [
                            entry("a", b"new", volumes=(1, 1)),
                            entry(f"{call}{after}"),
                        ],
                        NOW,
                    )
                except Dead:
                    pass
                for patch in patches:
                    patch.restore()
                self.store = self.files_store()
                self.store.open()
                self.assertEqual(b"first", self.body(first, 5))
                name = f"again {call}{after}"
                self.assertEqual(b"body", self.body(self.append(entry(name))[0], 4))

    def test_directory_in_the_way(self) -> None:
        """A directory, or a file for a directory, where bytes belong harms nothing."""
        (self.path / "files" / layout.path_of("a")).mkdir(parents=True)
        path = self.path / "files" / layout.path_of("b")
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.write_text("no directory")
        for name in ("a", "b"):
            at = self.put(name, b"bytes")
            self.files.tend(LATER)
            self.assertEqual(b"bytes", self.body(at, 5))

    def test_missing_or_cut(self) -> None:
        """A lost or shortened file is gone, never wrong bytes."""
        at, other = self.put("a", b"bytes"), self.put("b", b"bytes")
        (self.path / "files" / layout.path_of("a")).unlink()
        (self.path / "files" / layout.path_of("b")).write_bytes(b"by")
        for each in (at, other):
            with self.assertRaises(LookupError):
                self.files.read(each, 0, 5)

    def test_without_unnamed_files(self) -> None:
        """Where the system has no O_TMPFILE, a name in a directory does."""
        real = os.open

        def without(path: Any, flags: int, *more: Any) -> int:
            if flags & os.O_TMPFILE == os.O_TMPFILE:
                raise OSError(errno.EOPNOTSUPP, "Operation not supported")
            return real(path, flags, *more)

        self.patch(os, "open", without)
        at = self.put("a", b"bytes")
        at = self.put("a", b"bytes", again=at)
        at = self.put("a", b"bytes", again=at)
        self.files.spool("b", "").write(b"x")
        self.files.tend(LATER)

        self.assertEqual(b"bytes", self.body(at, 5))
        self.assertEqual([layout.path_of("a"), f"{INCOMING}/4"], self.there())
        self.store.close()
        self.store.open()
        self.assertEqual([layout.path_of("a")], self.there())

    def test_after_volumes(self) -> None:
        """Blobs that were put into volumes before are still read from there."""
        journal = VolumeStore(self.path / "journal", volume_bytes=4096)
        self.store.close()
        journal.open()
        (at,) = journal.append([entry("old", b"in a volume")], NOW)
        journal.close()
        self.store = self.files_store()
        self.store.open()

        self.assertEqual(b"in a volume", self.body(at, 11))

    def test_few_open_files(self) -> None:
        """Reading many blobs keeps few files open."""
        places = self.append(*(entry(f"n{n}") for n in range(MAX_OPEN_FILES + 9)))
        for at in places:
            self.body(at, 4)

        self.assertEqual(MAX_OPEN_FILES, len(self.files._open_files))

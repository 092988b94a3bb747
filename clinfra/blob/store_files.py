"""The store of one file for each blob, in the original's layout (see `layout`).

Bodies are files; what is known of them are records in volumes, the *journal*, which
make everything else work as it does for any store: recovery, rebuilding the index,
deleting what has ended.  A body is durable under its name before its record is written.

Bytes are never overwritten.  The first body of a name is ``aa/bb/NAME`` at once.  One
that follows is first a file in ``_versions``, called after its digest, so that until
its record counts the old one is what it was.  A while later, when nobody reads the old
bytes any more, it is renamed to ``aa/bb/NAME``; a purged file is deleted then, too.  A
crash in between leaves a file more than needed, never one less: readers look into
``_versions`` first, and the sweeper tidies up (see `sweep`).
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from attrs import define, evolve, field, frozen
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.blob.body_file import BodyFile
from clinfra.blob.records import Locator
from clinfra.blob.spool_file import FULL
from clinfra.blob.store import Entry, IBlobStore, ISpool, VolumeFacts
from clinfra.blob.store_volume import VolumeStore, sync_directory
from clinfra.blob.versions import VERSIONS, Pending, Versions, data_of
from clinfra.blob.volume import Damage, Found, Record
from clinfra.errors import StartupFailed, StorageFull
from clinfra.web.exchange import FileBody

INCOMING = "_incoming"

MAX_OPEN_FILES = 256

_SYNCS_AT_ONCE = 32

_AT_A_TIME = 256
"""Files tidied up during one append."""


@implementer(ISpool)
@frozen(eq=False)
class KeptFile:
    """A body that is in its place already: only its record is written anew."""

    sha256: bytes
    crc32: int
    size: int

    def write(self, data: bytes) -> None:
        """It is whole."""
        raise ValueError("a kept file takes no more bytes")

    def sync(self) -> None:
        """It is durable."""

    def discard(self) -> None:
        """It stays."""


@frozen
class _Undo:
    """How to take back what came before a record."""

    name: str
    created: Path | None
    pending: Pending | None


@implementer(IBlobStore)
@define(eq=False)
class FilesStore:
    """Bodies as files, and a journal of them.

    Args:
        path: the directory of the files.
        journal: the records.
        link: a symbolic link to `path`, made so that other files are never taken for
            ours.
    """

    log = Logger()
    holds_bodies = False

    path: Path
    _journal: VolumeStore
    _link_path: Path | None = None
    versions: Versions = field(init=False)
    _syncers: ThreadPoolExecutor | None = field(init=False, default=None)
    _undo: dict[Locator, _Undo] = field(init=False, factory=dict)
    _open_files: OrderedDict[Locator, int] = field(init=False, factory=OrderedDict)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)
    _next: int = field(init=False, default=0)

    @versions.default
    def _make_versions(self) -> Versions:
        return Versions(self.path)

    # Opening and closing

    def open(self) -> None:
        """Make the directories; nothing in them is looked at."""
        self._check_link()
        self._journal.open()
        try:
            for directory in (VERSIONS, INCOMING):
                (self.path / directory).mkdir(parents=True, exist_ok=True)
            for leftover in (self.path / INCOMING).iterdir():
                if leftover.is_file() or leftover.is_symlink():
                    leftover.unlink()
        except OSError as error:
            raise StartupFailed(f"cannot use {self.path}: {error}") from error

    def _check_link(self) -> None:
        link = self._link_path
        if link is None:
            return
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(self.path.absolute())
            if link.resolve() != self.path.resolve():
                raise StartupFailed(
                    f"the blobs of this replica are in {link.resolve()},"
                    f" not in {self.path} (says {link}; remove it when they never were)"
                )
        except OSError as error:
            raise StartupFailed(f"cannot use {link}: {error}") from error

    def close(self) -> None:
        """Tidy up what waits for readers, and close every file."""
        if self._syncers is not None:
            self._syncers.shutdown()
            self._syncers = None
        self.versions.tend_all()
        self._undo.clear()
        with self._lock:
            fds = list(self._open_files.values())
            self._open_files.clear()
        for fd in fds:
            os.close(fd)
        self._journal.close()

    # Writing: the writer thread

    def spool(self, name: str, content_type: str) -> BodyFile:
        """Begin a large body.  Any thread."""
        with self._lock:
            self._next += 1
            return BodyFile(self.path / INCOMING / f"{self._next:x}")

    def append(self, entries: Sequence[Entry], now: float) -> list[Locator]:
        """Make bodies durable under their names, then append the records."""
        self.versions.tend(now, _AT_A_TIME)
        created: dict[int, Path] = {}
        bodies: list[BodyFile] = []
        try:
            self._place(entries, created, bodies)
            places = self._journal.append([_told(entry) for entry in entries], now)
        except BaseException as error:
            for path in created.values():
                path.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in FULL:
                raise StorageFull("Not enough space to keep this blob") from error
            raise
        finally:
            for body in bodies:
                body.discard()
        self._undo.clear()
        for number, (entry, at) in enumerate(zip(entries, places, strict=True)):
            before = self.versions.pending(entry.name)
            self._undo[at] = _Undo(entry.name, created.get(number), before)
            if created.get(number) == self.versions.plain(entry.name):
                self.versions.remember(entry.name, data_of(entry).sha256)
            kept = isinstance(entry.body, KeptFile)
            self.versions.expect(entry, now, kept=kept)
        return places

    def _place(
        self,
        entries: Sequence[Entry],
        created: dict[int, Path],
        bodies: list[BodyFile],
    ) -> None:
        """Make the bodies durable; note in `created` which names are new."""
        files: list[tuple[int, Entry, BodyFile]] = []
        for number, entry in enumerate(entries):
            body = entry.body
            if isinstance(body, BodyFile):
                files.append((number, entry, body))
            elif isinstance(body, bytes):
                file = self.spool(entry.name, "")
                bodies.append(file)
                file.fill(body)
                files.append((number, entry, file))
            elif body is not None and not isinstance(body, KeptFile):
                raise TypeError("not a spool of this store")
        directories: set[Path] = set()
        for number, entry, file in files:
            path, is_new = self._link(entry, file, directories)
            if is_new:
                created[number] = path
            directories.add(path.parent)
        # Syncs at the same time are one for the file system; and what makes a file
        # durable mostly does the same for its name.
        self._all([file.sync for _, _, file in files])
        self._all([partial(sync_directory, directory) for directory in directories])

    def _all(self, syncs: Sequence[Callable[[], None]]) -> None:
        """Do all of these; raise what the first that failed raised."""
        if len(syncs) < 2:
            for sync in syncs:
                sync()
            return
        if self._syncers is None:
            self._syncers = ThreadPoolExecutor(_SYNCS_AT_ONCE, "blob syncs")
        running = [self._syncers.submit(sync) for sync in syncs]
        wait(running)
        for each in running:
            each.result()

    def _link(
        self, entry: Entry, file: BodyFile, directories: set[Path]
    ) -> tuple[Path, bool]:
        """Give a body its name; return it, and whether it was free."""
        if entry.volumes is None:
            # No bytes of this name count, wherever they are.
            path = self.versions.plain(entry.name)
            try:
                _make(path.parent, directories)
                file.link(path)
                return path, True
            except (FileExistsError, NotADirectoryError):
                pass
        path = self.versions.version(entry.name, data_of(entry).sha256)
        try:
            file.link(path)
        except FileExistsError:
            file.sync()
            file.replace(path)
            return path, False
        return path, True

    def tend(self, now: float) -> None:
        """Tidy up what nobody reads any more."""
        self.versions.tend(now)

    def void(self, places: Sequence[Locator]) -> None:
        """Take records back, and the files that came with them."""
        self._journal.void(places)
        for at in reversed(places):
            undo = self._undo.pop(at, None)
            if undo is None:
                continue
            if undo.created is not None:
                undo.created.unlink(missing_ok=True)
            self.versions.take_back(undo.name, undo.pending)

    def carry(self, found: Found) -> bytes | ISpool:
        """Return a body for being appended again; a file stays where it is."""
        data = found.record.state.data
        if not found.record.is_filed or data is None:
            return self._journal.carry(found)
        return KeptFile(data.sha256, data.crc32, data.size)

    def truncate(self, number: int, size: int) -> None:
        """Cut off the end of a volume of the journal."""
        self._journal.truncate(number, size)

    def seal(self, number: int) -> None:
        """Append no more to a volume of the journal."""
        self._journal.seal(number)

    def reserve(self, number: int) -> None:
        """Give no new volume of the journal this number or a lower one."""
        self._journal.reserve(number)

    def remove(self, number: int) -> None:
        """Delete a volume of the journal, durably."""
        with self._lock:
            gone = [at for at in self._open_files if at.volume == number]
            fds = [self._open_files.pop(at) for at in gone]
        for fd in fds:
            os.close(fd)
        self._journal.remove(number)

    # Reading: any thread

    def read(self, at: Locator, offset: int, length: int) -> bytes:
        """Return a piece of a body."""
        fd = self._borrow(at)
        if fd is None:
            return self._journal.read(at, offset, length)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def head_of(self, at: Locator) -> Record:
        """Return a record without its body: what the journal tells of it."""
        return self._journal.head_of(at)

    def read_at_once(self, at: Locator, offset: int, length: int) -> bytes | None:
        """Return a piece of a body if it is in the page cache."""
        with self._lock:
            fd = self._open_files.get(at, -1)
            if fd < 0:
                return None
            buffer = bytearray(length)
            try:
                read = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
            except OSError:
                return None
        return bytes(buffer) if read == length else None

    def file_of(self, at: Locator, offset: int, length: int) -> FileBody:
        """Return a piece of a body as a piece of an open file."""
        fd = self._borrow(at)
        if fd is None:
            return self._journal.file_of(at, offset, length)
        return FileBody(fd, offset, length, partial(os.close, fd))

    def _borrow(self, at: Locator) -> int | None:
        """Return a descriptor that is the caller's to close; None for the journal's."""
        with self._lock:
            fd = self._open_files.get(at, -1)
            if fd >= 0:
                self._open_files.move_to_end(at)
                return os.dup(fd)
        record = self._journal.head_of(at)
        if not record.is_filed or record.state.data is None:
            return None
        fd = self.versions.open(record.name, record.state.data)
        with self._lock:
            if at in self._open_files:
                return fd
            self._open_files[at] = os.dup(fd)
            if len(self._open_files) > MAX_OPEN_FILES:
                os.close(self._open_files.popitem(last=False)[1])
        return fd

    def scan(self, number: int, start: int) -> Iterator[Found | Damage]:
        """Read through a volume of the journal; the files are not looked at."""
        return self._journal.scan(number, start)

    # Facts: any thread

    def volumes(self) -> Mapping[int, VolumeFacts]:
        """Return the volumes of the journal."""
        return self._journal.volumes()

    def free_bytes(self) -> int:
        """Return what the disk of the files has left for us."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def facts(self) -> Mapping[str, object]:
        """Return what status pages show."""
        disk = os.statvfs(self.path)
        return {
            **self._journal.facts(),
            "path": str(self.path),
            "total_space": disk.f_blocks * disk.f_frsize,
            "free_space": disk.f_bavail * disk.f_frsize,
            "total_inodes": disk.f_files,
            "free_inodes": disk.f_favail,
            "untidy": len(self.versions),
        }


def _told(entry: Entry) -> Entry:
    """Return an entry as the journal takes it."""
    return entry if entry.body is None else evolve(entry, body=b"", filed=True)


def _make(directory: Path, directories: set[Path]) -> None:
    """Make a directory and those above; note what is to be synced."""
    if directory.is_dir():
        return
    _make(directory.parent, directories)
    directory.mkdir(exist_ok=True)
    directories.add(directory.parent)

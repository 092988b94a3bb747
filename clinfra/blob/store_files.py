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
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

from attrs import define, evolve, field, frozen
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.blob import layout
from clinfra.blob.body_file import BodyFile
from clinfra.blob.records import Data, Locator
from clinfra.blob.spool_file import FULL
from clinfra.blob.store import Entry, IBlobStore, ISpool, VolumeFacts
from clinfra.blob.store_volume import VolumeStore, sync_directory
from clinfra.blob.volume import Damage, Found
from clinfra.errors import StartupFailed, StorageFull
from clinfra.web.exchange import FileBody

VERSIONS = "_versions"
INCOMING = "_incoming"

GRACE_SECONDS = 60.0
"""How long bytes that count no more are kept for those who still read them."""

MAX_OPEN_FILES = 256
MAX_PENDING = 65536
MAX_REMEMBERED = 65536

_AT_A_TIME = 256
"""Files tidied up during one append."""

_NO_BYTES = bytes(32)


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
class _Pending:
    """What is to be tidied up for a name.

    Attributes:
        due: when, unix seconds.
        current: digest of the bytes that count; None when the name is forgotten.
        stale: digests of bytes that count no more.
    """

    due: float
    current: bytes | None
    stale: tuple[bytes, ...]


@frozen
class _Undo:
    """How to take back what came before a record."""

    name: str
    created: Path | None
    pending: _Pending | None


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

    _path: Path
    _journal: VolumeStore
    _link_path: Path | None = None
    _pending: OrderedDict[str, _Pending] = field(init=False, factory=OrderedDict)
    _undo: dict[Locator, _Undo] = field(init=False, factory=dict)
    _open_files: OrderedDict[Locator, int] = field(init=False, factory=OrderedDict)
    _named: OrderedDict[str, bytes] = field(init=False, factory=OrderedDict)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)
    _next: int = field(init=False, default=0)

    # Opening and closing

    def open(self) -> None:
        """Make the directories; nothing in them is looked at."""
        self._check_link()
        self._journal.open()
        try:
            for directory in (VERSIONS, INCOMING):
                (self._path / directory).mkdir(parents=True, exist_ok=True)
            for leftover in (self._path / INCOMING).iterdir():
                if leftover.is_file() or leftover.is_symlink():
                    leftover.unlink()
        except OSError as error:
            raise StartupFailed(f"cannot use {self._path}: {error}") from error

    def _check_link(self) -> None:
        link = self._link_path
        if link is None:
            return
        try:
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(self._path.absolute())
            if link.resolve() != self._path.resolve():
                raise StartupFailed(
                    f"the blobs of this replica are in {link.resolve()},"
                    f" not in {self._path}"
                )
        except OSError as error:
            raise StartupFailed(f"cannot use {link}: {error}") from error

    def close(self) -> None:
        """Tidy up what waits for readers, and close every file."""
        for name in list(self._pending):
            self._tidy(name)
        self._undo.clear()
        with self._lock:
            fds = list(self._open_files.values())
            self._open_files.clear()
            self._named.clear()
        for fd in fds:
            os.close(fd)
        self._journal.close()

    # Writing: the writer thread

    def spool(self, name: str, content_type: str) -> BodyFile:
        """Begin a large body.  Any thread."""
        with self._lock:
            self._next += 1
            return BodyFile(self._path / INCOMING / f"{self._next:x}")

    def append(self, entries: Sequence[Entry], now: float) -> list[Locator]:
        """Make bodies durable under their names, then append the records."""
        self.tend(now, _AT_A_TIME)
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
            undo = _Undo(entry.name, created.get(number), self._pending.get(entry.name))
            self._undo[at] = undo
            self._expect(entry, now)
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
        for _, _, file in files:
            file.sync()
        directories: set[Path] = set()
        for number, entry, file in files:
            path, is_new = self._link(entry, file, directories)
            if is_new:
                created[number] = path
            directories.add(path.parent)
        for directory in directories:
            sync_directory(directory)

    def _link(
        self, entry: Entry, file: BodyFile, directories: set[Path]
    ) -> tuple[Path, bool]:
        """Give a body its name; return it, and whether it was free."""
        if entry.volumes is None:
            # No bytes of this name count, wherever they are.
            path = self._path / layout.path_of(entry.name)
            try:
                self._make(path.parent, directories)
                file.link(path)
                return path, True
            except (FileExistsError, NotADirectoryError):
                pass
        data = _data_of(entry)
        path = self._version(entry.name, data.sha256)
        try:
            file.link(path)
        except FileExistsError:
            file.replace(path)
            return path, False
        return path, True

    def _make(self, directory: Path, directories: set[Path]) -> None:
        """Make a directory and those above; note what is to be synced."""
        if directory.is_dir():
            return
        self._make(directory.parent, directories)
        directory.mkdir(exist_ok=True)
        directories.add(directory.parent)

    def _expect(self, entry: Entry, now: float) -> None:
        """Note what there will be to tidy up once an entry's record counts."""
        name, before = entry.name, self._pending.get(entry.name)
        stale = before.stale if before is not None else ()
        if before is not None and before.current is not None:
            stale = (*stale, before.current)
        if entry.purge:
            sha256 = _NO_BYTES
            if entry.state.data is not None:
                sha256 = entry.state.data.sha256
            if sha256 == _NO_BYTES:
                return  # logged again; the name may be in use
            pending = _Pending(now + GRACE_SECONDS, None, (*stale, sha256))
        elif entry.body is not None and not isinstance(entry.body, KeptFile):
            sha256 = _data_of(entry).sha256
            if entry.volumes is None and before is None:
                self._remember(name, sha256)
            pending = _Pending(now + GRACE_SECONDS, sha256, stale)
        else:
            return
        self._pending[name] = pending
        self._pending.move_to_end(name)

    def tend(self, now: float, limit: int | None = None) -> None:
        """Tidy up what nobody reads any more."""
        while self._pending and limit != 0:
            name, pending = next(iter(self._pending.items()))
            if pending.due > now and len(self._pending) <= MAX_PENDING:
                return
            self._tidy(name)
            if limit is not None:
                limit -= 1

    def _tidy(self, name: str) -> None:
        """Give the bytes that count their proper name; delete the others."""
        pending = self._pending.pop(name)
        try:
            for sha256 in pending.stale:
                if sha256 != pending.current:
                    self._version(name, sha256).unlink(missing_ok=True)
            self.settle(name, pending.current)
        except OSError as error:
            self.log.error(
                "cannot tidy up after {name}: {error}", name=name, error=error
            )

    def settle(self, name: str, sha256: bytes | None) -> None:
        """Let a name's one file be that of the bytes that count, or none."""
        path = self._path / layout.path_of(name)
        if sha256 is None:
            path.unlink(missing_ok=True)
            return
        version = self._version(name, sha256)
        if version.exists():
            self._make(path.parent, set())
            version.rename(path)
        self._remember(name, sha256)

    def _remember(self, name: str, sha256: bytes) -> None:
        with self._lock:
            self._named[name] = sha256
            if len(self._named) > MAX_REMEMBERED:
                self._named.popitem(last=False)

    def void(self, places: Sequence[Locator]) -> None:
        """Take records back, and the files that came with them."""
        self._journal.void(places)
        for at in reversed(places):
            undo = self._undo.pop(at, None)
            if undo is None:
                continue
            if undo.created is not None:
                undo.created.unlink(missing_ok=True)
            self._pending.pop(undo.name, None)
            if undo.pending is not None:
                self._pending[undo.name] = undo.pending

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
        fd = self._open(record.name, record.state.data)
        with self._lock:
            if at in self._open_files:
                return fd
            self._open_files[at] = os.dup(fd)
            if len(self._open_files) > MAX_OPEN_FILES:
                os.close(self._open_files.popitem(last=False)[1])
        return fd

    def _open(self, name: str, data: Data) -> int:
        """Open just these bytes of a name.  Raises LookupError."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self._version(name, data.sha256), flags)
        except FileNotFoundError:
            try:
                fd = os.open(self._path / layout.path_of(name), flags)
            except OSError:
                raise LookupError(name) from None
            with self._lock:
                named = self._named.get(name, data.sha256)
            if named != data.sha256:
                os.close(fd)
                raise LookupError(name) from None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != data.size:
            os.close(fd)
            raise LookupError(name)
        return fd

    def scan(self, number: int, start: int) -> Iterator[Found | Damage]:
        """Read through a volume of the journal; the files are not looked at."""
        return self._journal.scan(number, start)

    def names(self) -> Iterator[str]:
        """Yield the names that have a file; whether it counts, the index knows."""
        for first in sorted(self._path.glob("[0-9a-f][0-9a-f]")):
            for directory, _, files in os.walk(first):
                for file in files:
                    path = os.path.relpath(os.path.join(directory, file), self._path)
                    name = layout.name_of(path)
                    if name is not None:
                        yield name

    # Facts: any thread

    def volumes(self) -> Mapping[int, VolumeFacts]:
        """Return the volumes of the journal."""
        return self._journal.volumes()

    def free_bytes(self) -> int:
        """Return what the disk of the files has left for us."""
        found = os.statvfs(self._path)
        return found.f_bavail * found.f_frsize

    def facts(self) -> Mapping[str, object]:
        """Return what status pages show."""
        disk = os.statvfs(self._path)
        return {
            **self._journal.facts(),
            "path": str(self._path),
            "total_space": disk.f_blocks * disk.f_frsize,
            "free_space": disk.f_bavail * disk.f_frsize,
            "total_inodes": disk.f_files,
            "free_inodes": disk.f_favail,
            "untidy": len(self._pending),
        }

    def _version(self, name: str, sha256: bytes) -> Path:
        return self._path / VERSIONS / layout.version_of(name, sha256)


def _told(entry: Entry) -> Entry:
    """Return an entry as the journal takes it."""
    return entry if entry.body is None else evolve(entry, body=b"", filed=True)


def _data_of(entry: Entry) -> Data:
    if entry.state.data is None:
        raise ValueError("a body without a data register")
    return entry.state.data

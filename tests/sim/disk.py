"""A simulated disk: what is not synced may be lost, in pieces, when the power fails.

The real volume store works on it: `SimPath` is its directory, and `Os` takes the place
of the `os` module where the store uses that.  The index is `MemoryIndex`, which loses
the end of its log as SQLite's does.

A disk that a process died on goes on as an *image* for the next one: all that was
written when only the process was killed; when the power failed, all that was synced,
and of the rest whichever sectors and names happened to get there.
"""

from __future__ import annotations

import errno
import io
import os
import random
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

from attrs import define, field

from clinfra.blob import spool_file, stock, store_volume, volume_files
from clinfra.blob.index import Batch
from clinfra.blob.index_memory import MemoryIndex
from clinfra.blob.records import Locator, Row
from clinfra.blob.store_volume import VolumeStore
from clinfra.errors import StorageFull

SECTOR_BYTES = 512
CAPACITY_BYTES = 1 << 30

_FIRST_FD = 1_000_000


@define(eq=False)
class Inode:
    """A file.

    Attributes:
        content: as processes see it.
        durable: as it is on the platter.
        pending: what was not synced: (offset, bytes), or (size, None) for a cut.
    """

    content: bytearray = field(factory=bytearray)
    durable: bytearray = field(factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(factory=list)

    def write(self, offset: int, data: bytes) -> None:
        """Write, into the cache."""
        _write(self.content, offset, data)
        self.pending.append((offset, data))

    def resize(self, size: int) -> None:
        """Cut, or grow by zeros."""
        _resize(self.content, size)
        self.pending.append((size, None))

    def sync(self) -> None:
        """Make everything durable."""
        for offset, data in self.pending:
            if data is None:
                _resize(self.durable, offset)
            else:
                _write(self.durable, offset, data)
        self.pending.clear()

    def survivor(self, rng: random.Random | None) -> Inode:
        """Return what is left of it; without power failure all is."""
        if rng is None:
            return Inode(self.content[:], self.durable[:], self.pending[:])
        content = self.durable[:]
        share = rng.choice((0.0, 0.0, 0.5, 0.9, 1.0))
        for offset, data in self.pending:
            if data is None:
                if rng.random() < share:
                    _resize(content, offset)
                continue
            for at in range(0, len(data), SECTOR_BYTES):
                if rng.random() < share:
                    _write(content, offset + at, data[at : at + SECTOR_BYTES])
        return Inode(content, content[:])


def _resize(content: bytearray, size: int) -> None:
    del content[size:]
    content += bytes(size - len(content))


def _write(content: bytearray, offset: int, data: bytes) -> None:
    if offset > len(content):
        content += bytes(offset - len(content))
    content[offset : offset + len(data)] = data


_Change = tuple[str, str, Inode | None]
"""A name given to a file, or taken (None): directory, name, file."""


@define(eq=False)
class Disk:
    """The disk of one machine.

    Args:
        rng: of its accidents.

    Attributes:
        capacity: bytes.
        fuse: so many steps until `blow` is called: a crash in the middle of something.
        dies_syncing: `blow` is called when the next file is to be synced.
        syncs_fail: so many syncs that will.
    """

    rng: random.Random
    index: SimIndex = field(init=False)
    capacity: int = CAPACITY_BYTES
    fuse: int | None = None
    blow: Callable[[], None] | None = None
    dies_syncing: bool = False
    syncs_fail: int = 0
    names: dict[str, dict[str, Inode]] = field(factory=dict)
    _durable_names: dict[str, dict[str, Inode]] = field(factory=dict)
    _changes: list[_Change] = field(factory=list)

    @index.default
    def _make_index(self) -> SimIndex:
        return SimIndex(self)

    def image(self, *, power_failed: bool) -> Disk:
        """Return the disk as the next process finds it."""
        rng = self.rng if power_failed else None
        new = Disk(self.rng, capacity=self.capacity)
        files: dict[int, Inode] = {}

        def copied(inode: Inode) -> Inode:
            if id(inode) not in files:
                files[id(inode)] = inode.survivor(rng)
            return files[id(inode)]

        def copies(names: dict[str, dict[str, Inode]]) -> dict[str, dict[str, Inode]]:
            return {
                directory: {name: copied(inode) for name, inode in found.items()}
                for directory, found in names.items()
            }

        if rng is None:
            new.names = copies(self.names)
            new._durable_names = copies(self._durable_names)
            new._changes = [
                (directory, name, copied(inode) if inode is not None else None)
                for directory, name, inode in self._changes
            ]
        else:
            names = {each: dict(found) for each, found in self._durable_names.items()}
            for directory in self.names:
                names.setdefault(directory, {})
            kept = rng.choice((0, len(self._changes), rng.randint(0, 1 << 20)))
            for change in self._changes[: min(kept, len(self._changes))]:
                _rename(names, change)
            new.names = copies(names)
            new._durable_names = copies(names)
        new.index.replay(self.index.survivors(rng))
        return new

    def step(self) -> None:
        """Something is about to be done: the process may die here."""
        if self.fuse is not None:
            self.fuse -= 1
            if self.fuse <= 0:
                self.fuse, self.dies_syncing = None, False
                if self.blow is not None:
                    self.blow()

    # What a file system does

    def write(self, inode: Inode, offset: int, data: bytes) -> int:
        """Write; less when the disk is full.  Raises OSError."""
        if self.fuse is not None and self.fuse <= 1:
            # Killed in the middle of it.
            inode.write(offset, data[: self.rng.randint(0, len(data))])
        self.step()
        room = len(data)
        if self.capacity < CAPACITY_BYTES:
            room = self.capacity - self.used_bytes()
            room += max(0, len(inode.content) - offset)
        if len(data) > room:
            data = data[: max(0, room)]
            if not data:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        inode.write(offset, data)
        return len(data)

    def sync(self, inode: Inode) -> None:
        """Make a file durable.  Raises OSError."""
        if self.dies_syncing and inode.pending:
            self.fuse = 1
        self.step()
        if self.syncs_fail:
            self.syncs_fail -= 1
            # As Linux has it: what could not be written is not tried again.
            inode.pending.clear()
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        inode.sync()

    def sync_names(self, directory: str) -> None:
        """Make the names in a directory durable, and all that came before."""
        self.step()
        last = max(
            (at for at, each in enumerate(self._changes) if each[0] == directory),
            default=-1,
        )
        for change in self._changes[: last + 1]:
            _rename(self._durable_names, change)
        del self._changes[: last + 1]

    def rename(self, *changes: _Change) -> None:
        """Give and take names."""
        self.step()
        for change in changes:
            _rename(self.names, change)
            self._changes.append(change)

    def used_bytes(self) -> int:
        """Return what all files take."""
        return sum(
            len(inode.content)
            for found in self.names.values()
            for inode in found.values()
        )

    def flip(self, inode: Inode, at: int, bit: int) -> None:
        """Flip a bit where it lies."""
        for content in (inode.content, inode.durable):
            if at < len(content):
                content[at] ^= 1 << bit


def _rename(names: dict[str, dict[str, Inode]], change: _Change) -> None:
    directory, name, inode = change
    found = names.setdefault(directory, {})
    if inode is None:
        found.pop(name, None)
    else:
        found[name] = inode


class SimIndex(MemoryIndex):
    """The index on a simulated disk: the end of what was applied may be lost."""

    def __init__(self, disk: Disk) -> None:
        super().__init__()
        self._disk = disk
        self._log: list[Batch | None] = []
        self._synced = 0
        self.applied: Callable[[Batch], None] | None = None

    def apply(self, batch: Batch) -> None:
        """Apply changes.  Raises StorageFull when the disk is full."""
        self._disk.step()
        disk = self._disk
        is_tight = disk.capacity < CAPACITY_BYTES
        if batch.rows and is_tight and disk.capacity - disk.used_bytes() < 256:
            raise StorageFull("Not enough space to keep this blob")
        self._log.append(batch)
        super().apply(batch)
        if self.applied is not None:
            self.applied(batch)

    def rows(self) -> Iterator[Row]:
        """Yield all rows."""
        return map(self._told, list(self._rows.values()))

    def clear(self) -> None:
        """Forget everything."""
        self._log.append(None)
        super().clear()

    def sync(self) -> None:
        """Make everything applied so far durable."""
        self._disk.step()
        self._synced = len(self._log)

    def survivors(self, rng: random.Random | None) -> tuple[list[Batch | None], int]:
        """Return what was applied and is left, and how much of it is synced."""
        if rng is None:
            return self._log, self._synced
        kept = len(self._log)
        if rng.random() < 0.6:
            kept = rng.randint(max(self._synced, kept - 20), kept)
        elif rng.random() < 0.5:
            kept = self._synced
        return self._log[:kept], kept

    def replay(self, survivors: tuple[list[Batch | None], int]) -> None:
        """Begin with what is left."""
        log, self._synced = survivors
        self._log = list(log)
        for batch in log:
            if batch is None:
                super().clear()
            else:
                super().apply(batch)


class SimPath:
    """A path on a simulated disk, with as much of `Path` as the store needs."""

    def __init__(self, disk: Disk, path: str) -> None:
        self.disk = disk
        self._path = path
        self._directory, _, self.name = path.rpartition("/")
        self.stem = self.name.rpartition(".")[0] or self.name

    @property
    def parent(self) -> SimPath:
        return SimPath(self.disk, self._directory)

    def __truediv__(self, name: str) -> SimPath:
        return SimPath(self.disk, f"{self._path}/{name}")

    def __str__(self) -> str:
        return self._path

    def __lt__(self, other: SimPath) -> bool:
        return self._path < other._path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SimPath) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(self._path)

    @property
    def inode(self) -> Inode:
        """The file.  Raises FileNotFoundError."""
        inode = self.disk.names.get(self._directory, {}).get(self.name)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", self._path)
        return inode

    def mkdir(
        self, mode: int = 0o777, parents: bool = False, exist_ok: bool = False
    ) -> None:
        # A directory is never lost.
        self.disk.names.setdefault(self._path, {})

    def exists(self) -> bool:
        return self.is_file() or self._path in self.disk.names

    def is_file(self) -> bool:
        return self.name in self.disk.names.get(self._directory, {})

    def iterdir(self) -> Iterator[SimPath]:
        for name in list(self.disk.names[self._path]):
            yield self / name

    def unlink(self, missing_ok: bool = False) -> None:
        if not self.is_file() and missing_ok:
            return
        _ = self.inode
        self.disk.rename((self._directory, self.name, None))

    def rename(self, target: SimPath) -> SimPath:
        inode = self.inode
        self.disk.rename(
            (target._directory, target.name, inode), (self._directory, self.name, None)
        )
        return target

    def stat(self) -> Any:
        return SimpleNamespace(st_size=len(self.inode.content), st_dev=1)

    def open(self, mode: str = "rb") -> _File:
        return _File(_OS.open(self, os.O_RDWR))


class _File:
    """An open file, read from the start."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *exc: object) -> None:
        _OS.close(self._fd)

    def fileno(self) -> int:
        return self._fd

    def read(self, length: int) -> bytes:
        return _OS.pread(self._fd, length, 0)


class Os:
    """The `os` module as the store uses it; what is not simulated goes to the real."""

    def __init__(self) -> None:
        self._open: dict[int, tuple[Disk, Inode | str]] = {}
        self._next = _FIRST_FD
        self._users = 0
        self._patches: Sequence[Any] = ()

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if not callable(found):
            return found

        def real(*arguments: Any, **keywords: Any) -> Any:
            for given in arguments:
                if isinstance(given, SimPath) or (
                    isinstance(given, int) and given in self._open
                ):
                    raise NotImplementedError(f"os.{name} on a simulated disk")
            return found(*arguments, **keywords)

        return real

    def install(self) -> None:
        """Take the place of `os` in the store; as often as `uninstall` is called."""
        self._users += 1
        if self._users == 1:
            self._patches = [
                mock.patch.object(module, "os", self)
                for module in (store_volume, volume_files, spool_file, stock)
            ]
            for patch in self._patches:
                patch.start()

    def uninstall(self) -> None:
        """Leave again."""
        self._users -= 1
        if not self._users:
            for patch in self._patches:
                patch.stop()
            self._open.clear()

    def _fd(self, disk: Disk, what: Inode | str) -> int:
        self._next += 1
        self._open[self._next] = disk, what
        return self._next

    def _file(self, fd: int) -> tuple[Disk, Inode]:
        disk, inode = self._open[fd]
        assert isinstance(inode, Inode)
        return disk, inode

    def open(self, path: Any, flags: int, mode: int = 0o777, **keywords: Any) -> int:
        if not isinstance(path, SimPath):
            return os.open(path, flags, mode, **keywords)
        if flags & os.O_DIRECTORY == os.O_DIRECTORY:
            return self._fd(path.disk, str(path))
        if flags & os.O_CREAT and not path.is_file():
            path.disk.rename((path._directory, path.name, Inode()))
        elif flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, "it exists", str(path))
        return self._fd(path.disk, path.inode)

    def close(self, fd: int) -> None:
        if self._open.pop(fd, None) is None and fd < _FIRST_FD:
            os.close(fd)

    def dup(self, fd: int) -> int:
        return self._fd(*self._open[fd]) if fd in self._open else os.dup(fd)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        if fd not in self._open:
            return os.pread(fd, length, offset)
        return bytes(self._file(fd)[1].content[offset : offset + length])

    def preadv(self, fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if fd not in self._open:
            return os.preadv(fd, buffers, offset, flags)
        read = 0
        for buffer in buffers:
            piece = self.pread(fd, len(buffer), offset + read)
            io.BytesIO(piece).readinto(memoryview(buffer)[: len(piece)])
            read += len(piece)
        return read

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        if fd not in self._open:
            return os.pwrite(fd, data, offset)
        disk, inode = self._file(fd)
        return disk.write(inode, offset, bytes(data))

    def pwritev(self, fd: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if fd not in self._open:
            return os.pwritev(fd, buffers, offset, flags)
        written = self.pwrite(fd, b"".join(buffers), offset)
        if flags:
            self.fdatasync(fd)
        return written

    def fdatasync(self, fd: int) -> None:
        if fd not in self._open:
            os.fdatasync(fd)
        else:
            disk, inode = self._file(fd)
            disk.sync(inode)

    def fsync(self, fd: int) -> None:
        if fd not in self._open:
            os.fsync(fd)
            return
        disk, what = self._open[fd]
        if isinstance(what, Inode):
            disk.sync(what)
        else:
            disk.sync_names(what)

    def ftruncate(self, fd: int, size: int) -> None:
        if fd not in self._open:
            os.ftruncate(fd, size)
            return
        disk, inode = self._file(fd)
        disk.step()
        inode.resize(size)

    def truncate(self, path: Any, size: int) -> None:
        if not isinstance(path, SimPath):
            os.truncate(path, size)
            return
        path.disk.step()
        path.inode.resize(size)

    def posix_fallocate(self, fd: int, offset: int, length: int) -> None:
        if fd not in self._open:
            os.posix_fallocate(fd, offset, length)
            return
        disk, inode = self._file(fd)
        disk.step()
        if disk.capacity - disk.used_bytes() < offset + length - len(inode.content):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if offset + length > len(inode.content):
            inode.resize(offset + length)

    def fstat(self, fd: int) -> Any:
        if fd not in self._open:
            return os.fstat(fd)
        return SimpleNamespace(st_size=len(self._file(fd)[1].content), st_dev=1)

    def stat(self, path: Any, **keywords: Any) -> Any:
        if isinstance(path, SimPath):
            return SimpleNamespace(st_dev=1, st_size=0)
        return os.stat(path, **keywords)

    def statvfs(self, path: Any) -> Any:
        if not isinstance(path, SimPath):
            return os.statvfs(path)
        disk = path.disk
        return SimpleNamespace(
            f_bavail=max(0, disk.capacity - disk.used_bytes()),
            f_frsize=1,
            f_blocks=disk.capacity,
            f_files=1 << 20,
            f_favail=1 << 20,
        )


_OS = Os()


def install() -> None:
    """Let the store work on simulated disks, until `uninstall`."""
    _OS.install()


def uninstall() -> None:
    """No simulated disk is used any more."""
    _OS.uninstall()


class SimStore(VolumeStore):
    """The real store; a piece of a large body is read, there is no file to be sent."""

    def file_of(  # type: ignore[override]  # as IBlobStore allows
        self, at: Locator, offset: int, length: int
    ) -> bytes:
        return self.read(at, offset, length)


def store_on(disk: Disk, volume_bytes: int) -> SimStore:
    """Return the store of a disk, not yet opened."""
    path: Any = SimPath(disk, "/volumes")
    return SimStore(path, volume_bytes)

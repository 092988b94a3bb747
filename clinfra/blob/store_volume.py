"""The store of this machine's disk: records appended to volume files.

Blobs that end at about the same time share a volume (see `volume.TTL_CLASSES`), so
that it can be deleted whole; changes without bytes have volumes of their own; a large
body is a volume by itself.  Files are ``NUMBER.volume`` (16 hex digits) in one
directory; ``tmp`` holds large bodies on their way in and is emptied at start.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from attrs import define, field
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.blob import volume
from clinfra.blob.records import Locator, widened
from clinfra.blob.spool_file import FULL, FileSpool, write_all
from clinfra.blob.stock import path_of, take_stock
from clinfra.blob.store import Entry, IBlobStore, VolumeFacts
from clinfra.blob.volume import Damage, Found, Record, VolumeHead
from clinfra.blob.volume_files import VolumeFiles
from clinfra.errors import StartupFailed, StorageFull


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@define(eq=False)
class _Volume:
    """A volume file; `fd` is -1 while it is not open for appending."""

    head: VolumeHead
    path: Path
    size: int
    fd: int = -1


@implementer(IBlobStore)
@define(eq=False)
class VolumeStore(VolumeFiles):
    """Records in volume files of one directory.

    Args:
        path: the directory.
        volume_bytes: a volume that has reached this is sealed.
    """

    log = Logger()
    holds_bodies = True

    _volume_bytes: int
    _volumes: dict[int, _Volume] = field(init=False, factory=dict)
    _active: dict[int, _Volume] = field(init=False, factory=dict)
    _resumed: set[int] = field(init=False, factory=set)
    _sealed: set[int] = field(init=False, factory=set)
    _next_number: int = field(init=False, default=1)
    _next_spool: int = field(init=False, default=0)

    # Opening and closing

    def open(self) -> None:
        """Take stock of the directory; what does not belong there is set aside."""
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            temporary = self._path / "tmp"
            temporary.mkdir(exist_ok=True)
            for leftover in temporary.iterdir():
                if leftover.is_file():
                    leftover.unlink()
        except OSError as error:
            raise StartupFailed(f"cannot use {self._path}: {error}") from error
        for head, path, size in take_stock(self._path):
            self._volumes[head.number] = _Volume(head, path, size)
        self._next_number = max(self._volumes, default=0) + 1

    def close(self) -> None:
        """Close every file."""
        super().close()
        fds = [found.fd for found in self._volumes.values() if found.fd >= 0]
        for found in self._volumes.values():
            found.fd = -1
        self._active.clear()
        self._resumed.clear()
        self._sealed.clear()
        for fd in fds:
            os.close(fd)

    # Writing: the writer thread

    def spool(self, name: str, content_type: str) -> FileSpool:
        """Begin a large body.  Any thread."""
        with self._lock:
            self._next_spool += 1
            number = self._next_spool
        return FileSpool(self._path / "tmp" / f"{number:016x}", name, content_type)

    def append(self, entries: Sequence[Entry], now: float) -> list[Locator]:
        """Append records, one write and one sync for each volume concerned."""
        before = {number: found.size for number, found in self._volumes.items()}
        try:
            return self._append(entries, now)
        except BaseException as error:
            self._roll_back(before)
            if isinstance(error, OSError):
                if error.errno in FULL:
                    raise StorageFull("Not enough space to keep this blob") from error
                # After a failed sync nobody knows what the file holds: leave it.
                self._active.clear()
            raise

    def _append(self, entries: Sequence[Entry], now: float) -> list[Locator]:
        places: list[Locator] = []
        writes: dict[int, list[bytes]] = {}
        ends: dict[int, int] = {}
        new_files = False
        for entry in entries:
            body = entry.body
            if body is not None and not isinstance(body, bytes):
                places.append(self._append_spool(entry, now))
                new_files = True
                continue
            target, made = self._target(entry, now, ends)
            new_files |= made
            number = target.head.number
            offset = ends.get(number, target.size)
            raw = volume.pack_record_head(
                entry.name,
                entry.state,
                widened(entry.volumes, number) if body is not None else entry.volumes,
                has_body=body is not None,
                purge=entry.purge,
                filed=entry.filed,
                seq=entry.seq,
                place=(number, offset),
            )
            length = len(raw) + len(body or b"")
            pad = volume.padding(length)
            buffers = writes.setdefault(number, [])
            buffers.append(raw)
            if body:
                buffers.append(body)
            if pad:
                buffers.append(pad)
            ends[number] = offset + length + len(pad)
            places.append(Locator(number, offset, len(raw), length + len(pad)))
        for number, buffers in writes.items():
            target = self._volumes[number]
            write_all(target.fd, buffers, target.size)
            os.fdatasync(target.fd)
        if new_files:
            sync_directory(self._path)
        for number, end in ends.items():
            self._volumes[number].size = end
        return places

    def _target(
        self, entry: Entry, now: float, ends: Mapping[int, int]
    ) -> tuple[_Volume, bool]:
        """Return the volume a record goes into, and whether it was just made."""
        if entry.body is None:
            ttl_class = volume.CHANGES_CLASS
        else:
            ttl_class = volume.ttl_class(entry.state.expiry.deleted, now)
        active = self._active.get(ttl_class) or self._resumable(ttl_class)
        if active is not None:
            too_old = (
                ttl_class > volume.CHANGES_CLASS
                and now - active.head.made_at > ttl_class / 4
            )
            size = ends.get(active.head.number, active.size)
            if size < self._volume_bytes and not too_old:
                if active.fd < 0:
                    active.fd = os.open(active.path, os.O_RDWR | os.O_CLOEXEC)
                self._active[ttl_class] = active
                return active, False
            self.seal(active.head.number)
        head = VolumeHead(self._take_number(), ttl_class, int(now))
        made = _Volume(head, self._path_of(head.number), volume.VOLUME_HEAD_BYTES)
        made.fd = os.open(
            made.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        self._volumes[head.number] = made
        self._active[ttl_class] = made
        write_all(made.fd, [volume.pack_volume_head(head)], 0)
        return made, True

    def _resumable(self, ttl_class: int) -> _Volume | None:
        """Return the volume that an earlier run of ours left unfinished."""
        if ttl_class in self._resumed:
            return None
        self._resumed.add(ttl_class)
        numbers = [
            number
            for number, found in self._volumes.items()
            if found.head.ttl_class == ttl_class
            and not found.head.alone
            and number not in self._sealed
            and found.size % 8 == 0
        ]
        return self._volumes[max(numbers)] if numbers else None

    def _append_spool(self, entry: Entry, now: float) -> Locator:
        spool = entry.body
        if not isinstance(spool, FileSpool):
            raise TypeError("not a spool of this store")
        ttl_class = volume.ttl_class(entry.state.expiry.deleted, now)
        head = VolumeHead(self._take_number(), ttl_class, int(now), alone=True)
        at = volume.VOLUME_HEAD_BYTES
        raw = volume.pack_record_head(
            entry.name,
            entry.state,
            widened(entry.volumes, head.number),
            has_body=True,
            seq=entry.seq,
            place=(head.number, at),
        )
        path = self._path_of(head.number)
        size = spool.place(path, head, raw)
        self._volumes[head.number] = _Volume(head, path, size)
        return Locator(head.number, at, len(raw), size - at)

    def _roll_back(self, before: Mapping[int, int]) -> None:
        """Undo a failed append: cut volumes back, delete those it made."""
        for number, found in list(self._volumes.items()):
            try:
                if number not in before:
                    self._forget(number)
                    found.path.unlink(missing_ok=True)
                elif found.fd >= 0:
                    found.size = before[number]
                    os.ftruncate(found.fd, found.size)
            except OSError as error:
                self.seal(number)
                self.log.error(
                    "cannot cut back volume {number}: {error}",
                    number=number,
                    error=error,
                )

    def void(self, places: Sequence[Locator]) -> None:
        """Mark records as if they had never been written."""
        for at in places:
            try:
                fd = os.open(self._path_of(at.volume), os.O_RDWR | os.O_CLOEXEC)
                try:
                    head = os.pread(fd, volume.RECORD_HEAD_BYTES, at.offset)
                    mark = volume.void_mark(head, (at.volume, at.offset))
                    os.pwrite(fd, mark, at.offset)
                    os.fdatasync(fd)
                finally:
                    os.close(fd)
            except OSError as error:
                self.log.error(
                    "cannot void a record of volume {number}: {error}",
                    number=at.volume,
                    error=error,
                )

    def carry(self, found: Found) -> bytes:
        """Return the body of a record, for being appended again."""
        return self.read(found.at, 0, found.record.body_bytes)

    def tend(self, now: float) -> None:
        """Nothing waits here."""

    def truncate(self, number: int, size: int) -> None:
        """Cut off the end of a volume."""
        found = self._volumes[number]
        os.truncate(found.path, size)
        found.size = size

    def seal(self, number: int) -> None:
        """Append no more to a volume."""
        self._sealed.add(number)
        for ttl_class, found in list(self._active.items()):
            if found.head.number == number:
                del self._active[ttl_class]

    def remove(self, number: int) -> None:
        """Delete a volume, durably."""
        found = self._volumes[number]
        self._forget(number)
        found.path.unlink(missing_ok=True)
        sync_directory(self._path)

    def reserve(self, number: int) -> None:
        """Give no new volume this number or a lower one."""
        self._next_number = max(self._next_number, number + 1)

    def link(self, number: int, directory: Path) -> None:
        """Have a volume in another directory, too, where it outlives its removal."""
        os.link(self._path_of(number), path_of(directory, number))

    def adopt(self, volumes: Sequence[tuple[VolumeHead, Path]]) -> None:
        """Take over files as they are, durably; their numbers are nobody's here."""
        for head, file in volumes:
            path = self._path_of(head.number)
            file.rename(path)
            self._volumes[head.number] = _Volume(head, path, path.stat().st_size)
            self.seal(head.number)
        sync_directory(self._path)

    def _forget(self, number: int) -> None:
        self.seal(number)
        found = self._volumes.pop(number)
        self._close_file(number)
        if found.fd >= 0:
            os.close(found.fd)

    # Reading: any thread

    def head_of(self, at: Locator) -> Record:
        """Return a record without its body.  Raises LookupError."""
        raw = self.read(at, -at.head_bytes, at.head_bytes)
        record = volume.unpack_record_head(raw, (at.volume, at.offset))
        if record is None:
            raise LookupError(at)
        return record

    def scan(self, number: int, start: int) -> Iterator[Found | Damage]:
        """Read through a volume, checking bodies too."""
        found = self._volumes[number]
        with found.path.open("rb") as file:
            yield from volume.scan(
                number,
                max(start, volume.VOLUME_HEAD_BYTES),
                found.size,
                lambda offset, length: os.pread(file.fileno(), length, offset),
                check_bodies=True,
            )

    # Facts: any thread

    def volumes(self) -> Mapping[int, VolumeFacts]:
        """Return all volumes."""
        active = {found.head.number for found in list(self._active.values())}
        return {
            number: VolumeFacts(
                number,
                found.head.ttl_class,
                found.head.made_at,
                found.size,
                number in active,
            )
            for number, found in list(self._volumes.items())
        }

    def free_bytes(self) -> int:
        """Return what the disk has left for us."""
        found = os.statvfs(self._path)
        return found.f_bavail * found.f_frsize

    def facts(self) -> Mapping[str, object]:
        """Return what status pages show."""
        disk = os.statvfs(self._path)
        return {
            "path": str(self._path),
            "total_space": disk.f_blocks * disk.f_frsize,
            "free_space": disk.f_bavail * disk.f_frsize,
            "total_inodes": disk.f_files,
            "free_inodes": disk.f_favail,
            "device_id": f"{os.uname().nodename}:{os.stat(self._path).st_dev}",
            "volumes": len(self._volumes),
            "volume_bytes": sum(each.size for each in list(self._volumes.values())),
        }

    def _take_number(self) -> int:
        self._next_number += 1
        return self._next_number - 1

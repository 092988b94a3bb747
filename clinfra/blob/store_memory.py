"""The store as byte arrays: for tests, and for trying things out.  Nothing survives."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence

from attrs import define, field
from zope.interface import implementer

from clinfra.blob import volume
from clinfra.blob.records import Locator
from clinfra.blob.store import Entry, IBlobStore, ISpool, VolumeFacts
from clinfra.blob.volume import Damage, Found, Record, VolumeHead
from clinfra.errors import StorageFull


@implementer(ISpool)
@define(eq=False)
class MemorySpool:
    """A large body, in memory after all."""

    body: bytearray = field(factory=bytearray)

    @property
    def size(self) -> int:
        """Bytes so far."""
        return len(self.body)

    @property
    def sha256(self) -> bytes:
        """Digest of them."""
        return hashlib.sha256(self.body).digest()

    @property
    def crc32(self) -> int:
        """CRC-32 of them."""
        return zlib.crc32(self.body)

    def write(self, data: bytes) -> None:
        """Add bytes."""
        self.body += data

    def sync(self) -> None:
        """Nothing to do."""

    def discard(self) -> None:
        """Forget it."""
        self.body.clear()


@define(eq=False)
class _Volume:
    head: VolumeHead
    content: bytearray


@implementer(IBlobStore)
@define(eq=False)
class MemoryStore:
    """Records in memory, in the format of `volume`.

    Args:
        volume_bytes: a volume that has reached this is sealed.
        capacity_bytes: what the "disk" holds.
    """

    holds_bodies = True

    _volume_bytes: int = 1 << 20
    capacity_bytes: int = 1 << 30
    _volumes: dict[int, _Volume] = field(init=False, factory=dict)
    _active: dict[int, int] = field(init=False, factory=dict)
    _next_number: int = field(init=False, default=1)

    def open(self) -> None:
        """Begin with what is there."""
        self._active.clear()

    def close(self) -> None:
        """Nothing to close."""

    def spool(self, name: str, content_type: str) -> MemorySpool:
        """Begin a large body."""
        return MemorySpool()

    def append(self, entries: Sequence[Entry], now: float) -> list[Locator]:
        """Append records, all or none."""
        before = {n: bytes(each.content) for n, each in self._volumes.items()}
        try:
            places = [self._append(entry, now) for entry in entries]
            if self.free_bytes() < 0:
                raise StorageFull("Not enough space to keep this blob")
        except BaseException:
            for number in list(self._volumes):
                if number in before:
                    self._volumes[number].content[:] = before[number]
                else:
                    self.seal(number)
                    del self._volumes[number]
            raise
        return places

    def _append(self, entry: Entry, now: float) -> Locator:
        body = entry.body
        if isinstance(body, MemorySpool):
            body = bytes(body.body)
        elif body is not None and not isinstance(body, bytes):
            raise TypeError("not a spool of this store")
        ttl_class = volume.CHANGES_CLASS
        if body is not None:
            ttl_class = volume.ttl_class(entry.state.expiry.deleted, now)
        number = self._active.get(ttl_class, 0)
        if not number or len(self._volumes[number].content) >= self._volume_bytes:
            number = self._active[ttl_class] = self._next_number
            self._next_number += 1
            head = VolumeHead(number, ttl_class, int(now))
            packed = bytearray(volume.pack_volume_head(head))
            self._volumes[number] = _Volume(head, packed)
        volumes = entry.volumes
        if body is not None:
            first, last = volumes or (number, number)
            volumes = min(first, number), max(last, number)
        content = self._volumes[number].content
        offset = len(content)
        raw = volume.pack_record_head(
            entry.name,
            entry.state,
            volumes,
            has_body=body is not None,
            purge=entry.purge,
            seq=entry.seq,
            place=(number, offset),
        )
        record = raw + (body or b"")
        content += record + volume.padding(len(record))
        return Locator(number, offset, len(raw), len(content) - offset)

    def void(self, places: Sequence[Locator]) -> None:
        """Mark records as if they had never been written."""
        for at in places:
            content = self._volumes[at.volume].content
            end = at.offset + volume.RECORD_HEAD_BYTES
            head = bytes(content[at.offset : end])
            content[at.offset : end] = volume.void_mark(head, (at.volume, at.offset))

    def read(self, at: Locator, offset: int, length: int) -> bytes:
        """Return a piece of a body."""
        start = at.offset + at.head_bytes + offset
        return bytes(self._volumes[at.volume].content[start : start + length])

    def head_of(self, at: Locator) -> Record:
        """Return a record without its body."""
        raw = self.read(at, -at.head_bytes, at.head_bytes)
        record = volume.unpack_record_head(raw, (at.volume, at.offset))
        if record is None:
            raise LookupError(at)
        return record

    def read_at_once(self, at: Locator, offset: int, length: int) -> bytes | None:
        """Return the same: nothing is ever waited for."""
        return self.read(at, offset, length) if at.volume in self._volumes else None

    def file_of(self, at: Locator, offset: int, length: int) -> bytes:
        """Return the same: there are no files."""
        return self.read(at, offset, length)

    def volumes(self) -> Mapping[int, VolumeFacts]:
        """Return all volumes."""
        return {
            number: VolumeFacts(
                number,
                each.head.ttl_class,
                each.head.made_at,
                len(each.content),
                number in self._active.values(),
            )
            for number, each in list(self._volumes.items())
        }

    def scan(self, number: int, start: int) -> Iterator[Found | Damage]:
        """Read through a volume."""
        content = bytes(self._volumes[number].content)
        return volume.scan(
            number,
            max(start, volume.VOLUME_HEAD_BYTES),
            len(content),
            lambda offset, length: content[offset : offset + length],
            check_bodies=True,
        )

    def carry(self, found: Found) -> bytes:
        """Return the body of a record, for being appended again."""
        return self.read(found.at, 0, found.record.body_bytes)

    def tend(self, now: float) -> None:
        """Nothing waits here."""

    def truncate(self, number: int, size: int) -> None:
        """Cut off the end of a volume."""
        del self._volumes[number].content[size:]

    def seal(self, number: int) -> None:
        """Append no more to a volume."""
        for ttl_class, active in list(self._active.items()):
            if active == number:
                del self._active[ttl_class]

    def remove(self, number: int) -> None:
        """Delete a volume."""
        self.seal(number)
        del self._volumes[number]

    def reserve(self, number: int) -> None:
        """Give no new volume this number or a lower one."""
        self._next_number = max(self._next_number, number + 1)

    def free_bytes(self) -> int:
        """Return what is left of the capacity."""
        return self.capacity_bytes - sum(
            len(each.content) for each in self._volumes.values()
        )

    def facts(self) -> Mapping[str, object]:
        """Return what status pages show."""
        return {
            "path": "memory",
            "total_space": self.capacity_bytes,
            "free_space": self.free_bytes(),
            "volumes": len(self._volumes),
        }

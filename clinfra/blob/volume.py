"""The format of a volume: an append-only file of self-describing records.

A volume is a 64-byte head and then records, each at a multiple of 8.  Numbers are
little-endian.  Everything needed to rebuild the index is in the records; their order
does not matter, because states are merged (see `merge`).

The head of a volume::

     0   8  b"CLVOLUM1"
     8   8  number of the volume
    16   8  class: longest time to live in it, seconds; 0 for ever, 1 changes only
    24   8  made at, unix seconds
    32   8  1 when it was made for one large body
    40  20  zero
    60   4  CRC-32 of bytes 0..59

A record::

     0   4  b"CLRE"
     4   1  kind: 1 data, 2 change, 3 purge, 4 data in a file of its own; void, as if
              it were not there: 0 with a body, 5 without
     5   1  zero
     6   2  length of the name
     8   2  length of the content type
    10   2  zero
    12   4  CRC-32 of the body
    16   8  modified (unsigned)
    24   8  modified_deleted (unsigned)
    32   8  deleted (signed)
    40   8  size of the body
    48  32  SHA-256 of the body
    80   8  first volume, and
    88   8  last volume that ever held bytes of this name; 0 none
    96   4  CRC-32 of name and content type
   100   8  sequence number of the change it records
   108   4  CRC-32 of bytes 0..107, begun with that of number and offset (two Q)
   112      name, content type, body, zeros up to a multiple of 8

A data record states *both* registers as they were after the write, a change states the
expiry register only.  A purge says that the name was forgotten: all its records up to
the purge's own sequence number count no more, wherever they still are.

A record is good only where it was written: the copy of a record inside of a blob (a
backup of a volume, or bytes that somebody forged) is never taken for one, not even when
the search for the next good record after damage leads through it.

History: this is version 1.

Pure: `scan` reads through a function it is given.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator

from attrs import frozen

from clinfra.blob.records import Data, Expiry, Locator, State

VOLUME_HEAD_BYTES = 64
RECORD_HEAD_BYTES = 112

CHANGES_CLASS = 1
"""The class of volumes that hold changes without bodies."""

TTL_CLASSES = (86400, 7 * 86400, 31 * 86400, 93 * 86400, 366 * 86400)
"""Blobs that end within one of these spans share volumes; all others have class 0."""

_VOLUME_MAGIC = b"CLVOLUM1"
_RECORD_MAGIC = b"CLRE"
_VOLUME = struct.Struct("<8sQQQQ20x")
_RECORD = struct.Struct("<4sBBHHHIQQqQ32sQQIQ")
_CRC = struct.Struct("<I")
_PLACE = struct.Struct("<QQ")

_VOID, _DATA, _CHANGE, _PURGE, _FILED, _EMPTY_VOID = range(6)

Read = Callable[[int, int], bytes]
"""Read (offset, length) of a volume; shorter at its end."""


@frozen
class VolumeHead:
    """What a volume says of itself."""

    number: int
    ttl_class: int
    made_at: int
    alone: bool = False


@frozen
class Record:
    """A record without its body.

    Attributes:
        kind: 1 data, 2 change, 3 purge, 4 data in a file, 0 and 5 void.
        seq: sequence number of the change.
    """

    kind: int
    name: str
    state: State
    volumes: tuple[int, int] | None
    head_bytes: int
    body_bytes: int
    seq: int = 0

    @property
    def length(self) -> int:
        """Return the bytes it takes, padding included."""
        return _padded(self.head_bytes + self.body_bytes)

    @property
    def has_body(self) -> bool:
        """Return whether it brings bytes of the blob."""
        return self.kind in (_DATA, _FILED)

    @property
    def is_filed(self) -> bool:
        """Return whether these bytes are in a file of their own."""
        return self.kind == _FILED

    @property
    def is_purge(self) -> bool:
        """Return whether it says that the name was forgotten."""
        return self.kind == _PURGE

    @property
    def is_void(self) -> bool:
        """Return whether it was taken back."""
        return self.kind in (_VOID, _EMPTY_VOID)


@frozen
class Found:
    """A good record, met by `scan`."""

    at: Locator
    record: Record


@frozen
class Damage:
    """Bytes that are no good record, met by `scan`.

    Attributes:
        at_end: nothing good follows: a torn write, most likely.
    """

    offset: int
    length: int
    at_end: bool


def ttl_class(deleted: int, now: float) -> int:
    """Return the class of a blob that ends at `deleted` (0 never), unix seconds."""
    if deleted:
        for span in TTL_CLASSES:
            if deleted - now <= span:
                return span
    return 0


def pack_volume_head(head: VolumeHead) -> bytes:
    """Return the first bytes of a volume."""
    packed = _VOLUME.pack(
        _VOLUME_MAGIC, head.number, head.ttl_class, head.made_at, head.alone
    )
    return packed + _CRC.pack(zlib.crc32(packed))


def unpack_volume_head(raw: bytes) -> VolumeHead | None:
    """Return what the first bytes of a volume say, None when they are no good."""
    if len(raw) < VOLUME_HEAD_BYTES:
        return None
    magic, number, ttl, made_at, alone = _VOLUME.unpack_from(raw)
    (crc,) = _CRC.unpack_from(raw, _VOLUME.size)
    if magic != _VOLUME_MAGIC or crc != zlib.crc32(raw[: _VOLUME.size]):
        return None
    return VolumeHead(number, ttl, made_at, bool(alone))


def head_bytes(name: str, content_type: str) -> int:
    """Return how many bytes of a record come before its body."""
    return RECORD_HEAD_BYTES + len(name.encode("utf-8")) + len(content_type)


def padding(length: int) -> bytes:
    """Return the zeros that follow a record of that length, unpadded."""
    return bytes(-length % 8)


def pack_record_head(
    name: str,
    state: State,
    volumes: tuple[int, int] | None,
    *,
    has_body: bool,
    purge: bool = False,
    filed: bool = False,
    seq: int = 0,
    place: tuple[int, int] = (0, 0),
) -> bytes:
    """Return everything of a record before its body.

    Args:
        filed: the body is in a file of its own.
        place: the volume it is for, and the offset there.
    """
    data = state.data or Data(0, bytes(32), 0, 0)
    name_bytes = name.encode("utf-8")
    type_bytes = data.content_type.encode("latin-1")
    strings = name_bytes + type_bytes
    packed = _RECORD.pack(
        _RECORD_MAGIC,
        _kind(has_body, purge, filed),
        0,
        len(name_bytes),
        len(type_bytes),
        0,
        data.crc32,
        data.modified,
        state.expiry.modified_deleted,
        state.expiry.deleted,
        data.size,
        data.sha256,
        *(volumes or (0, 0)),
        zlib.crc32(strings),
        seq,
    )
    return packed + _seal(packed, place) + strings


def _kind(has_body: bool, purge: bool, filed: bool) -> int:
    if purge:
        return _PURGE
    if not has_body:
        return _CHANGE
    return _FILED if filed else _DATA


def _seal(packed: bytes, place: tuple[int, int]) -> bytes:
    """Return what proves that these bytes were written at that place."""
    return _CRC.pack(zlib.crc32(packed, zlib.crc32(_PLACE.pack(*place))))


def unpack_record_head(raw: bytes, place: tuple[int, int] = (0, 0)) -> Record | None:
    """Return the record that begins with these bytes, None when they are no good."""
    if len(raw) < RECORD_HEAD_BYTES or raw[:4] != _RECORD_MAGIC:
        return None
    packed = raw[: _RECORD.size]
    if raw[_RECORD.size : RECORD_HEAD_BYTES] != _seal(packed, place):
        return None
    (
        _,
        kind,
        _,
        name_length,
        type_length,
        _,
        body_crc,
        modified,
        modified_deleted,
        deleted,
        size,
        sha256,
        first,
        last,
        strings_crc,
        seq,
    ) = _RECORD.unpack_from(raw)
    end = RECORD_HEAD_BYTES + name_length + type_length
    strings = raw[RECORD_HEAD_BYTES:end]
    if len(strings) != end - RECORD_HEAD_BYTES or zlib.crc32(strings) != strings_crc:
        return None
    content_type = strings[name_length:].decode("latin-1")
    return Record(
        kind=kind,
        name=strings[:name_length].decode("utf-8"),
        state=State(
            Data(modified, sha256, size, body_crc, content_type)
            if kind in (_DATA, _VOID, _FILED)
            else None,
            Expiry(modified_deleted, deleted),
        ),
        volumes=(first, last) if first else None,
        head_bytes=end,
        body_bytes=size if kind in (_DATA, _VOID) else 0,
        seq=seq,
    )


def void_mark(head: bytes, place: tuple[int, int]) -> bytes:
    """Return the fixed part of the record's head at that place, turned void."""
    kind = _VOID if head[4] in (_DATA, _VOID) else _EMPTY_VOID
    packed = head[:4] + bytes((kind,)) + head[5 : _RECORD.size]
    return packed + _seal(packed, place)


def scan(
    number: int, start: int, end: int, read: Read, *, check_bodies: bool
) -> Iterator[Found | Damage]:
    """Yield the records of a volume in order, and the damage between them.

    After damage the next good record is looked for at every multiple of 8: one bad
    byte costs one record.

    Args:
        number: of the volume.
        start: where a record begins, or may.
        end: size of the volume.
        check_bodies: read the bodies too and hold them to their CRC.
    """
    offset, damaged_from = start, -1
    while offset < end:
        found = _record_at(number, offset, end, read, check_bodies)
        if found is not None:
            if damaged_from >= 0:
                yield Damage(damaged_from, offset - damaged_from, at_end=False)
                damaged_from = -1
            yield found
            offset += found.at.length
            continue
        if damaged_from < 0:
            damaged_from = offset
        offset = _next_magic(offset + 8, end, read)
    if damaged_from >= 0:
        yield Damage(damaged_from, end - damaged_from, at_end=True)


def _record_at(
    number: int, offset: int, end: int, read: Read, check_body: bool
) -> Found | None:
    raw = read(offset, RECORD_HEAD_BYTES + 1536)
    record = unpack_record_head(raw, (number, offset))
    if record is None or offset + record.length > end:
        return None
    if check_body and record.kind == _DATA and record.state.data is not None:
        crc, at, left = 0, offset + record.head_bytes, record.body_bytes
        while left:
            piece = read(at, min(left, 1 << 20))
            if not piece:
                return None
            crc, at, left = zlib.crc32(piece, crc), at + len(piece), left - len(piece)
        if crc != record.state.data.crc32:
            return None
    return Found(Locator(number, offset, record.head_bytes, record.length), record)


def _next_magic(offset: int, end: int, read: Read) -> int:
    """Return the next place, at a multiple of 8, where a record might begin."""
    while offset < end:
        piece = read(offset, 1 << 20)
        if not piece:
            break
        at = piece.find(_RECORD_MAGIC)
        while at >= 0:
            if at % 8 == 0:
                return offset + at
            at = piece.find(_RECORD_MAGIC, at + 1)
        offset += max(len(piece) - len(piece) % 8, 8)
    return end


def _padded(length: int) -> int:
    return length + -length % 8

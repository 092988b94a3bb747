"""Read EXIF blocks, whatever is in them; write small ones.

Pure, bounded, and never raising: cameras write odd blocks and strangers write hostile
ones, so what cannot be read is left out.  Values come in the shapes the Python Imaging
Library had in 2013, because they are published as text: a rational is a pair of ints,
a single value is not a tuple, bytes are text of the same code points.  As then, signed
types are not read.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from attrs import Factory, frozen

Value = int | float | str | tuple[object, ...]

ORIENTATION: Final = 0x0112
_EXIF_POINTER: Final = 0x8769
_GPS_POINTER: Final = 0x8825

_MAX_ENTRIES = 512
_MAX_VALUE_BYTES = 4096

_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _UNDEFINED, _FLOAT, _DOUBLE = (
    1,
    2,
    3,
    4,
    5,
    7,
    11,
    12,
)
_WIDTHS = {
    _BYTE: 1,
    _ASCII: 1,
    _SHORT: 2,
    _LONG: 4,
    _RATIONAL: 8,
    _UNDEFINED: 1,
    _FLOAT: 4,
    _DOUBLE: 8,
}
_CODES = {_BYTE: "B", _SHORT: "H", _LONG: "I", _FLOAT: "f", _DOUBLE: "d"}


@frozen
class Exif:
    """What an EXIF block says: tag number → value.

    Attributes:
        tags: of the picture and of the camera.
        gps: of the place.
    """

    tags: dict[int, Value] = Factory(dict)
    gps: dict[int, Value] = Factory(dict)

    @property
    def orientation(self) -> int:
        """1 to 8; 1, upright, when absent or meaningless."""
        value = self.tags.get(ORIENTATION)
        return value if isinstance(value, int) and 1 <= value <= 8 else 1


def parse(block: bytes) -> Exif:
    """Read a block, with or without the "Exif" mark that JPEG puts before it."""
    block = block.removeprefix(b"Exif\x00\x00")
    if block[:4] == b"II*\x00":
        order = "<"
    elif block[:4] == b"MM\x00*":
        order = ">"
    else:
        return Exif()
    tags = _directory(block, order, _number(block, order, 4))
    gps: dict[int, Value] = {}
    camera = tags.get(_EXIF_POINTER)
    place = tags.pop(_GPS_POINTER, None)
    if isinstance(camera, int):
        tags.update(_directory(block, order, camera))
        place = tags.pop(_GPS_POINTER, place)
    if isinstance(place, int):
        gps = _directory(block, order, place)
    return Exif(tags, gps)


def compose(picture: Mapping[int, str], camera: Mapping[int, str]) -> bytes:
    """Write a block of text values: tag number → text, as `parse` reads them."""
    start = 8
    pointer = () if not camera else ((_EXIF_POINTER, _LONG, 1, b""),)
    first = [*_texts(picture), *pointer]
    end = start + _length(first)
    if camera:
        first[-1] = (_EXIF_POINTER, _LONG, 1, struct.pack("<I", end))
    block = b"II*\x00" + struct.pack("<I", start) + _written(first, start)
    return block + (_written(list(_texts(camera)), end) if camera else b"")


def _texts(values: Mapping[int, str]) -> Iterator[tuple[int, int, int, bytes]]:
    for tag, text in sorted(values.items()):
        raw = text.encode("latin-1", "replace") + b"\x00"
        yield tag, _ASCII, len(raw), raw


def _length(entries: Sequence[tuple[int, int, int, bytes]]) -> int:
    return 6 + 12 * len(entries) + sum(len(e[3]) for e in entries if len(e[3]) > 4)


def _written(entries: Sequence[tuple[int, int, int, bytes]], start: int) -> bytes:
    """Write a directory that begins at an offset, and behind it its values."""
    directory, values = struct.pack("<H", len(entries)), b""
    at = start + 6 + 12 * len(entries)
    for tag, kind, items, raw in entries:
        place = raw.ljust(4, b"\x00")
        if len(raw) > 4:
            place = struct.pack("<I", at + len(values))
            values += raw
        directory += struct.pack("<HHI", tag, kind, items) + place
    return directory + bytes(4) + values


def _number(block: bytes, order: str, offset: int) -> int:
    raw = block[offset : offset + 4]
    return int(struct.unpack(order + "I", raw)[0]) if len(raw) == 4 else len(block)


def _directory(block: bytes, order: str, offset: int) -> dict[int, Value]:
    return dict(_entries(block, order, offset))


def _entries(block: bytes, order: str, offset: int) -> Iterator[tuple[int, Value]]:
    if offset + 2 > len(block):
        return
    (count,) = struct.unpack_from(order + "H", block, offset)
    for number in range(min(count, _MAX_ENTRIES)):
        at = offset + 2 + 12 * number
        if at + 12 > len(block):
            return
        tag, kind, items = struct.unpack_from(order + "HHI", block, at)
        width = _WIDTHS.get(kind)
        if width is None or not 0 < items * width <= _MAX_VALUE_BYTES:
            continue
        start = at + 8
        if items * width > 4:
            start = _number(block, order, start)
        raw = block[start : start + items * width]
        if len(raw) == items * width:
            yield tag, _value(kind, order, raw)


def _value(kind: int, order: str, raw: bytes) -> Value:
    if kind == _ASCII:
        return raw.removesuffix(b"\x00").decode("latin-1")
    if kind == _UNDEFINED:
        return raw.decode("latin-1")
    values: tuple[object, ...]
    if kind == _RATIONAL:
        numbers = struct.unpack(f"{order}{len(raw) // 4}I", raw)
        values = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    else:
        values = struct.unpack(f"{order}{len(raw) // _WIDTHS[kind]}{_CODES[kind]}", raw)
    if len(values) == 1:
        (value,) = values
        assert isinstance(value, int | float | tuple)
        return value
    return values

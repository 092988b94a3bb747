"""What the directories of a TIFF say, read without trust.

Pure.  A library that reads a TIFF copies every value a directory speaks of, and those
may overlap: a file of a megabyte can speak of terabytes.  So it is looked at here
first, page by page, with bounds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from attrs import field, frozen

MARKS: Final = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
MOST_ENTRIES: Final = 1000
MOST_VALUE_BYTES: Final = 16 << 20

# Type → bytes of one value; others are passed over by readers.
_WIDTHS: Final = {
    **dict.fromkeys((1, 2, 6, 7), 1),
    **dict.fromkeys((3, 8), 2),
    **dict.fromkeys((4, 9, 11, 13), 4),
    **dict.fromkeys((5, 10, 12, 16, 17, 18), 8),
}
_NUMBERS: Final = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q"}

_WIDTH, _HEIGHT, _BITS, _SAMPLES = 0x100, 0x101, 0x102, 0x115
_TILE_WIDTH, _TILE_HEIGHT = 0x142, 0x143


@frozen
class Page:
    """One directory.

    Attributes:
        entries: how many values it has.
        value_bytes: what they take together, as far as they are not in the directory.
        numbers: tag → its first number, of tags that have numbers.
    """

    entries: int
    value_bytes: int
    numbers: dict[int, int] = field(repr=False)

    @property
    def width(self) -> int:
        """Pixels; 0 when it does not say."""
        return self.numbers.get(_WIDTH, 0)

    @property
    def height(self) -> int:
        """Pixels; 0 when it does not say."""
        return self.numbers.get(_HEIGHT, 0)

    @property
    def is_of_bytes(self) -> bool:
        """Tell whether a pixel is one number of a byte or less."""
        return self.numbers.get(_SAMPLES, 1) == 1 and self.numbers.get(_BITS, 1) <= 8

    @property
    def tile_pixels(self) -> int:
        """Pixels of a tile; 0 when it has none."""
        return self.numbers.get(_TILE_WIDTH, 0) * self.numbers.get(_TILE_HEIGHT, 0)

    @property
    def is_harmless(self) -> bool:
        """Tell whether a library may read it."""
        # A tile of a small picture is mostly padding.
        most = max(4 * self.width * self.height, 1 << 20)
        return (
            self.entries <= MOST_ENTRIES
            and self.value_bytes <= MOST_VALUE_BYTES
            and self.tile_pixels <= most
        )


def pages(data: bytes, most: int) -> Iterator[Page]:
    """Yield up to so many pages, as far as they are there and no circle."""
    if data[:4] not in MARKS:
        return
    order = "<" if data[:1] == b"I" else ">"
    big = b"+" in data[:4]
    word = "Q" if big else "I"
    seen: set[int] = set()
    at = _unpacked(data, order + word, 8 if big else 4)
    while at and at not in seen and len(seen) < most:
        seen.add(at)
        count = _unpacked(data, order + ("Q" if big else "H"), at)
        if count is None:
            return
        start, length = (at + 8, 20) if big else (at + 2, 12)
        yield _page(data[start : start + MOST_ENTRIES * length], count, order, big)
        at = _unpacked(data, order + word, start + count * length)


def _page(entries: bytes, count: int, order: str, big: bool) -> Page:
    layout = order + ("HHQ" if big else "HHI")
    room = 8 if big else 4
    value_bytes, numbers = 0, {}
    length = struct.calcsize(layout) + room
    for at in range(0, min(count * length, len(entries) - length + 1), length):
        tag, kind, values = struct.unpack_from(layout, entries, at)
        size = values * _WIDTHS.get(kind, 0)
        if size > room:
            value_bytes += size
        elif kind in _NUMBERS and values:
            place = at + length - room
            number = struct.unpack_from(order + _NUMBERS[kind], entries, place)[0]
            numbers[tag] = number
    return Page(count, value_bytes, numbers)


def _unpacked(data: bytes, layout: str, at: int) -> int | None:
    if at + struct.calcsize(layout) > len(data):
        return None
    return int(struct.unpack_from(layout, data, at)[0])

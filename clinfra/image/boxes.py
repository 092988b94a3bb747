"""Boxes of ISO media files, as AVIF and HEIC are made of: which it is, and how large.

Pure.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

_MOST_BOXES: Final = 2000

# Brand → Pillow's name of the format.
_BRANDS: Final = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"), "HEIC"),
}
_OPEN_BRANDS: Final = frozenset({b"mif1", b"msf1"})
"""These only say that there is a picture; the compatible ones say of which kind."""

# Boxes on the way to the sizes of pictures, and what comes before those inside.
_INSIDE: Final = {b"meta": 4, b"iprp": 0, b"ipco": 0}
_SIZE: Final = b"ispe"


def format_of(head: bytes) -> str | None:
    """Return "AVIF" or "HEIC"; None for anything else."""
    if head[4:8] != b"ftyp" or len(head) < 12:
        return None
    major, length = head[8:12], struct.unpack_from(">I", head)[0]
    if major not in _OPEN_BRANDS:
        return _BRANDS.get(major)
    for at in range(16, min(length, len(head), 256) - 3, 4):
        if head[at : at + 4] in _BRANDS:
            return _BRANDS[head[at : at + 4]]
    return None


def largest(head: bytes) -> tuple[int, int]:
    """Return width and height of the largest picture in a file; zeros if unsaid.

    A large one may be made of many small ones, all of which are there.
    """
    sizes = [
        struct.unpack_from(">II", head, at + 12)
        for name, at, end in _boxes(head, 0, len(head), [_MOST_BOXES])
        if name == _SIZE and at + 20 <= end
    ]
    return max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))


def _boxes(
    data: bytes, at: int, end: int, left: list[int]
) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, begin and end of boxes and those inside; `left` may still be read."""
    while at + 8 <= end and left[0] > 0:
        left[0] -= 1
        length, name = struct.unpack_from(">I4s", data, at)
        until = min(at + length, end)
        if length < 8:
            # To the end of the file, or longer than any head: nothing we look for.
            return
        yield name, at, until
        if name in _INSIDE:
            yield from _boxes(data, at + 8 + _INSIDE[name], until, left)
        at = until

"""The blocks of a GIF: how many frames it has, without decoding any.

Pure.
"""

from __future__ import annotations

from typing import Final

_EXTENSION: Final = 0x21
_FRAME: Final = 0x2C
_MOST_BLOCKS: Final = 400_000
"""Steps of 0.1 µs; a file of 32 MiB has a third of that, unless it is made to annoy."""


def frames(data: bytes, enough: int) -> int | None:
    """Count the frames, up to `enough`; at least 1, None when it takes too long."""
    at = 13 + _palette(data[10:11])
    count = blocks = 0
    while count < enough and at < len(data):
        mark = data[at]
        if mark == _FRAME:
            count += 1
            at += 11 + _palette(data[at + 9 : at + 10])
        elif mark == _EXTENSION:
            at += 2
        else:
            break
        while at < len(data) and data[at]:
            at += 1 + data[at]
            blocks += 1
            if blocks > _MOST_BLOCKS:
                return None
        at += 1
        blocks += 1
    return max(count, 1)


def _palette(flags: bytes) -> int:
    """Return how many bytes of palette follow some flags."""
    return 3 << ((flags[0] & 7) + 1) if flags and flags[0] & 0x80 else 0

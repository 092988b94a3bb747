"""Animations: how long each frame is shown, and how often all of them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from attrs import frozen
from PIL import Image

_UNSAID_MS: Final = 100
"""What browsers make of a frame that is to be shown for no time at all."""

_LONGEST_MS: Final = 65535
_MOST_PLAYS: Final = 65535


@frozen
class Film:
    """Frames made of one recipe, all of the same size and mode.

    Attributes:
        frames: the pictures.
        durations_ms: for how long each is shown.
        plays: how often; 0 for ever.
    """

    frames: tuple[Image.Image, ...]
    durations_ms: tuple[int, ...]
    plays: int


def film_of(frames: list[Image.Image], durations_ms: list[int], plays: int) -> Film:
    """Return a film of frames that may differ in mode: the richest of them wins."""
    modes = {frame.mode for frame in frames}
    mode = next(mode for mode in ("RGBA", "RGB", "L") if mode in modes)
    alike = tuple(
        frame if frame.mode == mode else frame.convert(mode) for frame in frames
    )
    return Film(alike, tuple(durations_ms), plays)


def duration_ms(image: Image.Image) -> int:
    """Return for how long the frame at hand, decoded, is shown."""
    said = image.info.get("duration", 0)
    rounded = round(said) if isinstance(said, int | float) and said > 0 else 0
    return min(rounded, _LONGEST_MS) or _UNSAID_MS


def plays(image: Image.Image) -> int:
    """Return how often an animation is shown, 0 for ever."""
    said = image.info.get("loop")
    if image.format == "GIF":
        # A GIF says how often it is repeated; without a word it is shown once.
        said = 1 if said is None else said and said + 1
    return min(max(said, 0), _MOST_PLAYS) if isinstance(said, int) else 0


_BOXES_OF_BOXES: Final = frozenset({b"moov", b"trak", b"mdia", b"edts"})
_DATES: Final = {0: 8, 1: 16}
"""Version of a box with dates → bytes of its two dates, which come first."""

_DURATIONS: Final = {b"mvhd": 4, b"tkhd": 8}
"""Box → bytes between its dates and how long all is shown, however often."""


def completed(avif: bytes, plays: int) -> bytes:
    """Return an AVIF that says how often it is shown, and not when it was made.

    Its encoder can be told neither.  So the same pictures are the same bytes.

    Args:
        plays: 0 for ever.
    """
    done = bytearray(avif)
    boxes = list(_boxes(avif, 0, len(avif)))
    once = [
        struct.unpack_from(">Q", avif, at + 16)[0]
        for name, at in boxes
        if name == b"elst" and avif[at + 8] == 1
    ]
    for name, at in boxes:
        if name == b"elst":
            continue
        length = _DATES[avif[at + 8]]
        done[at + 12 : at + 12 + length] = bytes(length)
        if plays and once and name in _DURATIONS and avif[at + 8] == 1:
            # Over all of it the part that is in the list of edits is repeated.
            start = at + 12 + length + _DURATIONS[name]
            struct.pack_into(">Q", done, start, plays * max(once))
    return bytes(done)


def _boxes(data: bytes, at: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Yield boxes of ISO media about dates and durations, and where they begin."""
    while at + 8 <= end:
        length, name = struct.unpack_from(">I4s", data, at)
        if name in (b"mvhd", b"tkhd", b"mdhd", b"elst"):
            yield name, at
        elif name in _BOXES_OF_BOXES:
            yield from _boxes(data, at + 8, at + length)
        # Neither of the two other ways to give a length is for a box of these.
        at += max(length, 8)

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


_BOXES_OF_BOXES: Final = frozenset({b"moov", b"trak", b"mdia"})
_DATED_BOXES: Final = frozenset({b"mvhd", b"tkhd", b"mdhd"})
_DATES: Final = {0: 8, 1: 16}
"""Version of a dated box → bytes of its two dates."""


def without_dates(avif: bytes) -> bytes:
    """Return an AVIF without when it was made: the same pictures are the same bytes."""
    undated = bytearray(avif)
    for at in _dated_boxes(avif, 0, len(avif)):
        length = _DATES[avif[at + 8]]
        undated[at + 12 : at + 12 + length] = bytes(length)
    return bytes(undated)


def _dated_boxes(data: bytes, at: int, end: int) -> Iterator[int]:
    """Yield where boxes of ISO media begin that say when they were made."""
    while at + 8 <= end:
        length, name = struct.unpack_from(">I4s", data, at)
        if name in _DATED_BOXES:
            yield at
        elif name in _BOXES_OF_BOXES:
            yield from _dated_boxes(data, at + 8, at + length)
        # Neither of the two other ways to give a length is for a box of these.
        at += max(length, 8)

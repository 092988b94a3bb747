"""ThumbHash: what a picture looks like in some 25 bytes, with its shape and shadow.

Pure.  A picture is written as a few cosines: lightness with most of them, two
differences of colours, and how opaque it is, with fewer.  Whoever shows a page can
paint that while the picture itself is still on its way.  The format is that of
evanw/thumbhash.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from operator import mul

MOST_SIDE = 100
"""Longest side in pixels; 32 are as good and take a tenth of the time."""

_FAINT = 1e-6
"""Waves below this are what rounding leaves of none."""

_Wave = tuple[float, list[float], float]
"""Mean, other cosines from 0 to 1, and how much 1 is."""


def thumbhash(width: int, height: int, rgba: bytes) -> bytes:
    """Return the hash of a picture.

    Args:
        width: pixels, at most `MOST_SIDE`.
        height: pixels, at most `MOST_SIDE`.
        rgba: four bytes per pixel, row by row; transparency is not multiplied in.
    """
    if not (0 < width <= MOST_SIDE and 0 < height <= MOST_SIDE):
        raise ValueError(f"{width}x{height} pixels")
    red, green, blue, opaque = (
        [value / 255 for value in rgba[band::4]] for band in range(4)
    )
    clear = min(opaque) < 1
    if clear:
        red, green, blue = (_on_average(band, opaque) for band in (red, green, blue))
    light = [(r + g + b) / 3 for r, g, b in zip(red, green, blue, strict=True)]
    yellow = [(r + g) / 2 - b for r, g, b in zip(red, green, blue, strict=True)]
    reddish = [r - g for r, g in zip(red, green, strict=True)]
    limit, longest = 5 if clear else 7, max(width, height)
    across = max(_round(limit * width / longest), 1)
    down = max(_round(limit * height / longest), 1)
    wide = width > height
    l_mean, l_waves, l_scale = _waves(light, width, max(across, 3), max(down, 3))
    p_mean, p_waves, p_scale = _waves(yellow, width, 3, 3)
    q_mean, q_waves, q_scale = _waves(reddish, width, 3, 3)
    waves = l_waves + p_waves + q_waves
    head = (
        _round(63 * l_mean)
        | _round(31.5 + 31.5 * p_mean) << 6
        | _round(31.5 + 31.5 * q_mean) << 12
        | _round(31 * l_scale) << 18
        | clear << 23
        | (down if wide else across) << 24
        | _round(63 * p_scale) << 27
        | _round(63 * q_scale) << 33
        | wide << 39
    )
    made = bytearray(head.to_bytes(5, "little"))
    if clear:
        a_mean, a_waves, a_scale = _waves(opaque, width, 5, 5)
        made.append(_round(15 * a_mean) | _round(15 * a_scale) << 4)
        waves += a_waves
    halves = [_round(15 * wave) for wave in waves]
    halves += [0] * (len(halves) % 2)
    pairs = zip(halves[::2], halves[1::2], strict=True)
    return bytes(made) + bytes(low | high << 4 for low, high in pairs)


def _on_average(band: list[float], opaque: list[float]) -> list[float]:
    """Return a colour laid on its own average."""
    total = sum(opaque)
    average = sum(map(mul, band, opaque)) / total if total else 0.0
    return [
        average * (1 - alpha) + value * alpha
        for value, alpha in zip(band, opaque, strict=True)
    ]


def _waves(band: list[float], width: int, across: int, down: int) -> _Wave:
    """Return a band as cosines, those of both axes together no finer than a limit."""
    height = len(band) // width
    rows = [band[at : at + width] for at in range(0, len(band), width)]
    # First along the rows, and of that along the columns.
    partial = [
        [sum(map(mul, row, cosines)) for row in rows]
        for cosines in _cosines(width, across)
    ]
    vertical = _cosines(height, down)
    found = [
        sum(map(mul, partial[x], vertical[y])) / (width * height)
        for y in range(down)
        for x in range(across)
        if x * down < across * (down - y)
    ]
    mean, others = found[0], found[1:]
    scale = max(map(abs, others), default=0.0)
    if scale < _FAINT:
        return mean, [0.0] * len(others), 0.0
    return mean, [0.5 + 0.5 / scale * each for each in others], scale


@lru_cache(maxsize=64)
def _cosines(length: int, count: int) -> Sequence[list[float]]:
    return [
        [math.cos(math.pi / length * wave * (at + 0.5)) for at in range(length)]
        for wave in range(count)
    ]


def _round(value: float) -> int:
    return math.floor(value + 0.5)

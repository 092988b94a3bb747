"""Find what is worth looking at, for crops whose gravity is smart.

A cheap guess that is the same every time: edges attract the eye, and so does skin.
Both are summed up on a small picture along the one axis on which a crop can move.
"""

from __future__ import annotations

from array import array
from typing import Final

from PIL import Image, ImageChops, ImageFilter

from clinfra.image.geometry import Point

_SIDE: Final = 96
"""Pixels of the longer side of the picture that is looked at."""

_ENOUGH: Final = 8
"""Pixels that are averaged, on each axis, for one of that picture."""

_GREY: Final = (128, 128, 128)
# Skin of any lightness lies close together in blue and red difference.
_SKIN_CB: Final = [255 * (77 <= value <= 127) for value in range(256)]
_SKIN_CR: Final = [255 * (136 <= value <= 173) for value in range(256)]
_SKIN_SHARE: Final = 0.15

_EDGES: Final = ImageFilter.Kernel((3, 3), (-1, -1, -1, -1, 8, -1, -1, -1, -1), scale=2)


def attention(
    picture: Image.Image, box: tuple[int, int, int, int], part: tuple[float, float]
) -> Point:
    """Return the middle of the most interesting part, in fractions of a box.

    Args:
        picture: in a workable mode.
        box: the part of it that may be shown, in pixels.
        part: how much of that box's width and height will be; one of them is all.
    """
    energy = _energy(_small(picture, box))
    if part[0] < part[1]:
        return _best(_profile(energy, (energy.width, 1)), part[0]), 0.5
    return 0.5, _best(_profile(energy, (1, energy.height)), part[1])


def _small(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    width, height = box[2] - box[0], box[3] - box[1]
    longer = max(width, height)
    # Of a very large one every few pixels are enough: they are averaged anyway.
    step = min(longer // (_SIDE * _ENOUGH), width, height)
    if step > 1:
        size = (width // step, height // step)
        picture = picture.resize(size, Image.Resampling.NEAREST, box)
        box, longer = (0, 0, *size), max(size)
    small = picture.reduce(max(longer // _SIDE, 1), box)
    if small.mode == "RGBA":
        canvas = Image.new("RGB", small.size, _GREY)
        canvas.paste(small, mask=small.getchannel("A"))
        return canvas
    return small if small.mode in ("L", "RGB") else small.convert("RGB")


def _energy(small: Image.Image) -> Image.Image:
    grey = small.convert("L")
    energy = Image.new("L", small.size)
    if min(small.size) > 2:
        # The filter leaves the outermost pixels as they were.
        inner = (1, 1, small.width - 1, small.height - 1)
        energy.paste(grey.filter(_EDGES).crop(inner), inner)
    if small.mode == "L":
        return energy
    _, blue, red = small.convert("YCbCr").split()
    skin = ImageChops.multiply(blue.point(_SKIN_CB), red.point(_SKIN_CR))
    # Shadows have any colour.
    lit = ImageChops.multiply(skin, grey)
    return ImageChops.add(energy, lit.point(lambda value: value * _SKIN_SHARE))


def _profile(energy: Image.Image, size: tuple[int, int]) -> list[float]:
    """Return the mean of each column or row."""
    means = energy.convert("F").resize(size, Image.Resampling.BOX)
    return list(array("f", means.tobytes()))


def _best(profile: list[float], share: float) -> float:
    """Return the middle of the best window of a share of the profile.

    What lies in the middle of a window counts more than what it just includes.
    """
    if max(profile) == min(profile):
        return 0.5
    cells = len(profile)
    window = min(max(round(cells * share), 1), cells)
    half = window / 2
    weights = [1 - ((cell + 0.5 - half) / half) ** 2 / 2 for cell in range(window)]
    middle = (cells - window) / 2

    def worth(start: int) -> tuple[float, float]:
        pairs = zip(weights, profile[start : start + window], strict=True)
        score = sum(weight * value for weight, value in pairs)
        return round(score, 3), -abs(start - middle)

    return (max(range(cells - window + 1), key=worth) + half) / cells

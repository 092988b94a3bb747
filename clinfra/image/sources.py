"""What a rendition on demand is made of: the original, or the smaller mezzanine.

Pure.  The info of a stored picture says all that is needed to choose, and to tell what
the work will cost, before any of its bytes are fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from attrs import frozen

from clinfra.image import sniff
from clinfra.image.geometry import make_target
from clinfra.image.sizes import Recipe

_HEADROOM: Final = 1.25
"""So many times larger than the result the mezzanine must be: it has lost a little."""

# Encoding a pixel costs so much, decoding one of a baseline JPEG being 1.
_ENCODING: Final = {"jpeg": 3.0, "plain": 3.0, "png": 6.0, "webp": 9.0, "avif": 20.0}
_UNIT_PIXELS: Final = 12e6


@frozen
class Picture:
    """A stored picture, as its info has it.

    Attributes:
        width: pixels, upright.
        height: pixels, upright.
        format: Pillow's name of the original's.
        alpha: something may shine through.
        progressive: the original is a JPEG in several scans.
        kept: original and mezzanine are there.
    """

    width: int
    height: int
    format: str
    alpha: bool
    progressive: bool
    kept: bool

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Picture:
        """Read the info; raises ValueError when it is none, or an old one."""
        if info.get("kept") is not True:
            # Also true of what an original of this service has stored.
            return cls(0, 0, "", False, False, False)
        width, height = info.get("oriented_width"), info.get("oriented_height")
        name = info.get("format")
        if not (
            isinstance(width, int)
            and isinstance(height, int)
            and width > 0
            and height > 0
            and isinstance(name, str)
        ):
            raise ValueError("this is not the info of a picture")
        return cls(
            width,
            height,
            name,
            info.get("alpha") is not False,
            "progressive" in info,
            True,
        )


@frozen
class Source:
    """What to make a rendition of, and the work that is.

    Attributes:
        mezzanine: it is enough.
        pixels: of the result, unless something is trimmed.
        cost: in photographs.
    """

    mezzanine: bool
    pixels: int
    cost: float


def has_mezzanine(width: int, height: int, mezzanine: Recipe) -> bool:
    """Tell whether a mezzanine of a picture is smaller than the picture."""
    target = make_target(mezzanine, width, height, 1)
    return target.pixels < width * height


def encoding_cost(recipes: Iterable[Recipe], width: int, height: int) -> float:
    """Return what encoding recipes of a picture costs, in photographs."""
    return sum(
        _ENCODING.get(recipe.format, 9.0)
        * make_target(recipe, width, height, 1).canvas_pixels
        / _UNIT_PIXELS
        for recipe in recipes
    )


def choose_source(picture: Picture, recipe: Recipe, mezzanine: Recipe) -> Source:
    """Return what to make a recipe of.

    The original for whatever the mezzanine has not: transparency, all its pixels, more
    than its first frame, every detail, and who made it.
    """
    width, height = picture.width, picture.height
    target = make_target(recipe, width, height, 1)
    output = encoding_cost([recipe], width, height)
    middle = make_target(mezzanine, width, height, 1)
    left, upper, right, lower = target.box
    scale = max(target.width / (right - left), target.height / (lower - upper))
    enough = (
        not picture.alpha
        and not (recipe.lossless or recipe.animate or recipe.frame or recipe.keep)
        and recipe.trim is None
        and recipe.format != "png"
        and has_mezzanine(width, height, mezzanine)
        and scale * _HEADROOM <= middle.width / width
    )
    if enough:
        kind = sniff.Kind("JPEG", middle.width, middle.height)
    else:
        known = picture.format if picture.format in sniff.FORMATS else "PNG"
        kind = sniff.Kind(known, width, height, picture.progressive)
    return Source(enough, target.canvas_pixels, sniff.cost(kind, 0) + output)

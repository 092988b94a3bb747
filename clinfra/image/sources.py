"""What a rendition on demand is made of: the original, or a smaller mezzanine.

There are mezzanines of several sizes, the rungs of a ladder: the smaller one is, the
sooner it is decoded.

Pure.  The info of a stored picture says all that is needed to choose, and to tell what
the work will cost, before any of its bytes are fetched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from attrs import frozen

from clinfra.errors import Trouble
from clinfra.image import sniff
from clinfra.image.geometry import make_target
from clinfra.image.job import rung_name
from clinfra.image.sizes import Recipe, parse_recipe

MOST_RUNGS: Final = 4

_HEADROOM: Final = 1.25
"""So many times larger than the result a mezzanine must be: it has lost a little."""

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
        kept: original and mezzanines are there.
        ladder: its mezzanines, largest first; None when that was not written down,
            as it was not when there never was more than one.
    """

    width: int
    height: int
    format: str
    alpha: bool
    progressive: bool
    kept: bool
    ladder: tuple[Recipe, ...] | None = None

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Picture:
        """Read the info; raises ValueError when it is none, or an old one."""
        if info.get("kept") is not True:
            # Also true of what an original of this service has stored.
            return cls(0, 0, "", False, False, False)
        width, height = info.get("oriented_width"), info.get("oriented_height")
        name, rungs = info.get("format"), info.get("mezzanines")
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
            _written(rungs) if isinstance(rungs, str) else None,
        )


@frozen
class Source:
    """What to make a rendition of, and the work that is.

    Attributes:
        mezzanine: name of the one that is enough; None for the original.
        pixels: of the result, unless something is trimmed.
        cost: in photographs.
    """

    mezzanine: str | None
    pixels: int
    cost: float


@lru_cache(maxsize=64)
def ladder(text: str) -> tuple[Recipe, ...]:
    """Return the mezzanines that the configuration, or an info, names.

    Raises errors.Trouble: not recipes.
    """
    return tuple(parse_recipe(each.strip()) for each in text.split(",") if text)


def text_of(rungs: Iterable[Recipe]) -> str:
    """Return what `ladder` reads."""
    return ",".join(rung.name for rung in rungs)


def _written(text: str) -> tuple[Recipe, ...]:
    """Return the mezzanines that an info names.  Raises ValueError."""
    try:
        return ladder(text)
    except Trouble as trouble:
        raise ValueError(text) from trouble


def useful(rungs: tuple[Recipe, ...], width: int, height: int) -> tuple[Recipe, ...]:
    """Return those mezzanines of a picture that are smaller than the picture."""
    return tuple(
        rung
        for rung in rungs
        if make_target(rung, width, height, 1).pixels < width * height
    )


def encoding_cost(recipes: Iterable[Recipe], width: int, height: int) -> float:
    """Return what encoding recipes of a picture costs, in photographs."""
    return sum(
        _ENCODING.get(recipe.format, 9.0)
        * make_target(recipe, width, height, 1).canvas_pixels
        / _UNIT_PIXELS
        for recipe in recipes
    )


def choose_source(
    picture: Picture, recipe: Recipe, usual: tuple[Recipe, ...]
) -> Source:
    """Return what to make a recipe of.

    The original for whatever the mezzanine has not: transparency, all its pixels, more
    than its first frame, every detail, and who made it.

    Args:
        usual: the mezzanines of a picture that does not say which it has.
    """
    width, height = picture.width, picture.height
    target = make_target(recipe, width, height, 1)
    output = encoding_cost([recipe], width, height)
    left, upper, right, lower = target.box
    scale = max(target.width / (right - left), target.height / (lower - upper))
    chosen = None
    known = picture.format if picture.format in sniff.FORMATS else "PNG"
    kind = sniff.Kind(known, width, height, picture.progressive)
    rungs = usual[:1] if picture.ladder is None else picture.ladder
    if (
        picture.alpha
        or (recipe.lossless or recipe.animate or recipe.frame or recipe.keep)
        or recipe.trim is not None
        or recipe.format == "png"
    ):
        rungs = ()
    for number, rung in enumerate(rungs):
        middle = make_target(rung, width, height, 1)
        smaller = middle.pixels < width * height
        if smaller and scale * _HEADROOM <= middle.width / width:
            chosen = rung_name(number)
            kind = sniff.Kind("JPEG", middle.width, middle.height)
    return Source(chosen, target.canvas_pixels, sniff.cost(kind, 0) + output)

"""The grammar of recipes: what to make of a picture, in a few characters of a URL.

Pure.  A recipe is a size, and options behind it, each after an underscore::

    600x450                fit inside a frame
    600x450c               cut to exactly that; the same as 600x450_fill
    300x   x300   full     one side free; as large as it is
    300x300_pad_bg-fafafa_webp_q-60

An option is a word, or a word and a value with a hyphen between.  However a recipe is
written, it has one canonical form, which names what is stored.  The original's sizes
mean what they meant.  Where a recipe ends up in pixels is `geometry`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs
from attrs import frozen

from clinfra.errors import InvalidRequest, UnsupportedMedia

MODES: Final = ("fit", "fill", "pad", "exact")
FORMATS: Final = ("jpeg", "webp", "avif", "png", "plain", "auto")
"""What can be asked for.  "plain" is JPEG, or PNG when something shines through; "auto"
is the best of avif, webp and plain that a client accepts, see `with_format`."""

GRAVITIES: Final = ("center", "n", "ne", "e", "se", "s", "sw", "w", "nw", "smart")
EXTENSIONS: Final = {
    "jpg": "jpeg",
    "jpeg": "jpeg",
    "webp": "webp",
    "avif": "avif",
    "png": "png",
}
"""What may stand behind a recipe in a URL, and the format it means."""

_LONGEST: Final = 160
_MOST_PIXELS_A_SIDE: Final = 10**9 - 1

# A size names a blob, so what may follow the numbers is kept to harmless characters;
# nine digits are beyond any picture and keep the arithmetic small.
_CLASSIC: Final = re.compile(r"([0-9]{1,9})x([0-9]{1,9})([A-Za-z0-9._~!+%-]{0,32})")
_SIZE: Final = re.compile(r"(?:([0-9]{0,9})x([0-9]{0,9})(c?)|full)")


@frozen
class Recipe:
    """One rendition asked for.

    Attributes:
        name: canonical, or as written for one of the original's sizes.
        width: pixels of the frame, or exact; None when free.
        height: pixels.
        mode: "fit" inside the frame, "fill" it and cut what is over, "pad" to it, or
            be stretched to "exact"ly that.
        gravity: which part a cut keeps, and where a padded picture lies.
        focus: a point that a cut keeps in the middle if it can, in fractions of the
            width and height; None for gravity.
        enlarge: a small picture may grow.
        trim: cut off a border that differs from its corner by no more than this, 0 to
            255; None to leave it.
        rotate: degrees clockwise, after EXIF orientation.
        flip: top to bottom.
        flop: left to right.
        background: "rrggbb", behind what is transparent and around what is padded;
            empty for white, or nothing where the format has transparency.
        blur: radius in pixels of the result; 0 for none.
        sharpen: strength; 0 for none, 1 is usual.
        frame: of an animation or a file with pages, from 0.
        animate: keep the animation.
        keep: keep what says who made it and when; never where.
        quality: 1 to 100; None as configured.
        progressive: JPEG in several scans.
        lossless: every pixel as resized; a JPEG becomes a PNG.
        format: one of `FORMATS`.
    """

    name: str
    width: int | None = None
    height: int | None = None
    mode: str = "fit"
    gravity: str = "center"
    focus: tuple[float, float] | None = None
    enlarge: bool = False
    trim: int | None = None
    rotate: int = 0
    flip: bool = False
    flop: bool = False
    background: str = ""
    blur: float = 0.0
    sharpen: float = 0.0
    frame: int = 0
    animate: bool = False
    keep: bool = False
    quality: int | None = None
    progressive: bool = False
    lossless: bool = False
    format: str = "jpeg"

    @property
    def stem(self) -> str:
        """Its name in a blob's name, where the format is the extension."""
        return self.name.removesuffix("_" + self.format)

    @property
    def exact_pixels(self) -> int:
        """How many pixels it has whatever the picture; 0 when that depends on it."""
        if self.mode == "fit":
            return 0
        return (self.width or 0) * (self.height or 0)

    @property
    def extension(self) -> str:
        """What a blob's name ends with, without the dot."""
        return "jpg" if self.format == "jpeg" else self.format

    def with_format(self, name: str) -> Recipe:
        """Return the same in another format."""
        return _named(attrs.evolve(self, format=name))


def parse_size(text: str) -> Recipe:
    """Read one size of an upload: a recipe, or one of the original's sizes.

    There a "c" anywhere after the numbers means crop; other characters mean nothing
    but stay part of the name.

    Raises:
        InvalidRequest: not a size.
        UnsupportedMedia: a side of zero, which the original answered as a bad image.
    """
    match = _CLASSIC.fullmatch(text)
    if match is not None and "_" not in text:
        return _classic(match)
    try:
        recipe = parse_recipe(text)
    except InvalidRequest as error:
        if match is not None:
            return _classic(match)
        if "_" in text:
            raise
        raise InvalidRequest(f"Invalid size parameter: {text[:100]}") from error
    if recipe.format == "auto":
        raise _Wrong(text, "auto is for those who fetch, not for an upload")
    return recipe


def _classic(match: re.Match[str]) -> Recipe:
    width, height, flags = int(match[1]), int(match[2]), match[3]
    if not (width and height):
        raise UnsupportedMedia("Bad image file")
    return Recipe(match[0], width, height, mode="fill" if "c" in flags else "fit")


def parse_recipe(text: str) -> Recipe:
    """Read a recipe, with or without the extension that it may have in a URL.

    Raises:
        InvalidRequest: the sentence says what is wrong with it.
    """
    if len(text) > _LONGEST:
        raise _Wrong(text, f"longer than {_LONGEST} characters")
    body, _, extension = text.rpartition(".")
    given = EXTENSIONS.get(extension)
    size, *options = (body if given else text).split("_")
    values: dict[str, Any] = {"format": given} if given else {}
    for option in options:
        _read_option(text, option, values)
    width, height = _read_size(text, size, values)
    ratio = values.pop("dpr", 1.0)
    recipe = Recipe(
        "", _multiplied(width, ratio, text), _multiplied(height, ratio, text), **values
    )
    _check(text, recipe)
    return _named(recipe)


class _Wrong(InvalidRequest):
    """A recipe that cannot be, and why."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"Invalid recipe {text[:100]!r}: {reason}.")


def _read_size(
    text: str, size: str, values: dict[str, Any]
) -> tuple[int | None, int | None]:
    match = _SIZE.fullmatch(size)
    if match is None:
        raise _Wrong(text, "it begins with a size such as 600x450, 600x or full")
    width, height, crop = (match[1] or ""), (match[2] or ""), match[3]
    if crop:
        _set(text, "c", values, "mode", "fill")
    if size != "full" and not (width or height):
        raise _Wrong(text, "one side at least is a number")
    sides = tuple(int(side) if side else None for side in (width, height))
    if 0 in sides:
        raise _Wrong(text, "no side is 0")
    return sides[0], sides[1]


def _multiplied(side: int | None, ratio: float, text: str) -> int | None:
    if side is None:
        return None
    pixels = math.floor(side * ratio + 0.5)
    if not 1 <= pixels <= _MOST_PIXELS_A_SIDE:
        raise _Wrong(text, "a side is out of range")
    return pixels


def _read_option(text: str, option: str, values: dict[str, Any]) -> None:
    word, hyphen, value = option.partition("-")
    if not hyphen and word in _WORDS:
        _set(text, option, values, *_WORDS[word])
        return
    reader = _READERS.get(word)
    if reader is None or not hyphen:
        raise _Wrong(text, f"there is no option {option!r}")
    key, read = reader
    try:
        result = read(value)
    except ValueError as error:
        raise _Wrong(text, f"{word} is {error}") from error
    _set(text, option, values, key, result)


def _set(
    text: str, option: str, values: dict[str, Any], key: str, value: object
) -> None:
    if values.setdefault(key, value) != value:
        raise _Wrong(text, f"{option!r} contradicts what stands before it")


def _check(text: str, recipe: Recipe) -> None:
    """Refuse what means nothing together, so that nothing is asked for in vain."""
    placed = recipe.mode in ("fill", "pad")
    if recipe.mode != "fit" and (recipe.width is None or recipe.height is None):
        raise _Wrong(text, f"{recipe.mode} needs both sides")
    if recipe.gravity != "center" and not placed:
        raise _Wrong(text, "g is for fill and pad")
    if recipe.gravity == "smart" and recipe.mode != "fill":
        raise _Wrong(text, "g-smart is for fill")
    if recipe.focus is not None and recipe.mode != "fill":
        raise _Wrong(text, "fp is for fill")
    if recipe.focus is not None and recipe.gravity != "center":
        raise _Wrong(text, "fp and g contradict one another")
    if recipe.animate and recipe.frame:
        raise _Wrong(text, "animate and frame contradict one another")
    if recipe.animate and recipe.format in ("jpeg", "plain"):
        raise _Wrong(text, "a JPEG cannot move: ask for webp, avif, png or auto")
    if recipe.progressive and recipe.format not in ("jpeg", "plain", "auto"):
        raise _Wrong(text, "progressive is for JPEG")


def _named(recipe: Recipe) -> Recipe:
    """Return a recipe under its canonical name."""
    width, height = recipe.width, recipe.height
    size = "full" if width is height is None else f"{width or ''}x{height or ''}"
    if recipe.mode == "fill":
        size += "c"
    words = [write(recipe) for write in _WRITERS]
    return attrs.evolve(recipe, name="_".join([size, *filter(None, words)]))


def _number(low: float, high: float, places: int) -> Callable[[str], float]:
    form = re.compile(
        r"[0-9]{1,4}" + (rf"(?:\.[0-9]{{1,{places}}})?" if places else "")
    )

    def read(value: str) -> float:
        if not form.fullmatch(value) or not low <= float(value) <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return float(value) if places else int(value)

    return read


def _one_of(choices: Mapping[str, object]) -> Callable[[str], object]:
    def read(value: str) -> object:
        if value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return choices[value]

    return read


def _colour(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{3}|[0-9a-fA-F]{6}", value):
        raise ValueError("a colour such as ff8800")
    return ("".join(2 * each for each in value) if len(value) == 3 else value).lower()


def _point(value: str) -> tuple[float, float]:
    across, _, down = value.partition("x")
    try:
        return _fraction(across), _fraction(down)
    except ValueError:
        raise ValueError("a point such as 0.5x0.33") from None


_fraction = _number(0, 1, 3)

# Word → the attribute it sets, and to what.
_WORDS: Final[dict[str, tuple[str, object]]] = {
    **{mode: ("mode", mode) for mode in MODES},
    **{name: ("format", name) for name in FORMATS},
    **{
        name: (name, True)
        for name in (
            "enlarge",
            "flip",
            "flop",
            "animate",
            "keep",
            "progressive",
            "lossless",
        )
    },
}

# Word before a hyphen → the attribute it sets, and how its value is read.
_READERS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "g": ("gravity", _one_of({name: name for name in GRAVITIES})),
    "fp": ("focus", _point),
    "dpr": ("dpr", _number(0.25, 4, 2)),
    "trim": ("trim", _number(0, 255, 0)),
    "rotate": ("rotate", _one_of({"0": 0, "90": 90, "180": 180, "270": 270})),
    "bg": ("background", _colour),
    "blur": ("blur", _number(0, 100, 1)),
    "sharpen": ("sharpen", _number(0, 10, 1)),
    "frame": ("frame", _number(0, 9999, 0)),
    "q": ("quality", _number(1, 100, 0)),
}

# What a canonical name says, in this order; nothing of what is so anyway.
_WRITERS: Final[tuple[Callable[[Recipe], str], ...]] = (
    lambda recipe: recipe.mode if recipe.mode in ("pad", "exact") else "",
    lambda recipe: f"g-{recipe.gravity}" if recipe.gravity != "center" else "",
    lambda recipe: "fp-{:g}x{:g}".format(*recipe.focus) if recipe.focus else "",
    lambda recipe: "enlarge" if recipe.enlarge else "",
    lambda recipe: "" if recipe.trim is None else f"trim-{recipe.trim}",
    lambda recipe: f"rotate-{recipe.rotate}" if recipe.rotate else "",
    lambda recipe: "flip" if recipe.flip else "",
    lambda recipe: "flop" if recipe.flop else "",
    lambda recipe: f"bg-{recipe.background}" if recipe.background else "",
    lambda recipe: f"blur-{recipe.blur:g}" if recipe.blur else "",
    lambda recipe: f"sharpen-{recipe.sharpen:g}" if recipe.sharpen else "",
    lambda recipe: f"frame-{recipe.frame}" if recipe.frame else "",
    lambda recipe: "animate" if recipe.animate else "",
    lambda recipe: "keep" if recipe.keep else "",
    lambda recipe: "" if recipe.quality is None else f"q-{recipe.quality}",
    lambda recipe: "progressive" if recipe.progressive else "",
    lambda recipe: "lossless" if recipe.lossless else "",
    lambda recipe: "" if recipe.format == "jpeg" else recipe.format,
)

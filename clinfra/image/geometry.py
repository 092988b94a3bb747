"""Where pixels come from: fit, crop, orientation, and which picture to resize.

Pure.  Three systems of coordinates meet here.  *Upright* is how a result is looked at:
after EXIF orientation, and after what the recipe turns; frames, gravity and focal
points are meant so.  *Stored* is how the picture lies in the file.  The two differ by
a *turn*, one of the eight that EXIF numbers; 5 to 8 swap the axes.  A *level* is a
picture in memory, in stored orientation, that shows some box of the stored picture at
some density: the decoded file, and then every result made so far.  Boxes are floats
on purpose: rounding them to whole pixels of a reduced picture costs 15 dB.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from attrs import frozen

from clinfra.image.sizes import Recipe

HEADROOM = 1.4
"""How many times larger than a result, on each axis, its source must be.

Measured: 1.4 costs at most 0.6 SSIMULACRA2 points against a full decode, 1.0 up to
2.1 points; 2.0 costs a quarter more time and gains nearly nothing.
"""

LEAST_HEADROOM = 1.25
"""The same for what is only an intermediate step to smaller results.

Measured: renditions of 1100 pixels and less made of a master of 1600 lose 0.001 SSIM,
and a photograph of 12 megapixels is decoded in half the time.
"""

AVERAGE_HEADROOM = 2.0
"""The same for a source of means of squares: 0.002 SSIM less than from all pixels."""

Box = tuple[float, float, float, float]
"""Left, upper, right, lower."""


Point = tuple[float, float]
"""Across and down, in fractions of width and height."""

# Turn → whether it swaps the axes, and which stored axes then run backwards.
_TURNS: Final[dict[int, tuple[bool, bool, bool]]] = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, False, True),
    7: (True, True, True),
    8: (True, True, False),
}
_CLOCKWISE: Final = {0: 1, 90: 6, 180: 3, 270: 8}
_FLIP: Final = 4
_FLOP: Final = 2

_POINTS: Final[dict[str, Point]] = {
    "nw": (0, 0),
    "n": (0.5, 0),
    "ne": (1, 0),
    "w": (0, 0.5),
    "center": (0.5, 0.5),
    "e": (1, 0.5),
    "sw": (0, 1),
    "s": (0.5, 1),
    "se": (1, 1),
}


def swaps_axes(turn: int) -> bool:
    """Tell whether a turn, such as an EXIF orientation, makes width of height."""
    return _TURNS[turn][0]


def stored_point(turn: int, point: Point) -> Point:
    """Return where a point of the upright picture lies in the stored one."""
    swap, backwards, upwards = _TURNS[turn]
    across, down = reversed(point) if swap else point
    return 1 - across if backwards else across, 1 - down if upwards else down


def then(first: int, second: int) -> int:
    """Return the one turn that is as two, one after the other."""
    # Two points that no turn confuses.
    marks = ((0.0, 0.0), (1.0, 0.0))
    wanted = [stored_point(first, stored_point(second, mark)) for mark in marks]
    return next(
        turn
        for turn in _TURNS
        if [stored_point(turn, mark) for mark in marks] == wanted
    )


def turn_of(recipe: Recipe, orientation: int) -> int:
    """Return how a stored picture is turned: by EXIF, and then as a recipe asks."""
    turn = orientation
    if recipe.rotate:
        turn = then(turn, _CLOCKWISE[recipe.rotate])
    if recipe.flip:
        turn = then(turn, _FLIP)
    if recipe.flop:
        turn = then(turn, _FLOP)
    return turn


def fit(width: int, height: int, max_width: int, max_height: int) -> tuple[int, int]:
    """Return the size of a picture reduced to fit a frame; it is never enlarged."""
    if width > max_width:
        width, height = max_width, max(height * max_width // width, 1)
    if height > max_height:
        width, height = max(width * max_height // height, 1), max_height
    return width, height


def enlarged(
    width: int, height: int, frame_width: int | None, frame_height: int | None
) -> tuple[int, int]:
    """Return the size of a picture that fits a frame, grown until it touches it."""
    if frame_height is not None and (
        frame_width is None or frame_width * height > frame_height * width
    ):
        return max(width * frame_height // height, 1), frame_height
    if frame_width is not None:
        return frame_width, max(height * frame_width // width, 1)
    return width, height


def cropped(
    width: int, height: int, crop_width: int, crop_height: int
) -> tuple[int, int]:
    """Return the size of the largest part that has the proportions asked for."""
    if width * crop_height <= height * crop_width:
        return width, max(crop_height * width // crop_width, 1)
    return max(crop_width * height // crop_height, 1), height


def _place(room: int, at: float) -> int:
    return int(room * at)


def _around(length: int, part: int, at: float) -> float:
    """Return where a part of a length begins that has a point in its middle."""
    return min(max(at * length - part / 2, 0.0), length - part)


@frozen
class Target:
    """One result, in stored coordinates.

    Attributes:
        recipe: what it is made by.
        width: pixels before it is turned upright.
        height: pixels before it is turned upright.
        box: the part of the stored picture that it shows.
        turn: how it is turned upright.
        canvas: width and height of the whole, upright; larger when it is padded.
        place: where on the canvas it lies: pixels from the left and from above.
        headroom: how many times larger its source must be.
    """

    recipe: Recipe
    width: int
    height: int
    box: Box
    turn: int
    canvas: tuple[int, int]
    place: tuple[int, int]
    headroom: float = HEADROOM

    @property
    def name(self) -> str:
        """Name of its recipe."""
        return self.recipe.name

    @property
    def pixels(self) -> int:
        """How many pixels it has, not counting what pads it."""
        return self.width * self.height

    @property
    def canvas_pixels(self) -> int:
        """How many pixels the whole has."""
        return self.canvas[0] * self.canvas[1]


def make_target(
    recipe: Recipe,
    width: int,
    height: int,
    orientation: int,
    *,
    region: tuple[int, int, int, int] | None = None,
    attention: Point | None = None,
) -> Target:
    """Return the target of a recipe for a picture stored as `width` times `height`.

    "fill", "pad" and "exact" are as large as asked for, however small the picture.
    Only with `enlarge` it grows to fit, also on the canvas that it is padded to.

    Args:
        orientation: of EXIF.
        region: the part of the stored picture that is not trimmed.
        attention: the point of the region, stored, to look at when gravity is smart.
    """
    turn = turn_of(recipe, orientation)
    swap = swaps_axes(turn)
    left, upper, right, lower = region or (0, 0, width, height)
    width, height = right - left, lower - upper
    seen = (height, width) if swap else (width, height)
    box: Box = (left, upper, right, lower)
    frame = (recipe.width or seen[0], recipe.height or seen[1])
    size, place = frame, (0, 0)
    if recipe.mode == "fill":
        part = cropped(*seen, *frame)
        part = (part[1], part[0]) if swap else part
        x, y = _corner(recipe, turn, (width, height), part, attention)
        box = (left + x, upper + y, left + x + part[0], upper + y + part[1])
    elif recipe.mode != "exact":
        size = fit(*seen, *frame)
        if recipe.enlarge and size == seen:
            size = enlarged(*seen, recipe.width, recipe.height)
    canvas = size
    if recipe.mode == "pad":
        canvas = frame
        at = _POINTS[recipe.gravity]
        place = _place(frame[0] - size[0], at[0]), _place(frame[1] - size[1], at[1])
    out_width, out_height = reversed(size) if swap else size
    return Target(recipe, out_width, out_height, box, turn, canvas, place)


def _corner(
    recipe: Recipe,
    turn: int,
    whole: tuple[int, int],
    part: tuple[int, int],
    attention: Point | None,
) -> Point:
    """Return the upper left corner, stored, of the part that a cut keeps."""
    if recipe.gravity == "smart":
        focus = attention
    else:
        focus = None if recipe.focus is None else stored_point(turn, recipe.focus)
    if focus is not None:
        return _around(whole[0], part[0], focus[0]), _around(
            whole[1], part[1], focus[1]
        )
    at = stored_point(turn, _POINTS.get(recipe.gravity, (0.5, 0.5)))
    return _place(whole[0] - part[0], at[0]), _place(whole[1] - part[1], at[1])


def shrink_factor(targets: Iterable[Target]) -> int:
    """Return the largest reduction by 8, 4, 2 or 1 that leaves every target headroom.

    A JPEG decoder does such a reduction nearly for free.
    """
    most = min((_ratio(each) / each.headroom for each in targets), default=1.0)
    return next((factor for factor in (8, 4, 2) if most >= factor), 1)


def average_factor(targets: Iterable[Target]) -> int:
    """Return by how much a large picture is reduced by taking means of its pixels.

    That is coarser than what a JPEG decoder does, and so leaves more headroom.  But to
    reduce it by 2 at all is what keeps it out of memory, and needs the least.
    """
    least = min(map(_ratio, targets), default=1.0)
    return max(int(least / AVERAGE_HEADROOM), 2 if least >= 2 * LEAST_HEADROOM else 1)


def _ratio(target: Target) -> float:
    """Return how many times smaller than its source a target is."""
    left, upper, right, lower = target.box
    return min((right - left) / target.width, (lower - upper) / target.height)


@frozen
class Level:
    """A picture in memory that results can be made from.

    Attributes:
        box: the part of the stored picture that it shows.
        density_x: its pixels per pixel of the stored picture.
        density_y: the same on the other axis.
    """

    box: Box
    density_x: float
    density_y: float

    def window(self, box: Box) -> Box:
        """Return where a box of the stored picture lies in this level's pixels."""
        return (
            (box[0] - self.box[0]) * self.density_x,
            (box[1] - self.box[1]) * self.density_y,
            (box[2] - self.box[0]) * self.density_x,
            (box[3] - self.box[1]) * self.density_y,
        )

    def serves(self, target: Target) -> bool:
        """Tell whether the target lies inside, with headroom."""
        left, upper, right, lower = target.box
        return (
            self.box[0] <= left
            and self.box[1] <= upper
            and self.box[2] >= right
            and self.box[3] >= lower
            and (right - left) * self.density_x >= target.headroom * target.width
            and (lower - upper) * self.density_y >= target.headroom * target.height
        )


def level_of(target: Target) -> Level:
    """Return the level that a finished target is."""
    left, upper, right, lower = target.box
    return Level(
        box=target.box,
        density_x=target.width / (right - left),
        density_y=target.height / (lower - upper),
    )


def choose_level(levels: Sequence[Level], target: Target) -> int:
    """Return the index of the cheapest level with headroom; 0, the decoded, if none."""
    best = 0
    for index, level in enumerate(levels):
        if level.serves(target) and _work(level, target) < _work(levels[best], target):
            best = index
    return best


def _work(level: Level, target: Target) -> float:
    """Pixels of the level that a target reads."""
    left, upper, right, lower = target.box
    return (right - left) * level.density_x * (lower - upper) * level.density_y

"""Decode once, make every size, encode: from bytes and recipes to pictures.

Pillow and its resizer, no Twisted.  Meant to run in a worker process, one picture at
a time per process.

The order of things matters for speed and quality.  A JPEG is decoded at the smallest
DCT scale that leaves headroom over the largest size; sizes are made from largest to
smallest, each from the smallest picture at hand that still has headroom; colour,
transparency, orientation and effects are settled on the small pictures.  The same
bytes and the same job always give the same results.

Each step has a module of its own: `opening`, `colour`, `trimming` and `smart` before
a picture is resized, `effects`, `animation` and `encoding` after.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
from attrs import define, field
from PIL import Image

from clinfra.image import (
    animation,
    colour,
    effects,
    encoding,
    metadata,
    placeholder,
    smart,
    trimming,
)
from clinfra.image.geometry import (
    LEAST_HEADROOM,
    Box,
    Level,
    Point,
    Target,
    choose_level,
    level_of,
    make_target,
    stored_point,
    swaps_axes,
)
from clinfra.image.job import (
    BadImage,
    Job,
    NoSuchFrame,
    Rendered,
    Rendition,
    ResultTooLarge,
    is_rung,
    rung_name,
)
from clinfra.image.opening import Source, open_source
from clinfra.image.resizer import resize
from clinfra.image.sizes import Recipe

Info = dict[str, int | str]
Span = tuple[int, int, str, int, int]
"""Offset, length, media type, width and height of something made."""

_MOST_RESULTS: Final = 4
"""So many of the largest results may be made of one picture, or more smaller ones."""

_PLACEHOLDER: Final = Recipe("", width=32, height=32)
"""What the placeholder is made of."""


def render(source: int | bytes, job: Job) -> Rendered:
    """Make every size of one picture.

    Args:
        source: an open file descriptor, or the bytes.

    Raises:
        BadImage: not a picture that is accepted, or one that cannot be decoded.
        ResultTooLarge: a size of it would have too many pixels.
        NoSuchFrame: a frame is asked for that it does not have.
    """
    with os.fdopen(os.memfd_create("renditions"), "wb") as sink:
        info, spans = render_to(source, job, sink)
        renditions = {
            name: Rendition(os.pread(sink.fileno(), span[1], span[0]), *span[2:])
            for name, span in spans.items()
        }
    return Rendered(info, renditions)


def render_to(
    source: int | bytes, job: Job, sink: io.BufferedWriter
) -> tuple[Info, dict[str, Span]]:
    """Make every size of one picture and write them one after the other.

    Args:
        sink: a real file, best a memfd: only then the encoder lets other threads run.

    Returns:
        The info, and name of a recipe → where in the sink it is and what.

    Raises:
        BadImage: not a picture that is accepted, or one that cannot be decoded.
        ResultTooLarge: a size of it would have too many pixels.
        NoSuchFrame: a frame is asked for that it does not have.
    """
    try:
        with warnings.catch_warnings():
            # What Pillow only warns of is no reason to refuse or to write to a log.
            warnings.simplefilter("ignore")
            return _render(_read(source, job), job, sink)
    except (BadImage, ResultTooLarge, NoSuchFrame):
        raise
    except MemoryError as error:
        raise BadImage("needs more memory than a worker has") from error
    except Exception as error:
        # A decoder given hostile bytes may raise anything at all.
        raise BadImage(f"{type(error).__name__}: {error}") from error


def _read(source: int | bytes, job: Job) -> bytes:
    """Return all of a picture; a descriptor may be anywhere, and stays there."""
    offset, length = 0, len(source) if isinstance(source, bytes) else 0
    if isinstance(source, int):
        offset, length = job.piece or (0, os.fstat(source).st_size)
    if length > job.bounds.max_bytes:
        raise BadImage(f"{length} bytes")
    return os.pread(source, length, offset) if isinstance(source, int) else source


def _render(
    data: bytes, job: Job, sink: io.BufferedWriter
) -> tuple[Info, dict[str, Span]]:
    source = open_source(data, job.bounds)
    stills, films = _sorted(source, job)
    info: Info = {}
    if job.want_info:
        info = _described(source, job, hashlib.sha256(data).hexdigest())
    output = _Output(source, job, sink)
    for frame, recipes in sorted(stills.items()):
        source.go_to(frame)
        chain, targets = _begin(source, job, recipes)
        for target, picture in chain.make_all(targets):
            output.write(target, effects.finished(picture, target))
        if job.want_info and frame == 0:
            info |= _seen(source, chain)
    for reels in _batches(films, job.bounds.max_size_pixels):
        if not _shoot(source, job, reels, output) and job.want_info:
            info["truncated"] = True
    return info, output.spans


def _sorted(
    source: Source, job: Job
) -> tuple[dict[int, list[Recipe]], dict[Recipe, int]]:
    """Return frame → recipes of stills; and recipe → all pixels of animations to make.

    Raises ResultTooLarge and NoSuchFrame before anything was decoded.
    """
    recipes = [*job.recipes]
    left = _MOST_RESULTS * job.bounds.max_size_pixels
    for number, rung in enumerate(job.mezzanines):
        recipes.append(attrs.evolve(rung, name=rung_name(number)))
    # Without recipes a picture is only looked at from outside.
    stills: dict[int, list[Recipe]] = {0: []} if job.want_info and recipes else {}
    films = {}
    for recipe in recipes:
        target = _target(source, job, recipe)
        if not source.reaches(recipe.frame):
            raise NoSuchFrame(recipe.name)
        pixels = source.frames * target.canvas_pixels if recipe.animate else 0
        if recipe.animate and source.moves and pixels <= job.bounds.max_size_pixels:
            films[recipe] = pixels
        else:
            stills.setdefault(recipe.frame, []).append(recipe)
            pixels = target.canvas_pixels
        left -= pixels
        if left < 0 and not is_rung(recipe.name):
            raise ResultTooLarge(recipe.name)
    return stills, films


def _batches(films: Mapping[Recipe, int], most: int) -> Iterator[list[Recipe]]:
    """Yield animations that may be in memory together, of so many pixels at most."""
    batch: list[Recipe] = []
    total = 0
    for recipe, pixels in films.items():
        if batch and total + pixels > most:
            yield batch
            batch, total = [], 0
        batch.append(recipe)
        total += pixels
    if batch:
        yield batch


def _target(source: Source, job: Job, recipe: Recipe, **looks: Any) -> Target:
    """Return the target of a recipe for the frame at hand.

    Args:
        looks: see `make_target`.

    Raises ResultTooLarge.
    """
    target = make_target(recipe, *source.size, source.orientation, **looks)
    longest = encoding.MAX_SIDE.get(recipe.format, min(encoding.MAX_SIDE.values()))
    if (
        target.canvas_pixels > job.bounds.max_size_pixels
        or max(target.canvas) > longest
    ):
        raise ResultTooLarge(recipe.name)
    if is_rung(recipe.name):
        return attrs.evolve(target, headroom=LEAST_HEADROOM)
    return target


def _described(source: Source, job: Job, checksum: str) -> Info:
    """Return what the file says of the picture."""
    swap = swaps_axes(source.orientation)
    width, height = reversed(source.size) if swap else source.size
    info: Info = {
        **metadata.picture_info(source.info),
        **metadata.exif_info(source.camera, publish=job.publish_exif),
        "width": source.width,
        "height": source.height,
        "oriented_width": width,
        "oriented_height": height,
        "frames": source.frames,
        "alpha": source.image.has_transparency_data,
        "format": source.format,
        "content_type": f"image/{source.format.lower()}",
        "mode": source.image.mode,
        "checksum": checksum,
    }
    if job.filename is not None:
        info["filename"] = job.filename
    return info


def _seen(source: Source, chain: _Chain) -> Info:
    """Return what is known of the picture once its first frame is decoded."""
    info: Info = {"alpha": chain.base.mode == "RGBA"}
    if source.truncated:
        info["truncated"] = True
    target = make_target(_PLACEHOLDER, *source.size, source.orientation)
    small = effects.upright(
        chain.glance(target, source.reduction([target])), target.turn
    )
    return {**info, **placeholder.describe(small)}


def _begin(
    source: Source, job: Job, recipes: Sequence[Recipe]
) -> tuple[_Chain, list[Target]]:
    """Decode the frame at hand, as far as needed, and tell what to make of it."""
    targets = [_target(source, job, recipe) for recipe in recipes]
    # As if the placeholder were always made, too: it looks the same then.
    least = [*targets, _target(source, job, _PLACEHOLDER)]
    factor = source.reduction(least)
    base, level = source.decode(factor)
    looking = [
        target
        for target in targets
        if target.recipe.trim is not None or target.recipe.gravity == "smart"
    ]
    if looking:
        targets = [
            _looked(source, job, target, base, level) if target in looking else target
            for target in targets
        ]
        if (finer := source.reduction(targets)) < factor:
            # So much was trimmed that what is left has lost its headroom.
            base, level = source.decode(finer)
    return _Chain(base, level, source.profile), targets


def _looked(
    source: Source, job: Job, target: Target, base: Image.Image, level: Level
) -> Target:
    """Return a target that depends on what there is to see."""
    recipe, (width, height) = target.recipe, source.size
    region = (0, 0, width, height)
    if recipe.trim is not None:
        corner = stored_point(target.turn, (0.0, 0.0))
        box = trimming.content(base, corner, recipe.trim)
        if box is not None:
            region = (
                int(box[0] / level.density_x),
                int(box[1] / level.density_y),
                min(math.ceil(box[2] / level.density_x), width),
                min(math.ceil(box[3] / level.density_y), height),
            )
    target = _target(source, job, recipe, region=region)
    if recipe.gravity != "smart":
        return target
    attention = _attention(base, level.window(region), level.window(target.box))
    return _target(source, job, recipe, region=region, attention=attention)


def _attention(base: Image.Image, region: Box, part: Box) -> Point:
    left, upper, right, lower = region
    share = (part[2] - part[0]) / (right - left), (part[3] - part[1]) / (lower - upper)
    left, upper = int(left), int(upper)
    right = max(min(round(right), base.width), left + 1)
    lower = max(min(round(lower), base.height), upper + 1)
    return smart.attention(base, (left, upper, right, lower), share)


@define(eq=False)
class _Chain:
    """A decoded picture, and what was made of it so far, largest first.

    Attributes:
        base: the decoded picture, workable but in its own colours.
    """

    base: Image.Image
    _level: Level
    _profile: object
    _levels: list[Level] = field(init=False)
    _pictures: list[Image.Image] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._levels, self._pictures = [self._level], [self.base]

    def make_all(
        self, targets: Sequence[Target]
    ) -> Iterator[tuple[Target, Image.Image]]:
        """Yield every target's pixels, stored, in display colours."""
        for target in sorted(targets, key=lambda each: each.pixels, reverse=True):
            picture = self.make(target)
            self._levels.append(level_of(target))
            self._pictures.append(picture)
            yield target, picture

    def glance(self, target: Target, factor: int) -> Image.Image:
        """Return one target's pixels, made of nothing but the decoded picture.

        So they are alike whatever else is made, as long as that is decoded alike, and
        nearly so if not.

        Args:
            factor: by how much the picture is reduced first, in all.
        """
        further = round(factor * self._level.density_x)
        base = self.base.reduce(further) if further > 1 else self.base
        small = resize(base, (target.width, target.height), (0, 0, *base.size))
        return colour.displayable(small, self._profile)

    def make(self, target: Target) -> Image.Image:
        """Return one target's pixels."""
        index = choose_level(self._levels, target)
        source = self._pictures[index]
        left, upper, right, lower = self._levels[index].window(target.box)
        window = (left, upper, min(right, source.width), min(lower, source.height))
        picture = resize(source, (target.width, target.height), window)
        return colour.displayable(picture, self._profile) if index == 0 else picture


@define(eq=False)
class _Output:
    """Results, one after the other in a file.

    Attributes:
        spans: name of a recipe → where it is and what.
    """

    _source: Source
    _job: Job
    _sink: io.BufferedWriter
    spans: dict[str, Span] = field(init=False, factory=dict)

    def write(
        self,
        target: Target,
        picture: Image.Image,
        film: animation.Film | None = None,
    ) -> None:
        """Encode one."""
        recipe = target.recipe
        exif = metadata.credits(self._source.camera) if recipe.keep else b""
        start = self._sink.tell()
        media_type = encoding.encode(
            picture, recipe, self._job.quality, self._sink, film=film, exif=exif
        )
        length = self._sink.seek(0, os.SEEK_END) - start
        self.spans[recipe.name] = (start, length, media_type, *picture.size)


def _shoot(
    source: Source, job: Job, recipes: Sequence[Recipe], output: _Output
) -> bool:
    """Make animations: every frame as the first would be made.

    Returns False when a frame could not be decoded: they end before it.
    """
    first = source.first_moving
    source.go_to(first)
    chain, targets = _begin(source, job, recipes)
    for target in targets:
        # It may have other proportions than expected once it is trimmed.
        if source.frames * target.canvas_pixels > 2 * job.bounds.max_size_pixels:
            raise ResultTooLarge(target.name)
    plays = animation.plays(source.image)
    reduction = source.reduction(targets)
    durations: list[int] = []
    reels: dict[Target, list[Image.Image]] = {target: [] for target in targets}
    for frame in range(first, source.frames):
        if frame > first:
            try:
                source.go_to(frame)
                chain = _Chain(*source.decode(reduction), source.profile)
            except (OSError, EOFError, SyntaxError, ValueError, RuntimeError):
                break
        durations.append(animation.duration_ms(source.image))
        for target, picture in chain.make_all(targets):
            reels[target].append(effects.finished(picture, target))
    for target, reel in reels.items():
        film = animation.film_of(reel, durations, plays)
        output.write(target, film.frames[0], film)
    return len(durations) == source.frames - first

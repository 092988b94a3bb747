"""Colours: what a file holds becomes sRGB or grey, with or without transparency.

Done in two steps, because the picture is much smaller after it is resized: `workable`
before, so that values may be averaged; `displayable` after.
"""

from __future__ import annotations

import io
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from PIL import Image, ImageChops, ImageCms

_MAX_PROFILE_BYTES: Final = 4 << 20
_STRIP_PIXELS: Final = 1 << 20
_WHOLE_MODES: Final = frozenset({"I", "F", "LAB"})
"""What one strip cannot tell what to make of, or which is too rare."""

_GREY_PROFILE: Final = "GRAY"


def workable(image: Image.Image) -> Image.Image:
    """Return a picture in a mode whose values may be averaged.

    That is L, RGB, CMYK, LAB, or RGBA when something shines through.
    """
    picture = _averageable(image)
    return _opaque(picture) if shines_through(picture) is False else picture


def averaged(image: Image.Image, factor: int) -> Image.Image:
    """Return a workable picture of the means of squares of so many pixels.

    Only a strip of it is ever converted: pictures that are large enough to be reduced
    so would take several times the memory that they have as they are decoded.
    """
    if image.mode in _WHOLE_MODES:
        return workable(image).reduce(factor)
    width, height = image.size
    rows = factor * max(_STRIP_PIXELS // (width * factor), 1)
    strips = (
        image.crop((0, upper, width, min(upper + rows, height)))
        for upper in range(0, height, rows)
    )
    return assembled(strips, image.size, factor)


def assembled(
    strips: Iterable[Image.Image], size: tuple[int, int], factor: int
) -> Image.Image:
    """Return a workable picture made of strips from above, each reduced on its way.

    Args:
        strips: at least one, of one mode; all but the last have a multiple of `factor`
            rows.
        size: of the whole; what no strip is there for stays empty.
    """
    width, height = size
    canvas = None
    upper = 0
    for strip in strips:
        rows, strip = strip.height, _averageable(strip)
        if factor > 1:
            if strip.mode == "RGBA":
                strip = strip.convert("RGBa")
            strip = strip.reduce(factor)
        if canvas is None:
            reduced = (-(-width // factor), -(-height // factor))
            canvas = Image.new(strip.mode, reduced)
        canvas.paste(strip, (0, upper // factor))
        upper += rows
    if canvas is None:
        raise OSError("nothing of the picture is there")
    return workable(canvas)


def displayable(picture: Image.Image, profile: object) -> Image.Image:
    """Return a workable picture in sRGB or grey: RGB, L or RGBA.

    Args:
        profile: the ICC profile of the file, if it has one.
    """
    if picture.mode != "RGBA":
        return _converted(picture, profile)
    colours = _converted(_opaque(picture), profile)
    if colours.mode != "RGB":
        colours = colours.convert("RGB")
    colours.putalpha(picture.getchannel("A"))
    return colours


def shines_through(picture: Image.Image) -> bool | None:
    """Tell whether a picture is transparent anywhere; None when it could not be."""
    if picture.mode != "RGBA":
        return None
    lowest = picture.getchannel("A").getextrema()[0]
    assert isinstance(lowest, int)
    return lowest < 255


def flattened(picture: Image.Image, background: str) -> Image.Image:
    """Return a displayable picture with a colour, "rrggbb", behind it."""
    if picture.mode != "RGBA":
        return picture
    canvas = Image.new("RGB", picture.size, f"#{background}")
    canvas.paste(picture, mask=picture.getchannel("A"))
    return canvas


def _opaque(picture: Image.Image) -> Image.Image:
    return picture.convert("RGB")


def _averageable(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "P":
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    if mode in ("PA", "LA", "La", "RGBa"):
        return image.convert("RGBA")
    if mode == "1":
        return image.convert("L")
    if mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    if mode in ("I", "F"):
        return _to_8_bits(image)
    if mode in ("L", "RGB", "RGBA") and "transparency" in image.info:
        return image.convert("RGBA")
    if mode in ("L", "RGB", "RGBA", "CMYK", "LAB"):
        return image
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Return wide or real values as 256 greys.

    No file says which value is white: the next of the usual ones above the largest is
    taken, and what goes beyond all of them, or below zero, is spread over the range.
    """
    low, high = image.getextrema()
    assert isinstance(low, int | float) and isinstance(high, int | float)
    if low >= 0:
        whites = (255, 65535) if image.mode == "I" else (1, 255, 65535)
        low, high = 0, next((white for white in whites if white >= high), high)
    scale = 255 / (high - low) if high > low else 0.0
    return image.point(lambda value: value * scale + -low * scale).convert("L")


def _converted(picture: Image.Image, profile: object) -> Image.Image:
    """Return an opaque picture as sRGB or grey."""
    if isinstance(profile, bytes) and len(profile) <= _MAX_PROFILE_BYTES:
        if picture.mode == "RGB" and _is_for_greys(profile) and _is_grey(picture):
            picture = picture.convert("L")
        transform = _to_srgb(profile, picture.mode)
        if transform is not None:
            converted = ImageCms.applyTransform(picture, transform)
            assert converted is not None
            return converted.convert("L") if picture.mode == "L" else converted
    if picture.mode in ("L", "RGB"):
        return picture
    if picture.mode == "LAB":
        converted = ImageCms.applyTransform(picture, _lab_to_srgb())
        assert converted is not None
        return converted
    return picture.convert("RGB")


def _is_grey(picture: Image.Image) -> bool:
    """Tell whether an RGB picture is one of greys, such as grey with transparency."""
    red, green, blue = picture.split()
    return not (
        ImageChops.difference(red, green).getbbox()
        or ImageChops.difference(red, blue).getbbox()
    )


@lru_cache(maxsize=8)
def _is_for_greys(profile: bytes) -> bool:
    try:
        described = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
        return described.xcolor_space.strip() == _GREY_PROFILE
    except (ImageCms.PyCMSError, OSError, ValueError):
        return False


@lru_cache(maxsize=8)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the way from a profile to sRGB; None when there is none or no need."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if mode == "RGB" and "sRGB" in ImageCms.getProfileDescription(source):
            return None
        return ImageCms.buildTransform(
            source,
            _srgb(),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        # A broken profile, or one of another kind than the picture: as if untagged.
        return None


@lru_cache(maxsize=1)
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    return ImageCms.buildTransform(lab, _srgb(), "LAB", "RGB")


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))

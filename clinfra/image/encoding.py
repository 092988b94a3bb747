"""What a finished picture is written as, and with which settings.

The only place that knows encoders, so that their settings can be tuned here and
nowhere else.  The same picture, recipe and quality give the same bytes: encoders run
in one thread, and nothing that Pillow remembers of the file is written.  Lossless AVIF
may be off by a level or two, because it stores no RGB.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, Final

from PIL import Image

from clinfra.image import animation, png
from clinfra.image.animation import Film
from clinfra.image.job import is_rung
from clinfra.image.sizes import Recipe

MAX_SIDE: Final[Mapping[str, int]] = {
    "jpeg": 65500,
    "webp": 16383,
    "avif": 16384,
    "png": 65500,
}
"""Most pixels of a side in each format."""

_WEBP_METHOD: Final = 2
_AVIF_SPEED: Final = 9
_MOVING_PNG_LEVEL: Final = 1


def format_of(recipe: Recipe, picture: Image.Image) -> str:
    """Return the format a picture gets: jpeg, webp, avif or png.

    Args:
        picture: displayable, RGBA only when something shines through.
    """
    if recipe.format not in ("jpeg", "plain", "auto"):
        return recipe.format
    see_through = picture.mode == "RGBA" and not recipe.background
    if recipe.lossless or (recipe.format != "jpeg" and see_through):
        return "png"
    return "jpeg"


def encode(
    picture: Image.Image,
    recipe: Recipe,
    quality: int,
    sink: io.BufferedWriter,
    *,
    film: Film | None = None,
    exif: bytes = b"",
) -> str:
    """Write a finished picture where a file stands, and return its media type.

    Args:
        picture: L, RGB or RGBA, the latter only if its format has transparency.
        quality: 1 to 100, when the recipe says nothing.
        sink: a real file, best a memfd: only then a JPEG encoder lets other threads
            run.  Where it stands afterwards is undefined; what is written is at its
            end.
        film: the picture moves, and this is all of it; not for JPEG.
        exif: a block to put in.
    """
    name = format_of(recipe, picture)
    options = {
        "jpeg": _jpeg,
        "webp": _webp,
        "avif": _avif,
        "png": _png,
    }[name](recipe, recipe.quality or quality)
    if film is not None:
        options |= {
            "save_all": True,
            "append_images": film.frames[1:],
            "duration": list(film.durations_ms),
            "loop": film.plays,
        }
    if exif:
        options["exif"] = (b"Exif\0\0" if name == "jpeg" else b"") + exif
    # Pillow writes some of what it has read unless it is told otherwise.
    picture.info = {}
    if film is None and name == "png":
        png.write(picture, sink, exif)
    elif film is not None and name == "avif":
        memory = io.BytesIO()
        picture.save(memory, name.upper(), **options)
        sink.write(animation.completed(memory.getvalue(), film.plays))
    else:
        picture.save(sink, name.upper(), **options)
    return f"image/{name}"


def _jpeg(recipe: Recipe, quality: int) -> dict[str, Any]:
    return {
        "quality": quality,
        # Of what only a worker reads again 2 % are not worth a tenth of an upload.
        "optimize": not is_rung(recipe.name),
        "progressive": recipe.progressive,
        "subsampling": "4:2:0",
        "comment": b"",
    }


def _webp(recipe: Recipe, quality: int) -> dict[str, Any]:
    return {"quality": quality, "lossless": recipe.lossless, "method": _WEBP_METHOD}


def _avif(recipe: Recipe, quality: int) -> dict[str, Any]:
    lossless = {"quality": 100, "subsampling": "4:4:4"}
    settings = lossless if recipe.lossless else {"quality": quality}
    return {**settings, "speed": _AVIF_SPEED, "max_threads": 1}


def _png(recipe: Recipe, quality: int) -> dict[str, Any]:
    return {"compress_level": _MOVING_PNG_LEVEL}

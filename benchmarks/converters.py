"""The ways to make one picture in some format, each measured alone.

    python -m benchmarks.converters WAY FORMAT PICTURES RESULTS SECONDS

See `meter` for what it does.  Where encoders have other scales for the same thing, both
are set to what gives about the same bytes for the same effort.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from benchmarks import meter
from benchmarks.meter import Renditions
from clinfra.config import ImageConfig
from clinfra.image import codec
from clinfra.image.job import Bounds, Job
from clinfra.image.sizes import parse_recipe

NAME = "600x450"
_WIDTH, _HEIGHT = 600, 450

_RECIPES = {
    "jpeg": f"{NAME}_q-70",
    "webp": f"{NAME}_q-70_webp",
    "avif": f"{NAME}_q-65_avif",
    "png": f"{NAME}_png",
}

# How libvips writes each; effort is the method of WebP, and 9 - speed of AVIF.
_VIPS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "jpeg": (".jpg", {"Q": 70, "optimize_coding": True}),
    "webp": (".webp", {"Q": 70, "effort": 2}),
    "avif": (".avif", {"Q": 65, "effort": 0}),
    "png": (".png", {}),
}


def ours(form: str, picture: bytes) -> Renditions:
    """Return what clinfra's codec makes, as for a rendition on demand."""
    recipe = parse_recipe(_RECIPES[form])
    bounds = Bounds.of(ImageConfig())
    formats = tuple({*bounds.formats, "WEBP", "AVIF"})
    bounds = attrs.evolve(bounds, formats=formats)
    job = Job((recipe,), 70, bounds, want_info=False)
    return {NAME: codec.render(picture, job).renditions[recipe.name].body}


def vips(form: str, picture: bytes) -> Renditions:
    """Return what libvips makes."""
    import pyvips  # optional: only this way needs it

    extension, options = _VIPS[form]
    image = pyvips.Image.thumbnail_buffer(picture, _WIDTH, height=_HEIGHT)
    return {NAME: image.write_to_buffer(extension, keep="none", **options)}


WAYS: Mapping[str, Callable[[str, bytes], Renditions]] = {
    "clinfra": ours,
    "vips": vips,
}


if __name__ == "__main__":
    way, form, pictures, results, seconds = sys.argv[1:]
    meter.run(partial(WAYS[way], form), Path(pictures), Path(results), float(seconds))

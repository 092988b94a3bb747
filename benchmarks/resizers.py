"""The ways to make the three classic sizes of one upload, each measured alone.

    python -m benchmarks.resizers WAY PHOTOGRAPHS RESULTS SECONDS

See `meter` for what it does.  sharp's ways are in sharp_ways.js.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path

from PIL import Image, ImageOps

from benchmarks import meter
from benchmarks.meter import Renditions
from clinfra.config import ImageConfig
from clinfra.image import codec
from clinfra.image.job import Bounds, Job
from clinfra.image.sizes import parse_recipe, parse_size

SIZES = "50x50c,300x300,600x450"
QUALITY = 70


def reopening(photograph: bytes) -> Renditions:
    """Make each size from the file anew, at the smallest sufficient DCT scale.

    What the original did: draft, Lanczos, optimised Huffman tables.
    """
    results = {}
    for name in SIZES.split(","):
        width, height = _box(name)
        with Image.open(BytesIO(photograph)) as image:
            image.draft(None, (width, height))
            if name.endswith("c"):
                made = ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
            else:
                fitted = ImageOps.contain(
                    image, (width, height), Image.Resampling.LANCZOS
                )
                made = fitted
            output = BytesIO()
            made.save(output, "JPEG", quality=QUALITY, optimize=True)
        results[name] = output.getvalue()
    return results


def vips_each(photograph: bytes) -> Renditions:
    """One libvips thumbnail pipeline per size."""
    import pyvips  # optional: only this way and the next need it

    results = {}
    for name in SIZES.split(","):
        width, height = _box(name)
        crop = "centre" if name.endswith("c") else "none"
        image = pyvips.Image.thumbnail_buffer(
            photograph, width, height=height, crop=crop
        )
        results[name] = _vips_jpeg(image)
    return results


def vips_chained(photograph: bytes) -> Renditions:
    """One libvips decode to the largest size, the others from the one before."""
    import pyvips  # optional, as above

    results = {}
    image = None
    for name in reversed(SIZES.split(",")):
        width, height = _box(name)
        crop = "centre" if name.endswith("c") else "none"
        if image is None:
            image = pyvips.Image.thumbnail_buffer(photograph, width, height=height)
        else:
            image = image.thumbnail_image(width, height=height, crop=crop)
        image = image.copy_memory()
        results[name] = _vips_jpeg(image)
    return results


def ours(photograph: bytes) -> Renditions:
    """Return what clinfra's codec makes, of the pictures alone as the peers do."""
    return _ours(photograph, want_info=False)


def ours_of_upload(photograph: bytes) -> Renditions:
    """The same as the workers do it for an upload: with checksum, EXIF, placeholder."""
    return _ours(photograph, want_info=True)


def _ours(photograph: bytes, *, want_info: bool) -> Renditions:
    sizes = tuple(map(parse_size, SIZES.split(",")))
    job = Job(sizes, QUALITY, Bounds.of(ImageConfig()), want_info=want_info)
    renditions = codec.render(photograph, job).renditions
    return {name: rendition.body for name, rendition in renditions.items()}


def unencoded(photograph: bytes) -> bytes:
    """Return the largest of our three sizes as a PNG."""
    sizes = [*SIZES.split(",")[:-1], "600x450_png"]
    recipes = tuple(map(parse_recipe, sizes))
    job = Job(recipes, QUALITY, Bounds.of(ImageConfig()), want_info=False)
    return codec.render(photograph, job).renditions["600x450_png"].body


WAYS: Mapping[str, Callable[[bytes], Renditions]] = {
    "clinfra": ours,
    "clinfra-upload": ours_of_upload,
    "reopening": reopening,
    "vips-each": vips_each,
    "vips-chained": vips_chained,
}


def _box(name: str) -> tuple[int, int]:
    width, _, height = name.rstrip("c").partition("x")
    return int(width), int(height)


def _vips_jpeg(image: object) -> bytes:
    jpeg: bytes = image.jpegsave_buffer(Q=QUALITY, optimize_coding=True, keep="none")  # type: ignore[attr-defined]  # pyvips makes its methods at run time
    return jpeg


if __name__ == "__main__":
    meter.run(
        WAYS[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
    )

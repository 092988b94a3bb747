"""The ways to make the three classic sizes of one upload, each measured alone.

    python -m benchmarks.resizers WAY PHOTOGRAPH SECONDS

prints a line of JSON: images made, CPU seconds of this process and its children, wall
seconds, and the sizes of the results.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

from PIL import Image, ImageOps

from clinfra.config import ImageConfig
from clinfra.image import codec
from clinfra.image.job import Bounds, Job
from clinfra.image.sizes import parse_size

SIZES = "50x50c,300x300,600x450"
QUALITY = 70

Renditions = Mapping[str, bytes]
"""JPEG bytes by size name."""


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
    """Return what clinfra's codec makes, as its workers call it."""
    sizes = tuple(map(parse_size, SIZES.split(",")))
    job = Job(sizes, QUALITY, Bounds.of(ImageConfig()))
    renditions = codec.render(photograph, job).renditions
    return {name: rendition.body for name, rendition in renditions.items()}


WAYS: Mapping[str, Callable[[bytes], Renditions]] = {
    "clinfra": ours,
    "reopening": reopening,
    "vips-each": vips_each,
    "vips-chained": vips_chained,
}


def main(way: str, path: Path, seconds: float) -> None:
    """Repeat one way for so long, after once to warm up, and print the figures."""
    photograph = path.read_bytes()
    make = WAYS[way]
    results = make(photograph)
    images = 0
    wall, cpu = time.perf_counter(), _cpu_seconds()
    while time.perf_counter() - wall < seconds:
        make(photograph)
        images += 1
    figures = {
        "images": images,
        "cpu_seconds": _cpu_seconds() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "sizes": {name: _dimensions(jpeg) for name, jpeg in results.items()},
    }
    print(json.dumps(figures))


def _box(name: str) -> tuple[int, int]:
    width, _, height = name.rstrip("c").partition("x")
    return int(width), int(height)


def _vips_jpeg(image: object) -> bytes:
    jpeg: bytes = image.jpegsave_buffer(Q=QUALITY, optimize_coding=True, keep="none")  # type: ignore[attr-defined]  # pyvips makes its methods at run time
    return jpeg


def _dimensions(jpeg: bytes) -> tuple[int, int]:
    with Image.open(BytesIO(jpeg)) as image:
        image.load()
        return image.size


def _cpu_seconds() -> float:
    own, children = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))

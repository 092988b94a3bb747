"""A worker at its largest: the memory it has for the largest picture of each format.

Bar: never more than 250 MB.  What is refused for its size, or for the memory it would
take, is tried in smaller sizes until it is accepted; what refusing took counts too.
The worker makes of it what it makes of an upload, sizes and mezzanines, after an
ordinary photograph and twice, because allocators keep some of what was given back.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks import image_peers, needs, photographs
from benchmarks.figures import BenchmarkFailed, Reading
from benchmarks.rounds import Plan
from benchmarks.servers import REPOSITORY, Stage
from clinfra.config import ImageConfig
from clinfra.image import child

_MOST_MEGABYTES = 250.0
_PATIENCE_SECONDS = 120.0

_Write = Callable[[Image.Image, Path], None]


def _saving(form: str, mode: str = "RGB", **options: object) -> _Write:
    return lambda picture, path: picture.convert(mode).save(path, form, **options)


def _as_palette(picture: Image.Image, path: Path) -> None:
    picture.quantize(256, Image.Quantize.FASTOCTREE).save(path, "GIF")


def _as_heic(picture: Image.Image, path: Path) -> None:
    import pillow_heif  # optional, as it is for the service

    fast = {"preset": "ultrafast"}
    pillow_heif.from_pillow(picture).save(path, quality=50, enc_params=fast)


_KINDS: dict[str, tuple[str, _Write]] = {
    "JPEG": ("JPEG", _saving("JPEG", quality=92)),
    "JPEG, progressive": ("JPEG", _saving("JPEG", quality=92, progressive=True)),
    "JPEG, progressive 4:4:4 CMYK": (
        "JPEG",
        _saving("JPEG", "CMYK", quality=80, progressive=True, subsampling="4:4:4"),
    ),
    "PNG": ("PNG", _saving("PNG", compress_level=1)),
    "PNG with alpha": ("PNG", _saving("PNG", "RGBA", compress_level=1)),
    "GIF": ("GIF", _as_palette),
    "WebP": ("WEBP", _saving("WEBP", quality=80, method=0)),
    "WebP, lossless": ("WEBP", _saving("WEBP", lossless=True, quality=0, method=0)),
    "AVIF": ("AVIF", _saving("AVIF", quality=60, speed=10)),
    "HEIC": ("HEIC", _as_heic),
    "TIFF": ("TIFF", _saving("TIFF", compression="jpeg")),
    "BMP": ("BMP", _saving("BMP", "L")),
}
"""Name → format, and how such a file is written."""

_SIDES = tuple(round(7000 * 0.87**step) for step in range(8))
"""Of square pictures, the first being as large as any that is accepted."""


def run(stage: Stage, plan: Plan) -> Iterator[Reading]:
    """Yield a reading for each kind of picture."""
    needs.python_package("pillow_heif")
    root = image_peers.root(stage)
    for name, (form, write) in _KINDS.items():
        if form not in ImageConfig().formats:
            continue
        title = f"image, most memory of a worker, {name}"
        try:
            yield _peak(title, root, name, write)
        except (BenchmarkFailed, OSError) as failure:
            trouble = str(failure)
            yield Reading(title, "MB", (), at_most=_MOST_MEGABYTES, trouble=trouble)


def _peak(title: str, root: Path, name: str, write: _Write) -> Reading:
    """Try smaller and smaller pictures until one is accepted; refusals count too."""
    ordinary = min(photographs.large(root).iterdir())
    most = 0.0
    refusals: list[str] = []
    for side in _SIDES:
        file = f"{name.replace(', ', '-').replace(' ', '-')}-{side}"
        path = photographs.huge(root, file, side, write)
        figures = _in_worker(ordinary, path)
        most = max(most, figures["megabytes"])
        if figures["refused"] is None:
            took = f"{figures['seconds']:.2f} s"
            note = f"{side}x{side}, {path.stat().st_size / 1e6:.1f} MB, {took}"
            if refusals:
                note += f"; {_SIDES[0]}x{_SIDES[0]} is refused: {refusals[0]}"
            return Reading(title, "MB", (most,), at_most=_MOST_MEGABYTES, note=note)
        refusals.append(figures["refused"])
    raise BenchmarkFailed(f"no size is accepted: {refusals[-1]}")


def _in_worker(ordinary: Path, path: Path) -> dict[str, Any]:
    argv = [sys.executable, "-m", "benchmarks.largest", str(ordinary), str(path)]
    run = subprocess.run(
        argv,
        cwd=REPOSITORY,
        env={**os.environ, **child.environment()},
        capture_output=True,
        text=True,
        timeout=_PATIENCE_SECONDS,
        check=False,
    )
    if run.returncode:
        last_line = run.stderr.strip().rpartition("\n")[2]
        raise BenchmarkFailed(f"a worker ended with {run.returncode}: {last_line}")
    figures: dict[str, Any] = json.loads(run.stdout)
    return figures

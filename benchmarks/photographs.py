"""Photographs, taken by people with cameras, as files of the size that cameras make.

They are of Debian's package lomiri-wallpapers-16.04, which is unpacked below the
results and not installed: "Dragonfly" by Bolly (CC BY-SA 4.0), "picosdeeuropa" and
"sunset" by Aitzol Berasategi (CC BY 4.0), "seeding" by Clemens Engelhardt (CC0).

Each is cut to 4:3 and resampled to exactly 4000x3000, JPEG 4:2:0 of quality 96: 2.4 to
4.9 MB, 3.2 on average.  For formats that no camera writes there are copies of
2040x1530; and for the memory of workers, files as large as anything accepted.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from benchmarks import needs

SIZE = (4000, 3000)
SMALL = (2040, 1530)

_PACKAGE = "lomiri-wallpapers-16.04"
_FOLDER = Path("usr/share/backgrounds")
NAMES = {
    "dragonfly": "Dragonfly_by_Bolly.jpg",
    "mountains": "picosdeeuropa_by_Aitzol_Berasategi.jpg",
    "seeding": "seeding_by_Clements_Engelhardt.jpg",
    "sunset": "sunset_by_Aitzol_Berasategi.jpg",
}
_CAMERA: Mapping[str, Any] = {"quality": 96, "subsampling": "4:2:0"}
_LANCZOS = Image.Resampling.LANCZOS

# How a small copy is written.
_WRITTEN: Mapping[str, Mapping[str, Any]] = {
    "jpeg": _CAMERA,
    "webp": {"quality": 90, "method": 4},
    "avif": {"quality": 80, "speed": 8},
    "png": {"compress_level": 6},
}


def large(root: Path) -> Path:
    """Return the directory of the photographs of 12 megapixels."""
    return _made(root / "large", lambda path: _copies(root, path, SIZE, "jpeg"))


def small(root: Path, form: str) -> Path:
    """Return the directory of copies of 3 megapixels: jpeg, webp, avif or png."""
    directory = root / f"small-{form}"
    return _made(directory, lambda path: _copies(root, path, SMALL, form))


def huge(
    root: Path, name: str, side: int, change: Callable[[Image.Image, Path], None]
) -> Path:
    """Return a file with a square photograph.

    Args:
        name: of the file.
        side: pixels.
        change: writes the photograph there, in whatever way.
    """
    path = root / "huge" / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name("unfinished-" + name)
        change(_square(root, side), unfinished)
        unfinished.rename(path)
    return path


@cache
def reference(path: Path, size: tuple[int, int]) -> Image.Image:
    """Return what a photograph is when all of it is decoded and Lanczos-resampled."""
    with Image.open(path) as picture:
        return picture.convert("RGB").resize(size, _LANCZOS)


@cache
def _square(root: Path, side: int) -> Image.Image:
    with Image.open(_original(root, "dragonfly")) as picture:
        half = ImageOps.fit(picture.convert("RGB"), (side // 2, side // 2), _LANCZOS)
    # Soft, as such pictures are: few are taken with so many pixels that say something.
    return half.resize((side, side), Image.Resampling.BICUBIC)


def _copies(root: Path, directory: Path, size: tuple[int, int], form: str) -> None:
    for name in NAMES:
        with Image.open(_original(root, name)) as picture:
            copy = ImageOps.fit(picture.convert("RGB"), size, _LANCZOS)
        memory = io.BytesIO()
        copy.save(memory, form.upper(), **_WRITTEN[form])
        extension = "jpg" if form == "jpeg" else form
        (directory / f"{name}.{extension}").write_bytes(memory.getvalue())


def _original(root: Path, name: str) -> Path:
    package = _made(root / _PACKAGE, lambda path: needs.unpacked(_PACKAGE, path))
    return package / _FOLDER / NAMES[name]


def _made(directory: Path, make: Callable[[Path], None]) -> Path:
    """Return a directory that is there as a whole, made now or by an earlier run."""
    if not directory.exists():
        unfinished = directory.with_name("unfinished-" + directory.name)
        unfinished.mkdir(parents=True, exist_ok=True)
        make(unfinished)
        unfinished.rename(directory)
    return directory

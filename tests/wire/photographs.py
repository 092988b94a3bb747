"""A 12-megapixel picture as a camera held sideways writes it, made by code."""

from __future__ import annotations

from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageOps


def write_photograph(
    path: Path, *, orientation: int = 1, size: tuple[int, int] = (4000, 3000)
) -> None:
    """Write a JPEG whose corners all differ, with an EXIF orientation."""
    width, height = size
    across = Image.linear_gradient("L").rotate(90).resize(size)
    down = Image.linear_gradient("L").resize(size)
    noise = Image.frombytes("L", (40, 30), Random(2013).randbytes(1200))
    picture = Image.merge("RGB", (across, down, noise.resize(size)))
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, width // 5, height // 8), fill=(255, 255, 255))
    draw.ellipse(
        (width // 2, height // 2, width * 3 // 4, height * 7 // 8), fill=(200, 30, 30)
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Camera"
    picture.save(path, "JPEG", quality=92, exif=exif.tobytes())


def upright_picture(path: Path, size: tuple[int, int]) -> Image.Image:
    """Return the picture turned upright and reduced, the slow and sure way."""
    with Image.open(path) as picture:
        upright = ImageOps.exif_transpose(picture)
    assert upright is not None
    return upright.convert("RGB").resize(size, Image.Resampling.LANCZOS)

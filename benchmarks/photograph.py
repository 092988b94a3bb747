"""A 12-megapixel JPEG with the statistics of a photograph, made from a seed.

Natural images have detail at every scale, falling with frequency; octaves of noise have
it too.  On top come hard edges of every size and weaker colour, and the
quality is chosen so that the file has a camera's 3 to 4 MB: what a decoder's time
depends on is how many coefficients it has to read.
"""

from __future__ import annotations

from pathlib import Path
from random import Random

from PIL import Image, ImageChops, ImageDraw

WIDTH, HEIGHT = 4000, 3000
_QUALITY = 92
_SHAPES = 400


def make(path: Path) -> None:
    """Write the photograph."""
    rng = Random(2013)
    light = _octaves(
        rng, WIDTH, HEIGHT, octaves=10, contrast=1.0, falloff=0.71, shapes=_SHAPES
    )
    half = (WIDTH // 2, HEIGHT // 2)
    blue = _octaves(rng, *half, octaves=9, contrast=0.25, falloff=0.6)
    red = _octaves(rng, *half, octaves=9, contrast=0.25, falloff=0.6)
    picture = Image.merge(
        "YCbCr", (light, blue.resize(light.size), red.resize(light.size))
    )
    picture.convert("RGB").save(path, "JPEG", quality=_QUALITY)


def _octaves(
    rng: Random,
    width: int,
    height: int,
    *,
    octaves: int,
    contrast: float,
    falloff: float,
    shapes: int = 0,
) -> Image.Image:
    """Return a grey field: coarse noise first, each octave finer and weaker."""
    field: Image.Image | None = None
    for halvings in reversed(range(octaves)):
        size = (width >> halvings, height >> halvings)
        noise = _noise(rng, size, contrast)
        contrast *= falloff
        if field is None:
            field = noise
            continue
        field = field.resize(size, Image.Resampling.BICUBIC)
        if halvings == 2:
            _draw_shapes(rng, field, shapes)
        field = ImageChops.add(field, noise, scale=1.0, offset=-128)
    assert field is not None
    return field


def _noise(rng: Random, size: tuple[int, int], contrast: float) -> Image.Image:
    """Return independent grey pixels around the middle."""
    width, height = size
    noise = Image.frombytes("L", size, rng.randbytes(width * height))
    return noise.point([round(128 + (value - 128) * contrast) for value in range(256)])


def _draw_shapes(rng: Random, field: Image.Image, count: int) -> None:
    """Add things with edges, few of them large."""
    draw = ImageDraw.Draw(field)
    for _ in range(count):
        x, y = rng.randrange(field.width), rng.randrange(field.height)
        size = field.width * 0.2 * rng.random() ** 4 + 2
        corners = [
            (x + rng.uniform(-size, size), y + rng.uniform(-size, size))
            for _ in range(rng.randrange(3, 7))
        ]
        draw.polygon(corners, fill=rng.randrange(40, 216))

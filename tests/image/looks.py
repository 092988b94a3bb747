"""How alike two pictures are, and pictures made by recipes, for tests."""

from __future__ import annotations

import io
from typing import Any

import attrs
from PIL import Image, ImageChops, ImageMath, ImageStat

from clinfra.image import codec
from clinfra.image.job import Rendered
from clinfra.image.sizes import parse_recipe
from tests.image.support import job

EVERYTHING = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "HEIC", "TIFF", "BMP")


def render(data: bytes, *recipes: str, quality: int = 95, **changes: Any) -> Rendered:
    """Render recipes of some bytes, of any format."""
    asked = job(f"sizes=&quality={quality}", formats=EVERYTHING, **changes)
    parsed = tuple(map(parse_recipe, recipes))
    return codec.render(data, attrs.evolve(asked, recipes=parsed))


def made(data: bytes, recipe: str, **changes: Any) -> Image.Image:
    """Return what a recipe makes of some bytes, decoded, without a palette."""
    name = parse_recipe(recipe).name
    rendered = render(data, name, **changes)
    picture = Image.open(io.BytesIO(rendered.renditions[name].body))
    if picture.mode != "P":
        return picture
    return picture.convert("RGBA" if picture.has_transparency_data else "RGB")


def difference(one: Image.Image, other: Image.Image) -> float:
    """Return how far two pictures are apart: root mean square, of 255."""
    assert one.size == other.size, (one.size, other.size)
    mode = "RGBA" if "A" in one.mode + other.mode else "RGB"
    # Colours of what is invisible mean nothing.
    pair = [each.convert(mode) for each in (one, other)]
    pair = [each.convert("RGBa") if mode == "RGBA" else each for each in pair]
    bands = zip(*(each.split() for each in pair), strict=True)
    return max(ImageStat.Stat(ImageChops.difference(*each)).rms[0] for each in bands)


def ssim(one: Image.Image, other: Image.Image) -> float:
    """Return the structural similarity of two pictures' lightness, at most 1.

    Means and variances are of a Gaussian window, nearly: three boxes of five pixels.
    """
    assert one.size == other.size, (one.size, other.size)
    x, y = (each.convert("L").convert("F") for each in (one, other))

    def apply(function: Any, **values: Image.Image) -> Image.Image:
        result = ImageMath.lambda_eval(function, **values)
        assert isinstance(result, Image.Image)
        return result

    def mean(image: Image.Image) -> Image.Image:
        for _ in range(3):
            shifted = [ImageChops.offset(image, each, 0) for each in range(-2, 3)]
            image = _average(shifted)
            shifted = [ImageChops.offset(image, 0, each) for each in range(-2, 3)]
            image = _average(shifted)
        return image

    def _average(images: list[Image.Image]) -> Image.Image:
        return apply(
            lambda v: (v["a"] + v["b"] + v["c"] + v["d"] + v["e"]) / 5,
            **dict(zip("abcde", images, strict=True)),
        )

    def product(a: Image.Image, b: Image.Image) -> Image.Image:
        return apply(lambda v: v["a"] * v["b"], a=a, b=b)

    mx, my = mean(x), mean(y)
    values = {
        "mx": mx,
        "my": my,
        "xx": mean(product(x, x)),
        "yy": mean(product(y, y)),
        "xy": mean(product(x, y)),
    }
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    scores = apply(
        lambda v: (
            (2 * v["mx"] * v["my"] + c1)
            * (2 * (v["xy"] - v["mx"] * v["my"]) + c2)
            / (
                (v["mx"] * v["mx"] + v["my"] * v["my"] + c1)
                * (v["xx"] - v["mx"] * v["mx"] + v["yy"] - v["my"] * v["my"] + c2)
            )
        ),
        **values,
    )
    edge = 6
    inner = scores.crop((edge, edge, scores.width - edge, scores.height - edge))
    score = inner.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
    assert isinstance(score, float)
    return score

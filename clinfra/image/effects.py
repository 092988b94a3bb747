"""What is done to a result once it has its size: turning, filters, canvas."""

from __future__ import annotations

from typing import Final

from PIL import Image, ImageFilter

from clinfra.image import colour
from clinfra.image.encoding import format_of
from clinfra.image.geometry import Target
from clinfra.image.sizes import Recipe

# Turn → how to turn the picture upright.
_UPRIGHT: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_SHARPEN_RADIUS: Final = 1.0
_WHITE: Final = "ffffff"
_NOTHING: Final = (0, 0, 0, 0)


def upright(picture: Image.Image, turn: int) -> Image.Image:
    """Return a stored picture as it is looked at."""
    method = _UPRIGHT.get(turn)
    return picture if method is None else picture.transpose(method)


def finished(picture: Image.Image, target: Target) -> Image.Image:
    """Return a result, resized and displayable, as it will be encoded.

    It keeps its transparency where its format has it and no background is asked for.
    """
    if colour.shines_through(picture) is False:
        picture = picture.convert("RGB")
    return _on_canvas(_filtered(upright(picture, target.turn), target.recipe), target)


def _filtered(picture: Image.Image, recipe: Recipe) -> Image.Image:
    filters: list[ImageFilter.Filter] = []
    if recipe.blur:
        filters.append(ImageFilter.GaussianBlur(recipe.blur))
    if recipe.sharpen:
        strength = round(100 * recipe.sharpen)
        filters.append(ImageFilter.UnsharpMask(_SHARPEN_RADIUS, strength, 0))
    if not filters:
        return picture
    # Colours of what is invisible must not bleed into the rest.
    clear = picture.mode == "RGBA"
    picture = picture.convert("RGBa") if clear else picture
    for each in filters:
        picture = picture.filter(each)
    return picture.convert("RGBA") if clear else picture


def _on_canvas(picture: Image.Image, target: Target) -> Image.Image:
    background = target.recipe.background
    clear = not background and format_of(target.recipe, picture) != "jpeg"
    if not clear:
        picture = colour.flattened(picture, background or _WHITE)
    if target.canvas == picture.size:
        return picture
    if clear:
        canvas = Image.new("RGBA", target.canvas, _NOTHING)
    else:
        grey = picture.mode == "L" and not background
        canvas = Image.new(
            "L" if grey else "RGB", target.canvas, f"#{background or _WHITE}"
        )
    canvas.paste(picture, target.place)
    return canvas

"""What a page may show of a picture before the picture is there."""

from __future__ import annotations

from PIL import Image


def describe(picture: Image.Image) -> dict[str, str]:
    """Return what the info says of a picture's looks: its average colour.

    Args:
        picture: upright, L, RGB or RGBA, no side longer than 100 pixels.
    """
    small = picture.convert("RGB").resize((1, 1), Image.Resampling.BOX)
    return {"average": small.tobytes().hex()}

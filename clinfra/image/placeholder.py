"""What a page may show of a picture before the picture is there."""

from __future__ import annotations

import base64

from PIL import Image

from clinfra.image.thumbhash import thumbhash

_SIDE = 32


def describe(picture: Image.Image) -> dict[str, str]:
    """Return what the info says of a picture's looks.

    Its average colour as "rrggbb", and its ThumbHash in base64.

    Args:
        picture: upright, L, RGB or RGBA.
    """
    small = picture.convert("RGBA")
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    average = picture.convert("RGB").resize((1, 1), Image.Resampling.BOX)
    hashed = thumbhash(*small.size, small.tobytes())
    return {
        "average": average.tobytes().hex(),
        "thumbhash": base64.b64encode(hashed).decode("ascii"),
    }

"""Which format a client gets that leaves it to us, by its Accept field.

Pure.  A modern format is sent only to who names it: `image/*` and `*/*` are sent by
programs that have never heard of it.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from clinfra.image.sizes import Recipe
from clinfra.web.headers import media_quality, parse_accept

AUTO_FORMATS = ("avif", "webp")


def choose_format(accept: bytes | None, formats: Sequence[str]) -> str:
    """Return one of `formats` or "plain".

    What the client weighs highest; of equals the first, and plain last.

    Args:
        accept: the field's value, None without.
        formats: of `AUTO_FORMATS`, best first.
    """
    if accept is None:
        return "plain"
    named = {each.name for each in parse_accept(accept)}
    best = "plain"
    # A picture for somebody who wants none of it is better than none.
    most = max(
        media_quality(accept, b"image/jpeg"), media_quality(accept, b"image/png")
    )
    for name in reversed(formats):
        media_type = b"image/" + name.encode()
        quality = media_quality(accept, media_type)
        if media_type in named and quality > 0 and quality >= most:
            best, most = name, quality
    return best


def settled(recipe: Recipe, format_name: str) -> Recipe:
    """Return a recipe in a format, without what that format cannot have."""
    if format_name in ("jpeg", "plain"):
        recipe = attrs.evolve(recipe, animate=False)
    else:
        recipe = attrs.evolve(recipe, progressive=False)
    return recipe.with_format(format_name)

"""HEIC, as telephones take photographs, when pillow-heif is there to read it.

The library is only imported by who opens such a picture: never by the process that
serves, which only wants to know whether it is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageFile


@lru_cache(maxsize=1)
def is_there() -> bool:
    """Tell whether such pictures can be opened."""
    return find_spec("pillow_heif") is not None


def openable(formats: Iterable[str]) -> list[str]:
    """Return those of some formats that can be opened."""
    return [name for name in formats if name != "HEIC" or is_there()]


@lru_cache(maxsize=1)
def opener() -> type[ImageFile.ImageFile]:
    """Return what opens one.  Raises ImportError."""
    import pillow_heif

    # A worker is one process of one core.
    pillow_heif.options.DECODE_THREADS = 1
    pillow_heif.options.THUMBNAILS = False
    pillow_heif.options.DEPTH_IMAGES = False
    pillow_heif.options.AUX_IMAGES = False
    made: type[ImageFile.ImageFile] = pillow_heif.HeifImageFile
    return made

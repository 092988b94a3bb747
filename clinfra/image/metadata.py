"""The info JSON: what is said about an upload, in the original's words.

Pure.  Keys are those the Python Imaging Library and its EXIF reader used in 2013,
lower-cased; values are text.  Left out for good, because the info is public and its
name can be guessed from any thumbnail's: where a picture was taken, serial numbers
and owners, and whole embedded blocks that may hold any of these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from PIL import ExifTags

from clinfra.image.exif import Exif, compose

_MAX_KEYS = 200
_MAX_KEY_CHARACTERS = 64
_MAX_VALUE_CHARACTERS = 1024

# Tag names that changed since 2013, and tags that had none.
_NAMES_OF_2013: Final[Mapping[int, str]] = {
    0x0107: "threshholding",
    0x0201: "jpeginterchangeformat",
    0x0202: "jpeginterchangeformatlength",
    0x8769: "exiftag",
    0x920E: "focalplanexresolution",
    0x920F: "focalplaneyresolution",
    0x9210: "focalplaneresolutionunit",
    0x9216: "tiffepstandardid",
    0x9217: "sensingmethod",
    0xA002: "pixelxdimension",
    0xA003: "pixelydimension",
    0xA005: "interoperabilitytag",
    **{
        tag: str(tag)
        for tag in (
            *range(0x9010, 0x9013),
            *range(0x9400, 0x9406),
            *range(0xA460, 0xA463),
            0xA500,
        )
    },
}

# Who made it and when: Artist, Copyright, DateTime; DateTimeOriginal,
# DateTimeDigitized and their time zones.
_CREDITS: Final = (0x0132, 0x013B, 0x8298)
_CREDITS_OF_CAMERA: Final = (0x9003, 0x9004, 0x9010, 0x9011, 0x9012)

# Owner and serial numbers as Adobe Camera Raw writes them, without names.
_PRIVATE_TAGS: Final = frozenset({0xFDE8, 0xFDE9, 0xFDEA})
_PRIVATE = re.compile(
    r"gps|serial|owner|uniqueid|uniquecameramodel|makernote|dngprivate"
    r"|^(exif|xmp|icc_profile|photoshop|comment|raw profile type.*|.*xmp)$"
)


def picture_info(info: Mapping[Any, object]) -> dict[str, str]:
    """Return what Pillow read beside the pixels, as publishable text."""
    published: dict[str, str] = {}
    for key, value in info.items():
        _publish(published, str(key), value)
    return published


def exif_info(exif: Exif, *, publish: bool) -> dict[str, str]:
    """Return EXIF as publishable text; nothing but the orientation unless `publish`."""
    published: dict[str, str] = {}
    for tag, value in exif.tags.items():
        if tag in _PRIVATE_TAGS:
            continue
        name = tag_name(tag)
        if publish or name == "orientation":
            _publish(published, f"exif_{name}", value)
    return published


def credits(exif: Exif) -> bytes:
    """Return an EXIF block of who made a picture and when; empty when nobody says."""
    picture, camera = (
        {tag: text for tag in tags if isinstance(text := exif.tags.get(tag), str)}
        for tags in (_CREDITS, _CREDITS_OF_CAMERA)
    )
    return compose(picture, camera) if picture or camera else b""


def tag_name(tag: int) -> str:
    """Return the lower-case name of an EXIF tag; its number when it has none."""
    name = _NAMES_OF_2013.get(tag)
    return name if name is not None else ExifTags.TAGS.get(tag, str(tag)).lower()


def text_of(value: object) -> str:
    """Write a value as `str` did in 2013; bytes were text then."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, tuple | list):
        items = [
            repr(text_of(item)) if isinstance(item, bytes | str) else text_of(item)
            for item in value
        ]
        return "(" + ", ".join(items) + ("," if len(items) == 1 else "") + ")"
    return str(value)


def _publish(published: dict[str, str], key: str, value: object) -> None:
    key = key.lower()
    if (
        len(published) >= _MAX_KEYS
        or len(key) > _MAX_KEY_CHARACTERS
        or not key.isascii()
        or _PRIVATE.search(key)
        or not isinstance(value, int | float | str | bytes | tuple | list)
    ):
        return
    if isinstance(value, str | bytes | tuple | list) and len(value) > 4096:
        return
    text = text_of(value).replace("\x00", "")
    if len(text) <= _MAX_VALUE_CHARACTERS and text.isascii():
        published[key] = text

"""The grammar of sizes: "600x450" fits inside, "50x50c" is cut to exactly that.

Pure.  Where a size ends up in pixels is `geometry`.
"""

from __future__ import annotations

import re

from attrs import frozen

from clinfra.errors import InvalidRequest, UnsupportedMedia

# A size names a blob, so what may follow the numbers is kept to harmless characters;
# nine digits are beyond any picture and keep the arithmetic small.
_SIZE = re.compile(r"([0-9]{1,9})x([0-9]{1,9})([A-Za-z0-9._~!+%-]{0,32})")


@frozen
class Size:
    """One rendition asked for.

    Attributes:
        name: as written; it names the blob and answers `response=`.
        width: pixels; of the frame to fit in, or exact when cropped.
        height: pixels.
        crop: cut the middle out instead of keeping the whole picture.
    """

    name: str
    width: int
    height: int
    crop: bool


def parse_size(text: str) -> Size:
    """Read one size.

    A "c" anywhere after the numbers means crop; other characters there mean nothing
    but stay part of the name.

    Raises:
        InvalidRequest: not a size.
        UnsupportedMedia: a side of zero, which the original answered as a bad image.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidRequest(f"Invalid size parameter: {text[:100]}")
    width, height, flags = int(match[1]), int(match[2]), match[3]
    if not (width and height):
        raise UnsupportedMedia("Bad image file")
    return Size(name=text, width=width, height=height, crop="c" in flags)

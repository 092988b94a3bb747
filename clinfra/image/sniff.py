"""What kind of picture some bytes are, from their beginning only.

Pure.  Done before any decoder sees the bytes: only what is recognised here and is on
the list of accepted formats is opened at all, and what it will cost is known before it
takes a worker.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from typing import Final

from attrs import frozen

HEAD_BYTES: Final = 262144
"""How much of an upload `sniff` may need: metadata come before the size in a JPEG."""

FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP")

# Cost of a pixel, a baseline JPEG's reduced decoding being 1.
_WEIGHTS: Final = {
    "JPEG": 1.0,
    "PNG": 8.0,
    "GIF": 4.0,
    "WEBP": 8.0,
    "AVIF": 5.0,
    "TIFF": 4.0,
    "BMP": 4.0,
}
_PROGRESSIVE_WEIGHT: Final = 2.5
_UNIT_PIXELS: Final = 12e6

# Start-of-frame markers that have a size: all of C0 to CF but DHT, JPG and DAC.
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL_FRAMES: Final = frozenset({0xC0, 0xC1})
_PROGRESSIVE_FRAMES: Final = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_START_OF_SCAN: Final = 0xDA
_END_OF_IMAGE: Final = 0xD9
_MOST_SEGMENTS: Final = 10_000
_ALONE: Final = frozenset({0x01, 0xD8})
_SCAN: Final = b"\xff\xda"
# In the data of a scan FF stands before 00, and before restart and fill bytes.
_MARKER: Final = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


@frozen
class Kind:
    """What the head of a file says.

    Attributes:
        format: Pillow's name of it.
        width: pixels as stored; 0 when the head does not say.
        height: pixels as stored; 0 when the head does not say.
        progressive: JPEG in several scans.
    """

    format: str
    width: int = 0
    height: int = 0
    progressive: bool = False


def sniff(head: bytes) -> Kind | None:
    """Recognise the first `HEAD_BYTES` of a file; None when they are nothing known."""
    if head[:3] == b"\xff\xd8\xff":
        return _jpeg(head)
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        return _sized("PNG", head, ">II", 16)
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return _sized("GIF", head, "<HH", 6)
    if head[:2] == b"BM":
        old = head[14:18] == b"\x0c\x00\x00\x00"
        return _sized("BMP", head, "<HH" if old else "<ii", 18)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return Kind("WEBP")
    if head[4:12] in (b"ftypavif", b"ftypavis"):
        return Kind("AVIF")
    if head[:4] in (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"):
        return Kind("TIFF")
    return None


def cost(kind: Kind | None, length: int) -> float:
    """Estimate the work for a file of `length` bytes; a 12 MP photograph is 1."""
    if kind is None:
        return 0.0
    weight = _PROGRESSIVE_WEIGHT if kind.progressive else _WEIGHTS[kind.format]
    # Without dimensions, as if a pixel took at least a third of a byte.
    pixels = kind.width * kind.height or 3 * length
    return weight * pixels / _UNIT_PIXELS


def scans(data: bytes, enough: int) -> int:
    """Count the scans of a JPEG; only whether there are `enough` of them is exact.

    Every further scan of a progressive JPEG costs a pass over the whole picture, and
    takes 75 bytes.
    """
    if _is_one_scan(data):
        return 1
    # Never less than the truth, but films that phones put behind their pictures and
    # thumbnails before them may look like scans; then it pays to look closely.
    found = data.count(_SCAN)
    if found < enough:
        return found
    found = 0
    at = 2
    while found < enough and (match := _MARKER.search(data, at)):
        marker, at = match[0][-1], match.end()
        if marker == _END_OF_IMAGE:
            break
        found += marker == _START_OF_SCAN
        if marker not in _ALONE and at + 2 <= len(data):
            at += struct.unpack_from(">H", data, at)[0]
    return found


def _sized(name: str, head: bytes, layout: str, offset: int) -> Kind:
    if len(head) < offset + struct.calcsize(layout):
        return Kind(name)
    width, height = struct.unpack_from(layout, head, offset)
    return Kind(name, abs(width), abs(height))


def _jpeg(head: bytes) -> Kind:
    for marker, at in _segments(head):
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", head, at + 5)
            return Kind("JPEG", width, height, marker in _PROGRESSIVE_FRAMES)
    return Kind("JPEG")


def _is_one_scan(data: bytes) -> bool:
    """Tell whether the first scan of a JPEG has all there is, as cameras write it.

    A decoder reads no other then; it is an error if there is one.
    """
    components = 0
    for marker, at in _segments(data):
        if marker in _SEQUENTIAL_FRAMES and at + 9 < len(data):
            components = data[at + 9]
        elif marker == _START_OF_SCAN:
            return data[at + 4] == components
    return False


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield markers of a JPEG and where they are, up to the first scan.

    At least nine bytes are there from a marker on.
    """
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if at + 9 > len(data) or data[at] != 0xFF or data[at + 1] == 0:
            # Decoders look for the next marker here: what they find is not known.
            return
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        else:
            yield marker, at
            if marker == _START_OF_SCAN:
                return
            at += 2 + struct.unpack_from(">H", data, at + 2)[0]

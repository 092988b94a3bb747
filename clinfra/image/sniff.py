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

import attrs
from attrs import field, frozen

from clinfra.image import boxes, tiff

HEAD_BYTES: Final = 262144
"""How much of an upload `sniff` may need: metadata come before the size in a JPEG."""

FORMATS: Final = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "HEIC", "TIFF", "BMP")

# Cost of a pixel, a baseline JPEG's reduced decoding being 1.
_WEIGHTS: Final = {
    "JPEG": 1.0,
    "PNG": 8.0,
    "GIF": 4.0,
    "WEBP": 5.0,
    "AVIF": 5.0,
    "HEIC": 10.0,
    "TIFF": 4.0,
    "BMP": 4.0,
}
# Bytes that a pixel takes while a large picture is decoded and reduced.
_MEMORY: Final = {
    "JPEG": 1.4,
    "PNG": 2.0,
    "GIF": 3.0,
    "WEBP": 3.3,
    "AVIF": 9.4,
    "HEIC": 7.5,
    "TIFF": 2.0,
    "BMP": 3.0,
}
# What a WebP has in it that is not decoded row by row → what is kept of a pixel.
_WHOLE_WEBP: Final = {b"VP8L": 3.5, b"ANIM": 12.4}
_WHOLE_BYTES: Final = 3.7
_WORKER_BYTES: Final = 50e6

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
        kept_bytes: what a decoder keeps of every pixel until it has read the whole
            file, because that has several scans of the picture.
    """

    format: str
    width: int = 0
    height: int = 0
    progressive: bool = False
    kept_bytes: float = field(default=0.0, eq=False)


def sniff(head: bytes) -> Kind | None:
    """Recognise the first `HEAD_BYTES` of a file; None when they are nothing known."""
    if head[:3] == b"\xff\xd8\xff":
        return _jpeg(head)
    if head[:8] == b"\x89PNG\r\n\x1a\n":
        kind = _sized("PNG", head, ">II", 16)
        return attrs.evolve(kind, kept_bytes=_WHOLE_BYTES if _is_whole(head) else 0.0)
    if head[:6] in (b"GIF87a", b"GIF89a"):
        return _sized("GIF", head, "<HH", 6)
    if head[:2] == b"BM":
        old = head[14:18] == b"\x0c\x00\x00\x00"
        return _sized("BMP", head, "<HH" if old else "<ii", 18)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _webp(head)
    if head[:4] in tiff.MARKS:
        return _tiff(head)
    name = boxes.format_of(head)
    return None if name is None else Kind(name, *boxes.largest(head))


def cost(kind: Kind | None, length: int) -> float:
    """Estimate the work for a file of `length` bytes; a 12 MP photograph is 1."""
    if kind is None:
        return 0.0
    weight = _PROGRESSIVE_WEIGHT if kind.progressive else _WEIGHTS[kind.format]
    # Without dimensions, as if a pixel took at least a third of a byte.
    pixels = kind.width * kind.height or 3 * length
    return weight * pixels / _UNIT_PIXELS


def memory_bytes(kind: Kind, length: int) -> float:
    """Estimate the memory that a worker needs to make small pictures of a file.

    Measured, for the largest pictures that are accepted.
    """
    per_pixel = _MEMORY[kind.format] + kind.kept_bytes
    return _WORKER_BYTES + length + per_pixel * kind.width * kind.height


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


def _is_whole(head: bytes) -> bool:
    """Tell whether a PNG is one that cannot be read in strips."""
    before = head[: head.find(b"IDAT")]
    wide = head[24:25] == b"\x10"
    interlaced = head[28:29] == b"\x01"
    return interlaced or b"acTL" in before or (wide and b"tRNS" in before)


def _tiff(head: bytes) -> Kind:
    page = next(tiff.pages(head, 1), None)
    if page is None:
        return Kind("TIFF")
    kept = 0.0 if page.is_of_bytes else _WHOLE_BYTES
    return Kind("TIFF", page.width, page.height, kept_bytes=kept)


def _webp(head: bytes) -> Kind:
    """Return the kind of a WebP: one of losses is decoded row by row, others not."""
    kept, at = 0.0, 12
    while at + 8 <= len(head) and head[at : at + 4] != b"VP8 ":
        if head[at : at + 4] in _WHOLE_WEBP:
            kept = _WHOLE_WEBP[head[at : at + 4]]
            break
        length = struct.unpack_from("<I", head, at + 4)[0]
        at += 8 + length + (length & 1)
    return Kind("WEBP", *_webp_size(head), kept_bytes=kept)


def _webp_size(head: bytes) -> tuple[int, int]:
    """Return width and height of a WebP; zeros when they cannot be read."""
    name = head[12:16]
    if name == b"VP8 " and len(head) >= 30 and head[23:26] == b"\x9d\x01\x2a":
        width, height = struct.unpack_from("<HH", head, 26)
        return width & 0x3FFF, height & 0x3FFF
    if name == b"VP8L" and len(head) >= 25 and head[20] == 0x2F:
        bits = struct.unpack_from("<I", head, 21)[0]
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if name == b"VP8X" and len(head) >= 30:
        width = int.from_bytes(head[24:27], "little")
        height = int.from_bytes(head[27:30], "little")
        return width + 1, height + 1
    return 0, 0


def _jpeg(head: bytes) -> Kind:
    kind, components = Kind("JPEG"), 0
    for marker, at in _segments(head):
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", head, at + 5)
            components = head[at + 9] if at + 9 < len(head) else 0
            progressive = marker in _PROGRESSIVE_FRAMES
            kept = 2 * _samples(head[at + 10 : at + 10 + 3 * components])
            kind = Kind("JPEG", width, height, progressive, kept)
        elif (
            marker == _START_OF_SCAN
            and not kind.progressive
            and head[at + 4] == components
        ):
            # All of it comes in one scan, and is decoded as it comes.
            return attrs.evolve(kind, kept_bytes=0.0)
    return kind


def _samples(components: bytes) -> float:
    """Return how many numbers a pixel has, when some components have fewer."""
    factors = [(each >> 4, each & 15) for each in components[1::3]]
    if not factors:
        return 0.0
    most = max(each[0] for each in factors) * max(each[1] for each in factors)
    return sum(across * down for across, down in factors) / max(most, 1)


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

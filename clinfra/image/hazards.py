"""Files that are small and cost much, recognised before anything is decoded.

Pure, and bounded in itself: looking at a file takes milliseconds whatever is in it.
What is known here costs a decoder seconds or gigabytes; what is not is stopped by the
limits of the worker.
"""

from __future__ import annotations

import struct
from typing import Final

from clinfra.image import gif, sniff, tiff
from clinfra.image.sniff import Kind

_MOST_CHUNKS: Final = 20_000
_MOST_PACKED: Final = 64
_MOST_RUN_BYTES: Final = 2 << 20

_PACKED: Final = frozenset({b"iCCP", b"zTXt", b"iTXt"})
"""Chunks of a PNG that are unpacked; Pillow does so up to a megabyte each."""


def hazard(data: bytes, kind: Kind, max_scans: int) -> str | None:
    """Say why a file must not be decoded; None when there is no reason."""
    if kind.format == "JPEG":
        return _jpeg(data, max_scans)
    if kind.format == "PNG":
        return _png(data)
    if kind.format == "GIF":
        return _gif(data)
    if kind.format == "TIFF":
        return _tiff(data)
    if kind.format == "WEBP":
        return _webp(data)
    if kind.format == "BMP":
        return _bmp(data)
    return None


def _jpeg(data: bytes, max_scans: int) -> str | None:
    if sniff.scans(data, max_scans + 1) > max_scans:
        return f"more than {max_scans} scans"
    return None


def _png(data: bytes) -> str | None:
    """Bound the chunks, each of which is handled in Python, and those unpacked."""
    at, packed = 8, 0
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(data):
            return None
        length, name = struct.unpack_from(">I4s", data, at)
        packed += name in _PACKED
        if packed > _MOST_PACKED:
            return f"more than {_MOST_PACKED} texts and profiles"
        at += 12 + length
    return f"more than {_MOST_CHUNKS} chunks"


def _gif(data: bytes) -> str | None:
    if gif.frames(data, len(data)) is None:
        return "blocks of next to nothing"
    return None


def _tiff(data: bytes) -> str | None:
    page = next(tiff.pages(data, 1), None)
    if page is None:
        return "no directory"
    return None if page.is_harmless else "a directory of too much"


def _webp(data: bytes) -> str | None:
    at = 12
    for _ in range(_MOST_CHUNKS):
        if at + 8 > len(data):
            return None
        length = struct.unpack_from("<I", data, at + 4)[0]
        at += 8 + length + (length & 1)
    return f"more than {_MOST_CHUNKS} chunks"


def _bmp(data: bytes) -> str | None:
    """Bound what is packed in runs, which are unpacked one after the other."""
    packed = data[30:34] in (b"\x01\x00\x00\x00", b"\x02\x00\x00\x00")
    if packed and len(data) > _MOST_RUN_BYTES:
        return f"runs in more than {_MOST_RUN_BYTES} bytes"
    return None

"""Pictures for tests, made by code: photographs, odd kinds and hostile ones."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from PIL import Image, ImageCms, ImageDraw

Entry = tuple[int, int, int, bytes]
"""Tag, type, count and raw value of an EXIF entry."""


@lru_cache(maxsize=8)
def photograph(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Return something as rich as a photograph, no two corners alike."""
    chance = random.Random(width * 65536 + height)
    coarse = Image.frombytes("RGB", (12, 9), chance.randbytes(12 * 9 * 3))
    picture = coarse.resize((width, height), Image.Resampling.BICUBIC)
    grain = Image.frombytes("RGB", (64, 64), chance.randbytes(64 * 64 * 3))
    grain = grain.resize((width, height), Image.Resampling.BILINEAR)
    picture = Image.blend(picture, grain, 0.15)
    draw = ImageDraw.Draw(picture)
    for corner, colour in enumerate(("red", "lime", "blue", "yellow")):
        left = 0 if corner % 2 == 0 else width - width // 5
        upper = 0 if corner < 2 else height - height // 5
        draw.rectangle((left, upper, left + width // 5, upper + height // 5), colour)
    return picture.convert(mode)


def encode(picture: Image.Image, name: str = "JPEG", **options: Any) -> bytes:
    """Return a picture in a file format."""
    out = io.BytesIO()
    picture.save(out, name, **options)
    return out.getvalue()


def jpeg(width: int = 320, height: int = 240, **options: Any) -> bytes:
    """Return a photograph as JPEG."""
    return encode(photograph(width, height), quality=90, **options)


def oriented(data: bytes, orientation: int) -> bytes:
    """Return a JPEG with an EXIF orientation put into it."""
    entry = (0x0112, 3, 1, struct.pack("<HH", orientation, 0))
    return with_segment(data, 0xE1, b"Exif\0\0" + exif_block([entry]))


def with_segment(data: bytes, marker: int, payload: bytes) -> bytes:
    """Return a JPEG with one more segment right at its beginning."""
    head = struct.pack(">BBH", 0xFF, marker, len(payload) + 2)
    return data[:2] + head + payload + data[2:]


def exif_block(
    picture: Iterable[Entry],
    camera: Iterable[Entry] = (),
    place: Iterable[Entry] = (),
    order: str = "<",
) -> bytes:
    """Return an EXIF block of three directories."""
    directories = [list(picture), list(camera), list(place)]
    pointers = [tag for tag, more in ((0x8769, camera), (0x8825, place)) if list(more)]
    sizes = [_directory_bytes(entries) for entries in directories]
    sizes[0] += 12 * len(pointers)
    starts = [8, 8 + sizes[0], 8 + sizes[0] + sizes[1]]
    for tag in pointers:
        start = starts[1] if tag == 0x8769 else starts[2]
        directories[0].append((tag, 4, 1, struct.pack(order + "I", start)))
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8)
    for entries, start in zip(directories, starts, strict=True):
        block += _directory(entries, start, order)
    return block


def _directory_bytes(entries: list[Entry]) -> int:
    return 6 + 12 * len(entries) + sum(len(e[3]) for e in entries if len(e[3]) > 4)


def _directory(entries: list[Entry], start: int, order: str) -> bytes:
    head = struct.pack(order + "H", len(entries))
    tail = b""
    at = start + 6 + 12 * len(entries)
    for tag, kind, count, raw in entries:
        if len(raw) > 4:
            value = struct.pack(order + "I", at + len(tail))
            tail += raw
        else:
            value = raw.ljust(4, b"\0")
        head += struct.pack(order + "HHI", tag, kind, count) + value
    return head + b"\0\0\0\0" + tail


def scan_bomb(scans: int, side: int = 2000) -> bytes:
    """Return a progressive JPEG whose last scan is repeated."""
    data = encode(Image.new("L", (side, side), 128), progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + data[-2:]


def png_bomb(width: int, height: int, colour_type: int = 6) -> bytes:
    """Return a small PNG file of one colour that needs a lot of memory."""
    channels = {0: 1, 2: 3, 6: 4}[colour_type]
    packer = zlib.compressobj(9)
    row = b"\0" + bytes(width * channels)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, colour_type, 0, 0, 0)
    return png_of((b"IHDR", head), (b"IDAT", body), (b"IEND", b""))


def png_of_rows(width: int, height: int, colour_type: int, bits: int) -> bytes:
    """Return a PNG of random numbers, whose rows have all filters in turn."""
    chance = random.Random(100 * colour_type + bits)
    samples = {0: 1, 2: 3, 4: 2, 6: 4}[colour_type]
    length = (width * samples * bits + 7) // 8
    rows = b"".join(
        bytes([row % 5]) + chance.randbytes(length) for row in range(height)
    )
    head = struct.pack(">IIBBBBB", width, height, bits, colour_type, 0, 0, 0)
    return png_of((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of these chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*each) for each in chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(name + body)
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)


def swapped_profile() -> bytes:
    """Return an ICC profile of a monitor whose red and green are exchanged.

    No camera has it; but it makes a picture unmistakably wrong where it is ignored.
    """
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    profile = bytearray(srgb)
    count = struct.unpack_from(">I", profile, 128)[0]
    at = {
        bytes(profile[start : start + 4]): start
        for start in range(132, 132 + 12 * count, 12)
    }
    red, green = at[b"rXYZ"] + 4, at[b"gXYZ"] + 4
    red_place, green_place = profile[red : red + 8], profile[green : green + 8]
    profile[red : red + 8], profile[green : green + 8] = green_place, red_place
    return bytes(profile).replace(_wide("sRGB"), _wide("Test"))


def _wide(text: str) -> bytes:
    return text.encode("utf-16-be")

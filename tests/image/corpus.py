"""A corpus of uploads, good, broken and hostile, all made by code."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import pillow_heif
from PIL import Image

from tests.image.pictures import (
    encode,
    jpeg,
    photograph,
    png_bomb,
    png_of,
    png_of_rows,
    scan_bomb,
    swapped_profile,
    with_segment,
)

WIDTH, HEIGHT = 160, 120


@lru_cache(maxsize=1)
def whole() -> Mapping[str, bytes]:
    """Return pictures of every kind there is; a name begins with the format."""
    plain = photograph(WIDTH, HEIGHT)
    grey = plain.convert("L")
    alpha = plain.copy()
    alpha.putalpha(grey)
    palette = plain.quantize(200)
    # Turned around, so that no encoder finds them alike.
    film = [plain.rotate(180 * number) for number in range(3)]
    more = {"save_all": True, "append_images": film[1:]}
    # Pillow remembers of frames how it has saved them.
    pages = {"save_all": True, "append_images": [each.copy() for each in film[1:]]}
    return {
        "JPEG": encode(plain, quality=90),
        "JPEG grey": encode(grey, quality=90),
        "JPEG progressive": encode(plain, quality=90, progressive=True),
        "JPEG of printers": encode(plain.convert("CMYK"), quality=90),
        "JPEG of several": encode(plain, "MPO", **more),
        "PNG": encode(plain, "PNG"),
        "PNG interlaced": interlaced(plain),
        "PNG alpha": encode(alpha, "PNG"),
        "PNG palette": encode(palette, "PNG", transparency=bytes(range(200))),
        "PNG bits": encode(grey.convert("1"), "PNG"),
        "PNG 16 bits grey": encode(grey.convert("I;16"), "PNG"),
        "PNG 16 bits": png_of_rows(WIDTH, HEIGHT, 2, 16),
        "PNG 16 bits alpha": png_of_rows(WIDTH, HEIGHT, 6, 16),
        "PNG film": encode(plain, "PNG", **more),
        "GIF": encode(palette, "GIF"),
        "GIF film": encode(palette, "GIF", **more),
        "WEBP": encode(plain, "WEBP"),
        "WEBP lossless": encode(alpha, "WEBP", lossless=True),
        "WEBP film": encode(plain, "WEBP", **more),
        "AVIF": encode(plain, "AVIF", speed=10),
        "AVIF film": encode(plain, "AVIF", speed=10, **more),
        "HEIC": heic(plain),
        "HEIC alpha": heic(alpha),
        "TIFF": encode(plain, "TIFF"),
        "TIFF deflate": encode(alpha, "TIFF", compression="tiff_adobe_deflate"),
        "TIFF JPEG": encode(plain, "TIFF", compression="jpeg"),
        "TIFF LZW": encode(grey, "TIFF", compression="tiff_lzw"),
        "TIFF pages": encode(plain, "TIFF", **pages),
        "TIFF big": encode(plain, "TIFF", big_tiff=True),
        "BMP": encode(plain, "BMP"),
        "BMP palette": encode(palette, "BMP"),
    }


def heic(picture: Image.Image) -> bytes:
    """Return a picture as a telephone takes it."""
    out = io.BytesIO()
    pillow_heif.from_pillow(picture).save(out, quality=80)
    return out.getvalue()


def interlaced(picture: Image.Image) -> bytes:
    """Return an RGB picture as a PNG in seven passes."""
    width, height = picture.size
    rows = b""
    for x, y, across, down in (
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ):
        for row in range(y, height, down):
            pixels = picture.crop((0, row, width, row + 1)).tobytes()
            kept = (pixels[at : at + 3] for at in range(3 * x, 3 * width, 3 * across))
            rows += b"\0" + b"".join(kept)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return png_of((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))


def odd() -> Mapping[str, bytes]:
    """Return pictures with something wrong about them that does not matter."""
    plain = photograph(WIDTH, HEIGHT)
    data = encode(plain, quality=90)
    png = encode(plain, "PNG")
    spoilt = bytearray(swapped_profile())
    spoilt[100:400] = bytes(300)
    endless = (
        b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01\x03\0\xff\xff\xff\xff" * 99
    )
    return {
        "page behind it": data + b"<html><script>alert(1)</script></html>",
        "archive behind it": png + b"PK\x03\x04" + bytes(500),
        "picture behind it": encode(plain, "GIF") + data,
        "script in it": with_segment(data, 0xFE, b"<?php system($_GET[0]); ?>"),
        "spoilt profile": encode(plain, icc_profile=bytes(spoilt)),
        "no profile": encode(plain, "PNG", icc_profile=b"not a profile"),
        "profile of much": png_with(png, b"iCCP", b"x\0\0" + packed_zeros(20 << 20)),
        "text of much": png_with(png, b"zTXt", b"x\0\0" + packed_zeros(20 << 20)),
        "spoilt EXIF": with_segment(data, 0xE1, endless),
        "circular EXIF": with_segment(data, 0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\0"),
        "spoilt XMP": with_segment(
            data, 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta" + b"<a>" * 9000
        ),
        "wrong sum": png.replace(png[-20:-16], b"\0\0\0\0"),
        "tail cut": data[:-2],
        "film of telephones": data + b"\0\0\0\x18ftypmp42" + bytes(5000),
    }


def bad() -> Mapping[str, bytes]:
    """Return what is no picture."""
    data = jpeg(WIDTH, HEIGHT)
    form = b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n"
    return {
        "nothing": b"",
        "one byte": b"\xff",
        "text": b"bad data",
        "zeros": bytes(10000),
        "noise": random.Random(4).randbytes(10000),
        "form": form + data + b"\r\n--x--\r\n",
        "page": b"<!doctype html><img src=x onerror=alert(1)>",
        "drawing": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "script": b"%!PS-Adobe-3.0 EPSF-3.0\n",
        "PDF": b"%PDF-1.7\n%",
        "archive": b"PK\x03\x04" + bytes(500),
        "GIF that is none": b"GIF89a" + data,
        "JPEG that is none": b"\xff\xd8\xff" + encode(photograph(9, 9), "PNG"),
        "PNG that is none": b"\x89PNG\r\n\x1a\n" + data,
        "WebP that is none": b"RIFF\x10\0\0\0WEBP" + data,
        "AVIF that is none": b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + data,
        "HEIC that is none": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + data,
        "TIFF that is none": b"II*\0\x08\0\0\0" + bytes(2),
        "no pixels": png_bomb(1, 1).replace(
            struct.pack(">II", 1, 1), struct.pack(">II", 0, 1)
        ),
    }


def bombs() -> Mapping[str, bytes]:
    """Return small files that would cost much, each of its own kind."""
    png = encode(photograph(8, 8), "PNG")
    dot = encode(Image.new("P", (8, 8)), "GIF")
    texts = b"".join(
        _chunk(b"zTXt", b"x\0\0" + packed_zeros(1 << 20)) for _ in "x" * 65
    )
    return {
        "scans": scan_bomb(300),
        "high": png_bomb(1, 65000),
        "wide": png_bomb(65000, 1),
        "huge PNG": png_bomb(20000, 20000, 0),
        "large film": png_with(png_bomb(6900, 6900), b"acTL", b"\0\0\0\2\0\0\0\0"),
        "huge JPEG": _resized_jpeg(65000, 65000),
        "huge WebP": _extended_webp(16384, 16384),
        "large WebP": _extended_webp(6900, 6900, b"ANIM" + b"\6" + bytes(9)),
        "huge GIF": dot[:6] + struct.pack("<HH", 65535, 65535) + dot[10:],
        "huge AVIF": _resized_avif(16000, 16000),
        "large AVIF": _resized_avif(6900, 6900),
        "huge TIFF": _tiff((0x100, 60000), (0x101, 60000)),
        "huge BMP": b"BM"
        + bytes(12)
        + struct.pack("<Iii", 40, 60000, 60000)
        + bytes(99),
        "progressive": _resized_jpeg(6900, 6900, progressive=True, subsampling=0),
        "texts": png[:33] + texts + png[33:],
        "chunks": png[:33] + _chunk(b"teSt", b"") * 30000 + png[33:],
        "blocks": dot[:-1] + b"!\xfe" + b"\x01x" * 500_000 + b"\0;",
        "overlaps": _tiff(
            (0x100, 8), (0x101, 8), *((0x9000 + n, -(1 << 20)) for n in range(200))
        ),
        "entries": _tiff(*((0x9000 + n, 1) for n in range(3000))),
        "tiles": _tiff((0x100, 8), (0x101, 8), (0x142, 60000), (0x143, 60000)),
        "runs": _runs(),
        "pieces": b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0"
        + bytes(10)
        + b"XMP \0\0\0\0" * 30000,
    }


def packed_zeros(length: int) -> bytes:
    """Return so many zeros, compressed."""
    return zlib.compress(bytes(length), 9)


def png_with(png: bytes, name: bytes, body: bytes) -> bytes:
    """Return a PNG with one more chunk, right behind its head."""
    return png[:33] + _chunk(name, body) + png[33:]


def _chunk(name: bytes, body: bytes) -> bytes:
    # A file of this chunk alone, without its signature.
    return png_of((name, body))[8:]


def _resized_jpeg(width: int, height: int, **options: Any) -> bytes:
    """Return a JPEG that says that it is of another size."""
    data = encode(Image.new("RGB", (16, 16)), **options)
    mark = b"\xff\xc2" if options.get("progressive") else b"\xff\xc0"
    at = data.index(mark) + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def _extended_webp(width: int, height: int, more: bytes = b"") -> bytes:
    sides = b"".join((side - 1).to_bytes(3, "little") for side in (width, height))
    inner = encode(Image.new("RGB", (16, 16)), "WEBP")[12:]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + sides + more + inner
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _resized_avif(width: int, height: int) -> bytes:
    data = encode(Image.new("RGB", (16, 16)), "AVIF")
    at = data.index(b"ispe") + 8
    return data[:at] + struct.pack(">II", width, height) + data[at + 8 :]


def _tiff(*entries: tuple[int, int]) -> bytes:
    """Return a TIFF with numbers in its directory; negative: so many bytes of text."""
    directory = struct.pack("<H", len(entries))
    for tag, value in entries:
        if value < 0:
            directory += struct.pack("<HHII", tag, 2, -value, 8)
        else:
            directory += struct.pack("<HHII", tag, 4, 1, value)
    return b"II*\0" + struct.pack("<I", 8) + directory + bytes(2 << 20)


def _runs() -> bytes:
    """Return a BMP of millions of runs of one pixel."""
    head = struct.pack("<IiiHHIIiiII", 40, 2000, 2000, 1, 8, 1, 0, 0, 0, 0, 0)
    body = head + bytes(1024) + b"\x01\x00" * (2 << 20)
    return b"BM" + struct.pack("<IHHI", 14 + len(body), 0, 0, 14 + 40 + 1024) + body

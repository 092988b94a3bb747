"""ICC profiles for tests, made by code: monitors, greys and a printer."""

from __future__ import annotations

import struct

from PIL import ImageCms

Colour = tuple[float, float, float]

# Red, green and blue of Display P3 and of Adobe RGB, adapted to D50, as XYZ.
DISPLAY_P3: tuple[Colour, Colour, Colour] = (
    (0.51512, 0.24120, -0.00105),
    (0.29198, 0.69225, 0.04189),
    (0.15710, 0.06657, 0.78407),
)
ADOBE_RGB: tuple[Colour, Colour, Colour] = (
    (0.60974, 0.31111, 0.01947),
    (0.20528, 0.62567, 0.06087),
    (0.14919, 0.06322, 0.74457),
)

_D50: Colour = (0.9642, 1.0, 0.8249)


def monitor(primaries: tuple[Colour, Colour, Colour]) -> bytes:
    """Return a profile of a monitor with sRGB's curve and other primaries."""
    profile = bytearray(
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    )
    (count,) = struct.unpack_from(">I", profile, 128)
    for number in range(count):
        name, offset, _ = struct.unpack_from(">4sII", profile, 132 + 12 * number)
        if name in (b"rXYZ", b"gXYZ", b"bXYZ"):
            colour = primaries[b"rgb".index(name[:1])]
            struct.pack_into(">3i", profile, offset + 8, *map(_fixed, colour))
    return bytes(profile).replace(
        "sRGB".encode("utf-16-be"), "Test".encode("utf-16-be")
    )


def greys(gamma: float) -> bytes:
    """Return a profile of greys with a plain power as curve."""
    curve = struct.pack(">4sIIH", b"curv", 0, 1, round(gamma * 256)) + b"\0\0"
    return _profile(b"GRAY", b"mntr", b"XYZ ", {b"wtpt": _xyz(_D50), b"kTRC": curve})


def printer() -> bytes:
    """Return a profile of a printer with dull inks: CMYK to Lab by a small table."""
    straight = bytes(range(256))
    table = bytearray()
    for number in range(16):
        cyan, magenta, yellow, black = (number >> bit & 1 for bit in (3, 2, 1, 0))
        lightness = 240 - 80 * cyan - 90 * magenta - 15 * yellow
        lightness = max(lightness, 40) // (4 if black else 1)
        a = 128 + (60 * magenta - 35 * cyan) // (3 if black else 1)
        b = 128 + (80 * yellow - 45 * cyan) // (3 if black else 1)
        table += bytes((lightness, max(a, 0), max(b, 0)))
    unit = struct.pack(">9i", *(_fixed(value) for value in (1, 0, 0, 0, 1, 0, 0, 0, 1)))
    lut = struct.pack(">4sIBBBx", b"mft1", 0, 4, 3, 2) + unit
    lut += straight * 4 + table + straight * 3
    return _profile(b"CMYK", b"prtr", b"Lab ", {b"wtpt": _xyz(_D50), b"A2B0": lut})


def _fixed(value: float) -> int:
    return round(value * 65536)


def _xyz(colour: Colour) -> bytes:
    return struct.pack(">4sI3i", b"XYZ ", 0, *map(_fixed, colour))


def _profile(space: bytes, kind: bytes, via: bytes, tags: dict[bytes, bytes]) -> bytes:
    name = b"Test\0"
    named = struct.pack(">4sII", b"desc", 0, len(name)) + name + bytes(78)
    tags = {b"desc": named, **tags}
    index, values = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for tag, value in tags.items():
        index += struct.pack(">4sII", tag, start + len(values), len(value))
        values += value.ljust(-(-len(value) // 4) * 4, b"\0")
    body = index + values
    head = (
        struct.pack(">I4xI", 128 + len(body), 0x02400000)
        + kind
        + space
        + via
        + bytes(12)
        + b"acsp"
        + bytes(28)
        + struct.pack(">3i", *map(_fixed, _D50))
    )
    return head.ljust(128, b"\0") + body

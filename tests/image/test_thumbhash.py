"""Placeholders: the same as the inventor's own program makes, and soon made."""

from __future__ import annotations

import base64
from collections.abc import Callable

import attrs
from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from clinfra.image import codec, placeholder
from clinfra.image.sources import ladder
from clinfra.image.thumbhash import thumbhash
from tests.image.pictures import encode, jpeg, oriented, photograph
from tests.image.support import job

Pixel = Callable[[int, int], tuple[int, int, int, int]]

# Width, height, a pixel's value, and what evanw/thumbhash 0.1.1 makes of them.
VECTORS: tuple[tuple[int, int, Pixel, str], ...] = (
    (
        32,
        24,
        lambda x, y: (x * x + 3 * y, x * y * y, 5 * x + y * y, 255),
        "nAcKFYZAY5hDd4hjiDiIlhX3HrDW",
    ),
    (
        20,
        32,
        lambda x, y: (x * y, 7 * x + 3 * y, x ^ y, 255),
        "ktoJNAZgFodoiIZ3iHdggsZwBg==",
    ),
    (1, 1, lambda x, y: (0, 0, 0, 255), "AAgCBwAAAAAAAAAAAAAAAAAAAAAAAAAA"),
    (
        32,
        2,
        lambda x, y: (x * x * 8, x + 7 * y, y * 200 + x * x, 255),
        "0XUGIYJyBlgQM3Z3h/74x3g=",
    ),
    (
        30,
        30,
        lambda x, y: (
            x * 8,
            30 + y * 5,
            x * y,
            255 * ((x - 13) ** 2 + (y - 11) ** 2 < 100),
        ),
        "mSeCDQQ1Mc8y2pCPzKe7D8TGCXaMdXJadw==",
    ),
    (8, 6, lambda x, y: (x, y, 0, 0), "AAiCBIAAAAAAAAAAAAAAAAAAAAAAAAAAAA=="),
    (
        31,
        17,
        lambda x, y: (x * x + y, y * y * 3 + x, x * y * 7, x * 8 + y * 3),
        "WyeGA4YoZXeiiJAwtTC091BZZ2mHd3c=",
    ),
)


class ThumbHashTests(SynchronousTestCase):
    def test_vectors(self) -> None:
        """Every bit is as in the reference, with transparency and without."""
        for width, height, pixel, expected in VECTORS:
            rgba = b"".join(
                bytes(value & 255 for value in pixel(x, y))
                for y in range(height)
                for x in range(width)
            )
            made = base64.b64encode(thumbhash(width, height, rgba)).decode()
            self.assertEqual(expected, made, (width, height))

    def test_grey(self) -> None:
        """What rounding leaves of nothing is nothing."""
        made = thumbhash(16, 16, bytes((128, 128, 128, 255)) * 256)
        self.assertEqual(bytes((0x20, 0x08, 0x02, 0x07, 0x00)), made[:5])
        self.assertEqual(bytes(len(made) - 5), made[5:])

    def test_sizes(self) -> None:
        """Only small pictures are hashed."""
        for size in ((0, 1), (1, 0), (101, 1), (1, 101)):
            with self.assertRaises(ValueError):
                thumbhash(*size, b"")


class PlaceholderTests(SynchronousTestCase):
    def test_info(self) -> None:
        """The info tells average colour and hash, of the picture looked at upright."""
        flat = encode(Image.new("RGB", (640, 480), (250, 128, 6)), "PNG")
        info = codec.render(flat, job()).info
        self.assertEqual("fa8006", info["average"])
        turned = photograph(480, 640)
        lying = turned.transpose(Image.Transpose.ROTATE_90)
        hashes = [
            base64.b64decode(str(codec.render(data, job()).info["thumbhash"]))
            for data in (
                encode(turned, quality=98, subsampling=0),
                oriented(encode(lying, quality=98, subsampling=0), 6),
            )
        ]
        self.assertEqual(hashes[0][:5], hashes[1][:5])

    def test_whatever_is_made(self) -> None:
        """They are the same whichever sizes are asked for, beside mezzanines."""
        rungs = ladder("1600x1600_q-85,900x900")
        upload = encode(photograph(1999, 1333), quality=90)
        small = encode(photograph(201, 133), "PNG")
        for data in (upload, small):
            seen = set()
            for sizes in ("9x9", "50x50c", "300x300,600x450c", "1000x_rotate-90"):
                wanted = attrs.evolve(job(f"sizes={sizes}"), mezzanines=rungs)
                info = codec.render(data, wanted).info
                seen.add((info["thumbhash"], info["average"]))
            self.assertEqual(1, len(seen), seen)

    def test_every_mode(self) -> None:
        """Grey and transparent pictures have one as well."""
        alpha = photograph(90, 60)
        alpha.putalpha(photograph(90, 60).convert("L"))
        for picture in (photograph(90, 60, "L"), alpha, alpha.resize((1, 1))):
            described = placeholder.describe(picture)
            self.assertEqual({"average", "thumbhash"}, set(described))

    def test_not_asked(self) -> None:
        """A picture that is only looked at from outside has none."""
        self.assertNotIn("thumbhash", codec.render(jpeg(64, 48), job("sizes=")).info)

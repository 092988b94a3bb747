"""PNG read in strips and written with one filter: every pixel as Pillow has it."""

from __future__ import annotations

import io
import random
import zlib
from unittest import mock

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngImageFile
from twisted.trial.unittest import SynchronousTestCase

from clinfra.image import deflating, png
from tests.image.pictures import encode, photograph, png_of_rows


def read(data: bytes) -> tuple[Image.Image, bool]:
    """Return a PNG from its strips, as RGBA, and whether it was truncated."""
    opened = PngImageFile(io.BytesIO(data))
    assert png.can_read(opened, data)
    strips = png.Strips(opened, data)
    picture = Image.new("RGBA", opened.size)
    at = 0
    for strip in strips:
        picture.paste(strip.convert("RGBA"), (0, at))
        at += strip.height
    return picture, strips.truncated


def written(picture: Image.Image) -> Image.Image:
    """Return a picture after it was written, as Pillow reads it."""
    out = io.BytesIO()
    png.write(picture, out)
    made = Image.open(out)
    made.load()
    return made


class ReadTests(SynchronousTestCase):
    def check(self, data: bytes) -> None:
        expected: Image.Image = Image.open(io.BytesIO(data))
        if expected.mode == "I;16":
            expected = expected.convert("I").point(lambda v: v * (1 / 256)).convert("L")
        for strip_bytes in (1, 5000, 1 << 18):
            with mock.patch.object(png, "_STRIP_BYTES", strip_bytes):
                picture, truncated = read(data)
            self.assertEqual(expected.convert("RGBA").tobytes(), picture.tobytes())
            self.assertFalse(truncated)

    def test_modes(self) -> None:
        """Every kind of pixel and every way to be transparent."""
        plain = photograph(61, 43)
        grey = plain.convert("L")
        alpha = plain.copy()
        alpha.putalpha(grey)
        for picture in (plain, grey, alpha, grey.convert("LA"), grey.convert("1")):
            self.check(encode(picture, "PNG"))
        self.check(encode(plain, "PNG", transparency=plain.getpixel((3, 3))))
        self.check(encode(grey, "PNG", transparency=grey.getpixel((3, 3))))
        for colours in (2, 4, 16, 200):
            palette = plain.quantize(colours)
            self.check(encode(palette, "PNG"))
            self.check(encode(palette, "PNG", transparency=1))
            self.check(encode(palette, "PNG", transparency=bytes(range(colours))))
        self.check(encode(grey.convert("I;16"), "PNG"))

    def test_every_depth(self) -> None:
        """Every type and depth there is, in rows of every filter."""
        for colour_type, depths in png.DEPTHS.items():
            if colour_type == 3:
                continue
            for bits in depths:
                self.check(png_of_rows(37, 29, colour_type, bits))

    def test_both_libraries(self) -> None:
        """zlib reads the same as isa-l."""
        self.assertTrue(deflating.is_fast())
        with mock.patch.object(deflating, "_isal", None):
            self.assertFalse(deflating.is_fast())
            self.check(encode(photograph(200, 100), "PNG"))

    def test_truncated(self) -> None:
        """What there is of it is read: rows from above, as many as there are."""
        whole = photograph(200, 300).convert("RGBA")
        data = encode(whole.convert("RGB"), "PNG")
        for tenth in range(1, 10):
            picture, truncated = read(data[: len(data) * tenth // 10])
            self.assertTrue(truncated)
            rows = 300 * (tenth - 1) // 10
            top = (0, 0, 200, rows)
            self.assertEqual(whole.crop(top).tobytes(), picture.crop(top).tobytes())
        spoilt = bytearray(data)
        spoilt[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
        self.assertTrue(read(bytes(spoilt))[1])

    def test_stored(self) -> None:
        """What is stored comes out again, whatever its length."""
        for length in (1, 65535, 65536, 200_000):
            data = random.Random(length).randbytes(length)
            self.assertEqual(data, zlib.decompress(deflating.stored(data)))
            with mock.patch.object(deflating, "_isal", None):
                self.assertEqual(data, zlib.decompress(deflating.stored(data)))

    def test_too_much(self) -> None:
        """What comes after the last row is not read."""
        data = encode(photograph(200, 100), "PNG")
        head = data.replace(data[20:24], (50).to_bytes(4, "big"), 1)
        opened = mock.Mock(info={}, palette=None)
        rows = sum(strip.height for strip in png.Strips(opened, head))
        self.assertEqual(50, rows)

    def test_cannot(self) -> None:
        """Others are left to Pillow."""
        frames = [photograph(8, 8), Image.new("RGB", (8, 8))]
        moving = encode(frames[0], "PNG", save_all=True, append_images=frames[1:])
        self.assertFalse(png.can_read(PngImageFile(io.BytesIO(moving)), moving))
        self.assertIsNone(png.head_of(b""))
        self.assertIsNone(png.head_of(encode(frames[0], "GIF")))


class WriteTests(SynchronousTestCase):
    def check(self, picture: Image.Image, mode: str) -> None:
        made = written(picture)
        self.assertEqual(mode, made.mode)
        self.assertEqual(picture.tobytes(), made.convert(picture.mode).tobytes())
        with mock.patch.object(deflating, "_isal", None):
            made = written(picture)
        self.assertEqual(picture.tobytes(), made.convert(picture.mode).tobytes())

    def test_every_pixel(self) -> None:
        """What is written is what was there, with either library."""
        plain = photograph(301, 203)
        alpha = plain.copy()
        alpha.putalpha(plain.convert("L"))
        for picture in (plain, alpha, plain.convert("L")):
            self.check(picture, picture.mode)
            self.check(picture.resize((600, 1)), picture.mode)
            with mock.patch.object(png, "_STRIP_BYTES", 1000):
                self.check(picture, picture.mode)

    def test_few_colours(self) -> None:
        """Few colours are a palette, transparent or not."""
        flat = Image.new("RGBA", (80, 60), (0, 0, 0, 0))
        draw = ImageDraw.Draw(flat)
        for number in range(40):
            shade = (number, 255 - number, 9, 255 - 6 * number)
            draw.rectangle((number, number, 79, 59), fill=shade)
        self.check(flat, "P")
        self.check(flat.convert("RGB"), "P")
        self.check(Image.new("RGB", (1, 1), "red"), "P")
        self.assertNotIn("transparency", written(flat.convert("RGB")).info)

    def test_filter(self) -> None:
        """A photograph is filtered and what repeats itself is not."""
        tiled = Image.new("RGB", (400, 320))
        tile = Image.frombytes("RGB", (40, 40), random.Random(1).randbytes(4800))
        for number in range(80):
            tiled.paste(tile, (40 * (number % 10), 40 * (number // 10)))
        for picture in (photograph(400, 300), tiled):
            out = io.BytesIO()
            png.write(picture, out)
            # What is written elsewhere without filters, as patiently as zlib can.
            unfiltered = len(zlib.compress(picture.tobytes(), 6))
            self.assertLess(len(out.getvalue()), 1.1 * unfiltered)
            self.assertLess(len(out.getvalue()), 0.8 * len(picture.tobytes()))

    def test_exif(self) -> None:
        """A block of EXIF is put in."""
        out = io.BytesIO()
        png.write(photograph(20, 20), out, b"II*\0\x08\0\0\0\0\0\0\0\0\0")
        self.assertIn("exif", Image.open(out).info)

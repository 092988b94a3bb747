"""Pixels: every kind of picture, judged by other ways of doing the same."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from typing import Any
from unittest import mock

from PIL import Image, ImageChops, ImageCms, ImageOps, ImageStat
from twisted.trial.unittest import SynchronousTestCase

from clinfra.image import codec, opening, resizer
from clinfra.image.geometry import fit
from clinfra.image.job import BadImage, Rendered, ResultTooLarge
from tests.image import corpus
from tests.image.pictures import (
    encode,
    exif_block,
    jpeg,
    oriented,
    photograph,
    png_bomb,
    scan_bomb,
    swapped_profile,
    with_segment,
)
from tests.image.support import job


def result(data: bytes, size: str = "300x300", **changes: Any) -> Image.Image:
    """Return one rendition of some bytes, decoded, of high quality."""
    query = f"sizes={size}&quality=95"
    rendered = codec.render(data, job(query, **changes))
    return Image.open(io.BytesIO(rendered.renditions[size].body))


def distance(one: Image.Image, other: Image.Image) -> float:
    """Return how far a result is from what was expected, root mean square of 255."""
    assert one.size == other.size, (one.size, other.size)
    expected = as_jpeg(one).convert("RGB")
    difference = ImageChops.difference(expected, other.convert("RGB"))
    return max(ImageStat.Stat(difference).rms)


def reference(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return a picture fitted the plain way: everything decoded, Pillow only."""
    picture = picture.convert("RGB")
    return picture.resize(fit(*picture.size, *size), Image.Resampling.LANCZOS)


def as_jpeg(picture: Image.Image) -> Image.Image:
    """Return a picture as it is after being a result; halved colours show at edges."""
    return Image.open(io.BytesIO(encode(picture, quality=95, subsampling="4:2:0")))


class SizeTests(SynchronousTestCase):
    def test_recorded_sizes(self) -> None:
        """Dimensions are those the original gave."""
        data = oriented(jpeg(1000, 750), 6)
        for size, expected in (
            ("20x20", (15, 20)),
            ("50x50zz", (37, 50)),
            ("600x450", (337, 450)),
            ("2000x2000", (750, 1000)),
            ("1x1c", (1, 1)),
            ("100x50c", (100, 50)),
            ("1200x1200c", (1200, 1200)),
        ):
            self.assertEqual(expected, result(data, size).size, size)

    def test_extreme_shapes(self) -> None:
        """One pixel is a picture, and so is a line."""
        for picture, expected in (
            ((1, 1), (1, 1)),
            ((2000, 1), (300, 1)),
            ((1, 2000), (1, 300)),
            ((30, 20), (30, 20)),
        ):
            for name in ("JPEG", "PNG"):
                data = encode(photograph(7, 5).resize(picture), name)
                self.assertEqual(expected, result(data).size)
                self.assertEqual((50, 50), result(data, "50x50c").size)

    def test_no_sizes(self) -> None:
        """Without sizes a picture is only looked at."""
        rendered = codec.render(jpeg(64, 48), job("sizes="))
        self.assertEqual({}, rendered.renditions)
        self.assertEqual((64, 48), (rendered.info["width"], rendered.info["height"]))

    def test_result_too_large(self) -> None:
        """A result may have only so many pixels, although the picture has more."""
        with self.assertRaises(ResultTooLarge) as caught:
            codec.render(jpeg(640, 480), job("sizes=600x600", max_size_pixels=200_000))
        self.assertEqual("600x600", caught.exception.size_name)


class QualityTests(SynchronousTestCase):
    def test_upright(self) -> None:
        """All eight orientations come out as Pillow turns the whole picture."""
        for orientation in range(1, 9):
            for size in ("300x300", "120x60c"):
                data = oriented(jpeg(1203, 902), orientation)
                whole = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
                if size.endswith("c"):
                    expected = ImageOps.fit(whole, (120, 60), Image.Resampling.LANCZOS)
                else:
                    expected = reference(whole, (300, 300))
                self.assertLess(distance(expected, result(data, size)), 3, orientation)

    def test_meaningless_orientation(self) -> None:
        """An orientation there is not means upright."""
        plain, odd = jpeg(640, 480), oriented(jpeg(640, 480), 99)
        self.assertEqual(result(plain).tobytes(), result(odd).tobytes())

    def test_chained(self) -> None:
        """Sizes made from one another are as good as made from the whole picture."""
        data = jpeg(2400, 1800)
        rendered = codec.render(data, job("quality=95"))
        whole = Image.open(io.BytesIO(data))
        for size in ((300, 300), (600, 450)):
            made = rendered.renditions[f"{size[0]}x{size[1]}"].body
            expected = reference(whole.copy(), size)
            self.assertLess(distance(expected, Image.open(io.BytesIO(made))), 3)

    def test_slow_resizer(self) -> None:
        """Without the fast resizer results are the same to the eye."""
        self.assertTrue(resizer.uses_simd())
        data = jpeg(1200, 900)
        fast = result(data)
        # The one machine we have has the fast one: pretend it failed its exam.
        with mock.patch.object(resizer, "_simd", lambda: None):
            self.assertLess(distance(fast, result(data)), 3)

    def test_border(self) -> None:
        """The decoder's padding of odd sizes does not show at the edge."""
        picture = Image.new("RGB", (1601, 1201), "white")
        made = result(encode(picture, quality=95))
        self.assertGreaterEqual(min(ImageStat.Stat(made).extrema)[0], 250)

    def test_deterministic(self) -> None:
        """The same bytes and job give the same results, whatever came between."""
        data = jpeg(640, 480)
        first = codec.render(data, job())
        codec.render(jpeg(300, 300), job("quality=3"))
        self.assertEqual(first, codec.render(data, job()))

    def test_quality(self) -> None:
        """Quality is heard, and results are baseline 4:2:0."""
        small = codec.render(jpeg(640, 480), job("quality=10&sizes=300x300"))
        large = codec.render(jpeg(640, 480), job("quality=95&sizes=300x300"))
        self.assertLess(
            3 * len(small.renditions["300x300"].body),
            len(large.renditions["300x300"].body),
        )
        made = Image.open(io.BytesIO(large.renditions["300x300"].body))
        self.assertEqual("4:2:0", _subsampling(made))
        self.assertNotIn("progressive", made.info)


def _subsampling(picture: Image.Image) -> str:
    from PIL import JpegImagePlugin

    return {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}[JpegImagePlugin.get_sampling(picture)]


class KindTests(SynchronousTestCase):
    """The original's table of kinds, and where it was wrong, right."""

    def info(self, data: bytes) -> Rendered:
        return codec.render(data, job("sizes="))

    def test_modes(self) -> None:
        """Every mode of every format looks like the picture it was made of."""
        plain = photograph(640, 480)
        alpha = plain.copy()
        alpha.putalpha(255)
        palette = plain.quantize(256)
        for data, mode, channels, limit in (
            (encode(plain, quality=95), "RGB", 3, 3),
            (encode(plain, quality=95, progressive=True), "RGB", 3, 3),
            (encode(plain, "PNG"), "RGB", 3, 2),
            (encode(alpha, "PNG"), "RGBA", 3, 2),
            (encode(palette, "PNG"), "P", 3, 12),
            (encode(palette, "GIF"), "P", 3, 12),
            (encode(plain, "BMP"), "RGB", 3, 2),
            (encode(plain, "TIFF"), "RGB", 3, 2),
            (encode(plain, "TIFF", compression="tiff_lzw"), "RGB", 3, 2),
        ):
            made = result(data)
            self.assertEqual(mode, self.info(data).info["mode"])
            self.assertEqual(channels, len(made.getbands()))
            self.assertLess(distance(reference(plain.copy(), (300, 300)), made), limit)

    def test_grey(self) -> None:
        """Grey stays one channel; bits become greys; 16 bits become 8."""
        grey = photograph(640, 480, "L")
        wide = grey.convert("I").point(lambda value: value * 257).convert("I;16")
        for data, limit in (
            (encode(grey, quality=95), 2),
            (encode(grey, "PNG"), 2),
            (encode(grey.convert("LA"), "PNG"), 2),
            (encode(wide, "PNG"), 2),
            (encode(wide, "TIFF"), 2),
            (encode(grey.convert("F"), "TIFF"), 2),
            (encode(grey.convert("I"), "TIFF"), 2),
        ):
            made = result(data)
            self.assertLess(distance(reference(grey.copy(), (300, 300)), made), limit)
        self.assertEqual("L", result(encode(grey, "PNG")).mode)
        self.assertEqual("L", result(encode(wide, "PNG")).mode)
        bits = grey.convert("1")
        self.assertEqual("L", result(encode(bits, "PNG")).mode)
        expected = reference(bits.convert("L"), (300, 300))
        self.assertLess(distance(expected, result(encode(bits, "PNG"))), 9)

    def test_cmyk(self) -> None:
        """Printers' colours become screen colours."""
        data = encode(photograph(640, 480, "CMYK"), quality=95)
        made = result(data)
        self.assertEqual("RGB", made.mode)
        self.assertEqual("CMYK", self.info(data).info["mode"])
        expected = reference(photograph(640, 480), (300, 300))
        self.assertLess(distance(expected, made), 8)

    def test_transparency(self) -> None:
        """What is transparent becomes white, in each of the ways to say so."""
        half = Image.new("RGBA", (200, 100), (0, 0, 0, 0))
        half.paste((200, 0, 0, 255), (0, 0, 100, 100))
        palette = half.convert("RGB").quantize(4)
        black = palette.getpixel((150, 50))
        for data in (
            encode(half, "PNG"),
            encode(half, "TIFF"),
            encode(half.convert("LA"), "PNG"),
            encode(palette, "PNG", transparency=black),
            encode(palette, "GIF", transparency=black),
            encode(half.convert("RGB"), "PNG", transparency=(0, 0, 0)),
        ):
            made = result(data, "100x50")
            self.assertGreaterEqual(min(_pixel(made, 75, 25)), 250)
            self.assertLess(_pixel(made, 25, 25)[-1], 80)

    def test_first_of_several(self) -> None:
        """Of an animation or a file of several pictures, the first is taken."""
        red, blue = (Image.new("RGB", (64, 48), each) for each in ("red", "blue"))
        for name in ("GIF", "TIFF", "MPO"):
            data = encode(red, name, save_all=True, append_images=[blue])
            pixel = _pixel(result(data, "64x48"), 30, 20)
            self.assertTrue(pixel[0] > 240 and pixel[2] < 20, (name, pixel))
            expected = "JPEG" if name == "MPO" else name
            self.assertEqual(expected, self.info(data).info["format"])

    def test_tiff_upright(self) -> None:
        """A TIFF says its orientation in its own way."""
        picture = photograph(64, 48)
        data = encode(picture, "TIFF", tiffinfo={0x0112: 6})
        turned = picture.transpose(Image.Transpose.ROTATE_270)
        self.assertLess(distance(turned, result(data, "64x64")), 6)

    def test_others_upright(self) -> None:
        """Other formats with EXIF are turned upright as well."""
        picture = photograph(64, 48)
        block = exif_block([(0x0112, 3, 1, struct.pack("<HH", 6, 0))])
        turned = picture.transpose(Image.Transpose.ROTATE_270)
        for name in ("PNG", "WEBP", "AVIF"):
            data = encode(picture, name, exif=block)
            made = result(data, "64x64", formats=(name,))
            self.assertLess(distance(turned, made), 12, name)


def _pixel(picture: Image.Image, x: int, y: int) -> tuple[int, ...]:
    pixel = picture.convert("RGB").getpixel((x, y))
    assert isinstance(pixel, tuple)
    return tuple(int(each) for each in pixel)


class ColourTests(SynchronousTestCase):
    def test_profile(self) -> None:
        """A picture in another colour space comes out in the right colours."""
        profile = swapped_profile()
        picture = photograph(640, 480)
        data = encode(picture, quality=95, icc_profile=profile)
        expected = ImageCms.profileToProfile(
            reference(picture.copy(), (300, 300)),
            ImageCms.ImageCmsProfile(io.BytesIO(profile)),
            ImageCms.createProfile("sRGB"),
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        )
        assert expected is not None
        made = result(data)
        self.assertLess(distance(expected, made), 6)
        self.assertGreater(distance(reference(picture.copy(), (300, 300)), made), 40)

    def test_srgb(self) -> None:
        """The usual profile changes nothing and is not written either."""
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        plain, tagged = jpeg(640, 480), jpeg(640, 480, icc_profile=profile)
        made = result(tagged)
        self.assertEqual(result(plain).tobytes(), made.tobytes())
        self.assertNotIn("icc_profile", made.info)

    def test_broken_profile(self) -> None:
        """A profile that cannot be, or is for other pictures, is ignored."""
        plain = result(jpeg(640, 480))
        for profile in (b"nonsense", bytes(5000), swapped_profile()[:300]):
            tagged = jpeg(640, 480, icc_profile=profile)
            self.assertEqual(plain.tobytes(), result(tagged).tobytes())
        grey = encode(photograph(640, 480, "L"), icc_profile=swapped_profile())
        self.assertEqual("L", result(grey).mode)

    def test_lab(self) -> None:
        """CIE Lab is converted, not taken for something else."""
        lab = ImageCms.profileToProfile(
            photograph(640, 480),
            ImageCms.createProfile("sRGB"),
            ImageCms.createProfile("LAB"),
            outputMode="LAB",
        )
        assert lab is not None
        expected = reference(photograph(640, 480), (300, 300))
        # The second time with a profile that is for other pictures.
        for options in ({}, {"icc_profile": swapped_profile()}):
            made = result(encode(lab, "TIFF", **options))
            self.assertLess(distance(expected, made), 9)


class PrivacyTests(SynchronousTestCase):
    def test_nothing_leaks(self) -> None:
        """Results hold pixels and nothing that was said about them."""
        secret = b"48.8583N 2.2944E"
        data = jpeg(640, 480, icc_profile=swapped_profile())
        data = with_segment(data, 0xFE, secret)
        place = exif_block([(0x010F, 2, len(secret), secret)])
        data = with_segment(data, 0xE1, b"Exif\0\0" + place)
        data = with_segment(data, 0xE1, b"http://ns.adobe.com/xap/1.0/\0" + secret)
        data = with_segment(data, 0xED, b"Photoshop 3.0\0" + secret)
        gif = encode(photograph(640, 480).quantize(), "GIF", comment=secret)
        for each in (data, gif):
            rendered = codec.render(each, job(publish_exif=False))
            for rendition in rendered.renditions.values():
                made = rendition.body
                self.assertNotIn(secret, made)
                info = Image.open(io.BytesIO(made)).info
                kept = {"jfif", "jfif_version", "jfif_unit", "jfif_density", "dpi"}
                self.assertLessEqual(set(info), kept)
            self.assertNotIn(secret, rendered.info_json())


_NEW = frozenset(
    (
        "oriented_width",
        "oriented_height",
        "frames",
        "alpha",
        "truncated",
        "content_type",
        "average",
        "thumbhash",
        "blurhash",
    )
)
"""Keys of the info that the original did not have."""


class InfoTests(SynchronousTestCase):
    def test_recorded(self) -> None:
        """The info of a plain JPEG has the original's keys and values."""
        rendered = codec.render(jpeg(64, 48), job("filename=te%20st"))
        self.assertEqual(
            {
                "jfif": "257",
                "jfif_version": "(1, 1)",
                "jfif_unit": "0",
                "jfif_density": "(1, 1)",
                "width": 64,
                "height": 48,
                "format": "JPEG",
                "mode": "RGB",
                "checksum": rendered.checksum,
                "filename": "te%20st",
            },
            {key: rendered.info[key] for key in rendered.info if key not in _NEW},
        )

    def test_stored_dimensions(self) -> None:
        """Width and height are those of the file, before it is turned."""
        rendered = codec.render(oriented(jpeg(64, 48), 6), job("sizes="))
        self.assertEqual((64, 48), (rendered.info["width"], rendered.info["height"]))
        self.assertEqual("6", rendered.info["exif_orientation"])

    def test_descriptor(self) -> None:
        """A file gives what its bytes give, wherever it was read to."""
        data = jpeg(640, 480)
        with open(os.memfd_create("upload"), "w+b") as file:
            file.write(data)
            file.flush()
            rendered = codec.render(file.fileno(), job())
            self.assertEqual(codec.render(data, job()), rendered)


class DamageTests(SynchronousTestCase):
    def assert_bad(self, data: bytes, reason: str = "", **changes: Any) -> None:
        with self.assertRaises(BadImage) as caught:
            codec.render(data, job(**changes))
        self.assertIn(reason, caught.exception.reason)

    def test_truncated_jpeg(self) -> None:
        """What there is of a JPEG is shown."""
        data = jpeg(640, 480)
        for end in (len(data) - 100, len(data) // 2):
            self.assertEqual((300, 225), result(data[:end]).size)
        self.assertEqual((300, 225), result(data + b"tail" * 100).size)
        self.assert_bad(data[:200])

    def test_corrupt_jpeg(self) -> None:
        """Damage in the middle costs pixels, not the picture."""
        data = bytearray(jpeg(640, 480))
        data[len(data) // 2 : len(data) // 2 + 50] = b"\x5a" * 50
        self.assertEqual((300, 225), result(bytes(data)).size)

    def test_truncated_others(self) -> None:
        """What nothing is there of is bad, also right after a truncated JPEG."""
        data = jpeg(640, 480)
        codec.render(data[: len(data) // 2], job())
        self.assert_bad(encode(photograph(640, 480), "PNG")[:50])
        # Their decoders give nothing before they have all.
        for name in ("WEBP", "AVIF", "HEIC"):
            whole = corpus.whole()[name]
            for end in (len(whole) // 2, len(whole) - 100):
                self.assert_bad(whole[:end])

    def test_nothing_known(self) -> None:
        """Empty, text, and formats that are not accepted are bad."""
        picture = photograph(64, 48)
        for data in (
            b"",
            b"bad data",
            b"%PDF-1.4\n%",
            b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            b"%!PS-Adobe-3.0 EPSF-3.0\n",
            encode(picture, "PPM"),
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            b"BM",
            b"II*\0",
            b"\xff\xd8\xff" + encode(picture, "PNG"),
        ):
            self.assert_bad(data)
        with open(os.memfd_create("empty"), "w+b") as file, self.assertRaises(BadImage):
            codec.render(file.fileno(), job())

    def test_format_list(self) -> None:
        """A format that is not configured is not opened."""
        self.assert_bad(jpeg(64, 48), "format JPEG", formats=("PNG",))

    def test_limits(self) -> None:
        """Limits hold before anything is decoded."""
        data = jpeg(640, 480)
        for reason, changes in (
            ("640x480", {"max_width": 639}),
            ("640x480", {"max_height": 479}),
            ("640x480", {"max_pixels": 640 * 480 - 1}),
            ("bytes", {"max_bytes": len(data) - 1}),
        ):
            self.assert_bad(data, reason, **changes)
        self.assertEqual(
            (300, 225), result(data, max_width=640, max_pixels=640 * 480).size
        )
        self.assert_bad(png_bomb(30000, 3), "30000x3")

    def test_zero_sides(self) -> None:
        """A picture without pixels is none."""
        png = png_bomb(1, 1)
        self.assert_bad(png.replace(struct.pack(">II", 1, 1), struct.pack(">II", 0, 1)))
        bmp = bytearray(encode(photograph(8, 8), "BMP"))
        bmp[18:22] = bytes(4)
        self.assert_bad(bytes(bmp))

    def test_scan_bomb(self) -> None:
        """Scans beyond reason are refused before they cost anything."""
        self.assert_bad(scan_bomb(300), "more than 64 scans")
        # Without the progressive mark the first scan is all that a decoder reads.
        plain = encode(Image.new("L", (64, 64)), quality=50)
        scan = plain[plain.rindex(b"\xff\xda") : -2]
        many = plain[:-2] + scan * 300 + plain[-2:]
        self.assertEqual(result(plain).tobytes(), result(many).tobytes())

    def test_damaged_anywhere(self) -> None:
        """Whatever byte is wrong, a picture is rendered or refused, nothing else."""
        picture = photograph(24, 18)
        for name in ("JPEG", "PNG", "GIF", "TIFF", "BMP"):
            data = encode(picture, name)
            for at in range(0, min(len(data), 800), 3):
                damaged = bytearray(data)
                damaged[at] ^= 0xFF
                try:
                    codec.render(bytes(damaged), job("sizes=10x10"))
                except BadImage as bad:
                    self.assertTrue(bad.reason)

    def test_raising_decoder(self) -> None:
        """Whatever a decoder raises, also for want of memory, is a bad image."""
        for error in (MemoryError(), ZeroDivisionError(), SystemError("x")):
            opener: Callable[..., object] = mock.Mock(side_effect=error)
            with mock.patch.dict(opening._OPENERS, JPEG=opener):
                self.assert_bad(jpeg(64, 48))

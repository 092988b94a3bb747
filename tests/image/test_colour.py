"""Colours, against converting the whole picture first, and against plain arithmetic."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any
from unittest import mock

from PIL import Image, ImageCms, ImageOps
from twisted.trial.unittest import SynchronousTestCase

from clinfra.image import colour, opening
from tests.image.looks import difference, made, render, ssim
from tests.image.pictures import encode, photograph, swapped_profile
from tests.image.profiles import ADOBE_RGB, DISPLAY_P3, greys, monitor, printer

LANCZOS = Image.Resampling.LANCZOS


def in_srgb(picture: Image.Image, profile: bytes) -> Image.Image:
    """Return a whole picture converted, as any viewer with colour management would."""
    converted = ImageCms.profileToProfile(
        picture,
        ImageCms.ImageCmsProfile(io.BytesIO(profile)),
        ImageCms.createProfile("sRGB"),
        renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
        outputMode="RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert converted is not None
    return converted


def see_through(width: int = 200, height: int = 100) -> Image.Image:
    """Return a red disc, softly cut out, on nothing whose colour is green."""
    mask = Image.radial_gradient("L").resize((width, height))
    mask = mask.point(lambda value: max(min(600 - 4 * value, 255), 0))
    picture = Image.new("RGBA", (width, height), (0, 255, 0, 0))
    picture.paste((220, 20, 20, 255), (0, 0), Image.new("L", mask.size, 255))
    nothing = Image.new("RGBA", mask.size, (0, 255, 0, 0))
    both = Image.composite(
        picture, nothing, mask.point(lambda value: 255 * (value > 0))
    )
    both.putalpha(mask)
    return both


class ProfileTests(SynchronousTestCase):
    def check(self, picture: Image.Image, profile: bytes, name: str = "JPEG") -> None:
        """Compare with a conversion of the whole, which must have made a difference."""
        options: dict[str, Any] = {"quality": 95} if name == "JPEG" else {}
        data = encode(picture, name, icc_profile=profile, **options)
        whole = in_srgb(Image.open(io.BytesIO(data)), profile)
        for recipe in ("300x300", "full"):
            result = made(data, recipe + "_png")
            expected = ImageOps.contain(whole, result.size, LANCZOS)
            self.assertLess(difference(expected, result), 3, recipe)
            self.assertNotIn("icc_profile", result.info)
        plain = made(encode(picture, name, **options), "full_png")
        self.assertGreater(difference(plain, made(data, "full_png")), 3)

    def test_photographs(self) -> None:
        """Photographs of wide and odd spaces come out as the whole one converted."""
        picture = photograph(640, 480)
        for profile in (monitor(DISPLAY_P3), monitor(ADOBE_RGB), swapped_profile()):
            self.check(picture, profile)
            self.check(picture, profile, "PNG")
            self.check(picture, profile, "TIFF")

    def test_other_formats(self) -> None:
        """So do those of WebP and AVIF."""
        profile = swapped_profile()
        picture = photograph(640, 480)
        expected = in_srgb(picture, profile).resize((320, 240), LANCZOS)
        for name, limit in (("WEBP", 8), ("AVIF", 8)):
            data = encode(picture, name, icc_profile=profile, quality=95)
            self.assertLess(difference(expected, made(data, "320x240_png")), limit)

    def test_grey(self) -> None:
        """Greys with a curve of their own become sRGB's, and stay one channel."""
        picture = photograph(640, 480, "L")
        profile = greys(1.0)
        self.check(picture, profile)
        self.check(picture, profile, "PNG")
        data = encode(picture, "PNG", icc_profile=profile)
        self.assertEqual("L", made(data, "300x300").mode)

    def test_see_through(self) -> None:
        """Transparency comes through a conversion unchanged, in colour and grey."""
        profile = swapped_profile()
        data = encode(see_through(), "PNG", icc_profile=profile)
        result = made(data, "full_png")
        red, green, blue, alpha = _pixel(result, 100, 50)
        self.assertTrue(green > 150 > 60 > red and alpha == 255, (red, green, blue))
        self.assertEqual(
            see_through().getchannel("A").tobytes(), result.getchannel("A").tobytes()
        )
        grey = see_through().convert("LA")
        data = encode(grey, "PNG", icc_profile=greys(1.0))
        expected = in_srgb(grey.convert("L"), greys(1.0))
        result = made(data, "full_png")
        middle, _, _ = expected.getpixel((100, 50))  # type: ignore[misc]  # it is RGB
        self.assertLessEqual(abs(_pixel(result, 100, 50)[0] - middle), 2)

    def test_printed(self) -> None:
        """Printers' colours are converted by the printer's profile."""
        picture = photograph(640, 480, "CMYK")
        profile = printer()
        data = encode(picture, quality=95, icc_profile=profile)
        whole = in_srgb(Image.open(io.BytesIO(data)), profile)
        result = made(data, "320x240_png")
        self.assertEqual("RGB", result.mode)
        self.assertLess(difference(whole.resize((320, 240), LANCZOS), result), 3)
        plain = made(encode(picture, quality=95), "320x240_png")
        self.assertGreater(difference(plain, result), 10)

    def test_mismatched(self) -> None:
        """A profile of another kind of picture is as none."""
        for mode, profile in (
            ("RGB", greys(1.0)),
            ("RGB", printer()),
            ("L", monitor(ADOBE_RGB)),
            ("L", printer()),
        ):
            picture = photograph(64, 48, mode)
            tagged = made(encode(picture, "TIFF", icc_profile=profile), "full_png")
            self.assertEqual(picture.convert(mode).tobytes(), tagged.tobytes(), mode)


def _pixel(picture: Image.Image, x: int, y: int) -> tuple[int, ...]:
    pixel = picture.convert("RGBA").getpixel((x, y))
    assert isinstance(pixel, tuple)
    return tuple(int(each) for each in pixel)


class TransparencyTests(SynchronousTestCase):
    def test_kept(self) -> None:
        """Transparency is kept where the format has it, in every way to say so."""
        picture = see_through()
        palette = picture.convert("RGB").quantize(4)
        index = palette.getpixel((0, 0))
        for name, options in (
            ("PNG", {}),
            ("WEBP", {"lossless": True}),
            ("TIFF", {}),
            ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
        ):
            data = encode(picture, name, **options)
            for form in ("png", "webp", "avif", "plain"):
                result = made(data, f"100x50_{form}")
                self.assertEqual(0, _pixel(result, 2, 2)[3], (name, form))
                self.assertGreaterEqual(_pixel(result, 50, 25)[3], 254, (name, form))
        for name in ("PNG", "GIF"):
            data = encode(palette, name, transparency=index)
            self.assertEqual(0, _pixel(made(data, "100x50_png"), 2, 2)[3], name)

    def test_no_fringe(self) -> None:
        """Colours of what is invisible never mix into what is seen."""
        data = encode(see_through(), "PNG")
        for recipe in ("100x50", "300x150_enlarge", "60x30_blur-2", "90x45_sharpen-2"):
            result = made(data, recipe + "_png").convert("RGBA")
            solid = result.getchannel("A").point(lambda value: 255 * (value > 40))
            nothing = Image.new("RGB", result.size)
            seen = Image.composite(result.convert("RGB"), nothing, solid)
            self.assertLess(seen.getextrema()[1][1], 40, recipe)  # type: ignore[index]  # of bands

    def test_background(self) -> None:
        """What shines through is white, or the colour asked for."""
        data = encode(see_through(), "PNG")
        self.assertGreater(min(_pixel(made(data, "100x50"), 2, 2)), 250)
        for form in ("png", "webp", "avif", "plain", "jpeg"):
            result = made(data, f"100x50_bg-2040a0_{form}")
            red, green, blue, alpha = _pixel(result, 2, 2)
            self.assertLess(abs(red - 0x20) + abs(green - 0x40) + abs(blue - 0xA0), 12)
            self.assertEqual(255, alpha)
            self.assertNotIn("A", result.getbands())

    def test_soft_edges(self) -> None:
        """A flattened result is the whole picture laid on white, then resized."""
        picture = see_through()
        white = Image.new("RGBA", picture.size, "white")
        whole = Image.alpha_composite(white, picture).convert("RGB")
        result = made(encode(picture, "PNG"), "100x50_bg-fff_png")
        self.assertLess(difference(whole.resize((100, 50), LANCZOS), result), 1.5)

    def test_plain(self) -> None:
        """Plain is PNG when something shines through, and JPEG when nothing does."""
        opaque = photograph(64, 48).convert("RGBA")
        for picture, recipe, media_type in (
            (see_through(), "30x30_plain", "image/png"),
            (see_through(), "30x30_bg-fff_plain", "image/jpeg"),
            (opaque, "30x30_plain", "image/jpeg"),
            (opaque, "30x30_pad_plain", "image/jpeg"),
            (see_through(), "30x30_pad_plain", "image/png"),
            (opaque, "30x30_lossless", "image/png"),
            (opaque, "30x30_lossless_webp", "image/webp"),
        ):
            (rendition,) = render(encode(picture, "PNG"), recipe).renditions.values()
            self.assertEqual(media_type, rendition.content_type, recipe)

    def test_info(self) -> None:
        """The info says whether something shines through, not whether it might."""
        for picture, alpha in (
            (see_through(), True),
            (photograph(64, 48).convert("RGBA"), False),
            (photograph(64, 48), False),
        ):
            rendered = render(encode(picture, "PNG"), "30x30")
            self.assertIs(alpha, rendered.info["alpha"])


class PaddingTests(SynchronousTestCase):
    def test_clear(self) -> None:
        """Without a background padding is nothing, or white in a JPEG."""
        data = encode(photograph(64, 32), "PNG")
        for form, around in (("png", 0), ("webp", 0), ("avif", 0), ("jpeg", 255)):
            result = made(data, f"100x100_pad_{form}")
            self.assertEqual((100, 100), result.size)
            self.assertEqual(around, _pixel(result, 3, 3)[3], form)
        self.assertGreater(min(_pixel(made(data, "100x100_pad"), 3, 3)), 250)

    def test_grey(self) -> None:
        """Grey padded with white stays grey; with a colour it does not."""
        data = encode(photograph(64, 32, "L"), "PNG")
        self.assertEqual("L", made(data, "100x100_pad").mode)
        self.assertEqual("RGB", made(data, "100x100_pad_bg-f00").mode)


class DepthTests(SynchronousTestCase):
    def test_sixteen_bits(self) -> None:
        """Sixteen bits become the eight that are nearest, grey and colour."""
        for samples in (1, 3):
            picture = photograph(64, 48, "L" if samples == 1 else "RGB")
            result = made(_png_of_16_bits(picture), "full_png")
            self.assertEqual(picture.mode, result.mode)
            self.assertLess(difference(picture, result), 1)

    def test_palette(self) -> None:
        """A palette is resized as colours, also with transparency in several steps."""
        picture = photograph(128, 96).quantize(64)
        whole = picture.convert("RGB").resize((64, 48), LANCZOS)
        self.assertLess(difference(whole, made(encode(picture, "PNG"), "64x48_png")), 2)
        alphas = bytes(range(0, 256, 4))
        data = encode(picture, "PNG", transparency=alphas)
        whole = Image.open(io.BytesIO(data)).convert("RGBA").resize((64, 48), LANCZOS)
        self.assertLess(difference(whole, made(data, "64x48_png")), 2)


def _png_of_16_bits(picture: Image.Image) -> bytes:
    """Return a PNG of twice as wide samples, each with its high byte repeated."""
    samples = len(picture.getbands())
    rows = [
        b"\0" + bytes(byte for value in row for byte in (value, value))
        for row in (
            picture.tobytes()[start : start + samples * picture.width]
            for start in range(
                0, samples * picture.width * picture.height, samples * picture.width
            )
        )
    ]
    colour_type = 0 if samples == 1 else 2
    head = struct.pack(">IIBBBBB", *picture.size, 16, colour_type, 0, 0, 0)
    chunks = (
        (b"IHDR", head),
        (b"IDAT", zlib.compress(b"".join(rows))),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body))
        + name
        + body
        + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


class LargeTests(SynchronousTestCase):
    """Large pictures are reduced strip by strip; here much smaller ones are large."""

    def test_alike(self) -> None:
        """In every mode that makes no difference to the eye."""
        plain = photograph(643, 481)
        alpha = plain.copy()
        alpha.putalpha(photograph(643, 481, "L"))
        palette = plain.quantize(64)
        for picture, options in (
            (plain, {}),
            (alpha, {}),
            (plain.convert("L"), {}),
            (plain.convert("RGBA"), {}),
            (plain.convert("1"), {}),
            (alpha.convert("LA"), {}),
            (palette, {}),
            (palette, {"transparency": bytes(range(0, 256, 4))}),
            (plain, {"transparency": (0, 0, 0)}),
            (plain.convert("I").convert("I;16"), {}),
        ):
            data = encode(picture, "PNG", **options)
            recipes = ("100x100_png", "40x40c_png", "90x90_trim-2_g-n_pad_png")
            usual = render(data, *recipes)
            with (
                mock.patch.object(opening, "_LARGE_PIXELS", 1000),
                mock.patch.object(colour, "_STRIP_PIXELS", 10_000),
            ):
                reduced = render(data, *recipes)
            for name, one in usual.renditions.items():
                other = reduced.renditions[name]
                pictures = [Image.open(io.BytesIO(each.body)) for each in (one, other)]
                self.assertLess(difference(*pictures), 3, (picture.mode, name))
            self.assertEqual(usual.info["alpha"], reduced.info["alpha"])

    def test_little_less(self) -> None:
        """What is nearly as large as the picture is made of all its pixels."""
        data = encode(photograph(643, 481), "PNG")
        usual = render(data, "400x400_png").renditions
        with mock.patch.object(opening, "_LARGE_PIXELS", 1000):
            self.assertEqual(usual, render(data, "400x400_png").renditions)

    def test_quality(self) -> None:
        """Reduced first, a result is as good as from the whole within 0.002."""
        picture = photograph(2400, 1800)
        best = picture.resize((600, 450), LANCZOS)
        data = encode(picture, "BMP")
        with mock.patch.object(opening, "_LARGE_PIXELS", 1000):
            self.assertGreater(ssim(best, made(data, "600x450_png")), 0.998)

"""Trimming, smart crops, filters, what is written, and that it is always the same."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from typing import Any

import attrs
from PIL import Image, ImageDraw
from twisted.trial.unittest import SynchronousTestCase

from clinfra.image import codec, smart, trimming
from clinfra.image.job import Job
from clinfra.image.sizes import parse_recipe
from tests.image.looks import EVERYTHING, difference, made, render
from tests.image.pictures import (
    encode,
    exif_block,
    jpeg,
    oriented,
    photograph,
    with_segment,
)
from tests.image.support import job


class TrimTests(SynchronousTestCase):
    def framed(self, border: object, *, mode: str = "RGB") -> Image.Image:
        canvas = Image.new(mode, (200, 150), border)  # type: ignore[arg-type]  # any colour
        canvas.paste(photograph(90, 70).convert(mode), (60, 20))
        return canvas

    def test_content(self) -> None:
        """What is left is all that differs from the corner."""
        for mode, border in (
            ("RGB", (9, 8, 7)),
            ("L", 30),
            ("RGBA", (0, 0, 0, 0)),
            ("CMYK", (255, 255, 255, 255)),
        ):
            box = trimming.content(self.framed(border, mode=mode), (0, 0), 0)
            self.assertEqual((60, 20, 150, 90), box, mode)

    def test_tolerance(self) -> None:
        """A border may differ as far as the recipe allows, in every channel."""
        picture = self.framed((100, 100, 100))
        picture.putpixel((5, 5), (100, 100, 110))
        self.assertEqual((5, 5, 150, 90), trimming.content(picture, (0, 0), 9))
        self.assertEqual((60, 20, 150, 90), trimming.content(picture, (0, 0), 10))
        # The colour is that of the corner asked for.
        picture.putpixel((199, 0), (255, 255, 255))
        self.assertEqual((0, 0, 200, 150), trimming.content(picture, (1, 0), 0))

    def test_nothing_left(self) -> None:
        """A picture that is border all over stays as it is."""
        data = encode(Image.new("RGB", (64, 48), "teal"), "PNG")
        self.assertEqual((64, 48), made(data, "full_trim-10_png").size)

    def test_invisible(self) -> None:
        """Colours of what is invisible make no difference."""
        picture = self.framed((0, 0, 0, 0), mode="RGBA")
        picture.putpixel((3, 3), (255, 0, 255, 0))
        self.assertEqual((60, 20, 150, 90), trimming.content(picture, (0, 0), 0))

    def test_large(self) -> None:
        """Of a large JPEG enough is decoded that what is left is sharp."""
        canvas = Image.new("RGB", (2400, 1800), "white")
        canvas.paste(inner := photograph(500, 400), (700, 600))
        result = made(encode(canvas, quality=95), "400x400_trim-30_png")
        expected = inner.resize((400, 320), Image.Resampling.LANCZOS)
        self.assertEqual(400, result.width)
        self.assertLess(abs(result.height - 320), 4)
        self.assertLess(difference(expected, result.resize((400, 320))), 14)

    def test_fitted(self) -> None:
        """Frames are for what is left."""
        data = encode(self.framed((0, 0, 0)), "PNG")
        self.assertEqual((45, 35), made(data, "45x45_trim-0_png").size)
        self.assertEqual((40, 40), made(data, "40x40c_trim-0_g-smart_png").size)


class SmartTests(SynchronousTestCase):
    def point(self, at: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
        picture = Image.new("RGB", size, "#909090")
        picture.paste(photograph(60, 60), at)
        part = (size[1] / size[0], 1.0) if size[0] > size[1] else (1, size[0] / size[1])
        return smart.attention(picture, (0, 0, *size), part)

    def test_detail(self) -> None:
        """A crop goes to where something is to be seen, and puts it in the middle."""
        for left in (60, 150, 280, 330):
            x, y = self.point((left, 60), (480, 160))
            self.assertLess(abs(x * 480 - (left + 30)), 30)
            self.assertEqual(0.5, y)
        x, y = self.point((40, 300), (160, 480))
        self.assertEqual(0.5, x)
        self.assertLess(abs(y * 480 - 330), 30)

    def test_skin(self) -> None:
        """A face draws more than as much detail of another colour."""
        picture = Image.new("RGB", (480, 160), "#405060")
        draw = ImageDraw.Draw(picture)
        for left, colour in ((60, "#60a080"), (360, "#e0ac88")):
            draw.ellipse((left, 40, left + 60, 120), colour)
        x, _ = smart.attention(picture, (0, 0, 480, 160), (1 / 3, 1.0))
        self.assertGreater(x, 0.7)

    def test_nothing(self) -> None:
        """Where there is nothing to see, it stays in the middle."""
        for size in ((480, 160), (160, 480), (2, 1), (1, 2), (7000, 1)):
            picture = Image.new("L", size, 128)
            part = (0.3, 1.0) if size[0] > size[1] else (1.0, 0.3)
            x, y = smart.attention(picture, (0, 0, *size), part)
            self.assertLess(abs(x - 0.5) + abs(y - 0.5), 0.1, size)

    def test_modes(self) -> None:
        """Every workable mode can be looked at."""
        for mode in ("L", "RGB", "RGBA", "CMYK"):
            picture = Image.new("RGB", (300, 100), "#909090")
            picture.paste(photograph(60, 60), (220, 20))
            x, _ = smart.attention(picture.convert(mode), (0, 0, 300, 100), (0.3, 1.0))
            self.assertGreater(x, 0.7, mode)

    def test_whole(self) -> None:
        """The same picture at any decoded scale is looked at in the same place."""
        picture = Image.new("RGB", (2400, 800), "#909090")
        picture.paste(photograph(300, 300), (1800, 200))
        data = encode(picture, quality=95)
        for recipe in ("80x80c_g-smart", "700x700c_g-smart"):
            result = made(data, recipe + "_png").convert("L")
            left, right = (
                result.crop(box).resize((1, 1)).getpixel((0, 0))
                for box in (
                    (0, 0, result.width // 8, result.height),
                    (7 * result.width // 8, 0, result.width, result.height),
                )
            )
            self.assertTrue(abs(left - 144) < 9 and abs(right - 144) < 9)  # type: ignore[operator]  # grey


class WrittenTests(SynchronousTestCase):
    def test_formats(self) -> None:
        """Every format is written as what it says it is."""
        data = jpeg(320, 240)
        for recipe, form, media_type in (
            ("160x120", "JPEG", "image/jpeg"),
            ("160x120_webp", "WEBP", "image/webp"),
            ("160x120_avif", "AVIF", "image/avif"),
            ("160x120_png", "PNG", "image/png"),
            ("160x120_plain", "JPEG", "image/jpeg"),
            ("160x120_lossless", "PNG", "image/png"),
            ("160x120_lossless_plain", "PNG", "image/png"),
            ("160x120_lossless_avif", "AVIF", "image/avif"),
        ):
            (rendition,) = render(data, recipe).renditions.values()
            picture = Image.open(io.BytesIO(rendition.body))
            self.assertEqual(
                (form, media_type), (picture.format, rendition.content_type)
            )
            self.assertEqual((160, 120), picture.size)
            self.assertEqual((160, 120), (rendition.width, rendition.height))

    def test_lossless(self) -> None:
        """Lossless is every pixel as resized; AVIF comes close."""
        data = jpeg(320, 240)
        expected = made(data, "160x120_png")
        for recipe, limit in (
            ("160x120_lossless", 0),
            ("160x120_lossless_webp", 0),
            ("160x120_lossless_avif", 2),
        ):
            self.assertLessEqual(difference(expected, made(data, recipe)), limit)

    def test_quality(self) -> None:
        """A recipe's quality goes before the job's."""
        data = jpeg(640, 480)
        for form in ("jpeg", "webp", "avif"):
            lengths = [
                len(
                    next(
                        iter(render(data, recipe, quality=50).renditions.values())
                    ).body
                )
                for recipe in (f"300x300_q-{q}_{form}" for q in (10, 50, 95))
            ]
            self.assertEqual(sorted(lengths), lengths)
            plain = render(data, f"300x300_{form}", quality=50).renditions.popitem  # type: ignore[attr-defined]  # a dict
            self.assertEqual(lengths[1], len(plain()[1].body))

    def test_progressive(self) -> None:
        """A JPEG is progressive when asked."""
        data = jpeg(640, 480)
        self.assertIn("progressive", made(data, "300x300_progressive").info)
        self.assertNotIn("progressive", made(data, "300x300").info)

    def test_bare(self) -> None:
        """Nothing that was said of a picture is written, in any format or size."""
        secret = b"48.8583N 2.2944E"
        place = exif_block([(0x010F, 2, len(secret), secret)])
        picture = photograph(64, 48)
        profile = {"icc_profile": b"x" * 3000}
        sources = [
            with_segment(jpeg(64, 48, **profile), 0xE1, b"Exif\0\0" + place),
            encode(picture, "PNG", exif=place, **profile),
            encode(picture, "WEBP", exif=place, xmp=secret, **profile),
            encode(picture, "AVIF", exif=place, xmp=secret, **profile),
            encode(picture.quantize(), "GIF", comment=secret, loop=3),
            encode(picture, "TIFF", tiffinfo={0x010F: secret.decode()}, **profile),
        ]
        for data in sources:
            for form in ("jpeg", "webp", "avif", "png"):
                for recipe in (f"full_{form}", f"10x10_{form}"):
                    (rendition,) = render(data, recipe).renditions.values()
                    self.assertNotIn(secret, rendition.body)
                    self.assertNotIn(b"x" * 100, rendition.body)
                    info = Image.open(io.BytesIO(rendition.body)).info
                    self.assertFalse(
                        {"exif", "xmp", "icc_profile", "comment"} & {*info}
                    )


class CreditTests(SynchronousTestCase):
    def source(self) -> bytes:
        def text(tag: int, value: bytes) -> tuple[int, int, int, bytes]:
            return tag, 2, len(value) + 1, value + b"\0"

        block = exif_block(
            [
                text(0x010F, b"Camera Maker"),
                text(0x0132, b"2026:11:22 10:11:12"),
                text(0x013B, b"Ann"),
                text(0x8298, "© Ann Example".encode()),
            ],
            [text(0x9003, b"2026:11:21 09:08:07"), text(0xA431, b"SERIAL-12345")],
            [text(0x0001, b"N"), (0x0002, 5, 3, bytes(24))],
        )
        return with_segment(jpeg(64, 48), 0xE1, b"Exif\0\0" + block)

    def test_kept(self) -> None:
        """Asked to, a result says who made the picture and when, and nothing else."""
        for form in ("jpeg", "webp", "avif", "png"):
            result = made(self.source(), f"30x30_keep_{form}")
            exif = result.getexif()
            self.assertEqual({0x0132, 0x013B, 0x8298, 0x8769}, set(exif), form)
            self.assertEqual("Ann", exif[0x013B])
            written = exif[0x8298].encode("latin-1").decode()
            self.assertEqual("© Ann Example", written)
            self.assertEqual(
                {0x9003: "2026:11:21 09:08:07"}, dict(exif.get_ifd(0x8769)), form
            )
            self.assertNotIn(b"SERIAL", result.info["exif"])

    def test_nothing_to_keep(self) -> None:
        """Without anything to keep there is no block, and turning is not said twice."""
        for data in (jpeg(64, 48), oriented(jpeg(64, 48), 6)):
            self.assertNotIn("exif", made(data, "30x30_keep").info)


class SameTests(SynchronousTestCase):
    recipes = (
        "50x50c",
        "300x300",
        "600x450_webp",
        "200x200_avif",
        "200x200_png",
        "90x90c_g-smart_blur-1.5_sharpen-2",
        "120x120_pad_bg-abc_trim-9_rotate-90_plain",
        "64x48_animate_webp",
        "64x48_animate_avif",
        "64x48_animate_png",
        "64x48_keep_progressive",
    )

    def sources(self) -> list[bytes]:
        picture = photograph(320, 240)
        frames = [picture.rotate(10 * number).quantize(64) for number in range(3)]
        return [
            jpeg(1280, 960),
            encode(picture.convert("RGBA"), "PNG"),
            encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        ]

    def job(self) -> Job:
        asked = job("sizes=&quality=80", formats=EVERYTHING)
        return attrs.evolve(asked, recipes=tuple(map(parse_recipe, self.recipes)))

    def digests(self) -> list[str]:
        return [
            hashlib.sha256(rendition.body).hexdigest()
            for data in self.sources()
            for rendition in codec.render(data, self.job()).renditions.values()
        ]

    def test_again(self) -> None:
        """The same bytes and job give the same results, whatever came between."""
        self.assertEqual(self.digests(), self.digests())

    def test_elsewhere(self) -> None:
        """They do so in another process."""
        program = (
            "import json, hashlib, sys\n"
            "from clinfra.image import codec\n"
            "from clinfra.image.job import Job\n"
            "job = Job.from_json(json.loads(sys.argv[1]))\n"
            "for path in sys.argv[2:]:\n"
            "    with open(path, 'rb') as file:\n"
            "        rendered = codec.render(file.fileno(), job)\n"
            "    for rendition in rendered.renditions.values():\n"
            "        print(hashlib.sha256(rendition.body).hexdigest())\n"
        )
        paths = []
        for number, data in enumerate(self.sources()):
            path = f"{self.mktemp()}{number}"
            with open(path, "wb") as file:
                file.write(data)
            paths.append(path)
        message = json.dumps(self.job().to_json())
        run = subprocess.run(
            [sys.executable, "-c", program, message, *paths],
            env={**os.environ, "PYTHONHASHSEED": "7"},
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertEqual(self.digests(), run.stdout.split())


class InfoTests(SynchronousTestCase):
    def info(self, data: bytes, *recipes: str, **changes: Any) -> dict[str, Any]:
        return dict(render(data, *recipes, **changes).info)

    def test_dimensions(self) -> None:
        """The info has the size as stored and as looked at."""
        info = self.info(oriented(jpeg(64, 48), 6), "10x10")
        self.assertEqual((64, 48), (info["width"], info["height"]))
        self.assertEqual((48, 64), (info["oriented_width"], info["oriented_height"]))

    def test_truncated(self) -> None:
        """A truncated JPEG is said to be so; a whole one is not, whatever follows."""
        data = jpeg(640, 480)
        for end in (len(data) // 2, len(data) - 300):
            self.assertIs(True, self.info(data[:end], "100x100")["truncated"])
        progressive = jpeg(640, 480, progressive=True)
        for whole in (data, data + b"tail" * 100, progressive, jpeg(1, 1)):
            self.assertNotIn("truncated", self.info(whole, "100x100"))

    def test_kind(self) -> None:
        """The info says what the upload was."""
        for name in ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "TIFF", "BMP"):
            info = self.info(encode(photograph(64, 48), name), "10x10")
            self.assertEqual(f"image/{name.lower()}", info["content_type"])
            self.assertEqual((name, 1), (info["format"], info["frames"]))

    def test_unwanted(self) -> None:
        """Renditions are the same when nobody wants the info."""
        data = jpeg(640, 480)
        wanted = job()
        rendered = codec.render(data, attrs.evolve(wanted, want_info=False))
        self.assertEqual({}, rendered.info)
        self.assertEqual(codec.render(data, wanted).renditions, rendered.renditions)

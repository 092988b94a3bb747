"""Every kind of recipe, in every EXIF orientation, against plain ways of the same.

The reference turns the whole decoded picture upright first, as Pillow does it, and
then does with Pillow alone what the recipe says.
"""

from __future__ import annotations

import io
from collections.abc import Callable

import attrs
from PIL import Image, ImageFilter, ImageOps
from twisted.trial.unittest import SynchronousTestCase

from clinfra.image import codec
from clinfra.image.job import Job, rung_name
from clinfra.image.sources import ladder
from tests.image.looks import difference, made, ssim
from tests.image.pictures import encode, jpeg, oriented, photograph
from tests.image.support import job

LANCZOS = Image.Resampling.LANCZOS
Way = Callable[[Image.Image], Image.Image]


def contained(width: int, height: int) -> Way:
    return lambda whole: ImageOps.contain(whole, (width, height), LANCZOS)


def fitted(width: int, height: int, x: float = 0.5, y: float = 0.5) -> Way:
    return lambda whole: ImageOps.fit(whole, (width, height), LANCZOS, centering=(x, y))


def padded(width: int, height: int, colour: str, x: float = 0.5, y: float = 0.5) -> Way:
    return lambda whole: ImageOps.pad(
        whole, (width, height), LANCZOS, color=colour, centering=(x, y)
    )


def turned(method: Image.Transpose, way: Way) -> Way:
    return lambda whole: way(whole.transpose(method))


def around(width: int, height: int, x: float, y: float) -> Way:
    """Return how to cut out the largest part with a point in its middle."""

    def cut(whole: Image.Image) -> Image.Image:
        scale = min(whole.width / width, whole.height / height)
        part = (width * scale, height * scale)
        left = min(max(x * whole.width - part[0] / 2, 0), whole.width - part[0])
        upper = min(max(y * whole.height - part[1] / 2, 0), whole.height - part[1])
        box = (left, upper, left + part[0], upper + part[1])
        return whole.resize((width, height), LANCZOS, box)

    return cut


def filtered(way: Way, each: ImageFilter.Filter) -> Way:
    return lambda whole: way(whole).filter(each)


WAYS: dict[str, Way] = {
    "300x300": contained(300, 300),
    "300x": lambda whole: contained(300, 10**6)(whole),
    "x120": lambda whole: contained(10**6, 120)(whole),
    "full": lambda whole: whole,
    "120x60c": fitted(120, 60),
    **{
        f"{wide}x{high}c_g-{name}": fitted(wide, high, x, y)
        for wide, high in ((120, 60), (60, 120))
        for name, x, y in (
            ("nw", 0, 0),
            ("n", 0.5, 0),
            ("ne", 1, 0),
            ("w", 0, 0.5),
            ("e", 1, 0.5),
            ("sw", 0, 1),
            ("s", 0.5, 1),
            ("se", 1, 1),
        )
    },
    "100x100c_fp-0.2x0.7": around(100, 100, 0.2, 0.7),
    "50x100c_fp-0.61x0.1": around(50, 100, 0.61, 0.1),
    "200x200_pad_bg-336699": padded(200, 200, "#336699"),
    "100x200_pad_g-se_bg-f00": padded(100, 200, "#ff0000", 1, 1),
    "90x200_exact": lambda whole: whole.resize((90, 200), LANCZOS),
    "700x700_enlarge": contained(700, 700),
    "720x720_pad_enlarge_bg-fff": padded(720, 720, "#ffffff"),
    "200x_rotate-90": turned(Image.Transpose.ROTATE_270, contained(200, 10**6)),
    "200x_rotate-180": turned(Image.Transpose.ROTATE_180, contained(200, 10**6)),
    "200x_rotate-270": turned(Image.Transpose.ROTATE_90, contained(200, 10**6)),
    "200x100c_g-n_flip": turned(Image.Transpose.FLIP_TOP_BOTTOM, fitted(200, 100, y=0)),
    "99x100c_g-e_flop": turned(Image.Transpose.FLIP_LEFT_RIGHT, fitted(99, 100, x=1)),
    "100x200c_g-s_rotate-90_flip": turned(
        Image.Transpose.ROTATE_270,
        turned(Image.Transpose.FLIP_TOP_BOTTOM, fitted(100, 200, y=1)),
    ),
    "300x300_blur-3": filtered(contained(300, 300), ImageFilter.GaussianBlur(3)),
    "300x300_sharpen-1": filtered(
        contained(300, 300), ImageFilter.UnsharpMask(1, 100, 0)
    ),
}


class OrientationTests(SynchronousTestCase):
    def check(self, recipe: str, way: Way) -> None:
        """Compare a recipe with its reference in all orientations."""
        for orientation in range(1, 9):
            data = oriented(encode(photograph(480, 360), quality=95), orientation)
            whole = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
            assert whole is not None
            result = made(data, recipe + "_png")
            expected = way(whole.convert("RGB"))
            # Plain ways round to the nearest pixel; recipes, as the original, down.
            for mine, theirs in zip(result.size, expected.size, strict=True):
                self.assertTrue(0 <= theirs - mine <= 1, (recipe, result.size))
            if result.size != expected.size:
                expected = expected.resize(result.size, LANCZOS)
            self.assertLess(difference(expected, result), 6, (recipe, orientation))

    def test_every_recipe(self) -> None:
        """All eight orientations come out as Pillow turns the whole picture."""
        for recipe, way in WAYS.items():
            self.check(recipe, way)

    def test_trimmed(self) -> None:
        """A border is cut off whichever way the picture lies."""
        inner = photograph(300, 200)
        canvas = Image.new("RGB", (400, 290), "#204060")
        canvas.paste(inner, (30, 50))
        for orientation in range(1, 9):
            data = oriented(encode(canvas, quality=95), orientation)
            upside = ImageOps.exif_transpose(
                Image.open(io.BytesIO(oriented(encode(inner, quality=95), orientation)))
            )
            assert upside is not None
            result = made(data, "full_trim-40_png")
            for mine, theirs in zip(result.size, upside.size, strict=True):
                self.assertTrue(abs(theirs - mine) <= 4, (result.size, upside.size))
            self.assertLess(difference(upside.resize(result.size), result), 25)

    def test_smart(self) -> None:
        """What is worth looking at is the same whichever way the picture lies."""
        picture = Image.new("RGB", (400, 200), "#d0d0d0")
        picture.paste(photograph(120, 120), (250, 40))
        upright = made(encode(picture, quality=95), "100x100c_g-smart_png")
        for orientation in range(1, 9):
            stored = picture
            if orientation > 1:
                # Lay it down so that EXIF takes it up again.
                for _ in range(order(orientation) - 1):
                    stored = stored.transpose(METHODS[orientation])
            data = oriented(encode(stored, quality=95), orientation)
            result = made(data, "100x100c_g-smart_png")
            self.assertLess(difference(upright, result), 12, orientation)


METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def order(orientation: int) -> int:
    """Return after how many times a turn is none."""
    return 4 if orientation in (6, 8) else 2


class QualityTests(SynchronousTestCase):
    def test_classic_sizes(self) -> None:
        """The original's sizes are as good as from the whole picture, within 0.002."""
        data = jpeg(2800, 2100)
        whole = Image.open(io.BytesIO(data)).convert("RGB")
        for recipe, size in (("600x450", (600, 450)), ("300x300", (300, 225))):
            best = whole.resize(size, LANCZOS)
            theirs = Image.open(io.BytesIO(encode(best, quality=70)))
            ours = made(data, recipe, quality=70)
            self.assertGreater(ssim(best, ours), ssim(best, theirs) - 0.002)
            self.assertGreater(ssim(best, made(data, recipe + "_png")), 0.995)
        best = ImageOps.fit(whole, (50, 50), LANCZOS)
        self.assertGreater(ssim(best, made(data, "50x50c_png")), 0.995)

    def test_mezzanine(self) -> None:
        """What is made of a mezzanine is as good, within 0.002, and upright."""
        data = oriented(jpeg(2400, 1800), 6)
        whole = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
        assert whole is not None
        rungs = ladder("1000x1000_q-85,500x500_q-92")
        asked = attrs.evolve(job("sizes=50x50c"), mezzanines=rungs)
        rendered = codec.render(data, Job.from_json(asked.to_json()))
        names = [rung_name(number) for number in range(2)]
        self.assertEqual({"50x50c", *names}, set(rendered.renditions))
        best = whole.convert("RGB").resize((225, 300), LANCZOS)
        theirs = Image.open(io.BytesIO(encode(best, quality=70)))
        for name, size in zip(names, ((750, 1000), (375, 500)), strict=True):
            mezzanine = rendered.renditions[name]
            self.assertEqual("image/jpeg", mezzanine.content_type)
            self.assertEqual(size, (mezzanine.width, mezzanine.height))
            ours = made(mezzanine.body, "300x300", quality=70)
            self.assertGreater(ssim(best, ours), ssim(best, theirs) - 0.002)

    def test_similarity(self) -> None:
        """The measure itself: one of itself, less with every loss."""
        picture = photograph(200, 150)
        scores = [ssim(picture, picture)]
        for quality in (95, 60, 20):
            coded = Image.open(io.BytesIO(encode(picture, quality=quality)))
            scores.append(ssim(picture, coded))
        self.assertAlmostEqual(1, scores[0], places=4)
        self.assertEqual(sorted(scores, reverse=True), scores)

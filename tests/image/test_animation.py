"""Frames and animations: chosen, kept, and kept within bounds."""

from __future__ import annotations

import io
import struct
from typing import Any, ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from twisted.trial.unittest import SynchronousTestCase

from clinfra.image import gif
from clinfra.image.animation import completed
from clinfra.image.job import NoSuchFrame, ResultTooLarge
from tests.image.looks import difference, made, render
from tests.image.pictures import encode, jpeg, oriented, photograph

DURATIONS = [50, 60, 70, 80, 90]


def balls(clear: bool = True) -> list[Image.Image]:
    """Return a ball that crosses a field, which may be nothing."""
    frames = []
    for number in range(5):
        frame = Image.new("RGBA", (160, 120), (20, 40, 60, 0 if clear else 255))
        draw = ImageDraw.Draw(frame)
        left = 10 + 20 * number
        draw.ellipse((left, 30, left + 50, 80), fill=(220, 40 * number, 40, 255))
        frames.append(frame if clear else frame.convert("RGB"))
    return frames


def film(name: str, frames: list[Image.Image], **options: Any) -> bytes:
    """Return an animation in a format."""
    kinds: dict[str, dict[str, Any]] = {
        "GIF": {"disposal": 2},
        "WEBP": {"lossless": True},
        "AVIF": {"quality": 95, "subsampling": "4:4:4"},
        "PNG": {},
    }
    settings = {"duration": DURATIONS, "loop": 3, **kinds[name], **options}
    return encode(frames[0], name, save_all=True, append_images=frames[1:], **settings)


def reel(picture: Image.Image) -> tuple[list[Image.Image], list[int]]:
    """Return all frames of an animation and how long they last."""
    frames, durations = [], []
    for number in range(getattr(picture, "n_frames", 1)):
        picture.seek(number)
        frames.append(picture.convert("RGBA"))
        durations.append(round(picture.info.get("duration", 0)))
    return frames, durations


class KeptTests(SynchronousTestCase):
    plays: ClassVar = {"GIF": 4, "WEBP": 3, "PNG": 3, "AVIF": 0}
    """What a loop of 3 means: a GIF says how often it is repeated."""

    def test_every_way(self) -> None:
        """Frames, durations and repetitions come through, from and to each format."""
        for clear in (True, False):
            frames = balls(clear)
            for name, plays in self.plays.items():
                data = film(name, frames)
                for form, limit in (("webp", 12), ("avif", 12), ("png", 6)):
                    recipe = f"80x60_animate_q-95_{form}"
                    pictures, durations = reel(result := made(data, recipe))
                    self.assertEqual((len(frames), (80, 60)), (5, result.size))
                    self.assertEqual(DURATIONS, durations, (name, form))
                    if form != "avif":
                        self.assertEqual(plays, result.info["loop"], (name, form))
                    for mine, whole in zip(pictures, frames, strict=True):
                        small = whole.resize((80, 60), Image.Resampling.LANCZOS)
                        apart = difference(small.convert("RGBA"), mine)
                        self.assertLess(apart, limit, (name, form, clear))

    def test_as_recipes_say(self) -> None:
        """Every frame is cut, turned and padded like the first."""
        data = film("WEBP", frames := balls())
        recipe = "60x80_pad_rotate-90_bg-fff_animate_lossless_webp"
        for mine, whole in zip(reel(made(data, recipe))[0], frames, strict=True):
            white = Image.new("RGBA", whole.size, "white")
            upright = Image.alpha_composite(white, whole)
            upright = upright.transpose(Image.Transpose.ROTATE_270)
            small = upright.resize((60, 80), Image.Resampling.LANCZOS)
            self.assertLess(difference(small, mine), 4)

    def test_one_view(self) -> None:
        """What is trimmed or looked at is that of the first frame, for all of them."""
        frames, _ = reel(made(film("GIF", balls(False)), "full_trim-20_animate_webp"))
        self.assertEqual({(51, 51)}, {frame.size for frame in frames})

    def test_shown_once(self) -> None:
        """A GIF that does not say to repeat is shown once, and no frame for no time."""
        data = film("GIF", balls(False), loop=None, duration=0)
        result = made(data, "80x60_animate_webp")
        self.assertEqual(1, result.info["loop"])
        self.assertEqual([100] * 5, reel(result)[1])

    def test_at_rest(self) -> None:
        """A PNG that shows another picture at rest moves without it."""
        still = photograph(160, 120)
        frames = balls(False)
        data = encode(
            still, "PNG", save_all=True, append_images=frames, default_image=True
        )
        self.assertEqual(5, getattr(made(data, "80x60_animate_webp"), "n_frames", 1))
        small = still.resize((80, 60), Image.Resampling.LANCZOS)
        self.assertLess(difference(small, made(data, "80x60_png")), 3)

    def test_beside_stills(self) -> None:
        """Stills and animations of one job do not disturb one another."""
        data = film("GIF", balls(False))
        names = ("80x60_animate_png", "40x30_png", "80x60_frame-2_png")
        together = render(data, *names)
        for name in names:
            alone = render(data, name).renditions[name].body
            self.assertEqual(alone, together.renditions[name].body, name)

    def test_cut_short(self) -> None:
        """Of a truncated animation what is there is kept, and the info says so."""
        noise = [photograph(160, 120).rotate(9 * number) for number in range(5)]
        for name in ("GIF", "PNG"):
            data = film(name, noise)
            rendered = render(data[: 7 * len(data) // 10], "80x60_animate_webp")
            frames = _reel_of(rendered.renditions["80x60_animate_webp"].body)
            self.assertTrue(2 <= len(frames) < 5, (name, len(frames)))
            self.assertIs(True, rendered.info["truncated"])
            self.assertNotIn("truncated", render(data, "80x60_animate_webp").info)

    def test_still_source(self) -> None:
        """What does not move stays still, whatever is asked."""
        for data in (jpeg(160, 120), film("GIF", balls()[:1], duration=50)):
            result = made(data, "80x60_animate_webp")
            self.assertEqual(1, getattr(result, "n_frames", 1))


class BoundTests(SynchronousTestCase):
    def frames(self, recipe: str = "80x60_animate_webp", **bounds: int) -> int:
        result = made(film("GIF", balls(False)), recipe, **bounds)
        return int(getattr(result, "n_frames", 1))

    def test_too_long(self) -> None:
        """Beyond the bounds the first frame is all there is."""
        self.assertEqual(5, self.frames(max_frames=5))
        self.assertEqual(1, self.frames(max_frames=4))
        pixels = 5 * 160 * 120
        self.assertEqual(5, self.frames(max_film_pixels=pixels))
        self.assertEqual(1, self.frames(max_film_pixels=pixels - 1))
        # The source is within bounds, but not what is to be made of it.
        large = "320x240_exact_animate_webp"
        self.assertEqual(1, self.frames(large, max_size_pixels=5 * 320 * 240 - 1))
        self.assertEqual(5, self.frames(large, max_size_pixels=5 * 320 * 240))

    def test_one_after_the_other(self) -> None:
        """Several that are too large together are made one after the other."""
        data = film("GIF", balls(False))
        names = ["80x60_animate_webp", "60x45_animate_webp", "50x50c_animate_png"]
        for most in (5 * 80 * 60, 10**6):
            rendered = render(data, *names, max_size_pixels=most)
            self.assertEqual(set(names), set(rendered.renditions))
            for rendition in rendered.renditions.values():
                self.assertEqual(5, len(_reel_of(rendition.body)))

    def test_far_frame(self) -> None:
        """A frame that is not there, or costs too much to get at, is refused."""
        data = film("GIF", balls(False))
        for recipe, bounds in (
            ("80x60_frame-5", {}),
            ("80x60_frame-9999", {}),
            ("80x60_frame-4", {"max_film_pixels": 4 * 160 * 120}),
        ):
            with self.assertRaises(NoSuchFrame) as caught:
                render(data, "50x50", recipe, **bounds)
            self.assertEqual(recipe, caught.exception.size_name)
        with self.assertRaises(NoSuchFrame):
            render(jpeg(64, 48), "80x60_frame-1")
        # A film too long to be kept is no reason against its first frames.
        self.assertTrue(render(data, "80x60_frame-3", max_film_pixels=4 * 160 * 120))

    def test_side(self) -> None:
        """A side beyond what a format can say is too large."""
        data = encode(photograph(64, 2), "PNG")
        for recipe in ("16384x2_exact_webp", "16385x2_exact_avif", "65501x1_exact"):
            with self.assertRaises(ResultTooLarge):
                render(data, recipe)


class FrameTests(SynchronousTestCase):
    def test_any_frame(self) -> None:
        """Any frame can be asked for, in one job or several."""
        for name in ("GIF", "WEBP", "PNG", "AVIF"):
            data = film(name, frames := balls(False))
            recipes = [f"80x60_frame-{number}_png" for number in (4, 2, 1)]
            rendered = render(data, "80x60_png", *recipes)
            for number in range(5):
                recipe = f"80x60_frame-{number}_png" if number else "80x60_png"
                if recipe not in rendered.renditions:
                    continue
                body = rendered.renditions[recipe].body
                small = frames[number].resize((80, 60), Image.Resampling.LANCZOS)
                apart = difference(small, Image.open(io.BytesIO(body)))
                self.assertLess(apart, 5, (name, number))

    def test_pages(self) -> None:
        """Pages of a TIFF may differ in size and mode."""
        pages = [photograph(64, 48), photograph(48, 64, "L"), photograph(80, 20)]
        data = encode(pages[0], "TIFF", save_all=True, append_images=pages[1:])
        for number, page in enumerate(pages):
            result = made(data, f"full_frame-{number}_png")
            self.assertEqual((page.size, page.mode), (result.size, result.mode))
            self.assertLess(difference(page, result), 1)
        self.assertEqual(3, render(data, "10x10").info["frames"])

    def test_count(self) -> None:
        """The info says how many frames there are."""
        for name in ("GIF", "WEBP", "PNG", "AVIF"):
            self.assertEqual(5, render(film(name, balls())).info["frames"], name)
        self.assertEqual(1, render(oriented(jpeg(64, 48), 6)).info["frames"])

    def test_gif(self) -> None:
        """Counting frames of a GIF agrees with decoding them, and ends in any case."""
        data = film("GIF", balls(False), comment=b"x" * 600)
        self.assertEqual(5, gif.frames(data, 100))
        self.assertEqual(3, gif.frames(data, 3))

        @settings(deadline=None)
        @given(st.data())
        def check(chance: st.DataObject) -> None:
            end = chance.draw(st.integers(0, len(data)))
            cut = bytearray(data[:end])
            for _ in range(3):
                if cut:
                    at = chance.draw(st.integers(0, len(cut) - 1))
                    cut[at] = chance.draw(st.integers(0, 255))
            self.assertTrue(1 <= (gif.frames(bytes(cut), 50) or 0) <= 50)

        check()

    def test_plays_of_avif(self) -> None:
        """An AVIF says how often it is shown: so many times what its edits last."""
        for form, plays in (("GIF", 4), ("WEBP", 3), ("AVIF", 0)):
            data = film(form, balls(), loop=3)
            avif = render(data, "100x_avif_animate").renditions["100x_animate_avif"]
            at = {name: avif.body.index(name) for name in (b"elst", b"mvhd", b"tkhd")}
            (once,) = struct.unpack_from(">Q", avif.body, at[b"elst"] + 12)
            for start in (at[b"mvhd"] + 28, at[b"tkhd"] + 32):
                (whole,) = struct.unpack_from(">Q", avif.body, start)
                self.assertEqual(plays * once if plays else (1 << 64) - 1, whole)

    def test_undated(self) -> None:
        """An AVIF does not say when it was made, and is as good as before."""
        data = encode(balls()[0], "AVIF", save_all=True, append_images=balls()[1:])
        undated = completed(data, 0)
        self.assertEqual(len(data), len(undated))
        self.assertEqual(undated, completed(undated, 0))
        self.assertNotEqual(data, undated)
        for mine, theirs in zip(
            *(_reel_of(each) for each in (undated, data)), strict=True
        ):
            self.assertEqual(theirs.tobytes(), mine.tobytes())


def _reel_of(data: bytes) -> list[Image.Image]:
    return reel(Image.open(io.BytesIO(data)))[0]

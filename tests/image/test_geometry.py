"""Where pixels come from."""

from __future__ import annotations

from typing import ClassVar

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from clinfra.image.geometry import (
    HEADROOM,
    LEAST_HEADROOM,
    Level,
    Target,
    choose_level,
    cropped,
    fit,
    level_of,
    make_target,
    shrink_factor,
    stored_point,
    swaps_axes,
    then,
)
from clinfra.image.sizes import GRAVITIES, MODES, Recipe, parse_recipe, parse_size

sides = st.integers(1, 7000)
orientations = st.integers(1, 8)


class FitTests(SynchronousTestCase):
    def test_original(self) -> None:
        """Results are as large as the original made them."""
        for picture, frame, result in (
            ((750, 1000), (20, 20), (15, 20)),
            ((750, 1000), (50, 50), (37, 50)),
            ((750, 1000), (2000, 2000), (750, 1000)),
            ((750, 1000), (600, 450), (337, 450)),
            ((640, 480), (300, 300), (300, 225)),
            ((2000, 1), (300, 300), (300, 1)),
            ((30, 20), (300, 300), (30, 20)),
        ):
            self.assertEqual(result, fit(*picture, *frame))

    def test_always_fits(self) -> None:
        """A result never leaves the frame, is never larger, and never nothing."""

        @settings(deadline=None)
        @given(sides, sides, sides, sides)
        def check(width: int, height: int, max_width: int, max_height: int) -> None:
            new_width, new_height = fit(width, height, max_width, max_height)
            self.assertTrue(1 <= new_width <= min(width, max_width))
            self.assertTrue(1 <= new_height <= min(height, max_height))

        check()


class CropTests(SynchronousTestCase):
    def test_middle(self) -> None:
        """The largest middle part of the right proportions is kept."""
        for picture, recipe, box in (
            ((640, 480), "50x50c", (80, 0, 560, 480)),
            ((640, 480), "100x50c", (0, 80, 640, 400)),
            ((30, 20), "300x200c", (0, 0, 30, 20)),
        ):
            self.assertEqual(box, make_target(parse_size(recipe), *picture, 1).box)

    def test_always_inside(self) -> None:
        """The part is as large as fits, and has the proportions."""

        @settings(deadline=None)
        @given(sides, sides, sides, sides)
        def check(width: int, height: int, crop_width: int, crop_height: int) -> None:
            box_width, box_height = cropped(width, height, crop_width, crop_height)
            self.assertTrue(1 <= box_width <= width)
            self.assertTrue(1 <= box_height <= height)
            high = max(crop_height * width / crop_width, 1)
            wide = max(crop_width * height / crop_height, 1)
            self.assertTrue(
                (box_width == width and 0 <= high - box_height < 1)
                or (box_height == height and 0 <= wide - box_width < 1)
            )

        check()


class TargetTests(SynchronousTestCase):
    def test_swapped(self) -> None:
        """Orientations 5 to 8 swap the axes of result and box."""
        for orientation in range(1, 9):
            target = make_target(parse_size("20x20"), 1000, 750, orientation)
            expected = (15, 20) if orientation > 4 else (20, 15)
            upright = (target.width, target.height)
            if orientation > 4:
                upright = upright[::-1]
            self.assertEqual(expected, upright)
            self.assertEqual((0, 0, 1000, 750), target.box)
        crop_target = make_target(parse_size("20x10c"), 1000, 750, 6)
        self.assertEqual((10, 20), (crop_target.width, crop_target.height))
        self.assertEqual((312, 0, 687, 750), crop_target.box)


modes = st.sampled_from(MODES)
frames = st.one_of(st.none(), st.integers(1, 5000))
points = st.tuples(st.integers(0, 1000), st.integers(0, 1000)).map(
    lambda point: (point[0] / 1000, point[1] / 1000)
)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Return any recipe there may be, as far as it is about geometry."""
    mode = draw(modes)
    sides_wanted = frames if mode == "fit" else st.integers(1, 5000)
    focus = draw(st.one_of(st.none(), points)) if mode == "fill" else None
    placed = mode in ("fill", "pad") and focus is None
    return Recipe(
        "any",
        draw(sides_wanted),
        draw(sides_wanted),
        mode=mode,
        focus=focus,
        gravity=draw(st.sampled_from(GRAVITIES)) if placed and mode == "fill" else "n",
        enlarge=draw(st.booleans()),
        rotate=draw(st.sampled_from((0, 90, 180, 270))),
        flip=draw(st.booleans()),
        flop=draw(st.booleans()),
    )


@st.composite
def trimmed(draw: st.DrawFn, width: int, height: int) -> tuple[int, int, int, int]:
    """Return some part of a picture."""
    left, upper = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
    right = draw(st.integers(left + 1, width))
    return left, upper, right, draw(st.integers(upper + 1, height))


class ModeTests(SynchronousTestCase):
    def canvas(self, recipe: str, width: int, height: int) -> tuple[int, int]:
        return make_target(parse_recipe(recipe), width, height, 1).canvas

    def test_sizes(self) -> None:
        """Results are as large as recipes say."""
        for recipe, picture, size in (
            ("600x450", (4000, 3000), (600, 450)),
            ("300x", (4000, 3000), (300, 225)),
            ("x300", (4000, 3000), (400, 300)),
            ("full", (4000, 3000), (4000, 3000)),
            ("full_rotate-90", (4000, 3000), (3000, 4000)),
            ("300x_rotate-270", (4000, 3000), (300, 400)),
            ("600x450c", (30, 20), (600, 450)),
            ("600x450_pad", (30, 20), (600, 450)),
            ("600x450_exact", (30, 20), (600, 450)),
            ("600x450", (30, 20), (30, 20)),
            ("600x450_enlarge", (30, 20), (600, 400)),
            ("x300_enlarge", (30, 20), (450, 300)),
            ("300x_enlarge", (30, 20), (300, 200)),
            ("full_enlarge", (30, 20), (30, 20)),
            ("300x300_enlarge", (4000, 3000), (300, 225)),
            ("1x1_enlarge", (7000, 1), (1, 1)),
        ):
            self.assertEqual(size, self.canvas(recipe, *picture), recipe)

    def test_padding(self) -> None:
        """A padded picture lies where gravity draws it, and grows only when told."""
        for recipe, picture, size, place in (
            ("100x100_pad", (200, 100), (100, 50), (0, 25)),
            ("100x100_pad_g-n", (200, 100), (100, 50), (0, 0)),
            ("100x100_pad_g-se", (200, 100), (100, 50), (0, 50)),
            ("100x100_pad", (20, 10), (20, 10), (40, 45)),
            ("100x100_pad_enlarge", (20, 10), (100, 50), (0, 25)),
            ("100x100_pad_rotate-90_g-e", (200, 100), (50, 100), (50, 0)),
        ):
            target = make_target(parse_recipe(recipe), *picture, 1)
            seen = (target.width, target.height)
            self.assertEqual(size, seen[::-1] if "rotate" in recipe else seen, recipe)
            self.assertEqual(place, target.place, recipe)

    def test_gravity(self) -> None:
        """A cut keeps the side that gravity names, as the picture is looked at."""
        for recipe, orientation, box in (
            ("50x50c_g-w", 1, (0, 0, 100, 100)),
            ("50x50c_g-ne", 1, (100, 0, 200, 100)),
            ("50x50c_g-n", 1, (50, 0, 150, 100)),
            ("50x50c_g-w", 3, (100, 0, 200, 100)),
            ("50x50c_g-n", 6, (0, 0, 100, 100)),
            ("50x50c_g-n", 8, (100, 0, 200, 100)),
            ("50x50c_g-w_flop", 1, (100, 0, 200, 100)),
            ("50x50c_g-n_rotate-90", 1, (0, 0, 100, 100)),
            ("50x50c_fp-0x0.5", 1, (0, 0, 100, 100)),
            ("50x50c_fp-0.3x0.5", 1, (10, 0, 110, 100)),
            ("50x50c_fp-0.3x0.5", 2, (90, 0, 190, 100)),
            ("50x50c_fp-1x1", 1, (100, 0, 200, 100)),
        ):
            target = make_target(parse_recipe(recipe), 200, 100, orientation)
            self.assertEqual(box, target.box, recipe)

    def test_attention(self) -> None:
        """A smart cut keeps what was found worth looking at, of what is not trimmed."""
        recipe = parse_recipe("50x50c_g-smart")
        target = make_target(recipe, 200, 100, 6, attention=(0.25, 0.5))
        self.assertEqual((0, 0, 100, 100), target.box)
        region = (100, 0, 200, 50)
        target = make_target(recipe, 200, 100, 1, region=region, attention=(0.7, 0.5))
        self.assertEqual((145, 0, 195, 50), target.box)

    def test_never_beyond(self) -> None:
        """Results never exceed frames, and never show what is not there."""

        @settings(deadline=None, max_examples=400)
        @given(st.data(), recipes(), sides, sides, orientations)
        def check(
            data: st.DataObject, recipe: Recipe, width: int, height: int, turned: int
        ) -> None:
            region = data.draw(st.one_of(st.none(), trimmed(width, height)))
            look = data.draw(st.one_of(st.none(), points))
            target = make_target(
                recipe, width, height, turned, region=region, attention=look
            )
            edges = region or (0, 0, width, height)
            left, upper, right, lower = target.box
            self.assertTrue(edges[0] <= left < right <= edges[2])
            self.assertTrue(edges[1] <= upper < lower <= edges[3])
            self.assertGreaterEqual(right - left, 1)
            self.assertGreaterEqual(lower - upper, 1)
            self.check_size(recipe, target, (edges[2] - edges[0], edges[3] - edges[1]))

        check()

    def check_size(
        self, recipe: Recipe, target: Target, picture: tuple[int, int]
    ) -> None:
        """Check what a target's size is, whatever part it shows."""
        size = (target.width, target.height)
        if swaps_axes(target.turn):
            size, picture = size[::-1], picture[::-1]
        frame = (recipe.width or 10**9, recipe.height or 10**9)
        for axis in (0, 1):
            self.assertGreaterEqual(size[axis], 1)
            self.assertLessEqual(target.canvas[axis], frame[axis])
            self.assertTrue(0 <= target.place[axis] <= target.canvas[axis] - size[axis])
            if recipe.mode == "fit" and not recipe.enlarge:
                self.assertLessEqual(size[axis], picture[axis])
        if recipe.mode == "fit":
            self.assertEqual(size, target.canvas)
            whole = (0, 0, target.box[2] - target.box[0], target.box[3] - target.box[1])
            seen = whole[2:][::-1] if swaps_axes(target.turn) else whole[2:]
            self.assertEqual(picture, seen)
        else:
            self.assertEqual(frame, target.canvas)
        if recipe.mode != "pad":
            self.assertEqual((0, 0), target.place)

    def test_proportions(self) -> None:
        """What is fitted keeps its proportions, as exactly as whole pixels allow."""

        @settings(deadline=None, max_examples=300)
        @given(sides, sides, frames, frames, st.booleans())
        def check(
            width: int, height: int, wide: int | None, high: int | None, grow: bool
        ) -> None:
            recipe = Recipe("any", wide, high, enlarge=grow)
            target = make_target(recipe, width, height, 1)
            if target.width == wide:
                exact = wide * height / width
                # Reduced in two steps, each rounded down.
                self.assertLessEqual(target.height, max(exact, 1))
                self.assertGreater(target.height, exact - 1 - height / width)
            elif target.height == high:
                exact = high * width / height
                self.assertLessEqual(target.width, max(exact * (1 + 1 / high), 1))
            else:
                self.assertEqual((width, height), (target.width, target.height))

        check()


class TurnTests(SynchronousTestCase):
    methods: ClassVar = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }

    def turned(self, picture: Image.Image, turn: int) -> Image.Image:
        return picture if turn == 1 else picture.transpose(self.methods[turn])

    def test_points(self) -> None:
        """Corners of the upright picture come from where Pillow takes them."""
        stored = Image.frombytes("L", (2, 2), bytes((1, 2, 3, 4)))
        for turn in range(1, 9):
            seen = self.turned(stored, turn)
            for x, y in ((0, 0), (1, 0), (0, 1), (1, 1)):
                at = stored_point(turn, (x, y))
                pixel = stored.getpixel((int(at[0]), int(at[1])))
                self.assertEqual(seen.getpixel((x, y)), pixel, turn)

    def test_two_turns(self) -> None:
        """Two turns are as one."""
        stored = Image.frombytes("L", (2, 3), bytes((1, 2, 3, 4, 5, 6)))
        for first in range(1, 9):
            for second in range(1, 9):
                twice = self.turned(self.turned(stored, first), second)
                once = self.turned(stored, then(first, second))
                self.assertEqual(twice, once)


class ShrinkTests(SynchronousTestCase):
    def factor(self, *sizes: str, width: int = 4000, height: int = 3000) -> int:
        return shrink_factor(
            make_target(parse_size(size), width, height, 1) for size in sizes
        )

    def test_headroom(self) -> None:
        """The decoder reduces as far as 1.4 times the largest result allows."""
        for size, factor in (
            ("600x450", 4),
            ("500x500", 4),
            ("357x357", 8),
            ("358x358", 4),
            ("1000x1000", 2),
            ("1429x1429", 1),
            ("1428x1428", 2),
            ("50x50c", 8),
        ):
            self.assertEqual(factor, self.factor(size), size)
        self.assertEqual(4, self.factor("50x50c", "300x300", "600x450"))

    def test_intermediate(self) -> None:
        """What is only a step to smaller results needs less headroom."""
        target = make_target(parse_size("1600x1600"), 4000, 3000, 1)
        self.assertEqual(1, shrink_factor([target]))
        target = attrs.evolve(target, headroom=LEAST_HEADROOM)
        self.assertEqual(2, shrink_factor([target]))

    def test_flat(self) -> None:
        """A picture that is one pixel high is not reduced to nothing."""
        self.assertEqual(1, self.factor("300x300", width=2000, height=1))
        self.assertEqual(1, self.factor())


class LevelTests(SynchronousTestCase):
    base = Level((0, 0, 4000, 3000), 0.25, 0.25)

    def test_cheapest(self) -> None:
        """A result is made of the smallest picture that still has headroom."""
        targets = [
            make_target(parse_size(size), 4000, 3000, 1)
            for size in ("600x450", "300x300", "50x50c")
        ]
        levels = [self.base, level_of(targets[0]), level_of(targets[1])]
        self.assertEqual(0, choose_level(levels[:1], targets[0]))
        self.assertEqual(1, choose_level(levels[:2], targets[1]))
        self.assertEqual(2, choose_level(levels, targets[2]))

    def test_crops_are_not_widened(self) -> None:
        """A crop does not serve a result that shows more than it."""
        cropped = make_target(parse_size("500x500c"), 4000, 3000, 1)
        whole = make_target(parse_size("50x50"), 4000, 3000, 1)
        self.assertEqual(0, choose_level([self.base, level_of(cropped)], whole))
        smaller = make_target(parse_size("50x50c"), 4000, 3000, 1)
        self.assertEqual(1, choose_level([self.base, level_of(cropped)], smaller))

    def test_windows(self) -> None:
        """The window of a level's own box is all of it; windows lie inside."""

        @settings(deadline=None)
        @given(sides, sides, st.sampled_from(["60x45", "30x50c", "7x7"]), orientations)
        def check(width: int, height: int, size: str, orientation: int) -> None:
            target = make_target(parse_size(size), width, height, orientation)
            left, upper, right, lower = level_of(target).window(target.box)
            self.assertEqual((0, 0), (left, upper))
            self.assertAlmostEqual(target.width, right, places=6)
            self.assertAlmostEqual(target.height, lower, places=6)

        check()

    def test_serving_means_headroom(self) -> None:
        """A chosen level that is not the decoded picture has headroom."""
        large = make_target(parse_size("600x450"), 4000, 3000, 1)
        limit = int(600 / HEADROOM)
        near = make_target(parse_size(f"{limit + 2}x{limit + 2}"), 4000, 3000, 1)
        far = make_target(parse_size(f"{limit - 2}x{limit - 2}"), 4000, 3000, 1)
        levels = [self.base, level_of(large)]
        self.assertEqual(0, choose_level(levels, near))
        self.assertEqual(1, choose_level(levels, far))

"""Where pixels come from."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.image.geometry import (
    HEADROOM,
    Level,
    choose_level,
    cropped,
    fit,
    level_of,
    make_target,
    shrink_factor,
)
from clinfra.image.sizes import parse_size

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

"""What renditions on demand are made of, and what they cost."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.image.sizes import parse_recipe
from clinfra.image.sources import Picture, Source, choose_source, has_mezzanine

MEZZANINE = parse_recipe("1600x1600_q-85")


def picture(**changes: Any) -> Picture:
    """Return an upright photograph of 12 megapixels."""
    info = {
        "kept": True,
        "oriented_width": 4000,
        "oriented_height": 3000,
        "format": "JPEG",
        "alpha": False,
        **changes,
    }
    return Picture.of(info)


class SourcesTests(SynchronousTestCase):
    def choose(self, recipe: str, **changes: Any) -> Source:
        return choose_source(picture(**changes), parse_recipe(recipe), MEZZANINE)

    def test_enough(self) -> None:
        """The mezzanine will do while it is somewhat larger than the result."""
        for recipe, enough in (
            ("600x450", True),
            ("1280x", True),
            ("1281x", False),
            ("x960", True),
            ("x961", False),
            ("960x960c", True),
            ("961x961c", False),
            ("960x1280_rotate-90", True),
            ("1280x960_rotate-90_exact", False),
            ("3000x100_pad", True),
            ("3000x100_exact", False),
            ("full", False),
            ("8000x_enlarge", False),
            ("600x450c_g-smart", True),
        ):
            self.assertEqual(enough, self.choose(recipe).mezzanine, recipe)

    def test_what_it_lacks(self) -> None:
        """What a JPEG has lost is taken from the original."""
        for option in ("lossless", "frame-1", "animate_webp", "keep", "trim-5", "png"):
            self.assertFalse(self.choose(f"300x_{option}").mezzanine, option)
        self.assertFalse(self.choose("300x", alpha=True).mezzanine)
        self.assertTrue(self.choose("300x_avif").mezzanine)

    def test_small(self) -> None:
        """A picture that is no larger than its mezzanine needs none."""
        self.assertTrue(has_mezzanine(1601, 1200, MEZZANINE))
        self.assertFalse(has_mezzanine(1600, 1600, MEZZANINE))
        source = self.choose("300x", oriented_width=1600, oriented_height=1200)
        self.assertFalse(source.mezzanine)

    def test_cost(self) -> None:
        """Small work from the mezzanine costs a fraction of a photograph."""
        cheap = self.choose("600x450").cost
        self.assertLess(cheap, 0.3)
        self.assertGreater(self.choose("600x450_lossless").cost, 1)
        self.assertGreater(self.choose("600x450_avif").cost, 2 * cheap)
        self.assertGreater(self.choose("600x450_lossless", format="PNG").cost, 8)
        self.assertGreater(self.choose("full", progressive="1").cost, 2.5)
        self.assertGreater(self.choose("full", format="strange").cost, 8)

    def test_info(self) -> None:
        """An info without what is needed is none; an original's keeps nothing."""
        for changes in (
            {"oriented_width": 0},
            {"oriented_height": "3000"},
            {"format": None},
        ):
            self.assertRaises(ValueError, picture, **changes)
        self.assertFalse(Picture.of({"width": 8, "height": 8}).kept)
        self.assertFalse(picture(kept=1).kept)

"""What renditions on demand are made of, and what they cost."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.image.sizes import parse_recipe
from clinfra.image.sources import (
    Picture,
    Source,
    choose_source,
    ladder,
    text_of,
    useful,
)

ONE = ladder("1600x1600_q-85")
TWO = "1600x1600_q-85,900x900_q-92"


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
        return choose_source(picture(**changes), parse_recipe(recipe), ONE)

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
            chosen = self.choose(recipe).mezzanine
            self.assertEqual("mezzanine" if enough else None, chosen, recipe)

    def test_what_it_lacks(self) -> None:
        """What a JPEG has lost is taken from the original."""
        for option in ("lossless", "frame-1", "animate_webp", "keep", "trim-5", "png"):
            self.assertIsNone(self.choose(f"300x_{option}").mezzanine, option)
        self.assertIsNone(self.choose("300x", alpha=True).mezzanine)
        self.assertIsNotNone(self.choose("300x_avif").mezzanine)

    def test_small(self) -> None:
        """A picture that is no larger than its mezzanine needs none."""
        rungs = ladder(TWO)
        for side, names in ((1601, rungs), (1600, rungs[1:]), (900, ())):
            self.assertEqual(names, useful(rungs, side, side))
        source = self.choose("300x", oriented_width=1600, oriented_height=1200)
        self.assertIsNone(source.mezzanine)

    def test_ladder(self) -> None:
        """The smallest will do that is large enough, of those the picture has."""
        for recipe, chosen in (
            ("50x50c", "mezzanine-2"),
            ("600x450", "mezzanine-2"),
            ("720x", "mezzanine-2"),
            ("721x", "mezzanine"),
            ("1280x", "mezzanine"),
            ("1281x", None),
        ):
            source = self.choose(recipe, mezzanines=TWO)
            self.assertEqual(chosen, source.mezzanine, recipe)
        self.assertEqual("mezzanine", self.choose("50x", mezzanines="80x80").mezzanine)
        self.assertIsNone(self.choose("50x", mezzanines="").mezzanine)
        self.assertLess(
            self.choose("600x", mezzanines=TWO).cost, self.choose("600x").cost
        )

    def test_before_ladders(self) -> None:
        """A picture that does not say has the first of those that are usual now."""
        asked = parse_recipe("50x")
        chosen = choose_source(picture(), asked, ladder(TWO)).mezzanine
        self.assertEqual("mezzanine", chosen)

    def test_text(self) -> None:
        """What is written of mezzanines can be read again."""
        for text in ("", "1600x1600_q-85", TWO):
            self.assertEqual(text, text_of(ladder(text)))
        self.assertEqual(ladder(TWO), ladder(TWO.replace(",", " , ")))

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
            {"mezzanines": "huge"},
        ):
            self.assertRaises(ValueError, picture, **changes)
        self.assertFalse(Picture.of({"width": 8, "height": 8}).kept)
        self.assertFalse(picture(kept=1).kept)

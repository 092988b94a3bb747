"""The format for clients that leave it to us."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.image.accept import AUTO_FORMATS, choose_format, settled
from clinfra.image.sizes import parse_recipe

CHROME = b"image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"
SAFARI_13 = b"image/png,image/svg+xml,image/*;q=0.8,video/*;q=0.8,*/*;q=0.5"


class AcceptTests(SynchronousTestCase):
    def test_browsers(self) -> None:
        """Browsers get the best that they name."""
        for accept, expected in (
            (CHROME, "avif"),
            (SAFARI_13, "plain"),
            (b"image/webp,*/*", "webp"),
            (b"*/*", "plain"),
            (b"image/*", "plain"),
            (b"", "plain"),
            (None, "plain"),
        ):
            self.assertEqual(expected, choose_format(accept, AUTO_FORMATS), accept)

    def test_weights(self) -> None:
        """Weights decide, and a weight of 0 is a no."""
        for accept, expected in (
            (b"image/avif;q=0.5,image/webp", "webp"),
            (b"image/avif;q=0.5,image/webp;q=0.5", "avif"),
            (b"image/webp;q=0.9,image/jpeg", "plain"),
            (b"image/webp;q=0.9,image/png", "plain"),
            (b"image/avif;q=0,image/webp;q=0,*/*", "plain"),
            (b"image/avif;q=0,image/webp;q=0.1", "webp"),
            (b"IMAGE/AVIF", "avif"),
            (b"image/avif;q=2", "plain"),
            (b"text/html", "plain"),
        ):
            self.assertEqual(expected, choose_format(accept, AUTO_FORMATS), accept)

    def test_configured(self) -> None:
        """Only configured formats are chosen, in the order configured."""
        self.assertEqual("webp", choose_format(CHROME, ("webp",)))
        self.assertEqual("webp", choose_format(CHROME, ("webp", "avif")))
        self.assertEqual("plain", choose_format(CHROME, ()))

    def test_settled(self) -> None:
        """What a format cannot have is left out, and the result is a recipe."""
        for text, format_name, expected in (
            ("64x_auto", "webp", "64x_webp"),
            ("64x_animate_auto", "avif", "64x_animate_avif"),
            ("64x_animate_auto", "plain", "64x_plain"),
            ("64x_progressive_auto", "webp", "64x_webp"),
            ("64x_progressive_auto", "plain", "64x_progressive_plain"),
        ):
            recipe = settled(parse_recipe(text), format_name)
            self.assertEqual(expected, recipe.name)
            self.assertEqual(recipe, parse_recipe(expected))

    @settings(deadline=None)
    @given(st.binary(max_size=60))
    def test_anything(self, accept: bytes) -> None:
        """Whatever a client sends, the answer is one of ours."""
        self.assertIn(choose_format(accept, AUTO_FORMATS), (*AUTO_FORMATS, "plain"))

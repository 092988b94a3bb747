"""The grammar of sizes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import InvalidRequest, UnsupportedMedia
from clinfra.image.sizes import Size, parse_size


class ParseSizeTests(SynchronousTestCase):
    def test_fit(self) -> None:
        """Two numbers are a frame to fit in."""
        self.assertEqual(Size("600x450", 600, 450, False), parse_size("600x450"))

    def test_crop(self) -> None:
        """A c anywhere behind the numbers is a crop; the rest only names."""
        for text in ("50x50c", "50x50cZZ", "50x50zc", "50x50c%20"):
            self.assertEqual(Size(text, 50, 50, True), parse_size(text))
        self.assertFalse(parse_size("50x50zz").crop)
        self.assertFalse(parse_size("50x50C").crop)

    def test_not_a_size(self) -> None:
        """What is not a size is refused in the original's words."""
        for text in ("bad", "-5x5", "%33%30x30", "", "5x", "x5", "5 x5", "5x5 "):
            with self.assertRaises(InvalidRequest) as caught:
                parse_size(text)
            self.assertEqual(
                f"Invalid size parameter: {text}", caught.exception.sentence
            )

    def test_harmful_names(self) -> None:
        """A size names a blob: slashes, controls and endless names are refused."""
        for text in ("5x5/../x", "5x5\n", "5x5\0", "5x5?", "5x5" + "z" * 33):
            self.assertRaises(InvalidRequest, parse_size, text)
        self.assertRaises(InvalidRequest, parse_size, "1" * 5000 + "x1")

    def test_zero(self) -> None:
        """A side of zero is answered as a bad image, as the original did."""
        for text in ("0x0", "0x10", "10x0", "10x0c"):
            self.assertRaises(UnsupportedMedia, parse_size, text)

    def test_any_numbers(self) -> None:
        """Whatever two numbers are written are read."""

        @settings(deadline=None)
        @given(st.integers(1, 10**9 - 1), st.integers(1, 10**9 - 1), st.booleans())
        def check(width: int, height: int, crop: bool) -> None:
            text = f"{width}x{height}" + "c" * crop
            self.assertEqual(Size(text, width, height, crop), parse_size(text))

        check()

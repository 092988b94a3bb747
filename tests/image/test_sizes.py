"""The grammar of sizes and recipes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import InvalidRequest, UnsupportedMedia
from clinfra.image.sizes import Recipe, parse_recipe, parse_size


class ParseSizeTests(SynchronousTestCase):
    def test_fit(self) -> None:
        """Two numbers are a frame to fit in."""
        self.assertEqual(Recipe("600x450", 600, 450), parse_size("600x450"))

    def test_crop(self) -> None:
        """A c anywhere behind the numbers is a crop; the rest only names."""
        for text in ("50x50c", "50x50cZZ", "50x50zc", "50x50c%20", "5x5_c", "5x5c_v2"):
            self.assertEqual(("fill", text), (parse_size(text).mode, text))
            self.assertEqual(text, parse_size(text).name)
        self.assertEqual("fit", parse_size("50x50zz").mode)
        self.assertEqual("fit", parse_size("50x50C").mode)
        self.assertEqual("50x50.webp", parse_size("50x50.webp").stem)

    def test_not_a_size(self) -> None:
        """What is not a size is refused in the original's words."""
        for text in ("bad", "-5x5", "%33%30x30", "", "x", "5 x5", "5x5 ", "5"):
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

    def test_recipes(self) -> None:
        """An upload may ask for recipes too, but has nobody to negotiate with."""
        self.assertEqual("webp", parse_size("300x300_webp").format)
        self.assertEqual(parse_recipe("300x"), parse_size("300x"))
        self.assertRaises(InvalidRequest, parse_size, "300x_auto")
        self.assertRaises(InvalidRequest, parse_size, "300x_nonsense")

    def test_any_numbers(self) -> None:
        """Whatever two numbers are written are read."""

        @settings(deadline=None)
        @given(st.integers(1, 10**9 - 1), st.integers(1, 10**9 - 1), st.booleans())
        def check(width: int, height: int, crop: bool) -> None:
            text = f"{width}x{height}" + "c" * crop
            mode = "fill" if crop else "fit"
            self.assertEqual(Recipe(text, width, height, mode), parse_size(text))
            self.assertEqual(parse_recipe(text), parse_size(text))

        check()


class ParseRecipeTests(SynchronousTestCase):
    def check(self, text: str, name: str, **values: object) -> None:
        recipe = parse_recipe(text)
        self.assertEqual(name, recipe.name)
        for key, value in values.items():
            self.assertEqual(value, getattr(recipe, key), key)
        self.assertEqual(recipe, parse_recipe(name))

    def test_sides(self) -> None:
        """A side may be free, and a picture may stay as large as it is."""
        self.check("300x", "300x", width=300, height=None)
        self.check("x300", "x300", width=None, height=300)
        self.check("full_webp", "full_webp", width=None, height=None)

    def test_one_form(self) -> None:
        """However it is written, what is the same has the same name."""
        self.check("600x450_fill", "600x450c", mode="fill")
        self.check("600x450_fit_jpeg_rotate-0", "600x450", mode="fit")
        self.check("300x200_dpr-2", "600x400", width=600, height=400)
        self.check("3x3_webp_q-60_bg-ABC", "3x3_bg-aabbcc_q-60_webp", quality=60)
        self.check("3x3c_fp-0.50x1", "3x3c_fp-0.5x1", focus=(0.5, 1.0))
        self.check("3x3_trim-0_blur-0", "3x3_trim-0", trim=0, blur=0)

    def test_extension(self) -> None:
        """The format may be the extension, as browsers and caches like it."""
        self.check("600x450c_q-80.webp", "600x450c_q-80_webp", format="webp")
        self.check("600x450.jpg", "600x450", format="jpeg")
        recipe = parse_recipe("600x450c_q-80.webp")
        self.assertEqual("600x450c_q-80", recipe.stem)
        self.assertEqual("webp", recipe.extension)
        self.assertEqual("jpg", parse_recipe("5x5").extension)

    def test_negotiated(self) -> None:
        """What was negotiated has a name of its own."""
        recipe = parse_recipe("600x_auto")
        self.assertEqual("600x_avif", recipe.with_format("avif").name)
        self.assertEqual("600x", recipe.with_format("jpeg").name)
        self.assertEqual("plain", recipe.with_format("plain").extension)

    def test_refused(self) -> None:
        """What cannot be, or contradicts itself, is refused with a reason."""
        for text, reason in {
            "": "begins with a size",
            "x": "one side",
            "0x5": "no side is 0",
            "5x5C": "begins with a size",
            "5x5_nonsense": "no option 'nonsense'",
            "5x5_q": "no option 'q'",
            "5x5_webp-3": "no option 'webp-3'",
            "5x5_": "no option ''",
            "5x5_q-0": "q is a number from 1 to 100",
            "5x5_q-101": "q is a number from 1 to 100",
            "5x5_q-1e1": "q is a number from 1 to 100",
            "5x5_rotate-45": "rotate is one of 0, 90, 180, 270",
            "5x5_bg-red": "bg is a colour",
            "5x5c_fp-2x0": "fp is a point",
            "5x5_dpr-5": "dpr is a number from 0.25 to 4",
            "5x5_blur-0.25": "blur is a number",
            "5x5_webp_avif": "contradicts",
            "5x5_webp.png": "contradicts",
            "5x5c_pad": "contradicts",
            "5xc": "fill needs both sides",
            "5x_pad": "pad needs both sides",
            "full_exact": "exact needs both sides",
            "5x5_g-n": "g is for fill and pad",
            "5x5_pad_g-smart": "g-smart is for fill",
            "5x5_fp-0.5x0.5": "fp is for fill",
            "5x5c_fp-0.5x0.5_g-n": "contradict",
            "5x5_webp_animate_frame-3": "contradict",
            "5x5_animate": "a JPEG cannot move",
            "5x5_progressive_webp": "progressive is for JPEG",
            "999999999x9_dpr-4": "out of range",
            "5x5" + "_fit" * 60: "longer than",
        }.items():
            with self.assertRaises(InvalidRequest) as caught:
                parse_recipe(text)
            self.assertIn(reason, caught.exception.sentence, text)

    def test_anything(self) -> None:
        """Whatever is read is written so that it is read as the same."""
        options = st.sampled_from(
            [
                "fit",
                "fill",
                "pad",
                "exact",
                "g-ne",
                "g-smart",
                "fp-0.25x0.75",
                "enlarge",
                "trim-10",
                "rotate-90",
                "flip",
                "flop",
                "bg-fff",
                "blur-1.5",
                "sharpen-1",
                "frame-2",
                "animate",
                "keep",
                "q-80",
                "progressive",
                "lossless",
                "jpeg",
                "webp",
                "avif",
                "png",
                "plain",
                "auto",
                "dpr-1.5",
                "nonsense",
            ]
        )
        sizes = st.sampled_from(["5x7", "5x", "x7", "full", "50x70c", "0x1"])

        @settings(deadline=None, max_examples=400)
        @given(sizes, st.lists(options, max_size=6))
        def check(size: str, words: list[str]) -> None:
            try:
                recipe = parse_recipe("_".join([size, *words]))
            except InvalidRequest:
                return
            self.assertEqual(recipe, parse_recipe(recipe.name))
            if recipe.format != "auto":
                self.assertEqual(recipe, parse_size(recipe.name))

        check()

"""WebP decoded by the library itself: the same as by Pillow, and smaller when asked."""

from __future__ import annotations

import io
from unittest import mock

from PIL import Image
from PIL.WebPImagePlugin import WebPImageFile
from twisted.trial.unittest import SynchronousTestCase

from clinfra.image import webp
from tests.image.looks import difference, made, ssim
from tests.image.pictures import encode, photograph


class DecodeTests(SynchronousTestCase):
    def test_same(self) -> None:
        """At its own size every pixel is as Pillow has it."""
        plain = photograph(161, 121)
        alpha = plain.copy()
        alpha.putalpha(plain.convert("L"))
        for picture in (plain, alpha):
            for lossless in (False, True):
                data = encode(picture, "WEBP", lossless=lossless)
                decoded = webp.decode(data, 161, 121)
                expected = Image.open(io.BytesIO(data)).convert(decoded.mode)
                self.assertEqual(picture.mode, decoded.mode)
                self.assertEqual(expected.tobytes(), decoded.tobytes())

    def test_scaled(self) -> None:
        """Scaled on the way it is nearly as good as resized afterwards."""
        data = encode(photograph(1200, 900), "WEBP", quality=95)
        whole = webp.decode(data, 1200, 900)
        scaled = webp.decode(data, 600, 450)
        expected = whole.resize((200, 150), Image.Resampling.LANCZOS)
        found = scaled.resize((200, 150), Image.Resampling.LANCZOS)
        self.assertGreater(ssim(expected, found), 0.995)

    def test_broken(self) -> None:
        """What is broken is an error and no picture."""
        data = encode(photograph(160, 120), "WEBP")
        for broken in (b"", b"RIFF", data[: len(data) // 2], data[:20] + bytes(500)):
            with self.assertRaises(OSError):
                webp.decode(broken, 160, 120)

    def test_films(self) -> None:
        """Animations are left to Pillow."""
        frames = [photograph(16, 12), Image.new("RGB", (16, 12))]
        data = encode(frames[0], "WEBP", save_all=True, append_images=frames[1:])
        self.assertFalse(webp.can_decode(WebPImageFile(io.BytesIO(data))))

    def test_without(self) -> None:
        """Without the library pictures are the same."""
        data = encode(photograph(160, 120), "WEBP")
        fast = made(data, "80x60_png")
        with mock.patch.object(webp, "_library", lambda: None):
            self.assertEqual(0, difference(fast, made(data, "80x60_png")))

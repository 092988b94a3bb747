"""Whatever is uploaded, it is rendered or it is bad, and never anything else."""

from __future__ import annotations

import random

from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from clinfra.image import codec
from clinfra.image.job import BadImage, Rendered
from clinfra.image.opening import open_source
from clinfra.image.sniff import HEAD_BYTES, sniff
from tests.image import corpus
from tests.image.looks import difference, made
from tests.image.pictures import encode, photograph
from tests.image.support import job

JOB = job("sizes=40x30,30x30c")


def outcome(data: bytes) -> Rendered | None:
    """Return what is made of some bytes; None when they are bad."""
    try:
        return codec.render(data, JOB)
    except BadImage:
        return None


class WholeTests(SynchronousTestCase):
    def test_rendered(self) -> None:
        """Every kind of picture is rendered, known beforehand, and not truncated."""
        for name, data in corpus.whole().items():
            rendered = outcome(data)
            assert rendered is not None, name
            size = rendered.info["width"], rendered.info["height"]
            self.assertEqual((corpus.WIDTH, corpus.HEIGHT), size, name)
            self.assertNotIn("truncated", rendered.info, name)
            kind = sniff(data[:HEAD_BYTES])
            assert kind is not None
            self.assertEqual(name.split()[0], rendered.info["format"], name)
            self.assertEqual((name.split()[0], *size), _known(data), name)

    def test_looks(self) -> None:
        """It looks like what it was made of."""
        plain = photograph(corpus.WIDTH, corpus.HEIGHT)
        for name, data in corpus.whole().items():
            if "alpha" in name or "16" in name or "palette" in name or "bits" in name:
                continue
            picture = made(data, "full_png").convert("RGB")
            grey = "grey" in name or "LZW" in name
            expected = plain.convert("L").convert("RGB") if grey else plain
            limit = 20 if "GIF" in name or "printers" in name else 12
            if name != "WEBP lossless":
                self.assertLess(difference(expected, picture), limit, name)

    def test_odd(self) -> None:
        """What is wrong beside the pixels costs nothing but itself."""
        plain = photograph(corpus.WIDTH, corpus.HEIGHT)
        for name, data in corpus.odd().items():
            rendered = outcome(data)
            assert rendered is not None, name
            picture = made(data, "full_png").convert("RGB")
            self.assertLess(difference(plain, picture), 13, name)


def _known(data: bytes) -> tuple[str, int, int]:
    kind = sniff(data[:HEAD_BYTES])
    # Pillow writes the directory of a TIFF behind its pixels, maybe beyond the head.
    kind = kind if kind is not None and kind.width else sniff(data)
    assert kind is not None
    return kind.format, kind.width, kind.height


class BrokenTests(SynchronousTestCase):
    def test_bad(self) -> None:
        """What is no picture is bad."""
        for name, data in corpus.bad().items():
            self.assertIsNone(outcome(data), name)

    def test_truncated(self) -> None:
        """Cut anywhere, it is what is there of it, or bad; and the info says so."""
        for name, data in corpus.whole().items():
            shown = 0
            for tenth in range(10):
                rendered = outcome(data[: len(data) * tenth // 10])
                if rendered is not None and not {"film", "pages", "several"} & {
                    *name.split()
                }:
                    self.assertIs(True, rendered.info.get("truncated"), (name, tenth))
                shown += rendered is not None
            if name in (
                "JPEG",
                "JPEG progressive",
                "PNG",
                "PNG interlaced",
                "GIF",
                "BMP",
            ):
                self.assertGreaterEqual(shown, 6, name)

    def test_flipped(self) -> None:
        """Bytes that flip make a picture worse, or bad."""
        chance = random.Random(13)
        for data in corpus.whole().values():
            for _ in range(12):
                broken = bytearray(data)
                for _ in range(chance.choice((1, 3, 20))):
                    # Most of the harm is done at the beginning.
                    most = len(broken) if chance.random() < 0.5 else 400
                    at = chance.randrange(min(most, len(broken)))
                    broken[at] = chance.randrange(256)
                outcome(bytes(broken))

    def test_mixed(self) -> None:
        """So does a piece of one file in the middle of another."""
        chance = random.Random(14)
        files = list(corpus.whole().values())
        for _ in range(150):
            one, other = chance.choice(files), chance.choice(files)
            at, length = chance.randrange(len(one)), chance.randrange(200)
            start = chance.randrange(len(other))
            outcome(one[:at] + other[start : start + length] + one[at + length :])


class BombTests(SynchronousTestCase):
    def test_refused(self) -> None:
        """What would cost too much is refused when it is opened, not decoded."""
        for name, data in corpus.bombs().items():
            with self.assertRaises(BadImage, msg=name):
                open_source(data, JOB.bounds)

    def test_config(self) -> None:
        """How much is too much is configured."""
        frames = [Image.new("L", (1500, 1500), shade) for shade in (0, 255)]
        more = {"save_all": True, "append_images": frames[1:]}
        data = encode(frames[0], "WEBP", **more)
        self.assertEqual("WEBP", open_source(data, JOB.bounds).format)
        with self.assertRaisesRegex(BadImage, "too much"):
            open_source(data, job(max_memory=64 << 20).bounds)

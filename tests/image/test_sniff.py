"""What a file is, by its beginning."""

from __future__ import annotations

import struct
from typing import Any

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from twisted.trial.unittest import SynchronousTestCase

from clinfra.image.hazards import hazard
from clinfra.image.sniff import HEAD_BYTES, Kind, cost, memory_bytes, scans, sniff
from tests.image.corpus import heic
from tests.image.pictures import encode, jpeg, photograph, scan_bomb, with_segment


class SniffTests(SynchronousTestCase):
    def test_kinds(self) -> None:
        """Formats are told by their marks, most with dimensions."""
        picture = photograph(64, 48)
        for name in ("JPEG", "PNG", "GIF", "BMP"):
            self.assertEqual(Kind(name, 64, 48), sniff(encode(picture, name)))
        for name in ("TIFF", "WEBP", "AVIF"):
            self.assertEqual(Kind(name, 64, 48), sniff(encode(picture, name)))
        # Telephones fill up to whole blocks.
        self.assertEqual(Kind("HEIC", 64, 64), sniff(heic(picture)))
        lossless = encode(picture, "WEBP", lossless=True)
        self.assertEqual(Kind("WEBP", 64, 48), sniff(lossless))
        self.assertEqual(
            Kind("WEBP", 64, 48), sniff(encode(picture, "WEBP", exif=b"Exif\0\0II*\0"))
        )
        self.assertEqual(
            Kind("JPEG", 64, 48, True), sniff(jpeg(64, 48, progressive=True))
        )
        top_down = b"BM" + bytes(12) + struct.pack("<Iii", 40, 64, -48)
        self.assertEqual(Kind("BMP", 64, 48), sniff(top_down))

    def test_metadata_first(self) -> None:
        """The size of a JPEG is found behind whatever comes before it."""
        data = jpeg(64, 48)
        for _ in range(3):
            data = with_segment(data, 0xE1, b"\xff\xc0" * 30000)
        self.assertEqual(Kind("JPEG", 64, 48), sniff(data[:HEAD_BYTES]))

    def test_unknown(self) -> None:
        """Anything else is nothing."""
        picture = photograph(64, 48)
        for data in (
            b"",
            b"bad data",
            b"\xff\xd8",
            b"%PDF-1.4",
            b"<svg/>",
            encode(picture, "PPM"),
            b"--form\r\nContent-Disposition: form-data\r\n\r\n" + jpeg(8, 8),
        ):
            self.assertIsNone(sniff(data))

    def test_cut_anywhere(self) -> None:
        """A head that ends too early is the same kind, perhaps without dimensions."""
        for name in ("JPEG", "PNG", "GIF", "BMP"):
            data = encode(photograph(64, 48), name)
            for end in range(8, 700):
                kind = sniff(data[:end])
                assert kind is not None
                self.assertEqual(name, kind.format)
                self.assertIn((kind.width, kind.height), ((0, 0), (64, 48)))

    def test_anything(self) -> None:
        """No bytes raise."""
        marks = [
            b"\xff\xd8\xff",
            b"\x89PNG\r\n\x1a\n",
            b"GIF89a",
            b"BM",
            b"II*\0\x08\0\0\0",
            b"MM\0+\0\x08\0\0\0\0\0\0\0\x10",
            b"RIFF\0\0\0\0WEBPVP8 ",
            b"RIFF\0\0\0\0WEBPVP8X",
            b"\0\0\0\x18ftypavif",
            b"\0\0\0\x18ftypheic\0\0\0\0mif1heic\0\0\0\xffmeta\0\0\0\0",
        ]

        @settings(deadline=None)
        @given(st.sampled_from(marks), st.binary(max_size=100))
        def check(mark: bytes, rest: bytes) -> None:
            kind = sniff(mark + rest)
            assert kind is not None
            self.assertIsInstance(hazard(mark + rest, kind, 64), str | None)
            self.assertGreater(memory_bytes(kind, 1), 0)

        check()


class CostTests(SynchronousTestCase):
    def test_photograph(self) -> None:
        """The unit is a 12-megapixel baseline JPEG."""
        self.assertEqual(1, cost(Kind("JPEG", 4000, 3000), 1))
        self.assertEqual(2.5, cost(Kind("JPEG", 4000, 3000, True), 1))
        self.assertGreater(cost(Kind("PNG", 7000, 7000), 6000), 30)
        self.assertGreater(cost(Kind("TIFF"), 12_000_000), 1)
        self.assertEqual(0, cost(None, 1))


class MemoryTests(SynchronousTestCase):
    def test_memory(self) -> None:
        """What is decoded as it comes takes less than what has to be kept whole."""

        def memory(
            picture: Image.Image, name: str, side: int = 7000, **options: Any
        ) -> float:
            kind = sniff(encode(picture, name, **options))
            assert kind is not None
            large = attrs.evolve(kind, width=side, height=side)
            return memory_bytes(large, side * side // 4)

        picture = photograph(64, 48)
        limit = 250e6
        for name in ("JPEG", "PNG", "GIF", "BMP", "WEBP"):
            self.assertLess(memory(picture, name), limit, name)
        self.assertLess(memory(picture.convert("L"), "TIFF"), limit)
        self.assertLess(memory(picture, "JPEG", side=6400, progressive=True), limit)
        full = {"progressive": True, "subsampling": 0}
        # 24 megapixels, as cameras have them.
        self.assertLess(memory(picture, "JPEG", side=4900, **full), limit)
        self.assertGreater(memory(picture, "JPEG", **full), limit)
        self.assertGreater(memory(picture, "WEBP", lossless=True), limit)
        for name in ("TIFF", "AVIF"):
            self.assertGreater(memory(picture, name), limit)


class ScansTests(SynchronousTestCase):
    def test_count(self) -> None:
        """Scans are counted up to what is enough to know."""
        self.assertEqual(1, scans(jpeg(64, 48), 65))
        self.assertTrue(5 < scans(jpeg(64, 48, progressive=True), 65) < 20)
        self.assertEqual(65, scans(scan_bomb(300, side=64), 65))

    def test_films(self) -> None:
        """What phones put before and behind a picture does not count."""
        film = b"\xff\xda\x00\x08\xff" * 1000
        for progressive in (False, True):
            plain = jpeg(640, 480, progressive=progressive, exif=b"Exif\0\0" + film)
            self.assertLess(scans(plain + film, 65), 20)
            self.assertLess(scans(jpeg(64, 48, restart_marker_rows=1) + film, 65), 20)

    def test_one_scan(self) -> None:
        """A scan that has everything is the only one, unless the file is odd."""
        plain = jpeg(640, 480)
        scan = plain[plain.index(b"\xff\xda") : -2]
        self.assertEqual(1, scans(plain + scan * 100, 65))
        # Decoders take what follows stuffing for markers; a walk might step over it.
        bomb = scan_bomb(300, side=64)
        odd = b"\xff\xd8\xff\x00" + struct.pack(">H", len(bomb)) + bomb[2:]
        self.assertEqual(65, scans(odd + plain[2:], 65))

    def test_hidden(self) -> None:
        """Scans cannot be hidden behind an end that is none."""
        bomb = scan_bomb(300, side=64)
        scan = bomb.index(b"\xff\xda")
        ends = b"\xff\xfe\x00\x08" + b"\xff\xd9" * 3
        self.assertEqual(65, scans(bomb[:scan] + ends + bomb[scan:], 65))
        filled = bomb.replace(b"\xff\xda", b"\xff\xff\xff\xda")
        self.assertEqual(65, scans(filled, 65))

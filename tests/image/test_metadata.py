"""The info JSON's words, as recorded from the original."""

from __future__ import annotations

import struct

from twisted.trial.unittest import SynchronousTestCase

from clinfra.image.exif import Exif, parse
from clinfra.image.metadata import exif_info, picture_info, tag_name, text_of
from tests.image.pictures import Entry, exif_block


def rational(tag: int, *pairs: tuple[int, int]) -> Entry:
    numbers = [number for pair in pairs for number in pair]
    return tag, 5, len(pairs), struct.pack(f"<{len(numbers)}I", *numbers)


def short(tag: int, value: int) -> Entry:
    return tag, 3, 1, struct.pack("<HH", value, 0)


def text(tag: int, value: bytes) -> Entry:
    return tag, 2, len(value), value


# From a recorded upload of the original's own test picture.
CAMERA = parse(
    exif_block(
        [
            text(0x010F, b"NIKON CORPORATION\0"),
            text(0x0110, b"NIKON D2H\0"),
            short(0x0112, 1),
            rational(0x011A, (256, 1)),
        ],
        [
            rational(0x829A, (1, 125)),
            rational(0x829D, (45, 10)),
            (0x9000, 7, 4, b"0220"),
            (0xA300, 7, 1, b"\x03"),
            (0xA302, 7, 8, b"\x02\0\x02\0\0\x02\x02\x01"),
            text(0xA004, b" " * 12 + b"\0"),
            (0x9286, 7, 264, b"\0" * 264),
            short(0xA217, 2),
            (0xA002, 4, 1, struct.pack("<I", 10)),
            (0xA005, 4, 1, struct.pack("<I", 2116)),
            text(0xA431, b"1234567\0"),
            text(0xA430, b"A. Body\0"),
            (0x927C, 7, 7, b"private"),
        ],
        [
            (0x0000, 1, 4, b"\2\2\0\0"),
            text(0x0001, b"N\0"),
            rational(0x0002, (39, 1), (54, 1), (56, 1)),
        ],
    )
)


class ExifInfoTests(SynchronousTestCase):
    def test_recorded(self) -> None:
        """Camera tags are written exactly as the original wrote them."""
        info = exif_info(CAMERA, publish=True)
        del info["exif_exiftag"]
        self.assertEqual(
            {
                "exif_make": "NIKON CORPORATION",
                "exif_model": "NIKON D2H",
                "exif_orientation": "1",
                "exif_xresolution": "(256, 1)",
                "exif_exposuretime": "(1, 125)",
                "exif_fnumber": "(45, 10)",
                "exif_exifversion": "0220",
                "exif_filesource": "\x03",
                "exif_cfapattern": "\x02\x02\x02\x02\x01",
                "exif_relatedsoundfile": " " * 12,
                "exif_usercomment": "",
                "exif_sensingmethod": "2",
                "exif_pixelxdimension": "10",
                "exif_interoperabilitytag": "2116",
            },
            info,
        )

    def test_never_published(self) -> None:
        """Place, owner and serial numbers are not in the info, ever."""
        for publish in (True, False):
            info = exif_info(CAMERA, publish=publish)
            for word in ("gps", "serial", "owner", "makernote"):
                self.assertEqual([], [key for key in info if word in key])

    def test_unpublished(self) -> None:
        """With EXIF switched off only the orientation is left."""
        self.assertEqual({"exif_orientation": "1"}, exif_info(CAMERA, publish=False))

    def test_names(self) -> None:
        """Names are today's but for those that changed; unknown tags are numbers."""
        for tag, name in (
            (0x0107, "threshholding"),
            (0x8769, "exiftag"),
            (0x9010, "36880"),
            (0xA500, "42240"),
            (0x920E, "focalplanexresolution"),
            (0xBEEF, "48879"),
            (0x829A, "exposuretime"),
        ):
            self.assertEqual(name, tag_name(tag))

    def test_unwritable(self) -> None:
        """What is too long or not ASCII is left out."""
        exif = Exif({0x010F: "x" * 1025, 0x0110: "caf\xe9", 0x0131: "x" * 1024})
        self.assertEqual({"exif_software": "x" * 1024}, exif_info(exif, publish=True))


class PictureInfoTests(SynchronousTestCase):
    def test_recorded(self) -> None:
        """What Pillow says beside the pixels is written as text."""
        info = picture_info(
            {
                "jfif": 257,
                "jfif_version": (1, 1),
                "jfif_density": (72, 72),
                "progressive": 1,
                "version": b"GIF89a",
                "extension": (b"NETSCAPE2.0", 795),
                "Software": "x\0y",
            }
        )
        self.assertEqual(
            {
                "jfif": "257",
                "jfif_version": "(1, 1)",
                "jfif_density": "(72, 72)",
                "progressive": "1",
                "version": "GIF89a",
                "extension": "('NETSCAPE2.0', 795)",
                "software": "xy",
            },
            info,
        )

    def test_never_published(self) -> None:
        """Embedded blocks and comments may say where a picture was taken."""
        private = {
            "exif": b"II",
            "comment": b"48.85, 2.35",
            "xmp": b"<x/>",
            "XML:com.adobe.xmp": "<x/>",
            "Raw profile type exif": "45",
            "icc_profile": b"x",
            "photoshop": {1: b"x"},
            "GPSLatitude": "48",
            "Serial Number": "1",
        }
        self.assertEqual({}, picture_info(private))

    def test_bounded(self) -> None:
        """Neither many keys, nor long ones, nor strange ones are published."""
        self.assertEqual(200, len(picture_info({f"k{n}": n for n in range(1000)})))
        self.assertEqual({}, picture_info({"k" * 65: 1, "caf\xe9": 1, "x": object()}))
        self.assertEqual({}, picture_info({"x": tuple(range(100_000))}))

    def test_text(self) -> None:
        """Tuples of one keep their comma."""
        self.assertEqual("(1,)", text_of((1,)))

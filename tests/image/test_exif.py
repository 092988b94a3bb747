"""Reading EXIF, honest and hostile."""

from __future__ import annotations

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.image.exif import Exif, parse
from tests.image.pictures import Entry, exif_block, jpeg, oriented


def short(tag: int, *values: int, order: str = "<") -> Entry:
    return tag, 3, len(values), struct.pack(f"{order}{len(values)}H", *values)


class ParseTests(SynchronousTestCase):
    def test_types(self) -> None:
        """Every type has the shape it had in 2013."""
        for order in "<>":
            block = exif_block(
                [
                    short(0x0112, 6, order=order),
                    (0x010F, 2, 6, b"Canon\0"),
                    (0x011A, 5, 1, struct.pack(order + "II", 72, 1)),
                ],
                [
                    (0x829D, 5, 1, struct.pack(order + "II", 56, 10)),
                    (0x9101, 7, 4, b"\1\2\3\0"),
                    (0xA002, 4, 1, struct.pack(order + "I", 1000)),
                    # Signed: not read then, not read now.
                    (0x9204, 10, 1, struct.pack(order + "ii", -1, 3)),
                ],
                [
                    (0x0000, 1, 4, b"\2\2\0\0"),
                    (0x0001, 2, 2, b"N\0"),
                    (0x0002, 5, 3, struct.pack(order + "6I", 48, 1, 51, 1, 30, 1)),
                ],
                order,
            )
            exif = parse(b"Exif\0\0" + block)
            self.assertEqual(
                {
                    0x0112: 6,
                    0x010F: "Canon",
                    0x011A: (72, 1),
                    0x829D: (56, 10),
                    0x9101: "\1\2\3\0",
                    0xA002: 1000,
                },
                {tag: value for tag, value in exif.tags.items() if tag != 0x8769},
            )
            self.assertEqual(
                {0: (2, 2, 0, 0), 1: "N", 2: ((48, 1), (51, 1), (30, 1))}, exif.gps
            )
            self.assertEqual(6, exif.orientation)

    def test_orientation(self) -> None:
        """Anything but 1 to 8 means upright."""
        for value in (0, 9, 99, 65535):
            self.assertEqual(1, parse(exif_block([short(0x0112, value)])).orientation)
        self.assertEqual(1, parse(exif_block([short(0x0112, 6, 6)])).orientation)
        self.assertEqual(1, parse(exif_block([(0x0112, 2, 2, b"6\0")])).orientation)
        self.assertEqual(1, Exif().orientation)

    def test_cut_anywhere(self) -> None:
        """A block that ends too early is read as far as it goes."""
        block = exif_block(
            [short(0x0112, 3), (0x010F, 2, 6, b"Canon\0")],
            [(0x829D, 5, 1, struct.pack("<II", 56, 10))],
        )
        whole = parse(block)
        for end in range(len(block)):
            part = parse(block[:end]).tags
            self.assertTrue(set(part) <= set(whole.tags))

    def test_loops(self) -> None:
        """Directories that point at themselves end the reading, not the process."""
        entry = struct.pack("<HHII", 0x8769, 4, 1, 8)
        block = b"II*\0\x08\0\0\0" + struct.pack("<H", 1) + entry
        self.assertEqual({0x8769: 8}, parse(block).tags)

    def test_anything(self) -> None:
        """No bytes at all raise."""

        @settings(deadline=None)
        @given(st.sampled_from([b"II*\0", b"MM\0*", b""]), st.binary(max_size=200))
        def check(head: bytes, rest: bytes) -> None:
            parse(head + rest)

        check()

    def test_damaged(self) -> None:
        """No damage to an honest block raises."""
        data = oriented(jpeg(8, 8), 6)
        honest = data[data.index(b"Exif\0\0") :][:60]

        @settings(deadline=None)
        @given(st.integers(0, 59), st.integers(0, 255))
        def check(at: int, value: int) -> None:
            parse(honest[:at] + bytes([value]) + honest[at + 1 :])

        check()

"""Ranges: RFC 9110 §14, its examples and its edges."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.web.headers import ETag
from clinfra.web.heads import parse_request_head
from clinfra.web.ranges import (
    MOST_RANGES,
    Range,
    Unsatisfiable,
    content_range,
    lay_out_multipart,
    parse_range,
    ranges_for,
    unsatisfied_content_range,
)

_DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
_MODIFIED = 784111777


def bounds(value: bytes, size: int) -> list[tuple[int, int]] | None:
    """Return the ranges as pairs, None when they are ignored."""
    ranges = parse_range(value, size)
    return None if ranges is None else [(each.start, each.stop) for each in ranges]


class ParseTests(SynchronousTestCase):
    """What Range asks for."""

    def test_rfc_examples(self) -> None:
        """The examples of §14.1.2, for 10000 bytes."""
        for value, expected in (
            (b"bytes=0-499", [(0, 500)]),
            (b"bytes=500-999", [(500, 1000)]),
            (b"bytes=-500", [(9500, 10000)]),
            (b"bytes=9500-", [(9500, 10000)]),
            (b"bytes=0-0,-1", [(0, 1), (9999, 10000)]),
            (
                b"bytes= 0-999, 4500-5499, -1000",
                [(0, 1000), (4500, 5500), (9000, 10000)],
            ),
            (b"bytes=500-600,601-999", [(500, 1000)]),
            (b"bytes=500-700,601-999", [(500, 1000)]),
        ):
            self.assertEqual(expected, bounds(value, 10000), value)

    def test_edges(self) -> None:
        """Ends are cut at the size; suffixes may be longer than all; case is free."""
        for value, expected in (
            (b"bytes=0-", [(0, 10)]),
            (b"bytes=9-99999", [(9, 10)]),
            (b"bytes=-99999", [(0, 10)]),
            (b"BYTES=1-1", [(1, 2)]),
            (b"bytes=,1-2,,", [(1, 3)]),
            (b"bytes=5-6,1-2", [(5, 7), (1, 3)]),
            (b"bytes=20-30,1-2", [(1, 3)]),
        ):
            self.assertEqual(expected, bounds(value, 10), value)

    def test_unsatisfiable(self) -> None:
        """Nothing inside the representation is 416."""
        for value, size in (
            (b"bytes=10-", 10),
            (b"bytes=10-20,30-", 10),
            (b"bytes=-0", 10),
            (b"bytes=0-", 0),
            (b"bytes=-5", 0),
            (b"bytes=9999999999999999999-", 10),
        ):
            with self.assertRaises(Unsatisfiable, msg=value):
                parse_range(value, size)

    def test_ignored(self) -> None:
        """What cannot be read, or asks for too much, is ignored."""
        for value in (
            b"",
            b"bytes",
            b"bytes=",
            b"bytes=,",
            b"bytes=a-b",
            b"bytes=-",
            b"bytes=5-4",
            b"bytes=1-2,5-4",
            b"bytes=1-2;3-4",
            b"bytes=+1-2",
            b"bytes=1- 2",
            b"bytes=0x1-2",
            b"bytes=1-2-3",
            b"bytes=\xb2-3",
            b"bytes=" + b"9" * 20 + b"-",
            b"items=0-5",
            b"bytes 0-5",
            b"bytes=" + b",".join(b"%d-%d" % (n, n) for n in range(0, 34, 2)),
            b"bytes=" + b"0-," * 100_000,
            b"bytes=" + b"," * 100_000,
        ):
            self.assertIsNone(bounds(value, 100), value[:50])

    def test_as_many_as_allowed(self) -> None:
        """Sixteen ranges are served."""
        value = b"bytes=" + b",".join(b"%d-%d" % (2 * n, 2 * n) for n in range(16))

        self.assertEqual(MOST_RANGES, len(bounds(value, 100) or ()))

    @given(
        st.lists(
            st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=1, max_size=9
        ),
        st.integers(0, 50),
    )
    @settings(deadline=None)
    def test_exactly_what_was_asked(
        self, pairs: list[tuple[int, int]], size: int
    ) -> None:
        """Joined or not, the bytes are those asked for, each of them once."""
        pairs = [(min(pair), max(pair)) for pair in pairs]
        asked = {n for a, b in pairs for n in range(a, b + 1) if n < size}
        value = b"bytes=" + b",".join(b"%d-%d" % pair for pair in pairs)
        try:
            ranges = parse_range(value, size)
        except Unsatisfiable:
            self.assertEqual(set(), asked)
            return

        assert ranges is not None
        sent = [n for each in ranges for n in range(each.start, each.stop)]
        self.assertEqual(sorted(asked), sorted(sent))

    @given(st.text("bytes=0123456789-, ", max_size=40), st.integers(0, 1000))
    @settings(deadline=None)
    def test_garbage(self, text: str, size: int) -> None:
        """Whatever is asked, what is given lies inside."""
        try:
            ranges = parse_range(b"bytes=" + text.encode(), size)
        except Unsatisfiable:
            return

        for each in ranges or ():
            self.assertTrue(0 <= each.start < each.stop <= size)


class IfRangeTests(SynchronousTestCase):
    """When Range counts at all."""

    def asked(
        self,
        *fields: bytes,
        method: bytes = b"GET",
        etag: ETag | None = ETag(b"a"),  # noqa: B008 # a value, never changed
    ) -> bool:
        """Say whether a request with bytes=1-2 and these field lines gets a part."""
        head = parse_request_head(
            method
            + b" / HTTP/1.1\r\nHost: h\r\nRange: bytes=1-2\r\n"
            + b"\r\n".join((*fields, b"", b""))
        )
        return ranges_for(head, 10, etag, _MODIFIED) == [Range(1, 3)]

    def test_plain(self) -> None:
        """GET with Range gets the part."""
        self.assertTrue(self.asked())

    def test_other_methods(self) -> None:
        """Range means nothing to other methods."""
        self.assertFalse(self.asked(method=b"HEAD"))
        self.assertFalse(self.asked(method=b"PUT"))

    def test_twice(self) -> None:
        """Two Range fields are none."""
        self.assertFalse(self.asked(b"Range: bytes=1-2"))

    def test_if_range(self) -> None:
        """If-Range holds for the same strong tag and for exactly the date."""
        for value, holds in (
            (b'"a"', True),
            (b'"b"', False),
            (b'W/"a"', False),
            (b"a", False),
            (b"*", False),
            (b'"a", "b"', False),
            (_DATE, True),
            (b"Sun, 06 Nov 1994 08:49:38 GMT", False),
            (b"Sun, 06 Nov 1994 08:49:36 GMT", False),
            (b"yesterday", False),
        ):
            self.assertEqual(holds, self.asked(b"If-Range: " + value), value)

    def test_weak_representation(self) -> None:
        """A weak tag never makes a part."""
        self.assertFalse(self.asked(b'If-Range: W/"a"', etag=ETag(b"a", weak=True)))
        self.assertFalse(self.asked(b'If-Range: "a"', etag=None))


class LayoutTests(SynchronousTestCase):
    """What is sent with parts."""

    def test_content_range(self) -> None:
        """The last byte is named, not the one after it."""
        self.assertEqual(b"bytes 0-499/1234", content_range(Range(0, 500), 1234))
        self.assertEqual(b"bytes */1234", unsatisfied_content_range(1234))

    def test_multipart(self) -> None:
        """The layout is the RFC's, and exactly as long as it says."""
        data = b"0123456789"
        layout = lay_out_multipart(
            [Range(0, 2), Range(8, 10)], len(data), b"text/plain", b"SEP"
        )
        body = b"".join(
            prologue + data[part.start : part.stop]
            for prologue, part in zip(layout.prologues, layout.ranges, strict=True)
        )
        body += layout.epilogue

        self.assertEqual(
            b"--SEP\r\nContent-Type: text/plain\r\nContent-Range: bytes 0-1/10\r\n\r\n"
            b"01\r\n"
            b"--SEP\r\nContent-Type: text/plain\r\nContent-Range: bytes 8-9/10\r\n\r\n"
            b"89\r\n"
            b"--SEP--\r\n",
            body,
        )
        self.assertEqual(len(body), layout.length)
        self.assertEqual(b"multipart/byteranges; boundary=SEP", layout.content_type)

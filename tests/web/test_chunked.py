"""The chunked coding: one reading only, however the bytes arrive."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.web.chunked import LAST_CHUNK, BadChunk, ChunkedDecoder, encode_chunk


def decode(*segments: bytes) -> tuple[bytes, bytes, bool]:
    """Return the data, what came after the end, and whether the end came."""
    decoder = ChunkedDecoder()
    data, after = b"", b""
    for segment in segments:
        pieces, rest = decoder.feed(segment)
        data += b"".join(pieces)
        after += rest
    return data, after, decoder.finished


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut at these places, wherever they fall."""
    bounds = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(bounds)]


class DecoderTests(SynchronousTestCase):
    """What is accepted, and what never is."""

    def test_whole(self) -> None:
        """Sizes in either case, extensions and trailers are read; the rest is left."""
        body = (
            b"5\r\nhello\r\n"
            b'A ; name="a;b" ;x\r\n0123456789\r\n'
            b"00;last\r\nX-Sum: 1\r\nY: 2\r\n\r\nGET /"
        )

        self.assertEqual((b"hello0123456789", b"GET /", True), decode(body))

    def test_data_comes_at_once(self) -> None:
        """A chunk is passed on while it comes, not when it is complete."""
        decoder = ChunkedDecoder()

        self.assertEqual(([b"he"], b""), decoder.feed(b"5\r\nhe"))
        self.assertEqual(([b"ll"], b""), decoder.feed(b"ll"))
        self.assertFalse(decoder.finished)

    def test_refusals(self) -> None:
        """Anything another reader might take differently is refused."""
        for body in (
            b"5\nhello\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\r\r\n",
            b" 5\r\nhello\r\n",
            b"5 \r\nhello\r\n",
            b"+5\r\nhello\r\n",
            b"-5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b"5_0\r\n",
            b"\r\nhello\r\n",
            b";x\r\n",
            b"5;\x00\r\nhello\r\n",
            b"5;a\nb\r\nhello\r\n",
            b"5;a\rb\r\nhello\r\n",
            b"g\r\n",
            b"\xb25\r\n",
            b"8000000000000000\r\n",
            b"00000000000000005\r\nhello\r\n",
            b"0\r\nX : y\r\n\r\n",
            b"0\r\nX: y\r\n z\r\n\r\n",
            b"0\r\nX: y\nZ: 1\r\n\r\n",
            b"0\r\nno colon\r\n\r\n",
            b"0\r\n" + b"a: b\r\n" * 65 + b"\r\n",
        ):
            with self.assertRaises(BadChunk, msg=repr(body)) as caught:
                decode(body)

            self.assertRegex(caught.exception.sentence, r"\A[A-Z][^\r\n]+\.\Z")
            with self.assertRaises(BadChunk):
                decode(*(bytes([byte]) for byte in body))

    def test_bare_lf_at_once(self) -> None:
        """A line that others take for complete is not waited for."""
        for body in (b"5\n", b"5;x\n", b"0\n\n", b"0\r\n\n", b"0\r\nX: y\n\r\n"):
            with self.assertRaises(BadChunk, msg=repr(body)):
                decode(body)

    def test_largest_size(self) -> None:
        """A size is at most 2^63 - 1."""
        self.assertEqual((b"x", b"", False), decode(b"7fffffffffffffff\r\nx"))

    def test_endless_lines(self) -> None:
        """Size lines and trailers are refused as soon as they are too long."""
        for start, filler, most in (
            (b"5;", b"x", 4096),
            (b"0\r\n", b"x", 8192 + 4),
            (b"0\r\n", b"a: b\r\n", 8192 + 4),
        ):
            decoder = ChunkedDecoder()
            fed = 0
            with self.assertRaises(BadChunk):
                decoder.feed(start)
                while fed < 100_000:
                    fed += len(filler)
                    decoder.feed(filler)

            self.assertLessEqual(fed, most + len(filler))

    def test_extensions_are_bounded_in_total(self) -> None:
        """Extensions may not outweigh the data they come with for ever."""
        decoder = ChunkedDecoder()
        with self.assertRaises(BadChunk):
            for _ in range(100):
                decoder.feed(b"1;" + b"x" * 1000 + b"\r\na\r\n")

    def test_signed_chunks(self) -> None:
        """Large bodies with a signature in each chunk pass, however long they are."""
        decoder = ChunkedDecoder()
        chunk = b"2000;signature=" + b"f" * 64 + b"\r\n" + bytes(8192) + b"\r\n"
        for _ in range(2000):
            decoder.feed(chunk)
        decoder.feed(LAST_CHUNK)

        self.assertTrue(decoder.finished)

    @given(st.lists(st.binary(max_size=300)), st.lists(st.integers(0, 10_000)))
    @settings(deadline=None)
    def test_round_trip(self, pieces: list[bytes], places: list[int]) -> None:
        """Decoding undoes encoding, however the bytes are cut."""
        body = b"".join(map(encode_chunk, pieces)) + LAST_CHUNK + b"more"

        self.assertEqual((b"".join(pieces), b"more", True), decode(*cut(body, places)))

    @given(
        st.lists(
            st.sampled_from(
                (
                    *(b"5\r\nhello\r\n", b"1\r\n", b"\r\n", b"0", b"a", b";x=y", b"\r"),
                    *(b"\n", b"A: b", b"0\r\n\r\n", b"\x00", b"ff\r\n", b"3\r\nabc"),
                )
            ),
            max_size=12,
        ),
        st.lists(st.integers(0, 200)),
    )
    @settings(deadline=None, max_examples=300)
    def test_cuts_do_not_matter(self, parts: list[bytes], places: list[int]) -> None:
        """Any bytes at all give the same result, however they are cut."""
        body = b"".join(parts)

        def outcome(segments: list[bytes]) -> tuple[bytes, bytes, bool] | None:
            try:
                return decode(*segments)
            except BadChunk:
                return None

        self.assertEqual(outcome([body]), outcome(cut(body, places)))

    @given(st.binary(max_size=2000))
    @settings(deadline=None)
    def test_garbage(self, garbage: bytes) -> None:
        """Garbage is refused or waited for; it never becomes more than it was."""
        try:
            data, after, _ = decode(garbage)
        except BadChunk:
            return

        self.assertLessEqual(len(data) + len(after), len(garbage))


class EncoderTests(SynchronousTestCase):
    """Chunks we send."""

    def test_chunk(self) -> None:
        """A chunk says its length in hexadecimal."""
        self.assertEqual(b"10\r\n" + b"x" * 16 + b"\r\n", encode_chunk(b"x" * 16))

    def test_nothing(self) -> None:
        """No data is no chunk: an empty one would end the body."""
        self.assertEqual(b"", encode_chunk(b""))

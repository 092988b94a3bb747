"""Content codings: who gets which, and that what was coded can be read again."""

from __future__ import annotations

import gzip
import zlib

import brotli
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.proxy.encoding import (
    CODERS,
    Types,
    best_coding,
    may_code,
    update_not_modified,
    vary_on_coding,
)
from clinfra.proxy.message import Reply

OURS = (b"br", b"zstd", b"gzip")
TYPES = Types.of(("text/*", "application/json", "application/*+json"))


def decoded(coding: str, data: bytes) -> bytes:
    """Return what a client reads."""
    if coding == "gzip":
        return gzip.decompress(data)
    if coding == "br":
        whole: bytes = brotli.decompress(data)
        return whole
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


class BestCodingTests(SynchronousTestCase):
    """The one coding that a client is to get."""

    def test_table(self) -> None:
        """The best of ours that it likes best; identity when it likes none."""
        for accepted, expected in (
            (b"gzip, deflate, br, zstd", b"br"),
            (b"gzip, deflate", b"gzip"),
            (b"GZIP", b"gzip"),
            (b"x-gzip", b"gzip"),
            (b"br;q=0.5, gzip", b"gzip"),
            (b"br;q=0, zstd;q=0.1", b"zstd"),
            (b"*", b"br"),
            (b"*;q=0.5, gzip;q=0.9", b"gzip"),
            (b"gzip;q=0", b"identity"),
            (b"deflate", b"identity"),
            (b"identity", b"identity"),
            (b"", b"identity"),
            (b"gzip;q=nonsense", b"identity"),
            (b"gzip, identity;q=0", None),
            (b"*;q=0", None),
        ):
            self.assertEqual(best_coding(accepted, OURS), expected, accepted)


class TypesTests(SynchronousTestCase):
    """Media types worth compressing."""

    def test_match(self) -> None:
        """By name, by family, by suffix; parameters and case do not matter."""
        for value, expected in (
            (b"text/html; charset=utf-8", True),
            (b"TEXT/HTML", True),
            (b"application/json", True),
            (b"application/ld+json", True),
            (b"application/jsonx", False),
            (b"image/png", False),
            (b"", False),
            (b"text", False),
        ):
            self.assertEqual(TYPES.match(value), expected, value)

    def test_nonsense(self) -> None:
        """What is no media type is refused."""
        for text in ("text", "/html", "text/", "*/*", "te*xt/html", "text/a*b", ""):
            with self.assertRaises(ValueError):
                Types.of((text,))


class MayCodeTests(SynchronousTestCase):
    """Answers that may be coded."""

    def reply(self, *fields: tuple[bytes, bytes], length: int | None = 5000) -> Reply:
        """Return an answer of HTML."""
        kind = (b"Content-Type", b"text/html")
        return Reply(200, (kind, *fields), stream=object(), length=length)

    def test_allowed(self) -> None:
        """An ordinary page may, one of unknown length too."""
        self.assertTrue(may_code(self.reply(), TYPES, 1024))
        self.assertTrue(may_code(self.reply(length=None), TYPES, 1024))

    def test_not_worth_it(self) -> None:
        """A small one, and one whose type is not known."""
        self.assertFalse(may_code(self.reply(length=1023), TYPES, 1024))
        self.assertFalse(may_code(Reply(200, (), stream=object()), TYPES, 0))

    def test_forbidden(self) -> None:
        """One that is coded, partial, digested, or not to be transformed."""
        for field in (
            (b"Content-Encoding", b"gzip"),
            (b"Content-Range", b"bytes 0-1/2"),
            (b"Content-Digest", b"sha-256=:AA==:"),
            (b"Repr-Digest", b"sha-256=:AA==:"),
            (b"Content-MD5", b"AA=="),
            (b"Cache-Control", b"public, No-Transform"),
        ):
            self.assertFalse(may_code(self.reply(field), TYPES, 0), field)

    def test_other_statuses(self) -> None:
        """Nor a part, nor what has no body."""
        for status in (101, 204, 206, 301, 304, 500):
            reply = self.reply()
            reply.status = status
            self.assertFalse(may_code(reply, TYPES, 0))


class FieldTests(SynchronousTestCase):
    """What is said of coded answers."""

    def test_vary(self) -> None:
        """Accept-Encoding is named once."""
        for vary, expected in (
            (None, b"Accept-Encoding"),
            (b"Cookie", b"Cookie, Accept-Encoding"),
            (b"accept-encoding", b"accept-encoding"),
            (b"*", b"*"),
        ):
            reply = Reply(200, () if vary is None else ((b"Vary", vary),))
            vary_on_coding(reply)
            self.assertEqual(reply.get(b"vary"), expected)

    def test_not_modified(self) -> None:
        """A 304 confirms the weak tag that was asked about, and no other."""
        for etag, asked, expected in (
            (b'"a"', b'W/"a"', b'W/"a"'),
            (b'"a"', b'"b", W/"a"', b'W/"a"'),
            (b'"a"', b'"a"', b'"a"'),
            (b'"a"', b'W/"a", "a"', b'"a"'),
            (b'"a"', b'W/"b"', b'"a"'),
            (b'"a"', None, b'"a"'),
            (b'W/"a"', b'W/"a"', b'W/"a"'),
            (b"nonsense", b'W/"a"', b"nonsense"),
        ):
            reply = Reply(304, ((b"ETag", etag), (b"Vary", b"Cookie")))
            update_not_modified(reply, asked)
            self.assertEqual(reply.get(b"etag"), expected)
            self.assertEqual(reply.get(b"vary"), b"Cookie, Accept-Encoding")


class CoderTests(SynchronousTestCase):
    """What was coded can be read."""

    @given(st.lists(st.binary(max_size=5000), max_size=8), st.booleans())
    @settings(deadline=None, max_examples=40)
    def test_round_trip(self, pieces: list[bytes], flushing: bool) -> None:
        """In whatever pieces it comes."""
        for name, make in CODERS.items():
            coder = make(4, flushing)
            coded = b"".join(coder.add(piece) for piece in pieces) + coder.end()
            self.assertEqual(decoded(name, coded), b"".join(pieces), name)

    def test_at_once(self) -> None:
        """What is made piece by piece reaches the reader piece by piece."""
        readers = {
            "gzip": zlib.decompressobj(31).decompress,
            "br": brotli.Decompressor().process,
            "zstd": zstandard.ZstdDecompressor().decompressobj().decompress,
        }
        self.assertEqual(set(CODERS), set(readers))
        for name, make in CODERS.items():
            coder = make(4, True)
            for piece in (b"one", b"two"):
                self.assertEqual(readers[name](coder.add(piece)), piece, name)

"""Structured fields: tables of RFC 9651."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.web.structured import Token, parse_dictionary


class DictionaryTests(SynchronousTestCase):
    """RFC 9651 §3.2 and §4.2.2: dictionaries."""

    def test_table(self) -> None:
        """What members mean."""
        for raw, members in (
            (b"", {}),
            (b"  ", {}),
            (b"a", {b"a": True}),
            (b"a=1, b=2", {b"a": 1, b"b": 2}),
            (b"a=1\t ,\tb", {b"a": 1, b"b": True}),
            (b"a=1;x=2;y, b", {b"a": 1, b"b": True}),
            (b"a;x; y=?0", {b"a": True}),
            (b"a=-15", {b"a": -15}),
            (b"a=1.50", {b"a": Decimal("1.50")}),
            (b'a="x\\"\\\\y"', {b"a": b'x"\\y'}),
            (b"a=Tok*/en", {b"a": Token(b"Tok*/en")}),
            (b"a=:aGVsbG8=:", {b"a": bytearray(b"hello")}),
            (b"a=:aGVsbG8:", {b"a": bytearray(b"hello")}),
            (b"a=?1, b=?0", {b"a": True, b"b": False}),
            (b"a=@0", {b"a": datetime(1970, 1, 1, tzinfo=UTC)}),
            (b'a=%"f%c3%bc"', {b"a": "f\u00fc"}),
            (b'a=(1  "x" t;p=1);q', {b"a": (1, b"x", Token(b"t"))}),
            (b"a=()", {b"a": ()}),
            (b"*a-_.*=1", {b"*a-_.*": 1}),
            (b"a=1, b=2, a=3", {b"b": 2, b"a": 3}),
        ):
            self.assertEqual(members, parse_dictionary(raw), raw)

    def test_broken(self) -> None:
        """RFC 9651 §4.2: one fault and the whole field is ignored."""
        for raw in (
            *(b"A=1", b"a =1", b"a= 1", b"a=", b"a,", b"a,,b", b",a", b"a b"),
            *(b"a=1.", b"a=1.2345", b"a=1234567890123.1", b"a=1234567890123456"),
            *(b'a="x', b'a="\\x"', b'a="\x7f"', b"a=:?:", b"a=:aGVsbG8", b"a=?2"),
            *(b"a=(1", b"a=(1,2)", b'a=("x""y")', b"a=@1.5", b"a=@99999999999999"),
            *(b'a=%"%C3"', b'a=%"%c3"', b"a=&", b"a;=1", b"a; A", b"a=1\n", b"-a"),
            b"a=1, &&&&&",
            b"a=" + b"1" * 20000,
        ):
            self.assertIsNone(parse_dictionary(raw), raw)

    @settings(deadline=None)
    @given(st.binary(max_size=60))
    def test_nothing_raises(self, raw: bytes) -> None:
        """Whatever a peer sends, it is a dictionary or it is not."""
        parse_dictionary(raw)

    @settings(deadline=None)
    @given(
        st.dictionaries(
            st.from_regex(rb"[a-z*][a-z0-9_.*-]{0,8}", fullmatch=True),
            st.integers(-(10**15) + 1, 10**15 - 1) | st.booleans(),
            max_size=5,
        )
    )
    def test_round_trip(self, members: dict[bytes, int | bool]) -> None:
        """What is written is what is read."""

        def write(value: int | bool) -> bytes:
            return b"?%d" % value if isinstance(value, bool) else b"%d" % value

        raw = b", ".join(b"%b=%b" % (key, write(members[key])) for key in members)
        self.assertEqual(members, parse_dictionary(raw))

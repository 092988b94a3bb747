"""Field values: what is legal is read, what is hostile does no harm."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.web.headers import (
    ETag,
    Preference,
    coding_quality,
    directive_seconds,
    end_to_end,
    format_http_date,
    media_quality,
    parse_accept,
    parse_cache_control,
    parse_delta_seconds,
    parse_etag,
    parse_etags,
    parse_http_date,
    parse_media_type,
    parse_parameters,
    quote,
    split_list,
    unquote,
)
from clinfra.web.heads import parse_request_head


class DateTests(SynchronousTestCase):
    """HTTP dates, RFC 9110 §5.6.7."""

    def test_three_formats(self) -> None:
        """The RFC's three examples are the same second."""
        for date in (
            b"Sun, 06 Nov 1994 08:49:37 GMT",
            b"Sunday, 06-Nov-94 08:49:37 GMT",
            b"Sun Nov  6 08:49:37 1994",
        ):
            self.assertEqual(784111777, parse_http_date(date))

    def test_case(self) -> None:
        """Letters' case does not matter."""
        self.assertEqual(784111777, parse_http_date(b"sun, 06 NOV 1994 08:49:37 gmt"))

    def test_format(self) -> None:
        """Only the first format is sent."""
        self.assertEqual(b"Sun, 06 Nov 1994 08:49:37 GMT", format_http_date(784111777))
        self.assertEqual(b"Thu, 01 Jan 1970 00:00:00 GMT", format_http_date(0))

    def test_two_digit_years(self) -> None:
        """A year of two digits is at most 50 years ahead."""
        for year, expected in ((b"70", b"2070"), (b"76", b"2076"), (b"77", b"1977")):
            date = parse_http_date(b"Sunday, 06-Nov-%b 08:49:37 GMT" % year, 2026)

            assert date is not None
            self.assertEqual(expected, format_http_date(date)[12:16])

    def test_leap_second(self) -> None:
        """A leap second is a date."""
        self.assertEqual(
            parse_http_date(b"Sat, 31 Dec 2016 23:59:59 GMT"),
            parse_http_date(b"Sat, 31 Dec 2016 23:59:60 GMT"),
        )

    def test_after_2038(self) -> None:
        """Dates go beyond 32 bits."""
        self.assertEqual(1 << 32, parse_http_date(b"Sun, 07 Feb 2106 06:28:16 GMT"))

    def test_no_dates(self) -> None:
        """Whatever is not exactly a date is none."""
        for value in (
            b"",
            b"0",
            b"-1",
            b"now",
            b"784111777",
            b"Sun, 06 Nov 1994 08:49:37",
            b"Sun, 06 Nov 1994 08:49:37 UTC",
            b"Sun, 06 Nov 1994 08:49:37 +0000",
            b"Sun, 06 Nov 1994 24:00:00 GMT",
            b"Sun, 06 Nov 1994 08:60:00 GMT",
            b"Sun, 06 Nov 1994 08:49:61 GMT",
            b"Sun, 31 Nov 1994 08:49:37 GMT",
            b"Sun, 29 Feb 1900 08:49:37 GMT",
            b"Sun, 00 Nov 1994 08:49:37 GMT",
            b"Sun, 06 Nov 0000 08:49:37 GMT",
            b"Sun, 06 Foo 1994 08:49:37 GMT",
            b"Sun, 6 Nov 1994 08:49:37 GMT",
            b"Sun,  06 Nov 1994 08:49:37 GMT",
            b"Sun, 06 Nov 1994 08:49:37 GMT\x00",
            b"Sun, 06 Nov 1994 8:49:37 GMT",
            b"Sun Nov 006 08:49:37 1994",
            b"\xff" * 29,
        ):
            self.assertIsNone(parse_http_date(value), value)

    @given(st.integers(0, 253402300799))
    @settings(deadline=None)
    def test_round_trip(self, seconds: int) -> None:
        """Every second until the year 9999 comes back."""
        self.assertEqual(seconds, parse_http_date(format_http_date(seconds)))

    @given(st.binary(max_size=40))
    @settings(deadline=None)
    def test_garbage(self, value: bytes) -> None:
        """Garbage is no date, and no error."""
        parse_http_date(value)


class ETagTests(SynchronousTestCase):
    """Entity tags, RFC 9110 §8.8.3."""

    def test_parse(self) -> None:
        """A tag is what stands between quotes; W/ makes it weak."""
        self.assertEqual(ETag(b"xyzzy"), parse_etag(b'"xyzzy"'))
        self.assertEqual(ETag(b"xyzzy", weak=True), parse_etag(b'W/"xyzzy"'))
        self.assertEqual(ETag(b""), parse_etag(b'""'))

    def test_no_tags(self) -> None:
        """Other spellings are no tags."""
        for value in (b"xyzzy", b'w/"x"', b'"x', b'"x" ', b'"a b"', b"'x'", b'"a"b"'):
            self.assertIsNone(parse_etag(value), value)

    def test_bytes(self) -> None:
        """A tag is written as it was read."""
        self.assertEqual(b'W/"a"', bytes(ETag(b"a", weak=True)))
        self.assertEqual(b'"a"', bytes(ETag(b"a")))

    def test_comparison(self) -> None:
        """The RFC's table of comparisons holds."""
        weak1, weak2 = ETag(b"1", weak=True), ETag(b"2", weak=True)
        strong1 = ETag(b"1")
        for one, other, strongly, weakly in (
            (weak1, weak1, False, True),
            (weak1, weak2, False, False),
            (weak1, strong1, False, True),
            (strong1, strong1, True, True),
        ):
            self.assertEqual(strongly, one.matches_strongly(other))
            self.assertEqual(weakly, one.matches_weakly(other))

    def test_lists(self) -> None:
        """Commas may be in a tag and around it; what is no tag is left out."""
        for value, opaques in (
            (b'"a", W/"b","c"', [b"a", b"b", b"c"]),
            (b'"a,b" , "c"', [b"a,b", b"c"]),
            (b', ,"a",,', [b"a"]),
            (b'a, "b", "c"d, "e"', [b"b", b"e"]),
            (b"", []),
            (b"*", []),
        ):
            self.assertEqual(opaques, [tag.opaque for tag in parse_etags(value)])

    @given(st.text('",W/ ab*', max_size=30))
    @settings(deadline=None)
    def test_garbage(self, text: str) -> None:
        """Any list ends, and what it gives can be written again."""
        for tag in parse_etags(text.encode()):
            self.assertEqual(tag, parse_etag(bytes(tag)))


class ListTests(SynchronousTestCase):
    """Lists, quoted strings and parameters, RFC 9110 §5.6."""

    def test_split(self) -> None:
        """Separators inside quotes do not split; empty parts are dropped."""
        for value, parts in (
            (b"a, b ,,c", [b"a", b"b", b"c"]),
            (b'a="b,c", d', [b'a="b,c"', b"d"]),
            (b'"a\\",b", c', [b'"a\\",b"', b"c"]),
            (b'a, "b, c', [b"a", b'"b, c']),
            (b"", []),
            (b" , ", []),
        ):
            self.assertEqual(parts, split_list(value))

    def test_quotes(self) -> None:
        """Quoting escapes what needs it, and unquoting undoes it."""
        self.assertEqual(b'"a\\"b\\\\"', quote(b'a"b\\'))
        self.assertEqual(b'a"b', unquote(b'"a\\"b"'))
        self.assertEqual(b"a", unquote(b"a"))
        self.assertEqual(b'"a', unquote(b'"a'))
        with self.assertRaises(ValueError):
            quote(b"a\r\nb")

    @given(st.binary(max_size=30))
    @settings(deadline=None)
    def test_quote_round_trip(self, value: bytes) -> None:
        """What can be quoted is one list member, and comes back."""
        try:
            quoted = quote(value)
        except ValueError:
            return

        self.assertEqual(value, unquote(quoted))
        self.assertEqual([b"x=" + quoted, b"y"], split_list(b"x=" + quoted + b",y"))

    def test_parameters(self) -> None:
        """Parameters are named in any case; the first wins; others are left out."""
        self.assertEqual(
            (b"form-data", {b"name": b"a;b", b"filename": b"x.jpg"}),
            parse_parameters(
                b'form-data; Name="a;b" ;filename=x.jpg; name=c; =d; e; f g=h'
            ),
        )
        self.assertEqual((b"", {}), parse_parameters(b""))

    def test_media_types(self) -> None:
        """A media type has two parts."""
        self.assertEqual(
            (b"text/html", {b"charset": b"utf-8"}),
            parse_media_type(b'Text/HTML;Charset="utf-8"'),
        )
        for value in (b"", b"text", b"text/", b"/html", b"a/b/c", b";a/b", b"a b/c"):
            self.assertIsNone(parse_media_type(value), value)


class CacheControlTests(SynchronousTestCase):
    """Cache-Control, RFC 9111 §5.2."""

    def test_directives(self) -> None:
        """Directives are read in any case, quoted or not."""
        self.assertEqual(
            {b"max-age": b"60", b"no-cache": b"Set-Cookie, X", b"public": None},
            parse_cache_control(b'Max-Age="60", no-cache="Set-Cookie, X" , PUBLIC,,'),
        )

    def test_repeats(self) -> None:
        """The first of a repeated directive wins."""
        directives = parse_cache_control(b"max-age=1, max-age=2")

        self.assertEqual(1, directive_seconds(directives, b"max-age"))

    def test_seconds(self) -> None:
        """A lifetime that cannot be read is none at all."""
        for argument, seconds in (
            (b"=60", 60),
            (b"=007", 7),
            (b"=99999999999999999999", 1 << 31),
            (b"=" + b"9" * 10_000, 1 << 31),
            (b"=-1", 0),
            (b"=1.5", 0),
            (b"=a", 0),
            (b"=", 0),
            (b"", 0),
            (b"= 60", 0),
            (b'="60"', 60),
            (b"=\xb2", 0),
        ):
            directives = parse_cache_control(b"a, max-age%b, b" % argument)

            self.assertEqual(seconds, directive_seconds(directives, b"max-age"))
        self.assertIsNone(directive_seconds({}, b"max-age"))

    def test_no_directive(self) -> None:
        """A name with a blank in it is no directive."""
        self.assertEqual({}, parse_cache_control(b"max-age =60, ==, =a"))

    def test_delta_seconds(self) -> None:
        """Age is a number, or none."""
        self.assertEqual(5, parse_delta_seconds(b"5"))
        self.assertIsNone(parse_delta_seconds(b"5.0"))

    @given(st.binary(max_size=60))
    @settings(deadline=None)
    def test_garbage(self, value: bytes) -> None:
        """Garbage makes no error."""
        directives = parse_cache_control(value)
        for name in directives:
            self.assertGreaterEqual(directive_seconds(directives, name) or 0, 0)


class PreferenceTests(SynchronousTestCase):
    """Accept and Accept-Encoding, RFC 9110 §12."""

    def test_weights(self) -> None:
        """Weights are read; what is no weight is 0."""
        self.assertEqual(
            [
                Preference(b"text/html", 1.0),
                Preference(b"a/b", 0.5),
                Preference(b"*/*", 0.0),
                Preference(b"c", 0.0),
            ],
            parse_accept(b"text/HTML, a/b;x=y; q=0.5, */*;Q=0, c;q=2"),
        )

    def test_codings(self) -> None:
        """What is not named is not wanted, but for identity; q=0 excludes."""
        for value, coding, quality in (
            (None, b"gzip", 1.0),
            (b"", b"gzip", 0.0),
            (b"", b"identity", 1.0),
            (b"gzip, br;q=0.5", b"br", 0.5),
            (b"gzip;q=0", b"gzip", 0.0),
            (b"x-gzip", b"gzip", 1.0),
            (b"br", b"gzip", 0.0),
            (b"*;q=0", b"identity", 0.0),
            (b"*;q=0, identity;q=0.1", b"identity", 0.1),
            (b"identity;q=0", b"identity", 0.0),
            (b"br, *;q=0.2", b"gzip", 0.2),
        ):
            self.assertEqual(quality, coding_quality(value, coding), (value, coding))

    def test_media(self) -> None:
        """The most specific range decides."""
        accept = b"image/*;q=0.5, image/webp, */*;q=0.1, image/gif;q=0"
        for media_type, quality in (
            (b"image/webp", 1.0),
            (b"image/png", 0.5),
            (b"text/html", 0.1),
            (b"image/gif", 0.0),
        ):
            self.assertEqual(quality, media_quality(accept, media_type))
        self.assertEqual(1.0, media_quality(None, b"a/b"))
        self.assertEqual(0.0, media_quality(b"image/webp", b"image/avif"))

    def test_endless(self) -> None:
        """Only so many members are read."""
        self.assertEqual(64, len(parse_accept(b"a/b," * 10_000)))


class HopByHopTests(SynchronousTestCase):
    """Fields of one connection, RFC 9110 §7.6.1."""

    def kept(self, *fields: bytes) -> list[bytes]:
        """Return the names of the fields that are passed on."""
        head = parse_request_head(
            b"GET / HTTP/1.1\r\nHost: h\r\n" + b"\r\n".join((*fields, b"", b""))
        )
        return [name for name, _ in end_to_end(head.fields, head.index)]

    def test_known(self) -> None:
        """Connection's own fields stay, whether it names them or not."""
        self.assertEqual(
            [b"Host", b"A"],
            self.kept(
                b"Keep-Alive: 1",
                b"TE: trailers",
                b"Upgrade: h2c",
                b"A: b",
                b"Trailer: x",
                b"Proxy-Connection: close",
                b"Proxy-Authorization: x",
                b"Transfer-Encoding: chunked",
            ),
        )

    def test_named(self) -> None:
        """What Connection names stays too, from all of its lines, in any case."""
        self.assertEqual(
            [b"Host", b"C"],
            self.kept(
                b"Connection: a, Close", b"A: 1", b"b: 2", b"C: 3", b"Connection: B"
            ),
        )

    def test_attacks(self) -> None:
        """Naming Host or Content-Length does not remove them."""
        self.assertEqual(
            [b"Host", b"Content-Length"],
            self.kept(b"Connection: host, content-length", b"Content-Length: 0"),
        )

    def test_nothing_to_do(self) -> None:
        """Fields with nothing to drop are passed as they are."""
        head = parse_request_head(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")

        self.assertIs(head.fields, end_to_end(head.fields, head.index))

"""Heads: what is accepted means one thing only, everything else is refused."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.web.heads import (
    BadHead,
    RequestHead,
    ResponseHead,
    format_request_head,
    format_response_head,
    is_spoilt,
    parse_request_head,
    parse_response_head,
)

_TCHAR = (
    b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
)


def request(*fields: bytes, line: bytes = b"GET /a HTTP/1.1") -> RequestHead:
    """Parse a request with these field lines; Host is added unless given."""
    if not any(each.lower().startswith(b"host") for each in fields):
        fields = (b"Host: h", *fields)
    return parse_request_head(b"\r\n".join((line, *fields, b"", b"")))


def response(*fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> ResponseHead:
    """Parse a response with these field lines."""
    return parse_response_head(b"\r\n".join((line, *fields, b"", b"")))


class RequestTests(SynchronousTestCase):
    """What a good request head says."""

    def test_browser(self) -> None:
        """A usual head is understood, names and order kept."""
        head = request(
            b"Host: example.com:8080",
            b"User-Agent: Mozilla/5.0",
            b"accept:  image/webp ,*/* \t",
            b"Cookie: a=b; c=d",
            b"X-Empty:",
            line=b"GET /a/b%20c?x=1&y=?2 HTTP/1.1",
        )

        self.assertEqual(b"GET", head.method)
        self.assertEqual(b"/a/b%20c?x=1&y=?2", head.target)
        self.assertEqual(b"/a/b%20c", head.path)
        self.assertEqual(b"x=1&y=?2", head.query)
        self.assertEqual(b"example.com:8080", head.host)
        self.assertEqual((b"accept", b"image/webp ,*/*"), head.fields[2])
        self.assertEqual(b"", head.get(b"x-empty"))
        self.assertIsNone(head.get(b"x-none"))
        self.assertEqual(0, head.content_length)
        self.assertTrue(head.http11 and head.keep_alive)
        self.assertFalse(head.expect_continue)

    def test_repeats_are_joined(self) -> None:
        """A repeated field is one list, in order."""
        head = request(b"Via: 1.1 a", b"Accept: x", b"vIA: 1.1 b")

        self.assertEqual(b"1.1 a, 1.1 b", head.get(b"via"))

    def test_extension_methods(self) -> None:
        """Any token of at most 32 bytes is a method."""
        for method in (b"PURGE", b"BREW", b"x-~!", b"get", b"A" * 32):
            head = request(line=method + b" /a HTTP/1.1")

            self.assertEqual(method, head.method)

    def test_bodies(self) -> None:
        """The length of the body is known from the head, or known to be chunked."""
        self.assertEqual(12, request(b"Content-Length: 12").content_length)
        self.assertEqual(7, request(b"content-length:007").content_length)
        self.assertEqual(
            (1 << 63) - 1,
            request(b"Content-Length: 9223372036854775807").content_length,
        )
        self.assertIsNone(request(b"Transfer-Encoding: Chunked").content_length)

    def test_expect(self) -> None:
        """100-continue counts in HTTP/1.1, when a body is to come."""
        expects = b"Expect: 100-Continue"

        self.assertTrue(request(b"Content-Length: 1", expects).expect_continue)
        self.assertTrue(request(b"Transfer-Encoding: chunked", expects).expect_continue)
        self.assertFalse(request(expects).expect_continue)
        old = request(b"Content-Length: 1", expects, line=b"PUT / HTTP/1.0")
        self.assertFalse(old.expect_continue)

    def test_keep_alive(self) -> None:
        """Persistence follows the version and Connection, all of its lines."""
        self.assertFalse(request(b"Connection: Close").keep_alive)
        self.assertFalse(request(b"Connection: a", b"Connection: b ,close").keep_alive)
        self.assertTrue(request(b"Connection: upgrade", b"Upgrade: x").keep_alive)
        old = b"GET / HTTP/1.0"
        self.assertFalse(request(line=old).keep_alive)
        self.assertTrue(request(b"Connection: Keep-Alive", line=old).keep_alive)

    def test_http10_without_host(self) -> None:
        """HTTP/1.0 need not name a host."""
        head = parse_request_head(b"GET / HTTP/1.0\r\n\r\n")

        self.assertEqual((b"", False), (head.host, head.http11))

    def test_absolute_form(self) -> None:
        """An absolute target wins over Host, and the fields say so too."""
        head = request(
            b"X: y", b"Host: other", line=b"GET HTTP://example.com:81/p?q HTTP/1.1"
        )

        self.assertEqual((b"example.com:81", b"/p?q"), (head.host, head.target))
        self.assertEqual(((b"Host", b"example.com:81"), (b"X", b"y")), head.fields)
        self.assertEqual(b"example.com:81", head.get(b"host"))

    def test_absolute_form_without_path(self) -> None:
        """The path of a bare authority is /, or * for OPTIONS."""
        for line, target in (
            (b"GET http://a HTTP/1.1", b"/"),
            (b"GET http://a?b=c HTTP/1.1", b"/?b=c"),
            (b"OPTIONS https://a HTTP/1.1", b"*"),
            (b"OPTIONS * HTTP/1.1", b"*"),
        ):
            self.assertEqual(target, request(line=line).target)

    def test_raw_bytes(self) -> None:
        """Raw UTF-8 in a target, as old clients send it, is percent-encoded."""
        for line, target in (
            (b"PUT /\xc3\xbc?f=\xff HTTP/1.1", b"/%C3%BC?f=%FF"),
            (b"GET http://a/\xe2\x98\xae%C3 HTTP/1.1", b"/%E2%98%AE%C3"),
        ):
            self.assertEqual(target, request(line=line).target)

    def test_hosts(self) -> None:
        """Names, addresses and ports are hosts."""
        for host in (
            b"a",
            b"a.b-c:80",
            b"10.0.0.1",
            b"[::1]",
            b"[fe80::1]:8080",
            b"a:",
            b"%c3%bc.example",
        ):
            self.assertEqual(host, request(b"Host: " + host).host)


class RefusalTests(SynchronousTestCase):
    """What could be read in two ways, or not at all, is refused."""

    def refused(self, status: int, raw: bytes) -> None:
        """Assert that a head is refused with a status and a sentence."""
        with self.assertRaises(BadHead) as caught:
            parse_request_head(raw)

        self.assertEqual((status, raw), (caught.exception.status, raw))
        self.assertRegex(caught.exception.sentence, r"\A[A-Z][^\r\n]+\.\Z")

    def test_request_lines(self) -> None:
        """The request line has three parts, one blank apart, and ends with CRLF."""
        for line in (
            b"",
            b"GET",
            b"GET /",
            b"GET  / HTTP/1.1",
            b"GET /  HTTP/1.1",
            b"GET\t/\tHTTP/1.1",
            b" GET / HTTP/1.1",
            b"GET / HTTP/1.1 ",
            b"GET /a b HTTP/1.1",
            b"G(T / HTTP/1.1",
            b"GET /\x7f HTTP/1.1",
            b"GET /\x00 HTTP/1.1",
            b"GET /a\nX: HTTP/1.1",
            b"GET /a\rX: HTTP/1.1",
            b"GET / http/1.1",
            b"GET / HTTP/11",
            b"GET / HTTP/1.10",
            b"GET / HTTP/1.1\n",
            b"\r\nGET / HTTP/1.1",
        ):
            self.refused(400, line + b"\r\nHost: h\r\n\r\n")

    def test_bare_lf_after_versionless_line(self) -> None:
        """The line that llhttp#877 takes for a whole HTTP/0.9 head is none."""
        self.refused(400, b"GET /\nHost: h\r\n\r\n")
        self.refused(400, b"GET /\n\r\n\r\n")

    def test_targets(self) -> None:
        """A target is a path, an http URL, or * for OPTIONS."""
        for target in (
            b"a",
            b"*",
            b"/a#b",
            b"http://a/#b",
            b"ftp://a/",
            b"http:///a",
            b"http://user@a/",
            b"http://a:99999/",
            b"http://\xc3\xbc/",
            b"\xc3\xbc",
            b"example.com:80",
            b"*/",
        ):
            self.refused(400, b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target)

    def test_versions(self) -> None:
        """Versions other than 1.0 and 1.1 are 505."""
        for version in (b"0.9", b"1.2", b"2.0", b"9.9"):
            self.refused(505, b"GET / HTTP/%b\r\nHost: h\r\n\r\n" % version)

    def test_methods(self) -> None:
        """CONNECT and endless methods are not implemented."""
        self.refused(501, b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n")
        self.refused(501, b"A" * 33 + b" / HTTP/1.1\r\nHost: h\r\n\r\n")

    def test_hosts(self) -> None:
        """HTTP/1.1 names exactly one valid host; HTTP/1.0 not more."""
        line = b"GET / HTTP/1.1\r\n"
        self.refused(400, line + b"\r\n")
        self.refused(400, line + b"Host: a\r\nHost: a\r\n\r\n")
        self.refused(400, b"GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n")
        for host in (
            *(
                b"",
                b"a b",
                b"a/b",
                b"a@b",
                b"a:b",
                b"[::1",
                b"a:65536",
                b"\xe9",
            ),
            *(b"a?b", b"a#b", b"a\\b", b"<a>", b"http://a", b"a:80:80", b"[a]", b":80"),
            *(b"a%", b"a%2", b"a%zz", b"a%00", b"a%0d%0aX"),
        ):
            self.refused(400, line + b"Host: %b\r\n\r\n" % host)

    def test_field_lines(self) -> None:
        """Fields are token, colon, value; nothing is folded, no control bytes."""
        for fields in (
            b"X : y",
            b"X\t: y",
            b": y",
            b"X",
            b"X y: z",
            b"X(: z",
            b"X\xe9: z",
            b" X: y",
            b"X: y\r\n z",
            b"X: y\r\n\tz",
            b"X: y\nZ: 1",
            b"X: y\n",
            b"X: y\rZ: 1",
            b"X: y\r",
            b"X: y\r\r",
            b"X:\r\n y",
        ):
            raw = b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\nA: b\r\n\r\n" % fields
            self.refused(400, raw)

    def test_every_byte_in_a_value(self) -> None:
        """Of all bytes, exactly HTAB, visible ASCII, blank and obs-text pass."""
        allowed = {9, *range(32, 127), *range(128, 256)}
        for byte in range(256):
            raw = b"GET / HTTP/1.1\r\nHost: h\r\nX: a%bb\r\n\r\n" % bytes([byte])
            if byte in allowed:
                self.assertEqual(
                    b"a%bb" % bytes([byte]), parse_request_head(raw).get(b"x")
                )
            else:
                self.refused(400, raw)

    def test_every_byte_in_a_name(self) -> None:
        """Of all bytes, exactly those of a token pass in a name."""
        for byte in range(256):
            if byte == ord(":"):
                continue
            raw = b"GET / HTTP/1.1\r\nHost: h\r\na%bb: c\r\n\r\n" % bytes([byte])
            if byte in _TCHAR:
                self.assertEqual(2, len(parse_request_head(raw).fields))
            else:
                self.refused(400, raw)

    def test_lengths(self) -> None:
        """A Content-Length is one plain number below 2^63."""
        for value in (
            *(b"", b"+1", b"-1", b"1 ,1", b"1,1", b"1 1", b"0x1", b"1_0", b"1.0"),
            *(b"9223372036854775808", b"9" * 30, b"\xb2", b'"1"', b"1;"),
        ):
            raw = b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: %b\r\n\r\n" % value
            self.refused(400, raw)

    def test_repeated_lengths(self) -> None:
        """Two Content-Lengths are one too many, even when they agree."""
        for second in (b"5", b"6"):
            self.refused(
                400,
                b"PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n"
                b"content-length: %b\r\n\r\n" % second,
            )

    def test_length_and_coding(self) -> None:
        """Content-Length with Transfer-Encoding is refused in any order."""
        length, coding = b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"
        for fields in (length + coding, coding + length):
            self.refused(400, b"PUT / HTTP/1.1\r\nHost: h\r\n%b\r\n" % fields)

    def test_transfer_codings(self) -> None:
        """Only exactly chunked is a transfer coding: others are 501, misplaced 400."""
        for value, status in (
            (b"gzip", 501),
            (b"identity", 501),
            (b"xchunked", 501),
            (b"chunkedx", 501),
            (b"gzip, chunked", 501),
            (b"chunked;a=b", 501),
            (b"chunked, gzip", 400),
            (b"chunked, chunked", 400),
            (b"chunked\r\nTransfer-Encoding: chunked", 400),
            (b"chunked\r\nTransfer-Encoding: gzip", 400),
            (b"", 400),
            (b"\x0bchunked", 400),
        ):
            raw = b"PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: %b\r\n\r\n" % value
            self.refused(status, raw)
        self.refused(400, b"PUT / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n")

    def test_expectations(self) -> None:
        """What else may be expected is 417."""
        self.refused(417, b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 200-ok\r\n\r\n")

    def test_too_many_fields(self) -> None:
        """More fields than allowed are 431."""
        raw = b"GET / HTTP/1.1\r\nHost: h\r\n%b\r\n"

        self.assertEqual(100, len(parse_request_head(raw % (b"a: b\r\n" * 99)).fields))
        self.refused(431, raw % (b"a: b\r\n" * 100))

    def test_exactly_one_head(self) -> None:
        """A head that goes on, or stops short, is refused."""
        self.refused(400, b"GET / HTTP/1.1\r\nHost: h\r\n")
        self.refused(400, b"GET / HTTP/1.1\r\nHost: h\r\n\r\nGET / HTTP/1.1\r\n\r\n")
        self.refused(400, b"GET / HTTP/1.1\r\nHost: h\r\n\r\n\r\n")

    @given(st.binary(max_size=200))
    @settings(deadline=None)
    def test_garbage(self, garbage: bytes) -> None:
        """Whatever comes, the answer is a head or a BadHead."""
        for raw in (
            garbage,
            b"GET / HTTP/1.1\r\n" + garbage + b"\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: h\r\n" + garbage + b": x\r\n\r\n",
        ):
            try:
                head = parse_request_head(raw)
            except BadHead as bad:
                self.assertIn(bad.status, (400, 417, 431, 501, 505))
            else:
                self.assertEqual(raw, head.raw)


class SpoiltTests(SynchronousTestCase):
    """Beginnings that can never become a head."""

    def test_at_every_place(self) -> None:
        """It is found wherever the bytes are cut, looking at each only once."""
        for good in (
            b"GET / HTTP/1.1\r\nX: y\r",
            b"GET / HTTP/1.1\r\n",
            b"",
            b"G\xc3\tT",
        ):
            self.assertFalse(is_spoilt(good), good)
        for bad in (b"GET /\n", b"G\nE", b"GET /\rX", b"G\x00", b"\r\r", b"a\r\n\nb"):
            looked = 0
            found = []
            for end in range(len(bad) + 1):
                found.append(is_spoilt(bad[:end], looked))
                looked = end
            self.assertTrue(is_spoilt(bad), bad)
            self.assertIn(True, found, bad)


class ResponseTests(SynchronousTestCase):
    """Response heads as origins send them."""

    def test_usual(self) -> None:
        """Status, reason and fields are understood."""
        head = response(b"Content-Length: 5", b"ETag: x", line=b"HTTP/1.1 404 Not Here")

        self.assertEqual((404, b"Not Here", 5), (head.status, head.reason, 5))
        self.assertTrue(head.http11 and head.keep_alive and not head.chunked)

    def test_reasons(self) -> None:
        """A reason may be missing, with and without the blank before it."""
        self.assertEqual(b"", response(line=b"HTTP/1.1 200").reason)
        self.assertEqual(b"", response(line=b"HTTP/1.1 200 ").reason)
        self.assertEqual(b"\xe9t\xe9", response(line=b"HTTP/1.1 200 \xe9t\xe9").reason)

    def test_framing(self) -> None:
        """A body is chunked, of known length, or ends with the connection."""
        self.assertIsNone(response().content_length)
        chunked = response(b"Transfer-Encoding: chunked")
        self.assertEqual((None, True), (chunked.content_length, chunked.chunked))
        self.assertEqual(0, response(b"Content-Length: 0").content_length)

    def test_without_body(self) -> None:
        """1xx, 204 and 304 have no body, whatever their fields say."""
        for status in (100, 103, 204, 304):
            for field in (b"Content-Length: 5", b"Transfer-Encoding: chunked"):
                head = response(field, line=b"HTTP/1.1 %d X" % status)

                self.assertEqual((0, False), (head.content_length, head.chunked))

    def test_bodies_where_there_are_none(self) -> None:
        """Who announces one may send it: the connection is not used again."""
        for status in (b"102", b"204"):
            line = b"HTTP/1.1 " + status
            for field in (b"Content-Length: 5", b"Transfer-Encoding: chunked"):
                self.assertFalse(response(field, line=line).keep_alive)
            self.assertTrue(response(b"Content-Length: 0", line=line).keep_alive)
        # A 304 may say how long the page is.
        line = b"HTTP/1.1 304 Not Modified"
        self.assertTrue(response(b"Content-Length: 5", line=line).keep_alive)
        self.assertFalse(response(b"Transfer-Encoding: chunked", line=line).keep_alive)

    def test_http10(self) -> None:
        """HTTP/1.0 closes unless it says otherwise."""
        self.assertFalse(response(line=b"HTTP/1.0 200 OK").keep_alive)
        kept = response(b"Connection: keep-alive", line=b"HTTP/1.0 200 OK")
        self.assertTrue(kept.keep_alive)

    def test_refusals(self) -> None:
        """Ambiguous framing and broken lines are the origin's fault: 502."""
        for raw in (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: \x00\r\n\r\n",
            b"HTTP/1.1 200 OK\nA: b\r\n\r\n",
            b"HTTP/1.1 20 OK\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 099 OK\r\n\r\n",
            b"HTTP/2.0 200 OK\r\n\r\n",
            b"ICY 200 OK\r\n\r\n",
            b"<html>\r\n\r\n",
            b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 201 + b"\r\n",
        ):
            with self.assertRaises(BadHead) as caught:
                parse_response_head(raw)

            self.assertEqual(502, caught.exception.status)


class FormatTests(SynchronousTestCase):
    """Heads we send."""

    def test_response(self) -> None:
        """Known statuses have their reason, others none."""
        self.assertEqual(
            b"HTTP/1.1 404 Not Found\r\nA: b\r\nC: \r\n\r\n",
            format_response_head(404, [(b"A", b"b"), (b"C", b"")]),
        )
        self.assertEqual(b"HTTP/1.1 299 \r\n\r\n", format_response_head(299, ()))

    def test_request(self) -> None:
        """Method and target make the line."""
        self.assertEqual(
            b"GET /a HTTP/1.1\r\nA: b\r\n\r\n",
            format_request_head(b"GET", b"/a", [(b"A", b"b")]),
        )

    def test_injection(self) -> None:
        """CR, LF and NUL cannot be smuggled into a head."""
        for evil in (b"a\r\nB: c", b"a\n", b"a\r", b"a\0", b"\r\n\r\n"):
            with self.assertRaises(ValueError):
                format_response_head(200, [(b"A", evil)])
            with self.assertRaises(ValueError):
                format_response_head(200, [(evil, b"a")])
            with self.assertRaises(ValueError):
                format_request_head(b"GET", b"/" + evil, ())
            with self.assertRaises(ValueError):
                format_request_head(evil, b"/", ())
        for method, target in ((b"GET", b"/a b"), (b"G T", b"/"), (b"", b"/")):
            with self.assertRaises(ValueError):
                format_request_head(method, target, ())

    @given(
        st.lists(
            st.tuples(
                st.text("abcXYZ-09", min_size=1, max_size=9).map(
                    lambda name: b"X-" + name.encode()
                ),
                st.binary(max_size=20)
                .map(lambda value: bytes(c for c in value if 32 <= c != 127))
                .map(lambda value: value.strip(b" \t")),
            ),
            max_size=20,
        )
    )
    @settings(deadline=None)
    def test_round_trip(self, fields: list[tuple[bytes, bytes]]) -> None:
        """What is formatted is parsed to the same."""
        fields = [(b"Host", b"h"), *fields]

        parsed = parse_request_head(format_request_head(b"GET", b"/", fields))

        self.assertEqual(tuple(fields), parsed.fields)
        self.assertEqual(
            tuple(fields), parse_response_head(format_response_head(200, fields)).fields
        )

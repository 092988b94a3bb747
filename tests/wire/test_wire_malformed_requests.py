"""What clients should never send, sent to the proxy; and what its origin hears of it.

After each of these comes a second request.  An origin that sees it, or sees anything
that it could read in two ways, would be an origin that somebody can speak to behind the
proxy's back (RFC 9112 §11.2).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from attrs import frozen

from tests.support import ClinfraProcess, wait_until
from tests.web.clients import parse_answers
from tests.wire.raw import RawOrigin, talk

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked"
LENGTH = b"Content-Length: 5"
BODY = b"5\r\nhello\r\n0\r\n\r\n"

HELLO = ("POST", "/x", "h", b"hello")
GET_HELLO = ("GET", "/", "h", b"hello")

Cases = dict[str, tuple[bytes, int]]
"""Name → what is sent, and the status of its answer."""


def head(
    *fields: bytes, line: bytes = b"POST /x HTTP/1.1", host: bytes = b"h"
) -> bytes:
    """Return a head; `fields` as they are."""
    lines = [line, *([b"Host: " + host] if host else []), *fields]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def named(what: str, *pairs: tuple[bytes, int]) -> Cases:
    """Name cases after what they send."""
    return {
        f"{what} {number}": (sent, status)
        for number, (sent, status) in enumerate(pairs)
    }


def codings() -> Cases:
    """Transfer codings that are none, or not the last, or not alone."""
    values = (
        *((b"xchunked", 501), (b"chunkedx", 501), (b"chunk", 501), (b"gzip", 501)),
        *((b"gzip, chunked", 501), (b"identity, chunked", 501), (b"identity", 501)),
        *((b'"chunked"', 501), (b"chunked;q=1", 501), (b"chu nked", 501)),
        *((b"chunked, identity", 400), (b"chunked, chunked", 400), (b"", 400)),
        *((b"chunked,", 400), (b",chunked", 501), (b"\xa0chunked", 501)),
        *((b"\x0bchunked", 400), (b"chunked\x0b", 400), (b"chunked\x00", 400)),
        *((b"chunked\r\n identity", 400), (b"\r\n chunked", 400)),
    )
    cases = named(
        "coding",
        *((head(b"Transfer-Encoding: " + each) + BODY, how) for each, how in values),
    )
    for each in (b"chunked", b"CHUNKED", *(value for value, _ in values)):
        coding = b"Transfer-Encoding: " + each
        # With a length as well, in any order, it is refused whatever it is.
        status = 501 if (each, 501) in values else 400
        cases |= named(
            f"coding and length {each!r}",
            (head(LENGTH, coding) + BODY, 400),
            (head(coding, LENGTH) + BODY, status),
            (head(coding, b"Content-Length: 0") + BODY, status),
        )
    return cases | named(
        "several codings",
        (head(CHUNKED, CHUNKED) + BODY, 400),
        (head(CHUNKED, b"Transfer-Encoding: identity") + BODY, 400),
        (head(b"Transfer-Encoding: x", CHUNKED) + BODY, 501),
        (head(CHUNKED, line=b"POST /x HTTP/1.0") + BODY, 400),
        (head(CHUNKED, b"Connection: keep-alive", line=b"GET / HTTP/1.0") + BODY, 400),
    )


def lengths() -> Cases:
    """Lengths that are none, too large, or two."""
    values = (
        *(b"+5", b"-5", b"5 5", b"5,5", b"5, 5", b"5;", b"0x5", b"5.0", b"5e0", b""),
        *(b'"5"', b"_5", b"5_0", b"\xb5", b"5\x00", b"5\x0b", b"\x0b5", b"five"),
        *(b"9223372036854775808", b"18446744073709551621", b"9" * 40, b"0" * 30 + b"5"),
    )
    cases = named(
        "length",
        *((head(b"Content-Length: " + each) + b"hello", 400) for each in values),
    )
    for each in (b"5", b"05", b"6", b"0", *values):
        second = b"Content-Length: " + each
        cases |= named(
            f"lengths {each!r}",
            (head(LENGTH, second) + b"hello", 400),
            (head(second, LENGTH) + b"hello", 400),
            (head(b"content-length: 5", b"X: y", second) + b"hello", 400),
        )
    return cases | {"too large": (head(b"Content-Length: 10000001"), 413)}


def separators() -> Cases:
    """Fields that some servers see and others do not."""
    cases: Cases = {}
    for name, value, body in (
        (b"Content-Length", b"5", b"hello"),
        (b"Transfer-Encoding", b"chunked", BODY),
        (b"Host", b"other", b""),
    ):
        host = b"" if name == b"Host" else b"h"
        for colon in (
            *(b" :", b"\t:", b"\x00:", b"\x0b:", b"\xa0:", b"\xad:", b" \t :"),
            *(b": \r\n ", b":\r\n\t", b":\n", b":\r", b":\n ", b"", b"=", b";"),
        ):
            cases |= named(
                f"colon of {name.decode()} {colon!r}",
                (head(name + colon + value, host=host) + body, 400),
            )
        for before in (
            *(b" ", b"\t", b"\x00", b"\x0b", b"\x0c", b"\xef\xbb\xbf", b'"', b":"),
            *(b"X: y\n", b"X: y\r", b"X: y\x00", b"X: y\x0c", b"X\n", b"\r", b"\n"),
        ):
            cases |= named(
                f"before {name.decode()} {before!r}",
                (head(before + name + b": " + value, host=host) + body, 400),
            )
    return cases


def chunks() -> Cases:
    """Chunked bodies that end somewhere else for somebody else."""
    bodies = (
        *(b"5\nhello\r\n0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n"),
        *(b"5\r\nhelloX\r\n0\r\n\r\n", b"5\r\nhello\r\r\n0\r\n\r\n", b"5\rhello\r\n"),
        *(b" 5\r\nhello\r\n", b"5 \r\nhello\r\n", b"5\t\r\nhello\r\n", b"\t5\r\n"),
        *(b"0x5\r\nhello\r\n", b"+5\r\nhello\r\n", b"-5\r\nhello\r\n", b"5_\r\n"),
        *(b"g\r\n", b"\r\n5\r\nhello\r\n", b";a\r\nhello\r\n", b"\xb5\r\n", b"5,\r\n"),
        *(b"ffffffffffffffff\r\n", b"8000000000000000\r\n", b"0" * 17 + b"5\r\n"),
        *(b'5;a="\n"\r\nhello\r\n', b"5;a\rb\r\nhello\r\n", b"5;\x00\r\nhello\r\n"),
        *(b"5;\n\r\nhello\r\n", b"5;" + b"x" * 5000, b"1;aaa\r\nx\r\n" * 9000),
        *(b"0\r\nX : y\r\n\r\n", b"0\r\n X: y\r\n\r\n", b"0\r\nX: y\r\n z\r\n\r\n"),
        *(b"0\r\nX\r\n\r\n", b"0\r\n: y\r\n\r\n", b"0\r\nX: a\x00\r\n\r\n"),
        *(b"0\n\n", b"0\r\n\n", b"0\n\r\n", b"0\r\r\n", b"0\r\nX: y\nZ: 1\r\n\r\n"),
        *(b"0\r\n" + b"X: y\r\n" * 100 + b"\r\n", b"0\r\nX: " + b"y" * 9000),
        b"5\r\nhello\r\n0\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
    )
    return named("chunk", *((head(CHUNKED) + body, 400) for body in bodies))


def lines() -> Cases:
    """Request lines."""
    bad = (
        *(b"", b"GET", b"GET /x", b"/x", b"GET  /x HTTP/1.1", b"GET /x  HTTP/1.1"),
        *(b"GET\t/x\tHTTP/1.1", b" GET /x HTTP/1.1", b"GET /x HTTP/1.1 ", b"GET /a b"),
        *(b"GET /x y HTTP/1.1", b"GET /x HTTP/1.1 HTTP/1.1", b"\x00GET /x HTTP/1.1"),
        *(
            b"G\xc3T /x HTTP/1.1",
            b"G,T / HTTP/1.1",
            b'"GET" / HTTP/1.1',
            b"(/ HTTP/1.1",
        ),
        *(b"GET /\x7f HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /\x0b HTTP/1.1"),
        *(b"GET /x HTTP/1.1\x00", b"GET /x HTTP/1.1\r", b"GET /x\rHTTP/1.1"),
        *(b"GET /x\nX: HTTP/1.1", b"GET /x\r\n HTTP/1.1", b"GET /x HTTP/1.1\n"),
        *(b"GET /x http/1.1", b"GET /x HTTP/3", b"GET /x HTTP/11", b"GET /x HTTP/1.10"),
        *(
            b"GET /x HTTP/1,1",
            b"GET /x HTTP/ 1.1",
            b"GET /x HTTP/1.",
            b"GET /x HTTP/+1.1",
        ),
        *(
            b"GET /x HTTPS/1.1",
            b"GET /x XTTP/1.1",
            b"GET /x HTTP 1.1",
            b"GET /x RTSP/1.0",
        ),
        *(
            b"GET x HTTP/1.1",
            b"GET ?x HTTP/1.1",
            b"GET * HTTP/1.1",
            b"GET /x#y HTTP/1.1",
        ),
        *(b"GET *x HTTP/1.1", b"OPTIONS *x HTTP/1.1", b"GET h:80 HTTP/1.1"),
        *(
            b"GET http:///x HTTP/1.1",
            b"GET http://a@h/ HTTP/1.1",
            b"GET http://# HTTP/1.1",
        ),
        *(b"GET http:/x HTTP/1.1", b"GET http:x HTTP/1.1", b"GET ://h/ HTTP/1.1"),
        *(b"GET http://h:99999/ HTTP/1.1", b"GET http://h:8a/ HTTP/1.1"),
        *(b"GET ftp://h/ HTTP/1.1", b"GET http://[::1/x HTTP/1.1"),
        *(b"GET http://h\\@e/x HTTP/1.1", b"GET http://h\\x/ HTTP/1.1"),
        *(b"GET http://h%/ HTTP/1.1", b"GET http://\xc3\xbc/ HTTP/1.1"),
    )
    return named("line", *((head(line=line), 400) for line in bad)) | named(
        "opening",
        *(
            (head(line=b"GET /x HTTP/" + v), 505)
            for v in (b"0.9", b"1.2", b"2.0", b"9.9")
        ),
        (head(line=b"PRI * HTTP/2.0") + b"SM\r\n\r\n", 505),
        (head(line=b"CONNECT h:80 HTTP/1.1", host=b"h:80"), 501),
        (head(line=b"CONNECT /x HTTP/1.1"), 501),
        (head(line=b"A" * 33 + b" /x HTTP/1.1"), 501),
        (head(line=b"GET /" + b"x" * 20_000 + b" HTTP/1.1"), 414),
        (b"GET /" + b"x" * 20_000, 414),
        (b"A" * 20_000, 414),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"\x00" * 100, 400),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400),
        (b"\x80\x2e\x01\x00\x02\x00", 400),
    )


def hosts() -> Cases:
    """Hosts that are none, or more than one."""
    bad = (
        *(
            b"a b",
            b"a/b",
            b"a@b",
            b"a:b",
            b"a:99999",
            b"a:-1",
            b"a:80:80",
            b":80",
            b"::1",
        ),
        *(
            b"[::1",
            b"[::g]",
            b"[]",
            b"[::1]x",
            b"a?b",
            b"a#b",
            b"\xe9",
            b"a\x00",
            b"a\tb",
        ),
        *(b"<script>", b"a\\b", b'"a"', b"a%00", b"a%0d%0aX", b"a%", b"a%2", b"a%zz"),
        *(b"http://a", b"a|b", b"a^b", b"`a`", b"{a}", b"[v1.x]", b"[fe80::1%25eth0]"),
    )
    return named("host", *((head(host=each), 400) for each in bad)) | named(
        "hosts",
        (head(host=b""), 400),
        (head(b"Host: ", host=b""), 400),
        (head(b"Host: h"), 400),
        (head(b"host: other"), 400),
        (head(b"X: y", b"HOST: h"), 400),
        (head(b"Host: a", b"Host: b", line=b"GET / HTTP/1.0", host=b""), 400),
        (head(host=b"", line=b"GET http://h/ HTTP/1.1"), 400),
        (head(b"Host: b", line=b"GET http://h/ HTTP/1.1"), 400),
        (head(host=b"a/b", line=b"GET http://h/ HTTP/1.1"), 400),
    )


def fields() -> Cases:
    """Fields of any other name."""
    bad = (
        *(b"X", b": y", b"X y: z", b"X(: z", b"X\xe9: z", b"@: x", b"X[]: y", b"X/: y"),
        *(b'"X": y', b"X,Y: z", b"X\x7f: y", b"X=y", b"X: a\x01b", b"X: a\x7fb"),
        *(b"X: a\x00b", b"X: a\r\n b", b"X: a\r\n\tb", b"X: a\n b", b"X: a\nY: b"),
        *(b"X: a\rY: b", b"X: a\r\rY: b", b"X: a\r", b"X: a\n", b" X: y", b"\tX: y"),
    )
    return named("field", *((head(each), 400) for each in bad)) | named(
        "fields",
        (head(b"X: " + b"y" * 20_000), 431),
        (head(b"X" * 20_000 + b": y"), 431),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 20_000, 431),
        (head(*(b"X-%d: y" % number for number in range(200))), 431),
        (head(b"Expect: something"), 417),
        (head(b"Expect: 100-continue, something"), 417),
        (head(b"Expect: 100-continue", b"Expect: x"), 417),
        (b"GET /x HTTP/1.1\nHost: h\n\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: h\n\r\n", 400),
        (b"GET /x HTTP/1.1\r\nHost: h\r\n\n", 400),
    )


REFUSED: Cases = (
    codings() | lengths() | separators() | chunks() | lines() | hosts() | fields()
)


@frozen
class Front:
    """A proxy and the origin behind it."""

    origin: RawOrigin
    clinfra: ClinfraProcess

    @property
    def port(self) -> int:
        return self.clinfra.ports["proxy"]

    def descriptors(self) -> int:
        """Return how many the proxy has open."""
        return len(os.listdir(f"/proc/{self.clinfra.pid}/fd"))


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    """Run both, with time-outs of a second."""
    with RawOrigin() as origin:
        proxy = {
            "pools": {
                "o": {
                    "members": [f"127.0.0.1:{origin.port}"],
                    "idle_timeout": "500ms",
                }
            },
            "default_pool": "o",
            "limits": {
                **{"body_bytes": 10_000_000, "idle_timeout": "2s"},
                **{"head_timeout": "1s", "body_timeout": "1s"},
            },
        }
        with ClinfraProcess({"proxy": proxy}) as clinfra:
            yield Front(origin, clinfra)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(front: Front, name: str) -> None:
    """It gets its status and one sentence, and the connection ends there."""
    sent, status = REFUSED[name]
    before = len(front.origin.received)
    answers = parse_answers(talk(front.port, sent + SMUGGLED))

    assert [each.status for each in answers] == [status]
    assert answers[0].fields["Connection"] == "close"
    assert answers[0].body.count(b"\n") == 1
    assert front.origin.received[before:] == []
    assert front.origin.faults == []


ACCEPTED: dict[str, tuple[bytes, tuple[str, str, str, bytes]]] = {
    name: (sent, (method, target, host, body))
    for name, sent, method, target, host, body in (
        ("plain", head(LENGTH) + b"hello", "POST", "/x", "h", b"hello"),
        ("zero before", head(b"Content-Length: 05") + b"hello", *HELLO),
        ("blanks after", head(b"Content-Length: 5 \t") + b"hello", *HELLO),
        ("no blank before", head(b"Content-Length:5") + b"hello", *HELLO),
        ("any case", head(b"tRANSFER-eNCODING: ChunkeD") + BODY, *HELLO),
        ("extension", head(CHUNKED) + b"5;a=b\r\nhello\r\n0\r\n\r\n", *HELLO),
        ("blank before it", head(CHUNKED) + b"5 ;a\r\nhello\r\n0\r\n\r\n", *HELLO),
        (
            "quoted extension",
            head(CHUNKED) + b'5;a="x;\\"y"\r\nhello\r\n0;z\r\n\r\n',
            *HELLO,
        ),
        ("zeros", head(CHUNKED) + b"0005\r\nhello\r\n000\r\n\r\n", *HELLO),
        (
            "trailer that lies",
            head(CHUNKED) + b"5\r\nhello\r\n0\r\nContent-Length: 9\r\n\r\n",
            *HELLO,
        ),
        ("empty lines before", b"\r\n\r\n" + head(LENGTH) + b"hello", *HELLO),
        (
            "disguised length",
            head(LENGTH, b"Content_Length: 0", b"Transfer_Encoding: chunked")
            + b"hello",
            *HELLO,
        ),
        (
            "framing named in Connection",
            head(LENGTH, b"Connection: Content-Length, Host, Transfer-Encoding")
            + b"hello",
            *HELLO,
        ),
        ("absolute", head(line=b"GET http://g/y HTTP/1.1"), "GET", "/y", "g", b""),
        ("https", head(line=b"GET HTTPS://g:8/y HTTP/1.1"), "GET", "/y", "g:8", b""),
        ("no path", head(line=b"GET http://g HTTP/1.1"), "GET", "/", "g", b""),
        ("only query", head(line=b"GET http://g?y HTTP/1.1"), "GET", "/?y", "g", b""),
        (
            "absolute in 1.0",
            head(line=b"GET http://g/ HTTP/1.0", host=b""),
            *("GET", "/", "g", b""),
        ),
        ("asterisk", head(line=b"OPTIONS * HTTP/1.1"), "OPTIONS", "*", "h", b""),
        (
            "absolute asterisk",
            head(line=b"OPTIONS http://g HTTP/1.1"),
            *("OPTIONS", "*", "g", b""),
        ),
        ("two slashes", head(line=b"GET //e/x HTTP/1.1"), "GET", "//e/x", "h", b""),
        ("dots", head(line=b"GET /../a HTTP/1.1"), "GET", "/../a", "h", b""),
        ("raw bytes", head(line=b"GET /\xc3\xa9 HTTP/1.1"), "GET", "/%C3%A9", "h", b""),
        ("odd method", head(line=b"m-SEARCH / HTTP/1.1"), "m-SEARCH", "/", "h", b""),
        ("body of GET", head(LENGTH, line=b"GET / HTTP/1.1") + b"hello", *GET_HELLO),
        (
            "no host in 1.0",
            head(line=b"GET / HTTP/1.0", host=b""),
            *("GET", "/", "localhost", b""),
        ),
        ("IPv6", head(host=b"[::1]:80"), "POST", "/x", "[::1]:80", b""),
        ("empty port", head(host=b"h:"), "POST", "/x", "h:", b""),
        ("encoded host", head(host=b"%c3%bc.h"), "POST", "/x", "%c3%bc.h", b""),
    )
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_accepted(front: Front, name: str) -> None:
    """What is odd but legal means at the origin what it means."""
    sent, meant = ACCEPTED[name]
    before = len(front.origin.received)
    last = b"GET /last HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    answers = parse_answers(talk(front.port, sent + last))

    received = front.origin.received[before:]
    got = [
        (each.method, each.target, *each.all("host"), each.body) for each in received
    ]
    if b"HTTP/1.0" in sent:
        assert [each.status for each in answers] == [200]
        assert got == [meant]
    else:
        assert [each.status for each in answers] == [200, 200]
        assert got == [meant, ("GET", "/last", "h", b"")]
    assert front.origin.faults == []


SLOW = {
    "head": (
        (b"GET / HT", b"TP/1.1\r\n", b"Host: ", b"h\r\n", *(b"X: y\r\n",) * 9),
        408,
    ),
    "head byte by byte": (tuple(bytes([byte]) for byte in head()[:20]), 408),
    "no end of the head": ((head()[:-2], b""), 408),
    "body": ((head(b"Content-Length: 9") + b"abc",), 408),
    "no body": ((head(b"Content-Length: 9"),), 408),
    "chunk": ((head(CHUNKED) + b"5\r\nhel",), 408),
    "chunk size": ((head(CHUNKED) + b"5",), 408),
    "no last chunk": ((head(CHUNKED) + b"5\r\nhello\r\n",), 408),
    "no end of the trailer": ((head(CHUNKED) + b"0\r\nX: y\r\n",), 408),
    "expecting": ((head(b"Content-Length: 9", b"Expect: 100-continue"),), 408),
    "nothing at all": ((b"",), 0),
    "empty lines for ever": ((b"\r\n",) * 9, 0),
}


def test_slow(front: Front) -> None:
    """Whoever stops or dawdles is told so in time, and reaches no origin whole."""
    before = len(front.origin.received)

    def dawdle(name: str) -> tuple[str, list[int], float]:
        began = time.monotonic()
        pieces, _ = SLOW[name]
        data = talk(front.port, *pieces, pause=0.4)
        answers = parse_answers(data.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n"))
        return name, [each.status for each in answers], time.monotonic() - began

    with ThreadPoolExecutor(len(SLOW)) as threads:
        for name, statuses, seconds in threads.map(dawdle, SLOW):
            status = SLOW[name][1]
            assert statuses == ([status] if status else []), name
            assert seconds < 6, name
    assert front.origin.received[before:] == []
    assert front.origin.faults == []


CUT = (
    *(
        b"",
        b"GET",
        b"GET / HTTP/1.1\r\nHost: h\r\n",
        head(LENGTH),
        head(LENGTH) + b"he",
    ),
    *(head(CHUNKED), head(CHUNKED) + b"5\r\nhe", head(CHUNKED) + b"5\r\nhello\r\n"),
    *(head(CHUNKED) + b"5\r\nhello\r\n0\r\n", head(LENGTH, CHUNKED)[:-2]),
)


@pytest.mark.parametrize("shut", [True, False])
def test_cut(front: Front, shut: bool) -> None:
    """A request that a client cuts reaches no origin as a whole one."""
    before = len(front.origin.received)
    for sent in CUT:
        if shut:
            assert talk(front.port, sent, shut=True).count(b"HTTP/1.1 200") == 0
        else:
            with socket.create_connection(("127.0.0.1", front.port)) as client:
                client.sendall(sent)
    assert talk(front.port, head(b"Connection: close")).count(b"HTTP/1.1 200") == 1
    assert [each.body for each in front.origin.received[before:]] == [b""]
    assert front.origin.faults == []


def test_nothing_is_left(front: Front) -> None:
    """After all this no descriptor is open that was not before, and memory is small."""
    talk(front.port, head(b"Connection: close"))
    wait_until(lambda: not front.origin.open, "idle connections to the origin end")
    before = front.descriptors()
    for sent, _ in REFUSED.values():
        talk(front.port, sent)
    for sent in CUT * 20:
        talk(front.port, sent, shut=True)
    wait_until(lambda: front.descriptors() <= before, "descriptors are closed")
    with open(f"/proc/{front.clinfra.pid}/status") as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 100 * 1024
    assert "Traceback" not in front.clinfra.running.output

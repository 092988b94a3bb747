"""The same bytes to the proxy and straight to an origin mean the same to both.

Requests made at random, good ones and spoilt ones, several in a row.  Whatever goes in,
what comes out of the proxy is what a strict server would have understood of it, or
less: one request in, at most one out, and never one that nobody sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from attrs import frozen
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.support import ClinfraProcess
from tests.wire.raw import RawOrigin, Received, Say, ok, talk

HOP_BY_HOP = {
    *("connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"),
    *("transfer-encoding", "content-length", "expect", "host", "proxy"),
    *("proxy-authenticate", "proxy-authorization", "proxy-authentication-info"),
}
OURS = {
    *("via", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"),
    *("x-forwarded-for-from-client", "forwarded", "x-real-ip"),
}
CONDITIONS = {"if-none-match", "range"}
"""What the cache answers itself: it asks the origin for the whole page."""

UNSAID = ("accept-encoding", "identity")
"""What is said for those who say nothing: they get the page without a coding, too."""

NEVER_DROPPED = {"host", "content-length", "cache-control"}


@frozen
class Meaning:
    """What a request asks for, however it was said."""

    method: str
    target: str
    host: str
    body: bytes
    fields: tuple[tuple[str, str], ...]


def meaning(received: Received) -> Meaning:
    """Return what a request asks for."""
    named = {
        option.strip().lower()
        for option in ",".join(received.all("connection")).split(",")
    }
    dropped = HOP_BY_HOP | OURS | CONDITIONS | (named - NEVER_DROPPED)
    return Meaning(
        received.method,
        received.target,
        "".join(received.all("host")),
        received.body,
        tuple(
            (name.lower(), value)
            for name, value in received.fields
            if name.lower() not in dropped
            and "_" not in name
            and (name.lower(), value) != UNSAID
        ),
    )


@frozen
class Stage:
    """A proxy with an origin behind it, and an origin that is asked straight."""

    behind: RawOrigin
    straight: RawOrigin
    clinfra: ClinfraProcess


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Run all three."""

    def tell(received: Received) -> Say:
        return ok(b"ok", f"Asked: {received.method} {received.target}")

    with RawOrigin(tell) as behind, RawOrigin(of_clients=True) as straight:
        proxy = {
            "pools": {"o": {"members": [f"127.0.0.1:{behind.port}"]}},
            "default_pool": "o",
            "limits": {"head_timeout": "1s", "body_timeout": "1s"},
        }
        with ClinfraProcess({"proxy": proxy}) as clinfra:
            yield Stage(behind, straight, clinfra)


METHODS = st.sampled_from(
    [b"GET", b"POST", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"x-Y"]
)
TARGETS = st.sampled_from(
    [
        *(
            b"/",
            b"/a?b=c&d",
            b"//x/y",
            b"/%41%00",
            b"/a;b=c",
            b"/\xc3\xa9",
            b"/../a/./b",
        ),
        *(
            b"http://g/z",
            b"http://G:81/z?y",
            b"HTTP://g",
            b"https://g?x",
            b"/a=:@!$'()",
        ),
    ]
)
FIELDS = st.sampled_from(
    [
        *(b"X: 1", b"X: 2", b"x:", b"Cookie: a=b; c", b"Cookie: d=e", b"X-Y:\t z \t"),
        *(
            b"Connection: X",
            b"Connection: keep-alive, x-y",
            b"Keep-Alive: 5",
            b"TE: trailers",
        ),
        *(
            b"X-Forwarded-For: 6.6.6.6",
            b"X-Real-IP: 6.6.6.6",
            b"Via: 1.0 a",
            b"Upgrade: h2c",
        ),
        *(
            b"Content_Length: 7",
            b"Transfer_Encoding: chunked",
            b"X: caf\xe9",
            b"Range: x",
        ),
        *(
            b"Authorization: Basic eDp5",
            b"Accept: a,b;q=0.1",
            b"Trailer: X",
            b"Max: a:b",
        ),
        *(
            b"Connection: Content-Length, Host, Transfer-Encoding",
            b"Proxy-Connection: close",
        ),
        *(b'If-None-Match: "a"', b"Cache-Control: no-cache", b"Expect: 100-continue"),
    ]
)
BODIES = st.binary(max_size=30) | st.just(b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
EXTENSIONS = st.sampled_from([b"", b"", b";a", b' ;a="b;c"', b";\xe9", b";=;;"])
TRAILERS = st.sampled_from([b"", b"", b"X: y\r\n", b"Content-Length: 3\r\nHost: e\r\n"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Return a request that a client may send."""
    method, target = draw(METHODS), draw(TARGETS)
    old = draw(st.integers(0, 9)) == 0
    fields = draw(st.lists(FIELDS, max_size=4))
    fields.insert(draw(st.integers(0, len(fields))), b"Host: h")
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    body = b""
    if framing == "length" or (old and framing == "chunked"):
        body = draw(BODIES)
        fields.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        fields.append(b"Transfer-Encoding: chunked")
        for piece in draw(st.lists(BODIES.filter(bool), max_size=3)):
            body += b"%x%b\r\n%b\r\n" % (len(piece), draw(EXTENSIONS), piece)
        body += b"0%b\r\n%b\r\n" % (draw(EXTENSIONS), draw(TRAILERS))
    line = b"%b %b HTTP/1.%d" % (method, target, 0 if old else 1)
    before = draw(st.sampled_from([b"", b"", b"", b"\r\n"]))
    return before + b"\r\n".join([line, *fields]) + b"\r\n\r\n" + body


SPOILERS = st.sampled_from(
    [
        *(
            b"",
            b"\r",
            b"\n",
            b"\r\n",
            b"\r\n\r\n",
            b" ",
            b"\t",
            b"\0",
            b":",
            b";",
            b",",
        ),
        *(
            b"0",
            b"5",
            b"a",
            b"\xa0",
            b"\x0b",
            b"\r\n ",
            b"\n\n",
            b"chunked",
            b"/",
            b"#",
        ),
        *(b"\r\nContent-Length: 3", b"\r\nTransfer-Encoding: chunked", b"\r\nHost: e"),
        *(b"\r\nContent-Length : 3", b"\r\n Transfer-Encoding: chunked", b"0\r\n\r\n"),
        b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n",
    ]
)


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """Return some requests with a few bytes of them exchanged for others."""
    data = b"".join(draw(st.lists(requests(), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(1, 3))):
        ends = [
            place for place in range(len(data)) if data[place : place + 1] in b"\r:; "
        ]
        at = draw(st.sampled_from(ends) | st.integers(0, len(data)))
        data = data[:at] + draw(SPOILERS) + data[at + draw(st.integers(0, 3)) :]
    return data


def both_ways(stage: Stage, data: bytes) -> tuple[list[Meaning], list[Meaning]]:
    """Send bytes both ways; return what both origins understood.

    Each request that went through has its answer, in order.
    """
    before, before_straight = len(stage.behind.received), len(stage.straight.received)
    talk(stage.straight.port, data, shut=True)
    answers = talk(stage.clinfra.ports["proxy"], data, shut=True)
    assert stage.behind.faults == []
    received = stage.behind.received[before:]
    asked = [f"{each.method} {each.target}".encode() for each in received]
    assert re.findall(rb"\r\nAsked: (.*?)\r\n", answers) == asked
    return (
        [meaning(each) for each in received],
        [meaning(each) for each in stage.straight.received[before_straight:]],
    )


SLOWLY = settings(
    deadline=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@SLOWLY
@given(several=st.lists(requests(), min_size=1, max_size=4))
def test_good_requests(stage: Stage, several: list[bytes]) -> None:
    """Each goes through, in order, and each gets its answer."""
    through, straight = both_ways(stage, b"".join(several))

    assert through == straight


@SLOWLY
@given(data=spoilt())
@example(data=b"GET /\nHost: h\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
def test_spoilt_requests(stage: Stage, data: bytes) -> None:
    """None goes through but as a strict server would have read it."""
    through, straight = both_ways(stage, data)

    assert through == straight[: len(through)]

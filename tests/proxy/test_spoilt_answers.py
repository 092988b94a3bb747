"""Answers made at random, good ones and spoilt ones, through the proxy.

A client is given what a strict reader makes of the bytes, or an error, or an answer
that is plainly cut; never another answer that looks whole.
"""

from __future__ import annotations

import re
from typing import Any

from attrs import frozen
from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import PoolConfig
from tests.proxy.stage import Stage, response

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9]\d\d)(?: [\t\x20-\x7e\x80-\xff]*)?")
_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[ \t]*([\t\x20-\x7e\x80-\xff]*)")
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?")
_UNDER_WAY = (100, 199)


class Broken(Exception):
    """This is no answer, or not all of it."""


@frozen
class Understood:
    """An answer as a client reads it."""

    status: int
    body: bytes
    fields: tuple[tuple[bytes, bytes], ...] = ()


def read_lines(data: bytes) -> tuple[list[bytes], bytes]:
    """Return the lines up to the empty one, and what follows it."""
    block, end, rest = data.partition(b"\r\n\r\n")
    if not end:
        raise Broken("no end of the head")
    lines = block.split(b"\r\n")
    if any(b"\r" in line or b"\n" in line for line in lines):
        raise Broken("a bare CR or LF")
    return lines, rest


def read_fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Return the fields."""
    fields = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise Broken("no field")
        fields.append((match[1].lower(), match[2].strip(b" \t")))
    return fields


def understand(data: bytes, method: str, closed: bool) -> Understood:
    """Read an answer by the letter.  Raises Broken."""
    while True:
        (first, *others), rest = read_lines(data)
        line = _STATUS_LINE.fullmatch(first)
        if line is None:
            raise Broken("no status line")
        status = int(line[2])
        fields = read_fields(others)
        if not _UNDER_WAY[0] <= status <= _UNDER_WAY[1]:
            break
        if status == 101:
            raise Broken("switched unasked")
        data = rest
    codings = [value for name, value in fields if name == b"transfer-encoding"]
    lengths = [value for name, value in fields if name == b"content-length"]
    if codings and (lengths or codings[0].lower() != b"chunked" or len(codings) > 1):
        raise Broken("framing")
    if codings and line[1] == b"0":
        raise Broken("chunks in 1.0")
    if len(lengths) > 1 or (lengths and not re.fullmatch(rb"\d{1,18}", lengths[0])):
        raise Broken("length")
    if method == "HEAD" or status in (204, 304):
        body = b""
    elif codings:
        body = read_chunks(rest)
    elif lengths:
        body = rest[: int(lengths[0])]
        if len(body) < int(lengths[0]):
            raise Broken("short")
    elif not closed:
        raise Broken("no end")
    else:
        body = rest
    return Understood(status, body, tuple(fields))


def read_chunks(data: bytes) -> bytes:
    """Return the data of a chunked body."""
    body = b""
    while True:
        size_line, end, data = data.partition(b"\r\n")
        match = _SIZE.fullmatch(size_line)
        if match is None or not end:
            raise Broken("no size")
        size = int(match[1], 16)
        if not size:
            break
        body += data[:size]
        if data[size : size + 2] != b"\r\n":
            raise Broken("a chunk of another size")
        data = data[size + 2 :]
    if not data.startswith(b"\r\n"):
        lines, _ = read_lines(data)
        read_fields(lines)
    return body


BODIES = st.binary(max_size=20) | st.just(
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
)
FIELDS = st.sampled_from(
    [
        *(b"X: 1", b"x:", b"Set-Cookie: a=b", b"Connection: X", b"Connection: close"),
        *(
            b"Keep-Alive: timeout=3",
            b"Trailer: X",
            b"Vary: *",
            b"X:\t a b \t",
            b"X: \xe9",
        ),
        *(b"Cache-Control: max-age=60", b'ETag: "a"', b"Upgrade: h2c", b"Via: 1.0 x"),
    ]
)


@st.composite
def answers(draw: st.DrawFn) -> bytes:
    """Return an answer that an origin may give."""
    status = draw(st.sampled_from([200, 200, 200, 204, 304, 404, 299]))
    lines = [b"HTTP/1.1 %d X" % status, *draw(st.lists(FIELDS, max_size=3))]
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    pieces = draw(st.lists(BODIES.filter(bool), max_size=3))
    body = b"".join(pieces)
    if status in (204, 304):
        body = b""
    elif framing == "length":
        lines.append(b"Content-Length: %d" % len(body))
    elif framing == "chunked":
        lines.append(b"Transfer-Encoding: chunked")
        ext = draw(st.sampled_from([b"", b";a=b", b' ; c="d"']))
        body = b"".join(b"%x%b\r\n%b\r\n" % (len(p), ext, p) for p in pieces)
        body += b"0\r\n" + draw(st.sampled_from([b"", b"T: u\r\n"])) + b"\r\n"
    interim = draw(
        st.sampled_from([b"", b"", b"HTTP/1.1 103 Hints\r\nLink: x\r\n\r\n"])
    )
    return interim + b"\r\n".join(lines) + b"\r\n\r\n" + body


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
        *(b"0", b"5", b"a", b"\xa0", b"\r\n ", b"\n\n", b"0\r\n\r\n", b"HTTP/1.1 "),
        *(b"\r\nContent-Length: 3", b"\r\nTransfer-Encoding: chunked", b"\r\nX : y"),
    ]
)


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """Return an answer with a few bytes exchanged, perhaps cut."""
    data = draw(answers())
    for _ in range(draw(st.integers(1, 3))):
        places = [at for at in range(len(data)) if data[at : at + 1] in b"\r:; "]
        at = draw(st.sampled_from(places or [0]) | st.integers(0, len(data)))
        data = data[:at] + draw(SPOILERS) + data[at + draw(st.integers(0, 3)) :]
    if draw(st.integers(0, 4)) == 0:
        data = data[: draw(st.integers(0, len(data)))]
    return data


class AnswerTests(SynchronousTestCase):
    """A proxy in memory, an origin that says whatever it is told to."""

    def setUp(self) -> None:
        pool = PoolConfig(
            members=("o1:80",),
            response_timeout=1,  # type: ignore[arg-type] # seconds
            read_timeout=1,  # type: ignore[arg-type] # seconds
            attempts=1,
        )
        self.pages = 0
        self.stage = Stage(self, pools={"origin": pool})

    def through(self, data: bytes, method: str, closed: bool, pieces: int) -> Any:
        """Return what a client understands of an answer, or Broken; then ask again."""
        stage = self.stage
        self.pages += 1
        target = f"/{self.pages}"
        stage.script = lambda asked: None
        before = len(stage.asked)
        client = stage.ask(target, method=method)
        first = stage.asked[before].line
        size = len(data) // pieces + 1
        for start in range(0, len(data), size):
            first.send(data[start : start + size])
            stage.turn()
        if closed:
            first.hang_up()
        stage.turn()
        stage.script = lambda asked: response(b"next")
        stage.pass_time(4)
        self.assertEqual(b"next", stage.get(f"/next{self.pages}").body)
        try:
            return understand(bytes(client.received), method, closed=False)
        except Broken as broken:
            self.assertTrue(client.closed)
            return broken

    @settings(deadline=None, max_examples=150)
    @given(answers(), st.sampled_from(["GET", "HEAD", "POST"]), st.integers(1, 9))
    def test_good(self, data: bytes, method: str, pieces: int) -> None:
        """What a strict reader understands is what the client gets."""
        expected = understand(data, method, closed=True)
        got = self.through(data, method, True, pieces)

        self.assertEqual(
            (expected.status, expected.body), (got.status, got.body), (data, got)
        )

    @settings(deadline=None, max_examples=300)
    @given(
        spoilt(),
        st.sampled_from(["GET", "HEAD", "POST"]),
        st.booleans(),
        st.integers(1, 9),
    )
    @example(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", "GET", True, 1)
    def test_spoilt(self, data: bytes, method: str, closed: bool, pieces: int) -> None:
        """Of anything else nothing, or an error, or a part that is plainly no more."""
        try:
            expected = understand(data, method, closed)
        except Broken:
            expected = None
        got = self.through(data, method, closed, pieces)
        if isinstance(got, Broken) or got.status in (502, 503, 504):
            return
        self.assertIsNotNone(expected, (data, got))
        assert expected is not None
        self.assertEqual((expected.status, expected.body), (got.status, got.body), data)

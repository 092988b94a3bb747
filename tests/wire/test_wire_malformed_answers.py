"""Origins that break the rules, lie about length or fall silent; what clients see.

A client gets the whole answer, an error page, or a connection that ends where nobody
can take it for a whole answer.  After each of these somebody else asks for another
page, and gets that page (RFC 9112 §11.1).
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
from tests.wire.raw import RawOrigin, Received, Say, ok, talk

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FRESH = b"Cache-Control: max-age=600\r\n"

BAD, LATE, CUT, WHOLE = "502", "504", "cut", "200"
"""What the client sees: an error, or its answer begun and cut, or all of it."""


@frozen
class Case:
    """What an origin says; what becomes of it.

    Attributes:
        seen: by the client.
        kept: the connection to the origin is used again.
        tries: how often the origin is asked.
        body: of a whole answer.
    """

    say: Say
    seen: str
    kept: bool = False
    tries: int = 1
    method: str = "GET"
    body: bytes = b"hello"


Cases = dict[str, Case]


def status_lines() -> Cases:
    """Status lines."""
    bad = (
        *(b"", b"HTTP/1.1", b"HTTP/1.1 ", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK"),
        *(
            b"HTTP/1.1 abc OK",
            b"HTTP/1.1  200 OK",
            b"HTTP/1.1\t200 OK",
            b"HTTP/1.1 +20",
        ),
        *(
            b"HTTP/1.1 -200 OK",
            b"HTTP/1.1 1e2 OK",
            b"HTTP/1.1 099 OK",
            b"HTTP/1.1 000 OK",
        ),
        *(b"HTTP/1.1 200 O\x00K", b"HTTP/1.1 200 OK\x7f", b"HTTP/1.1 200 O\nK"),
        *(b"HTTP/1.1 200 O\rK", b"HTTP/1.1 200\xa0OK", b"HTTP/1.1 \xb2\xb0\xb0 OK"),
        *(b"HTTP/1.2 200 OK", b"HTTP/2 200", b"HTTP/2.0 200 OK", b"HTTP/0.9 200 OK"),
        *(b"http/1.1 200 OK", b"ICY 200 OK", b"<html>", b" HTTP/1.1 200 OK", b"\x00"),
        *(b"\r\nHTTP/1.1 200 OK", b"XHTTP/1.1 200 OK", b"GET / HTTP/1.1", b"SSH-2.0-x"),
        *(
            b"HTTP/1.1 200 OK\r\n X",
            b"\xef\xbb\xbfHTTP/1.1 200 OK",
            b"HTTP/1.10 200 OK",
        ),
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade",
    )
    good = (
        b"HTTP/1.1 200",
        b"HTTP/1.1 200 ",
        b"HTTP/1.1 200 \xe9t\xe9",
        b"HTTP/1.1 200 \t",
    )
    rest = b"\r\nContent-Length: 5\r\n\r\nhello"
    return {
        **{f"line {line!r}": Case(Say((line + rest,)), BAD) for line in bad},
        **{f"line {line!r}": Case(Say((line + rest,)), WHOLE, True) for line in good},
        "HTTP/1.0": Case(Say((b"HTTP/1.0 200 OK" + rest,)), WHOLE),
    }


def field_lines() -> Cases:
    """Fields."""
    bad = (
        *(
            b"X",
            b": y",
            b"X : y",
            b"X\t: y",
            b" X: y",
            b"X(: y",
            b"X\xe9: y",
            b"X y: z",
        ),
        *(b"X: a\r\n b", b"X: a\r\n\tb", b"X: a\x00b", b"X: a\x01b", b"X: a\x7fb"),
        *(b"X: a\nY: b", b"X: a\rY: b", b"X: a\r\rY: b", b"X: a\n", b"X: a\n\n", b"\n"),
        *(b"X: " + b"y" * 70_000, b"X" * 70_000 + b": y", b"A: b\r\n" * 250 + b"C: d"),
    )
    good = (
        *(b"X: \xe9", b"X:", b"X:y", b"X: a\tb", b"Connection: X-A\r\nX-A: 1"),
        *(b"Keep-Alive: timeout=5", b"Upgrade: h2c", b"Trailer: X", b"0: 1"),
    )
    return {
        **{
            f"field {each[:60]!r}": Case(
                Say((LENGTH + FRESH + each + b"\r\n\r\nhello",)), BAD
            )
            for each in bad
        },
        **{
            f"field {each[:60]!r}": Case(
                Say((LENGTH + each + b"\r\n\r\nhello",)), WHOLE, True
            )
            for each in good
        },
        "only LF": Case(Say((b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",)), BAD),
        "LF ends the head": Case(Say((LENGTH + b"\nhello",)), BAD),
        "close": Case(Say((LENGTH + b"Connection: close\r\n\r\nhello",)), WHOLE),
    }


def framings() -> Cases:
    """Lengths and codings."""
    lengths = (
        *(b"+5", b"-5", b"5 5", b"5,5", b"5, 5", b"", b"5;", b"0x5", b"5.0", b"five"),
        *(b"9" * 20, b"9223372036854775808", b"5\x00", b"\xb5", b"\x0b5", b'"5"'),
    )
    codings = (
        *(b"gzip", b"gzip, chunked", b"identity", b"xchunked", b"chunked, chunked"),
        *(
            b"chunked, gzip",
            b"",
            b"\x0bchunked",
            b'"chunked"',
            b"chunked;q=1",
            b"\xa0chunked",
        ),
    )
    cases = {
        f"length {each!r}": Case(
            Say((OK + b"Content-Length: " + each + b"\r\n\r\nhello",)), BAD
        )
        for each in lengths
    }
    chunks = b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
    for each in codings:
        coding = b"Transfer-Encoding: " + each
        cases[f"coding {each!r}"] = Case(Say((OK + coding + chunks,)), BAD)
        cases[f"coding and length {each!r}"] = Case(
            Say((LENGTH + coding + chunks,)), BAD
        )
    for name, said in {
        "two lengths": LENGTH + b"Content-Length: 6\r\n\r\nhello",
        "a length twice": LENGTH + b"content-length: 5\r\n\r\nhello",
        "both": LENGTH + b"Transfer-Encoding: chunked" + chunks,
        "both, turned": OK
        + b"Transfer-Encoding: chunked\r\nContent-Length: 5"
        + chunks,
        "two codings": OK
        + b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked"
        + chunks,
        "chunked in 1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked" + chunks,
    }.items():
        cases[name] = Case(Say((said,)), BAD)
    cases["any case"] = Case(
        Say((OK + b"transfer-encoding: ChUnKeD" + chunks,)), WHOLE, True
    )
    return cases


def bodies() -> Cases:
    """Chunked bodies, and bodies of another length than announced."""
    broken = (
        *(b"5\nhello\r\n0\r\n\r\n", b"5\r\nhelloX0\r\n\r\n", b"5\r\nhello\n0\r\n\r\n"),
        *(
            b"g\r\n",
            b"-5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"\r\n",
        ),
        *(
            b"ffffffffffffffff\r\nhello",
            b"0" * 17 + b"5\r\nhello\r\n",
            b"5;\n\r\nhello\r\n",
        ),
        *(b"5;" + b"x" * 9000, b"1;aaaaaaaaa\r\nx\r\n" * 3000, b"5", b"5;x"),
        *(b"5\r\nhello\r\n0\r\nX : y\r\n\r\n", b"5\r\nhello\r\n0\r\n\n", b"0\n\n"),
        b"5\r\nhello\r\n0\r\n" + b"X: y\r\n" * 2000 + b"\r\n",
    )
    whole = (
        *(b"5;x\r\nhello\r\n0\r\n\r\n", b"5\r\nhello\r\n0;x\r\n\r\n"),
        *(b"05\r\nhello\r\n000\r\n\r\n", b"2\r\nhe\r\n3\r\nllo\r\n0\r\nX: y\r\n\r\n"),
    )
    cases = {}
    for end in ("close", "silent"):
        for each in broken:
            said = Say(
                (CHUNKED.replace(b"\r\n\r\n", b"\r\n" + FRESH + b"\r\n"), each), end
            )
            cases[f"chunks {each[:40]!r} {end}"] = Case(said, CUT)
    for each in whole:
        cases[f"chunks {each!r}"] = Case(Say((CHUNKED + each,)), WHOLE, True)
    more = LENGTH + b"\r\nworld"
    return cases | {
        "more than announced": Case(Say((LENGTH + b"\r\nhelloEXTRA",)), WHOLE),
        "two answers": Case(Say((LENGTH + b"\r\nhello" + more,)), WHOLE),
        "more chunks": Case(Say((CHUNKED + b"5\r\nhello\r\n0\r\n\r\nextra",)), WHOLE),
        "body of 204": Case(Say((b"HTTP/1.1 204 No\r\n\r\nhello",)), WHOLE, body=b""),
        "length of 204": Case(
            Say((b"HTTP/1.1 204 No\r\nContent-Length: 5\r\n\r\n", b"hello")),
            WHOLE,
            body=b"",
        ),
        "chunks of 304": Case(
            Say(
                (b"HTTP/1.1 304 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\n\r\n")
            ),
            *(WHOLE, False, 1, "GET", b""),
        ),
        "body of HEAD": Case(
            Say((LENGTH + b"\r\nhello",)), WHOLE, False, 1, "HEAD", b""
        ),
        "no body of HEAD": Case(Say((LENGTH + b"\r\n",)), WHOLE, True, 1, "HEAD", b""),
    }


def ends() -> Cases:
    """Origins that close, reset or stop, at every point."""
    cases = {}
    for name, said, by_close in (
        ("nothing", (), BAD),
        ("half a head", (b"HTTP/1.1 200 OK\r\nContent-",), BAD),
        ("interim", (b"HTTP/1.1 100 Continue\r\n\r\n",), BAD),
        ("no body", (LENGTH + FRESH + b"\r\n",), CUT),
        ("half a body", (LENGTH + FRESH + b"\r\nhel",), CUT),
        ("half a chunk", (CHUNKED + b"5\r\nhel",), CUT),
        ("no last chunk", (CHUNKED + b"5\r\nhello\r\n",), CUT),
        ("half a last chunk", (CHUNKED + b"5\r\nhello\r\n0\r\n",), CUT),
        ("no length", (OK + FRESH + b"\r\nhello",), WHOLE),
    ):
        for end in ("close", "reset", "silent"):
            seen, tries = by_close, 1
            if seen == BAD:
                seen, tries = (LATE if end == "silent" else "503"), 2
            elif end != "close":
                seen = CUT
            cases[f"{name}, {end}"] = Case(Say(said, end), seen, tries=tries)
    drip = tuple(bytes([byte]) for byte in LENGTH + b"\r\nhello")
    return cases | {
        "hints": Case(
            Say(
                (
                    b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
                    LENGTH + b"\r\nhello",
                )
            ),
            *(WHOLE, True),
        ),
        "dripping": Case(Say(drip, pause=0.005), WHOLE, True),
        "dripping for too long": Case(Say(drip, pause=0.05), LATE, tries=2),
        "interim for ever": Case(
            Say((b"HTTP/1.1 102 Wait\r\n\r\n",) * 40, pause=0.05), LATE, tries=2
        ),
    }


CASES: Cases = status_lines() | field_lines() | framings() | bodies() | ends()
TARGETS = {f"/{number}": name for number, name in enumerate(CASES)}


@frozen
class Front:
    """A proxy and the origin behind it."""

    origin: RawOrigin
    clinfra: ClinfraProcess

    def ask(self, target: str, method: str = "GET", version: str = "1.1") -> bytes:
        """Return all that is answered until the connection ends."""
        head = (
            f"{method} {target} HTTP/{version}\r\nHost: h\r\nConnection: close\r\n\r\n"
        )
        return talk(self.clinfra.ports["proxy"], head.encode())


def answer(received: Received) -> Say:
    """Play the case that is asked for."""
    name = TARGETS.get(received.target.partition("?")[0])
    if name is None:
        return ok(received.target.encode())
    return CASES[name].say


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    """Run both, with short time-outs; an attempt more than one is made."""
    with RawOrigin(answer) as origin:
        pool = {
            "members": [f"127.0.0.1:{origin.port}"],
            **{"response_timeout": "400ms", "read_timeout": "400ms"},
            **{"attempts": 2, "idle_timeout": "500ms"},
        }
        proxy = {"pools": {"o": pool}, "default_pool": "o"}
        with ClinfraProcess({"proxy": proxy}) as clinfra:
            yield Front(origin, clinfra)


def seen(data: bytes, method: str) -> tuple[str, bytes]:
    """Return what a client makes of all it got: a status, or "cut"; and the body."""
    head, _, body = data.partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 1"):
        head, _, body = body.partition(b"\r\n\r\n")
    status = head[9:12].decode()
    lines = dict(
        line.lower().split(b": ", 1)
        for line in head.split(b"\r\n")[1:]
        if b": " in line
    )
    if not head.startswith(b"HTTP/1.1 "):
        return CUT, b""
    if method == "HEAD" or status in ("204", "304"):
        return WHOLE if status < "400" else status, body
    if b"transfer-encoding" in lines:
        assert (
            lines[b"transfer-encoding"] == b"chunked" and b"content-length" not in lines
        )
        whole = b""
        while body:
            size, _, rest = body.partition(b"\r\n")
            length = int(size, 16)
            if not length and rest == b"\r\n":
                return status, whole
            whole += rest[:length]
            body = rest[length + 2 :]
        return CUT, whole
    length = int(lines[b"content-length"])
    return (status if len(body) == length else CUT), body


def play(front: Front, target: str, method: str) -> tuple[str, bytes, list[Received]]:
    """Ask for a case; return what is seen of it, and what the origin was asked."""
    got, body = seen(front.ask(target, method), method)
    return got, body, [each for each in front.origin.received if each.target == target]


QUICK = [
    name
    for name, case in CASES.items()
    if case.say.end != "silent" and case.seen != LATE
]


@pytest.mark.parametrize("name", QUICK)
def test_quick(front: Front, name: str) -> None:
    """Each is seen for what it is, and leaves nothing behind for the next."""
    case = CASES[name]
    target = f"/{list(CASES).index(name)}"
    got, body, asked = play(front, target, case.method)
    after = front.ask("/after")

    assert got == case.seen
    if case.seen == WHOLE:
        assert body == case.body
    assert len(asked) == case.tries or not case.kept
    assert after.endswith(b"\r\n\r\n/after")
    used_again = front.origin.received[-1].connection == asked[-1].connection
    assert used_again == case.kept
    assert front.origin.faults == []


SLOW = [name for name in CASES if name not in QUICK]


def test_slow(front: Front) -> None:
    """Those that stop are given up in time, each on its own."""

    def wait(name: str) -> tuple[str, str, int, float]:
        began = time.monotonic()
        target = f"/{list(CASES).index(name)}"
        got, _, asked = play(front, target, CASES[name].method)
        return name, got, len(asked), time.monotonic() - began

    with ThreadPoolExecutor(len(SLOW)) as threads:
        for name, got, tries, seconds in threads.map(wait, SLOW):
            case = CASES[name]
            assert (got, tries) == (case.seen, case.tries), name
            assert seconds < 5, name
    assert front.ask("/after").endswith(b"\r\n\r\n/after")


def test_nothing_broken_is_kept(front: Front) -> None:
    """No answer that was bad or cut is in the cache."""
    for target, name in TARGETS.items():
        if name in QUICK and CASES[name].seen in (BAD, CUT):
            before = len(front.origin.received)
            front.ask(target)
            assert len(front.origin.received) > before, name


def test_old_clients(front: Front) -> None:
    """A client of HTTP/1.0 sees that an answer was cut as well, by a reset."""
    for name in ("no last chunk, close", "no length, reset"):
        target = f"/{list(CASES).index(name)}"
        with pytest.raises(ConnectionResetError):
            talk_to_the_end(front.clinfra.ports["proxy"], target)


def talk_to_the_end(port: int, target: str) -> bytes:
    """Ask as HTTP/1.0; a reset is not an end."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(f"GET {target} HTTP/1.0\r\nHost: h\r\n\r\n".encode())
        received = b""
        while data := connection.recv(65536):
            received += data
        return received


def test_nothing_is_left(front: Front) -> None:
    """Descriptors and memory are what they were."""
    wait_until(lambda: not front.origin.open, "connections to the origin end")
    descriptors = f"/proc/{front.clinfra.pid}/fd"
    before = len(os.listdir(descriptors))
    for _ in range(3):
        for name in QUICK:
            front.ask(f"/{list(CASES).index(name)}", CASES[name].method)
    wait_until(lambda: not front.origin.open, "connections to the origin end")
    wait_until(lambda: len(os.listdir(descriptors)) <= before, "descriptors are closed")
    with open(f"/proc/{front.clinfra.pid}/status") as status:
        peak = next(line for line in status if line.startswith("VmHWM"))
    assert int(peak.split()[1]) < 100 * 1024
    assert "Traceback" not in front.clinfra.running.output

"""Framing: what is refused, how, and that nothing is ever guessed."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.web.clients import Client, echo, get, ignore, make_site

BASE = b"POST /x HTTP/1.1\r\nHost: example.com\r\n"

REFUSED = {
    "both lengths": (
        BASE + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
        400,
    ),
    "two different lengths": (
        BASE + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        400,
    ),
    "two equal lengths": (
        BASE + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        400,
    ),
    "signed length": (BASE + b"Content-Length: +3\r\n\r\nabc", 400),
    "negative length": (BASE + b"Content-Length: -3\r\n\r\nabc", 400),
    "list of lengths": (BASE + b"Content-Length: 3, 3\r\n\r\nabc", 400),
    "empty length": (BASE + b"Content-Length: \r\n\r\n", 400),
    "hexadecimal length": (BASE + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "huge length": (BASE + b"Content-Length: " + b"9" * 30 + b"\r\n\r\n", 400),
    "length over the limit": (BASE + b"Content-Length: 99999999\r\n\r\n", 413),
    "unknown coding": (BASE + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    "chunked twice": (BASE + b"Transfer-Encoding: chunked, chunked\r\n\r\n", 400),
    "chunked in HTTP/1.0": (
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "bare LF line ends": (b"GET / HTTP/1.1\nHost: example.com\n\n", 400),
    "one bare LF": (b"GET / HTTP/1.1\r\nHost: example.com\nX: y\r\n\r\n", 400),
    "bare CR": (b"GET / HTTP/1.1\r\nHost: example.com\r\nX: a\rb\r\n\r\n", 400),
    "folded field": (get(b"/", b"X: a\r\n b"), 400),
    "blank before colon": (get(b"/", b"X : a"), 400),
    "field without colon": (get(b"/", b"nonsense"), 400),
    "empty field name": (get(b"/", b": a"), 400),
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (get(b"/", b"Host: other.example"), 400),
    "NUL in a field": (get(b"/", b"X: a\0b"), 400),
    "control byte in a field": (get(b"/", b"X: a\x01b"), 400),
    "control byte in the target": (get(b"/\x07"), 400),
    "blank in the target": (get(b"/a b"), 400),
    "long request line": (get(b"/" + b"a" * 3000), 414),
    "long field": (get(b"/", b"X: " + b"a" * 3000), 431),
    "endless request line": (b"GET /" + b"a" * 3000, 414),
    "endless field": (b"GET / HTTP/1.1\r\nX: " + b"a" * 3000, 431),
    "many fields": (get(b"/", *(b"X-%d: y" % i for i in range(40))), 431),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "HTTP/0.9": (b"GET /\r\n\r\n", 400),
    "TLS hello": (bytes.fromhex("16030100c8010000c40303") + b"\x00" * 40, 400),
    "garbage": (b"\xff\xfe\xfd garbage\r\n\r\n", 400),
    "SSH": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", 400),
    "CONNECT": (b"CONNECT example.com:443 HTTP/1.1\r\nHost: example.com\r\n\r\n", 501),
}


class FramingTests(SynchronousTestCase):
    """What a connection refuses."""

    def test_refused(self) -> None:
        """Each gets its status and one sentence, and the connection is closed."""
        for name, (sent, status) in REFUSED.items():
            site, clock = make_site(ignore)
            client = Client(site, clock)
            client.send(sent + get(b"/smuggled"))
            answers = client.answers()
            self.assertEqual([status], [each.status for each in answers], name)
            self.assertEqual("close", answers[0].fields["Connection"], name)
            self.assertRegex(answers[0].body, rb"\A[A-Z][^\n]*\.\n\Z", name)
            self.assertTrue(client.saw_end, name)
            client.hang_up()

    def test_refused_in_any_pieces(self) -> None:
        """The same when the bytes come one by one."""
        for name, (sent, status) in REFUSED.items():
            site, clock = make_site(ignore)
            client = Client(site, clock)
            client.send(sent, piece=1)
            self.assertEqual([status], [each.status for each in client.answers()], name)
            client.hang_up()

    def test_refused_after_a_good_one(self) -> None:
        """A request before it on the same connection has been answered."""
        site, clock = make_site(echo)
        client = Client(site, clock)
        client.send(get(b"/good") + REFUSED["two equal lengths"][0])

        self.assertEqual([200, 400], [each.status for each in client.answers()])

    def test_bad_chunk(self) -> None:
        """A body that cannot be read in only one way is refused while it is read."""
        for bad in (b"zz\r\n", b"-1\r\n", b"3\nabc\r\n", b"3\r\nabcd\r\n", b"0x3\r\n"):
            site, clock = make_site(echo)
            client = Client(site, clock)
            client.send(BASE + b"Transfer-Encoding: chunked\r\n\r\n" + bad)
            client.send(get(b"/smuggled"))
            answers = client.answers()
            self.assertEqual([400], [each.status for each in answers], bad)
            self.assertEqual("close", answers[0].fields["Connection"], bad)

    def test_bad_chunk_after_the_answer(self) -> None:
        """When nobody reads it the connection just ends."""
        site, clock = make_site(ignore)
        client = Client(site, clock)
        client.send(BASE + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n")
        client.send(get(b"/smuggled"))

        self.assertEqual([200], [each.status for each in client.answers()])
        self.assertTrue(client.saw_end)

    def test_chunked_over_the_limit(self) -> None:
        """A chunked body is counted as it comes."""
        site, clock = make_site(echo)
        client = Client(site, clock)
        client.send(BASE + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            client.send(b"10000\r\n" + b"a" * 0x10000 + b"\r\n")

        self.assertEqual([413], [each.status for each in client.answers()])

    def test_empty_lines_before_a_request(self) -> None:
        """A line end too many after a body is forgiven (RFC 9112 §2.2)."""
        site, clock = make_site(echo)
        for piece in (1, 1000):
            client = Client(site, clock)
            client.send(b"\r\n\r\n" + get(b"/a") + b"\r\n" + get(b"/b"), piece)
            self.assertEqual(
                [b"GET /a 0 ", b"GET /b 0 "], [each.body for each in client.answers()]
            )


TARGETS = st.sampled_from([b"/", b"/a/b?c=d", b"/%41", b"*"])


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One well-formed request."""
    kind = draw(st.sampled_from(["get", "head", "length", "chunked", "empty lines"]))
    body = draw(st.binary(max_size=40))
    target = draw(st.sampled_from([b"/", b"/a/b?c=d", b"/%41"]))
    if kind == "get":
        return get(target)
    if kind == "head":
        return b"HEAD " + get(target)[4:]
    if kind == "empty lines":
        return b"\r\n" + get(target)
    line = b"PUT " + target + b" HTTP/1.1\r\nHost: h\r\n"
    if kind == "length":
        return line + b"Content-Length: %d\r\n\r\n" % len(body) + body
    cut = draw(st.integers(0, len(body)))
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:cut], body[cut:]) if part
    )
    return line + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


class SegmentationTests(SynchronousTestCase):
    """TCP may cut the bytes anywhere."""

    @settings(deadline=None, max_examples=150)
    @given(st.lists(requests(), min_size=1, max_size=4), st.data())
    def test_same_answers(self, several: list[bytes], data: st.DataObject) -> None:
        """The same bytes in any segments give the same answers."""
        whole = b"".join(several)
        cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=12)))
        site, clock = make_site(echo)
        at_once = Client(site, clock)
        at_once.send(whole)
        pieces = Client(site, clock)
        for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True):
            pieces.send(whole[start:stop])
        self.assertEqual(bytes(at_once.received), bytes(pieces.received))
        self.assertEqual(len(several), bytes(pieces.received).count(b"HTTP/1.1 200"))
        at_once.hang_up()
        pieces.hang_up()

    @settings(deadline=None, max_examples=200)
    @given(st.binary(max_size=200), st.integers(1, 50))
    def test_garbage(self, garbage: bytes, piece: int) -> None:
        """Whatever comes, the connection is answered properly, waits, or ends."""
        site, clock = make_site(echo)
        client = Client(site, clock)
        client.send(garbage, piece)
        for answer in client.answers():
            self.assertIn(answer.status, (200, 400, 405, 413, 414, 431, 501, 505))
        clock.pump([1] * 100)
        self.assertTrue(client.saw_end)
        self.assertEqual([], Clock.getDelayedCalls(clock))

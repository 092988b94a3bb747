"""Compressor: clients get what they can read, and a page is compressed once."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import ConfigProblems
from tests.proxy.stage import Asked, Stage, response
from tests.proxy.test_encoding import decoded
from tests.web.clients import Answer

PAGE = b"<p>All work and no play makes Jack a dull boy.</p>\n" * 100
FRESH = "Cache-Control: max-age=60"
PRIVATE = "Cache-Control: no-store"
HTML = "Content-Type: text/html"
BROWSER = "Accept-Encoding: gzip, deflate, br, zstd"


class CompressorTestCase(SynchronousTestCase):
    """A proxy before an origin with one page."""

    def stage_of(self, *fields: str, **options: Any) -> Stage:
        """Return a stage whose origin has the page."""
        return Stage(
            self,
            lambda asked: response(PAGE, *fields),
            modules={"Compressor": options},
        )

    def assertPage(self, answer: Answer, coding: str | None) -> None:
        """Check that an answer is the page, in this coding."""
        self.assertEqual(answer.fields["Content-Encoding"], coding)
        body = decoded(coding, answer.body) if coding else answer.body
        self.assertEqual(body, PAGE)
        if coding:
            self.assertLess(len(answer.body), len(PAGE) // 5)


class CompressionTests(CompressorTestCase):
    """What clients get."""

    def test_each_its_own(self) -> None:
        """Every client gets a coding it accepts, kept or not."""
        for control in (FRESH, PRIVATE):
            stage = self.stage_of(HTML, control)
            for accepted, coding in (
                ("gzip, deflate, br, zstd", "br"),
                ("zstd, gzip", "zstd"),
                ("gzip", "gzip"),
                ("deflate", None),
                ("gzip, identity;q=0", "gzip"),
            ):
                for _ in range(4):
                    answer = stage.get("/a", f"Accept-Encoding: {accepted}")
                    expected = None if "identity" in accepted else coding
                    self.assertPage(answer, expected)
                    self.assertEqual(answer.fields["Vary"], "Accept-Encoding")
            self.assertPage(stage.get("/a"), None)

    def test_once_for_each_coding(self) -> None:
        """However different the lists, there is one copy of each coding."""
        stage = self.stage_of(HTML, FRESH)
        for accepted in ("gzip, deflate, br", "br", "br;q=1.0, *;q=0.1", BROWSER[17:]):
            self.assertPage(stage.get("/a", f"Accept-Encoding: {accepted}"), "br")
        self.assertEqual(len(stage.asked), 1)
        for accepted in ("gzip", "gzip, deflate", "x-gzip;q=0.5"):
            self.assertPage(stage.get("/a", f"Accept-Encoding: {accepted}"), "gzip")
        self.assertEqual(len(stage.asked), 2)
        for fields in ((), ("Accept-Encoding: identity",), ("Accept-Encoding: x",)):
            self.assertPage(stage.get("/a", *fields), None)
        self.assertEqual(len(stage.asked), 3)
        report = stage.proxy.report()["modules"]["Compressor"]
        self.assertEqual(report, {"compressed": {"br": 1, "zstd": 0, "gzip": 1}})

    def test_origin_is_asked_for_the_same(self) -> None:
        """An origin that compresses by itself does so for all of those clients."""
        stage = self.stage_of(HTML, FRESH)
        stage.get("/a", BROWSER)
        self.assertEqual(stage.asked[0].field("Accept-Encoding"), "br")

    def test_head(self) -> None:
        """HEAD says what GET would."""
        stage = self.stage_of(HTML, PRIVATE)
        answer = stage.get("/a", BROWSER, method="HEAD")
        self.assertEqual(answer.fields["Content-Encoding"], "br")
        self.assertEqual(answer.body, b"")

    def test_streamed(self) -> None:
        """A page that comes as it is made reaches the client as it is made."""
        held: list[Asked] = []
        stage = Stage(self, lambda asked: held.append(asked))
        client = stage.ask("/a", "Accept-Encoding: gzip")
        held[0].line.send(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
        )
        stage.turn()
        before = len(client.received)
        held[0].line.send(b"6\r\nsecond\r\n")
        stage.turn()
        self.assertGreater(len(client.received), before)
        held[0].line.send(b"0\r\n\r\n")
        stage.turn()
        (answer,) = client.answers()
        self.assertEqual(decoded("gzip", answer.body), b"firstsecond")


class UntouchedTests(CompressorTestCase):
    """What is left as it is."""

    def test_by_its_fields(self) -> None:
        """Other types, what is encoded, and what must not be transformed."""
        for fields in (
            ("Content-Type: image/png",),
            ("Content-Type: text/event-stream",),
            (HTML, "Cache-Control: no-transform, max-age=60"),
            (HTML, "Content-Digest: sha-256=:AA==:"),
        ):
            stage = self.stage_of(*fields)
            answer = stage.get("/a", BROWSER)
            self.assertPage(answer, None)
            self.assertIsNone(answer.fields["Vary"])
            self.assertEqual(answer.fields["Content-Length"], str(len(PAGE)))

    def test_small(self) -> None:
        """What would hardly get smaller."""
        stage = self.stage_of(HTML, min_bytes=len(PAGE) + 1)
        self.assertPage(stage.get("/a", BROWSER), None)

    def test_by_the_operator(self) -> None:
        """Pages with secrets."""
        stage = self.stage_of(HTML, never_match=("/secret",))
        self.assertPage(stage.get("/secret", BROWSER), None)
        self.assertPage(stage.get("/other", BROWSER), "br")

    def test_encoded_by_its_origin(self) -> None:
        """It stays as its origin made it."""
        stage = self.stage_of(HTML, "Content-Encoding: br", "Vary: Accept-Encoding")
        answer = stage.get("/a", BROWSER)
        self.assertEqual(answer.body, PAGE)
        self.assertEqual(answer.fields["Content-Encoding"], "br")

    def test_range(self) -> None:
        """A part of a page is a part of the page."""

        def script(asked: Asked) -> bytes:
            part = f"Content-Range: bytes 0-4/{len(PAGE)}"
            return response(PAGE[:5], HTML, part, status="206 Partial Content")

        stage = Stage(self, script, modules={"Compressor": {"min_bytes": 0}})
        answer = stage.get("/a", BROWSER, "Range: bytes=0-4")
        self.assertEqual((answer.status, answer.body), (206, PAGE[:5]))


class ValidationTests(CompressorTestCase):
    """Entity tags are of bytes, and these are other bytes."""

    def script(self, asked: Asked) -> bytes:
        """Answer as an origin that weighs tags weakly, as it should."""
        if '"v1"' in (asked.field("If-None-Match") or ""):
            return response(
                b"", 'ETag: "v1"', FRESH, "Vary: Cookie", status="304 Not Modified"
            )
        return response(PAGE, HTML, 'ETag: "v1"', FRESH, "Vary: Cookie")

    def setUp(self) -> None:
        self.stage = Stage(self, self.script)

    def test_weak(self) -> None:
        """A strong tag becomes a weak one; clients' conditions meet it."""
        answer = self.stage.get("/a", BROWSER)
        self.assertEqual(answer.fields["ETag"], 'W/"v1"')
        again = self.stage.get("/a", BROWSER, 'If-None-Match: W/"v1"')
        self.assertEqual(again.status, 304)
        self.assertEqual(len(self.stage.asked), 1)
        plain = self.stage.get("/a")
        self.assertEqual(plain.fields["ETag"], '"v1"')

    def test_validated(self) -> None:
        """A copy that was kept is validated, and stays one for its coding only."""
        self.assertPage(self.stage.get("/a", BROWSER), "br")
        self.stage.pass_time(61)
        self.assertPage(self.stage.get("/a", BROWSER), "br")
        self.assertEqual(len(self.stage.asked), 2)
        self.assertEqual(self.stage.asked[1].field("If-None-Match"), 'W/"v1"')
        self.assertPage(self.stage.get("/a", BROWSER), "br")
        self.assertEqual(len(self.stage.asked), 2)
        self.assertPage(self.stage.get("/a", "Accept-Encoding: gzip"), "gzip")
        self.assertPage(self.stage.get("/a"), None)


class RepeatedPassTests(CompressorTestCase):
    """Passes on the short way."""

    def test_always_compressed(self) -> None:
        """What is compressed never takes it, and what is not does."""
        stage = self.stage_of(HTML, PRIVATE)
        client = stage.client()
        for accepted in (b"br", b"identity"):
            for _ in range(6):
                client.send(
                    b"GET /a HTTP/1.1\r\nHost: example.com\r\nAccept-Encoding: "
                    b"%b\r\n\r\n" % accepted
                )
                stage.turn()
        answers = client.answers()
        for answer in answers[:6]:
            self.assertPage(answer, "br")
        for answer in answers[6:]:
            self.assertPage(answer, None)
        self.assertGreater(stage.proxy.pipeline.passes, 0)


class OptionsTests(SynchronousTestCase):
    """Options are checked."""

    def test_bad(self) -> None:
        """Unknown codings and nonsense for types are refused."""
        for options in ({"encodings": ("deflate",)}, {"types": ("html",)}):
            with self.assertRaises(ConfigProblems):
                Stage(self, modules={"Compressor": options})

"""Interim answers (1xx): passed on to those who know them, and never mistaken."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.stage import Stage, response

EARLY = (
    b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n"
    b"Connection: x-hop\r\nX-Hop: 1\r\nContent-Length: 7\r\n\r\n"
)
SEEN = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n"
GET = b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n"


class InterimTests(SynchronousTestCase):
    """What an origin says before it answers."""

    def ask(self, answer: bytes, request: bytes = GET, times: int = 1) -> bytes:
        """Return what a client receives in the end."""
        self.stage = Stage(self, lambda asked: answer)
        client = self.stage.client()
        for _ in range(times):
            client.received.clear()
            client.send(request)
            self.stage.turn()
        return bytes(client.received)

    def test_passed_on(self) -> None:
        """Clients of HTTP/1.1 get it before the answer, without what is hop by hop."""
        received = self.ask(EARLY + response(b"page"))
        self.assertTrue(received.startswith(SEEN + b"HTTP/1.1 200 OK\r\n"), received)
        self.assertTrue(received.endswith(b"\r\n\r\npage"))

    def test_on_the_short_way(self) -> None:
        """Repeated passes are no exception."""
        answer = EARLY + response(b"page", "Cache-Control: no-store")
        received = self.ask(answer, times=6)
        self.assertTrue(received.startswith(SEEN + b"HTTP/1.1 200 OK\r\n"), received)
        self.assertGreater(self.stage.proxy.pipeline.passes, 0)

    def test_not_kept(self) -> None:
        """Hits have the answer only, and nothing of what came before it."""
        answer = EARLY + response(b"page", "Cache-Control: max-age=60")
        received = self.ask(answer, times=3)
        self.assertTrue(received.startswith(b"HTTP/1.1 200 OK\r\n"))
        self.assertNotIn(b"Link", received)
        self.assertEqual(len(self.stage.asked), 1)

    def test_continue(self) -> None:
        """100 is for the hop that asked for it."""
        received = self.ask(b"HTTP/1.1 100 Continue\r\n\r\n" + response(b"page"))
        self.assertTrue(received.startswith(b"HTTP/1.1 200 OK\r\n"))

    def test_old_clients(self) -> None:
        """HTTP/1.0 knows no interim answers."""
        received = self.ask(EARLY + response(b"page"), GET.replace(b"1.1", b"1.0"))
        self.assertTrue(received.startswith(b"HTTP/1.1 200 OK\r\n"))

    def test_without_end(self) -> None:
        """An origin that only ever promises is broken."""
        received = self.ask(EARLY * 100 + response(b"page"))
        self.assertEqual(received.count(b" 103 "), 16)
        self.assertIn(b"HTTP/1.1 502 ", received)
        self.assertTrue(self.stage.asked[0].line.lost)


class TrailerTests(SynchronousTestCase):
    """Fields after a body are checked, and end here."""

    def test_of_answers(self) -> None:
        """A client gets the body whole, without what came after it."""
        answer = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n"
            b"4\r\npage\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\n\r\n"
        )
        stage = Stage(self, lambda asked: answer)
        got = stage.get("/a")
        self.assertEqual(got.body, b"page")
        self.assertIsNone(got.fields["X-Sum"])
        self.assertIsNone(got.fields["Trailer"])
        self.assertEqual(stage.get("/b").body, b"page")
        self.assertIs(stage.asked[0].line, stage.asked[1].line)

    def test_of_requests(self) -> None:
        """An origin gets no field that came after a body as if it were a header."""
        stage = Stage(self, lambda asked: response(b"thanks"))
        client = stage.client()
        client.send(
            b"PUT /a HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n"
            b"Trailer: X-Admin\r\n\r\n4\r\nbody\r\n0\r\nX-Admin: 1\r\n\r\n"
        )
        stage.turn()
        (asked,) = stage.asked
        self.assertEqual(asked.body, b"body")
        self.assertIsNone(asked.field("X-Admin"))
        self.assertIsNone(asked.field("Trailer"))


class OldClientTests(SynchronousTestCase):
    """Clients of HTTP/1.0."""

    def test_kept_alive(self) -> None:
        """One that asks for it keeps its connection, when the length is known."""
        stage = Stage(self, lambda asked: response(b"page"))
        client = stage.client()
        for _ in range(2):
            client.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            stage.turn()
        answers = client.answers()
        self.assertEqual([each.body for each in answers], [b"page"] * 2)
        self.assertEqual(answers[0].fields["Connection"], "keep-alive")
        self.assertEqual(stage.asked[0].field("Host"), "localhost")
        self.assertEqual(stage.asked[0].field("Via"), "1.0 clinfra")

    def test_not_kept_alive(self) -> None:
        """Others are told by the end of the connection, as they were in 1996."""
        stage = Stage(self, lambda asked: response(b"page"))
        client = stage.client()
        client.send(b"GET /a HTTP/1.0\r\n\r\n")
        stage.turn()
        self.assertEqual(client.answers()[0].fields["Connection"], "close")
        self.assertTrue(client.closed)

    def test_compressed_of_unknown_length(self) -> None:
        """What has no length ends with the connection, and is never chunked."""
        page = b"again " * 2000
        stage = Stage(self, lambda asked: response(page, "Content-Type: text/plain"))
        client = stage.client()
        client.send(
            b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n"
            b"Accept-Encoding: gzip\r\n\r\n"
        )
        stage.turn()
        self.assertNotIn(b"chunked", client.received)
        self.assertEqual(client.answers()[0].fields["Connection"], "close")
        self.assertTrue(client.closed)

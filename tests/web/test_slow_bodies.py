"""Clients that send a body as slowly as they dare, and those that just are slow."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import Bytes, Limits, Seconds
from clinfra.web.exchange import IExchange, Response
from tests.web.clients import Client, echo, make_site

HEAD = b"PUT / HTTP/1.1\r\nHost: h\r\n"
LIMITS = Limits(body_timeout=Seconds(60), body_rate=Bytes(100))


class SlowBodyTests(SynchronousTestCase):
    """Time by hand."""

    def dawdle(
        self, begin: bytes, piece: bytes, pause: int, limits: Limits = LIMITS
    ) -> tuple[list[int], int]:
        """Send pieces with pauses; return the answers' statuses, and after how long."""
        site, clock = make_site(echo, limits=limits)
        client = Client(site, clock)
        client.send(HEAD + begin)
        seconds = 0
        while seconds < 3600 and not client.received:
            clock.pump([1] * pause)
            seconds += pause
            if not client.received:
                client.send(piece)
        return [each.status for each in client.answers()], seconds

    def test_byte_by_byte(self) -> None:
        """A byte now and then buys no more time than it takes to send one."""
        length = b"Content-Length: 100000\r\n\r\n"
        chunked = b"Transfer-Encoding: chunked\r\n\r\n"
        for begin, piece in (
            (length, b"x"),
            (length, b"x" * 500),
            (chunked, b"1\r\nx\r\n"),
            (chunked + b"5;", b"x"),
            (chunked + b"0\r\nX: ", b"y"),
        ):
            statuses, seconds = self.dawdle(begin, piece, 25)
            self.assertEqual([408], statuses, (begin, piece))
            self.assertLess(seconds, 120, (begin, piece))

    def test_slow_but_steady(self) -> None:
        """Above the rate one may take as long as it takes."""
        begin = b"Content-Length: 60000\r\n\r\n"
        statuses, seconds = self.dawdle(begin, b"x" * 3000, 25)
        self.assertEqual(([200], 500), (statuses, seconds))

    def test_without_a_rate(self) -> None:
        """Any byte makes good for all silence, if so configured."""
        limits = Limits(body_timeout=Seconds(60), body_rate=Bytes(0))
        begin = b"Content-Length: 20\r\n\r\n"
        statuses, seconds = self.dawdle(begin, b"x", 50, limits)
        self.assertEqual(([200], 1000), (statuses, seconds))

    def test_our_own_slowness(self) -> None:
        """Time in which nobody here waits for the client is not held against it."""
        waiting: list[Deferred[None]] = []

        async def slowly(exchange: IExchange) -> Response:
            length = 0
            while piece := await exchange.body.read():
                length += len(piece)
                waiting.append(Deferred())
                await waiting[-1]
            return Response(200, (), b"%d" % length)

        site, clock = make_site(slowly, limits=LIMITS)
        client = Client(site, clock)
        client.send(HEAD + b"Content-Length: 20\r\n\r\n")
        for _ in range(20):
            client.send(b"x")
            clock.pump([1] * 50)
            waiting.pop().callback(None)
            clock.pump([1] * 2)

        self.assertEqual([b"20"], [each.body for each in client.answers()])

"""More clients than there may be, and those that are turned away."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.access_log import AccessLog
from clinfra.config import Bytes, Limits
from clinfra.web.exchange import IExchange, Response
from clinfra.web.site import Site
from tests.web.clients import Client, get, make_site


class Crowd:
    """A site for three connections; requests for /slow are answered when told."""

    def __init__(self, **more: Any) -> None:
        self.slow: Deferred[None] = Deferred()
        self.site: Site
        self.clock: Clock
        limits = Limits(connections=3, head_bytes=Bytes(2048))
        self.site, self.clock = make_site(self.respond, limits=limits, **more)

    async def respond(self, exchange: IExchange) -> Response:
        if exchange.head.target == b"/slow":
            await self.slow
        return Response(200, (), b"ok")

    def client(self, *requests: bytes) -> Client:
        """Return a new connection that sends these."""
        client = Client(self.site, self.clock)
        client.send(b"".join(requests))
        return client


class RoomTests(SynchronousTestCase):
    """Who goes when somebody comes."""

    def test_idle_longest(self) -> None:
        """The connection that has been idle for longest makes room."""
        crowd = Crowd()
        clients = []
        for _ in range(3):
            clients.append(crowd.client(get()))
            crowd.clock.advance(1)
        clients[0].send(get())
        newcomer = crowd.client(get())

        self.assertEqual([200], [each.status for each in newcomer.answers()])
        self.assertEqual([False, True, False], [client.closed for client in clients])
        self.assertEqual(1, crowd.site.report()["evicted"])

    def test_silent(self) -> None:
        """Connections that never say anything keep nobody out."""
        crowd = Crowd()
        for _ in range(20):
            crowd.client()
        self.assertEqual([200], [each.status for each in crowd.client(get()).answers()])
        self.assertLessEqual(len(crowd.site.channels), 3)

    def test_refused(self) -> None:
        """Nor do those that were refused and do not close."""
        crowd = Crowd()
        for _ in range(20):
            self.assertEqual(400, crowd.client(b"x\r\n\r\n").answers()[0].status)

    def test_all_at_once(self) -> None:
        """Also when many come before anybody has gone."""
        crowd = Crowd()
        newcomers = [Client(crowd.site, crowd.clock) for _ in range(30)]
        crowd.clock.advance(0)

        self.assertEqual(3, len(crowd.site.channels))
        self.assertEqual([], [each for each in newcomers if each.received])

    def test_busy(self) -> None:
        """Nobody goes who waits for an answer or is in a head; newcomers hear it."""
        crowd = Crowd()
        clients = [crowd.client(get(b"/slow")) for _ in range(2)]
        clients.append(crowd.client(get()[:-2]))
        newcomer = crowd.client(get())

        (answer,) = newcomer.answers()
        self.assertEqual((503, "1"), (answer.status, answer.fields["Retry-After"]))
        self.assertTrue(newcomer.saw_end)
        for _ in range(63):
            self.assertEqual(503, crowd.client().answers()[0].status)
        self.assertIs(None, crowd.site.buildProtocol(None))
        crowd.slow.callback(None)
        crowd.clock.advance(0)
        self.assertEqual(b"ok", clients[0].answers()[0].body)


class RefusalTests(SynchronousTestCase):
    """What is turned away can be seen by who runs this."""

    def test_counted_and_logged(self) -> None:
        """By status in the report, and with the reason in the access log."""
        lines: list[str] = []

        def write(line: str) -> None:
            lines.append(line.split(" ", 1)[1])

        crowd = Crowd(access_log=AccessLog(write, "proxy"))
        for sent in (
            b"GET / HTTP/1.1\r\n\r\n",
            b"nonsense\r\n\r\n",
            b"GET / HTTP/2.0\r\n\r\n",
        ):
            crowd.client(sent)
        dawdler = crowd.client(b"GET /")
        crowd.clock.pump([1] * 25)
        self.assertTrue(dawdler.saw_end)

        self.assertEqual({"400": 2, "408": 1, "505": 1}, crowd.site.report()["refused"])
        self.assertEqual(4, len(lines))
        self.assertRegex(lines[0], r"\Aproxy 192\.0\.2\.7 - - 400 24 0\.0ms refused=")
        self.assertIn("Host", lines[0])


class AheadTests(SynchronousTestCase):
    """What clients send ahead of their answers."""

    def test_no_more_than_a_head(self) -> None:
        """While an answer is made, no more than a head's length of it is kept."""
        crowd = Crowd()
        client = crowd.client(get(b"/slow"))
        client.send(
            b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 900000\r\n\r\n", 100
        )
        client.send(b"x" * 900_000, 1000)

        self.assertGreater(client.unsent, 890_000)
        crowd.slow.callback(None)
        client.turn()
        self.assertEqual(0, client.unsent)
        self.assertEqual([200, 200], [each.status for each in client.answers()])

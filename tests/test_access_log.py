"""One line per request, and its count."""

from __future__ import annotations

import json

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.access_log import AccessLog
from clinfra.config import Limits
from clinfra.tally import Tally
from clinfra.web.exchange import IExchange, Response
from clinfra.web.tracing import Tracing
from tests.web.clients import Client, make_site

WHEN = 1_795_325_396.25
STAMP = "2026-11-22T05:29:56"


class AccessLogTests(SynchronousTestCase):
    """One line per request, through a real site."""

    def lines(self, request: bytes, *, json_lines: bool = False) -> list[str]:
        """Return what is logged of a request."""
        lines: list[str] = []

        async def respond(exchange: IExchange) -> Response:
            exchange.notes["cache"] = "hit"
            exchange.notes["why"] = "a b\n"
            return Response(200, (), b"12345")

        access_log = AccessLog(
            lines.append, "proxy", json_lines=json_lines, clock=lambda: WHEN
        )
        site, clock = make_site(respond, access_log=access_log)
        Client(site, clock).send(request)
        return lines

    def test_text(self) -> None:
        """Time, service, client, method, host and target, status, bytes, ms, notes."""
        self.assertEqual(
            [
                f"{STAMP}Z proxy 192.0.2.7 GET example.com/a?b 200 5 0.0ms"
                " cache=hit why=a\\x20b\\x0a\n"
            ],
            self.lines(b"GET /a?b HTTP/1.1\r\nHost: example.com\r\n\r\n"),
        )

    def test_json(self) -> None:
        """The same as fields."""
        (line,) = self.lines(
            b"GET /a?token=b HTTP/1.1\r\nHost: example.com\r\n\r\n", json_lines=True
        )

        self.assertEqual(
            {
                "time": f"{STAMP}Z",
                "event": "request",
                "service": "proxy",
                "client": "192.0.2.7",
                "method": "GET",
                "host": "example.com",
                "target": "/a?token=***",
                "status": 200,
                "bytes": 5,
                "ms": 0.0,
                "cache": "hit",
                "why": "a b\n",
            },
            json.loads(line),
        )

    def test_each_request(self) -> None:
        """Every request of a connection has its line."""
        request = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"

        self.assertEqual(3, len(self.lines(request * 3)))


class RunTests(SynchronousTestCase):
    """Equal answers in a row, which are put into words once."""

    def setUp(self) -> None:
        self.lines: list[str] = []
        self.now = Clock()
        self.now.advance(WHEN)
        self.tally = Tally()
        self.size = 5
        self.cache = "hit"
        access_log = AccessLog(
            self.lines.append, "proxy", clock=self.now.seconds, tally=self.tally
        )
        self.site, self.clock = make_site(self.respond, access_log=access_log)

    async def respond(self, exchange: IExchange) -> Response:
        exchange.notes["cache"] = self.cache
        return Response(200, (), b"x" * self.size)

    def ask(self, times: int = 1, target: bytes = b"/a") -> None:
        Client(self.site, self.clock).send(
            (b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target) * times
        )

    def words(self, place: int) -> list[str]:
        return [line.split()[place] for line in self.lines]

    def test_all_have_lines(self) -> None:
        """Each has its line, and each is counted."""
        self.ask(times=5)

        self.assertEqual(5, len(self.lines))
        self.assertEqual(1, len(set(self.lines)))
        report = self.tally.report()
        self.assertEqual(5, report["requests"]["2xx"])
        self.assertEqual(25, report["body_bytes"])
        self.assertEqual(5, sum(report["took"]["hit"]["buckets"].values()))

    def test_counted_once(self) -> None:
        """Asking for the counts twice counts nothing twice."""
        self.ask(times=3)

        self.assertEqual(self.tally.report(), self.tally.report())

    def test_the_next_second(self) -> None:
        """The line of a second is not that of the next."""
        self.ask()
        self.now.advance(1)
        self.ask()

        self.assertEqual([f"{STAMP}Z", STAMP[:-2] + "57Z"], self.words(0))
        self.assertEqual(2, self.tally.report()["requests"]["2xx"])

    def test_the_clock_goes_back(self) -> None:
        """A clock that is set back changes the stamp at once."""
        self.ask()
        self.now.advance(-3600)
        self.ask()

        self.assertEqual([f"{STAMP}Z", "2026-11-22T04:29:56Z"], self.words(0))

    def test_other_answers(self) -> None:
        """Another size or another note is another line."""
        self.ask(times=2)
        self.size = 6
        self.ask()
        self.cache = "miss"
        self.ask(times=2)

        self.assertEqual(["5", "5", "6", "6", "6"], self.words(6))
        self.assertEqual(["cache=hit"] * 3 + ["cache=miss"] * 2, self.words(8))
        took = self.tally.report()["took"]
        self.assertEqual(3, sum(took["hit"]["buckets"].values()))
        self.assertEqual(2, sum(took["miss"]["buckets"].values()))

    def test_other_clients(self) -> None:
        """Everybody is logged under an address of their own."""
        self.ask()
        Client(self.site, self.clock, address="192.0.2.8").send(
            b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"
        )

        self.assertEqual(["192.0.2.7", "192.0.2.8"], self.words(2))

    def test_many_heads(self) -> None:
        """However many heads there are, each is logged and counted."""
        for number in range(1100):
            self.ask(target=b"/%d" % number)
        self.site.limits = Limits()
        self.ask(target=b"/" + b"x" * 2500)

        self.assertEqual(1101, len(set(self.words(4))))
        self.assertEqual(1101, self.tally.report()["requests"]["2xx"])


class TraceTests(SynchronousTestCase):
    """Requests with ids."""

    def line(self, *fields: bytes, json_lines: bool = False) -> str:
        lines: list[str] = []

        async def respond(exchange: IExchange) -> Response:
            return Response(200, (), b"")

        access_log = AccessLog(
            lines.append, "proxy", json_lines=json_lines, clock=lambda: WHEN
        )
        site, clock = make_site(respond, access_log=access_log)
        site.tracing = Tracing.of(["192.0.2.0/24"])
        request = b"".join(field + b"\r\n" for field in fields)
        Client(site, clock).send(b"GET /a HTTP/1.1\r\nHost: h\r\n%b\r\n" % request)
        (line,) = lines
        return line

    def test_text(self) -> None:
        """The trace's id is there, and the request's if that is another."""
        trace = b"0af7651916cd43dd8448eb211c80319c"
        line = self.line(
            b"traceparent: 00-%b-b7ad6b7169203331-01" % trace, b"X-Request-Id: r 1"
        )
        other = self.line(
            b"traceparent: 00-%b-b7ad6b7169203331-01" % trace, b"X-Request-Id: r1"
        )

        self.assertTrue(line.endswith(f"0.0ms trace={trace.decode()}\n"), line)
        self.assertTrue(other.endswith(f"trace={trace.decode()} id=r1\n"), other)

    def test_json(self) -> None:
        """In JSON both are always there."""
        told = json.loads(self.line(b'X-Request-Id: r"1', json_lines=True))

        self.assertEqual('r"1', told["request_id"])
        self.assertEqual(32, len(told["trace_id"]))

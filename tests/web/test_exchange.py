"""One exam for both kinds of exchange: our own channel's, and a stock Site's."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import server
from zope.interface.verify import verifyObject

from clinfra.errors import ClientGone
from clinfra.web.exchange import FileBody, IBody, IExchange, Response
from tests.web.clients import Answer, Client, Handled, echo, get, make_site

Respond = Callable[[IExchange], Any]


class ExchangeContract:
    """What every IExchange promises; mixed into a test case with `open`."""

    def open(self, respond: Respond) -> Client:
        """Return a client of a site with one resource."""
        raise NotImplementedError

    def ask(self: Any, respond: Respond, request: bytes = get()) -> Answer:
        """Send one request, return the one answer."""
        self.client = self.open(respond)
        self.client.send(request)
        (answer,) = self.client.answers(request.split()[0].decode())
        return answer  # type: ignore[no-any-return] # self is Any

    def test_provides(self: Any) -> None:
        """It provides the interface."""
        exchanges = []

        async def respond(exchange: IExchange) -> Response:
            exchanges.append(exchange)
            return Response(200)

        self.ask(respond)
        self.assertTrue(verifyObject(IExchange, exchanges[0]))
        self.assertTrue(verifyObject(IBody, exchanges[0].body))

    def test_who_asks(self: Any) -> None:
        """It knows the head, and both ends of the connection."""
        seen: list[Any] = []

        async def respond(exchange: IExchange) -> Response:
            head = exchange.head
            seen.extend((head.method, head.target, head.path, head.query, head.host))
            seen.extend((head.http11, head.get(b"x"), head.content_length))
            seen.extend((exchange.client_ip, exchange.local_port, exchange.secure))
            exchange.notes["cache"] = "hit"
            return Response(200)

        self.ask(respond, get(b"/a%20b?c=d", b"X: one", b"X: two"))
        self.assertEqual([b"GET", b"/a%20b?c=d", b"/a%20b", b"c=d"], seen[:4])
        self.assertEqual([b"example.com", True, b"one, two", 0], seen[4:8])
        self.assertEqual(["192.0.2.7", 8080, False], seen[8:])

    def test_respond(self: Any) -> None:
        """An answer at once has its length, a date and what was given."""
        fields = ((b"X-A", b"1"), (b"X-A", b"2"), (b"Content-Type", b"x/y"))

        async def respond(exchange: IExchange) -> None:
            exchange.respond(203, fields, b"body")
            self.assertEqual((203, 4, True), done(exchange))

        answer = self.ask(respond)
        self.assertEqual((203, b"body"), (answer.status, answer.body))
        self.assertEqual(["1", "2"], answer.fields.get_all("X-A"))
        self.assertEqual("4", answer.fields["Content-Length"])
        self.assertEqual("x/y", answer.fields["Content-Type"])
        self.assertEqual(1, len(answer.fields.get_all("Date")))
        self.assertNotIn("Connection", answer.fields)

    def test_no_type_of_our_own(self: Any) -> None:
        """No Content-Type is made up."""
        answer = self.ask(ok)

        self.assertNotIn("Content-Type", answer.fields)

    def test_own_date(self: Any) -> None:
        """Date and Server can be given, as a proxy does."""
        fields = ((b"date", b"Sun, 06 Nov 1994 08:49:37 GMT"), (b"server", b"origin"))

        async def respond(exchange: IExchange) -> Response:
            return Response(200, fields, b"")

        answer = self.ask(respond)
        self.assertEqual([fields[0][1].decode()], answer.fields.get_all("Date"))
        self.assertEqual(["origin"], answer.fields.get_all("Server"))

    def test_head(self: Any) -> None:
        """HEAD gets what GET would, without the body."""
        request = get().replace(b"GET", b"HEAD")
        answer = self.ask(ok, request)
        self.assertEqual((200, b""), (answer.status, answer.body))
        self.assertEqual("2", answer.fields["Content-Length"])
        self.assertTrue(bytes(self.client.received).endswith(b"\r\n\r\n"))

    def test_bodiless(self: Any) -> None:
        """204 and 304 have no body and no length, whatever is given."""
        for status in (204, 304):

            async def respond(exchange: IExchange, status: int = status) -> Response:
                return Response(status, (), b"nothing of this")

            answer = self.ask(respond)
            self.assertEqual((status, b""), (answer.status, answer.body))
            self.assertNotIn("Content-Length", answer.fields)
            self.assertTrue(bytes(self.client.received).endswith(b"\r\n\r\n"))

    def test_splitting(self: Any) -> None:
        """CR, LF and NUL in fields never reach the wire: that is a bug, and a 500."""
        for name, value in ((b"X", b"a\r\nY: b"), (b"X\nY", b""), (b"X", b"a\0")):

            async def respond(
                exchange: IExchange, field: tuple[bytes, bytes] = (name, value)
            ) -> Response:
                return Response(200, (field,), b"")

            answer = self.ask(respond)
            self.assertEqual(500, answer.status)
            self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_framing_is_ours(self: Any) -> None:
        """Fields that say where the message ends are refused from its maker."""
        for name in (b"content-length", b"Transfer-Encoding", b"Connection"):

            async def respond(exchange: IExchange, name: bytes = name) -> Response:
                return Response(200, ((name, b"7"),), b"")

            self.assertEqual(500, self.ask(respond).status)
            self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_send(self: Any) -> None:
        """A message made before goes out as it is; HEAD gets no body of it."""
        message = (
            b"HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
            b"Content-Length: 4\r\n\r\nbody"
        )

        async def respond(exchange: IExchange) -> None:
            exchange.send(message, 200, 4)

        answer = self.ask(respond)
        self.assertEqual((200, b"body"), (answer.status, answer.body))
        self.assertIn("1994", answer.fields["Date"])
        answer = self.ask(respond, get().replace(b"GET", b"HEAD"))
        self.assertEqual("4", answer.fields["Content-Length"])
        self.assertTrue(bytes(self.client.received).endswith(b"\r\n\r\n"))
        answer = self.ask(respond, get(b"/", b"Connection: close"))
        self.assertEqual("close", answer.fields["Connection"])
        self.assertTrue(self.client.closed)

    def test_stream(self: Any) -> None:
        """An answer in pieces, of a length announced or not."""
        for length in (None, 6):

            async def respond(exchange: IExchange, length: int | None = length) -> None:
                exchange.start(200, (), length)
                exchange.write(b"abc")
                exchange.write(b"")
                await exchange.drained()
                exchange.write(b"def")
                exchange.finish()
                self.assertEqual((200, 6, True), done(exchange))

            answer = self.ask(respond)
            self.assertEqual(b"abcdef", answer.body)
            self.assertEqual(length is None, "Transfer-Encoding" in answer.fields)

    def test_stream_to_head(self: Any) -> None:
        """HEAD gets the head of a stream."""

        async def respond(exchange: IExchange) -> None:
            exchange.start(200, (), 6)
            exchange.write(b"abcdef")
            exchange.finish()

        answer = self.ask(respond, get().replace(b"GET", b"HEAD"))
        self.assertEqual("6", answer.fields["Content-Length"])
        self.assertTrue(bytes(self.client.received).endswith(b"\r\n\r\n"))

    def test_short(self: Any) -> None:
        """An answer shorter than announced is cut, never complete."""

        async def respond(exchange: IExchange) -> None:
            exchange.start(200, (), 6)
            exchange.write(b"abc")
            exchange.finish()

        client = self.open(respond)
        client.send(get())
        self.assertTrue(client.transport.aborted)

    def test_long(self: Any) -> None:
        """One that is longer is a bug, and cut as well."""

        async def respond(exchange: IExchange) -> None:
            exchange.start(200, (), 2)
            exchange.write(b"abc")

        client = self.open(respond)
        client.send(get())
        self.assertTrue(client.transport.aborted)
        self.assertNotIn(b"abc", bytes(client.received))
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))

    def test_twice(self: Any) -> None:
        """A second answer is a bug."""

        async def respond(exchange: IExchange) -> None:
            exchange.start(200, (), 2)
            with self.assertRaises(RuntimeError):
                exchange.start(200, (), 2)
            with self.assertRaises(RuntimeError):
                exchange.respond(200)
            exchange.write(b"ab")
            exchange.finish()
            exchange.finish()
            exchange.respond(200)

        self.assertEqual(b"ab", self.ask(respond).body)

    def test_write_first(self: Any) -> None:
        """A body without a head is a bug."""

        async def respond(exchange: IExchange) -> Response:
            with self.assertRaises(RuntimeError):
                exchange.write(b"a")
            with self.assertRaises(RuntimeError):
                exchange.finish()
            return Response(200)

        self.assertEqual(200, self.ask(respond).status)

    def test_done(self: Any) -> None:
        """The end is told once, and at once when it is past."""
        told: list[bool] = []

        async def respond(exchange: IExchange) -> None:
            exchange.on_done(told.append)
            exchange.on_done(told.append)
            exchange.respond(200)
            self.assertEqual([True, True], told)
            exchange.on_done(told.append)

        self.ask(respond)
        self.client.hang_up()
        self.assertEqual([True, True, True], told)

    def test_gone(self: Any) -> None:
        """After the client has gone nothing can be sent, and waiting says so."""
        told: list[bool] = []
        exchanges = []

        async def respond(exchange: IExchange) -> None:
            exchange.on_done(told.append)
            exchanges.append(exchange)
            exchange.start(200, (), None)
            await Deferred()

        client = self.open(respond)
        client.send(get())
        client.hang_up()
        (exchange,) = exchanges
        self.assertEqual(([False], True), (told, exchange.finished))
        exchange.write(b"into the void")
        exchange.finish()
        exchange.abort()
        waiting = Deferred.fromCoroutine(exchange.drained())
        self.failureResultOf(waiting, ClientGone)

    def test_slow_reader(self: Any) -> None:
        """Writing waits for the client, and goes on when it reads."""
        written: list[int] = []

        async def respond(exchange: IExchange) -> None:
            exchange.start(200, (), None)
            for number in range(100):
                exchange.write(b"a" * 10_000)
                await exchange.drained()
                written.append(number)
            exchange.finish()

        client = self.open(respond)
        client.reading = False
        client.send(get())
        self.assertLess(len(written), 12)
        client.take()
        self.assertEqual(100, len(written))
        self.assertEqual(1_000_000, len(client.answers()[0].body))

    def test_push_producer(self: Any) -> None:
        """A push producer is paused and resumed."""
        events: list[str] = []

        class Producer:
            def pauseProducing(self) -> None:
                events.append("pause")

            def resumeProducing(self) -> None:
                events.append("resume")

            def stopProducing(self) -> None:
                events.append("stop")

        async def respond(exchange: IExchange) -> None:
            exchange.start(200, (), None)
            exchange.registerProducer(Producer(), True)
            exchange.write(b"a" * 200_000)
            await Deferred()

        client = self.open(respond)
        client.reading = False
        client.send(get())
        self.assertEqual(["pause"], events)
        client.take()
        self.assertEqual(["pause", "resume"], events)
        client.hang_up()
        self.assertEqual(["pause", "resume", "stop"], events)

    def test_file(self: Any) -> None:
        """A piece of a file, small or large, is sent and closed."""
        path = self.mktemp()
        data = os.urandom(1_000_000)
        with open(path, "wb") as file:
            file.write(data)
        for offset, length in ((10, 20), (1000, 900_000)):
            closed: list[int] = []

            async def respond(
                exchange: IExchange,
                offset: int = offset,
                length: int = length,
                closed: list[int] = closed,
            ) -> Response:
                fd = os.open(path, os.O_RDONLY)

                def close() -> None:
                    os.close(fd)
                    closed.append(fd)

                return Response(200, (), FileBody(fd, offset, length, close))

            answer = self.ask(respond)
            self.assertEqual(data[offset : offset + length], answer.body)
            self.assertEqual(1, len(closed))
            answer = self.ask(respond, get().replace(b"GET", b"HEAD"))
            self.assertEqual(str(length), answer.fields["Content-Length"])
            self.assertEqual(2, len(closed))

    def test_truncated_file(self: Any) -> None:
        """A file shorter than was said cuts the connection."""
        path = self.mktemp()
        with open(path, "wb") as file:
            file.write(b"a" * 100_000)

        async def respond(exchange: IExchange) -> Response:
            fd = os.open(path, os.O_RDONLY)
            return Response(200, (), FileBody(fd, 0, 200_000, lambda: os.close(fd)))

        client = self.open(respond)
        client.send(get())
        self.assertTrue(client.transport.aborted)
        self.assertEqual(1, len(self.flushLoggedErrors(EOFError)))

    def test_pieces(self: Any) -> None:
        """Pieces as they come; a generator is closed when the client is gone."""
        closed: list[bool] = []

        async def pieces(count: int) -> AsyncIterator[bytes]:
            try:
                for _ in range(count):
                    yield b"piece"
                if count > 3:
                    await Deferred()
            finally:
                closed.append(True)

        async def respond(exchange: IExchange) -> Response:
            return Response(200, (), pieces(int(exchange.head.query)))

        self.assertEqual(b"piece" * 3, self.ask(respond, get(b"/?3")).body)
        self.assertEqual([True], closed)
        client = self.open(respond)
        client.send(get(b"/?4"))
        client.hang_up()
        self.assertEqual([True, True], closed)

    def test_body(self: Any) -> None:
        """Bodies with a length and in chunks are read to their end."""
        body = os.urandom(200_000)
        head = b"PUT / HTTP/1.1\r\nHost: h\r\n"
        length = b"Content-Length: %d\r\n\r\n" % len(body)
        answer = self.ask(echo, head + length + body)
        self.assertTrue(answer.body.endswith(b" 200000 " + body))
        chunked = b"Transfer-Encoding: chunked\r\n\r\n"
        chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
        answer = self.ask(echo, head + chunked + chunk)
        self.assertTrue(answer.body.endswith(b" 200000 " + body))


class OurExchangeTests(ExchangeContract, SynchronousTestCase):
    """The exchanges of our own channel."""

    def open(self, respond: Respond) -> Client:
        return Client(*make_site(respond))


class StockExchangeTests(ExchangeContract, SynchronousTestCase):
    """Those over the Requests of a stock Site."""

    def open(self, respond: Respond) -> Client:
        clock = Clock()
        site = server.Site(Handled(respond), reactor=clock)
        return Client(site, clock)


async def ok(exchange: IExchange) -> Response:
    """Answer "ok"."""
    return Response(200, (), b"ok")


def done(exchange: Any) -> tuple[int, int, bool]:
    """Return what the access log wants to know."""
    return exchange.status, exchange.bytes_out, exchange.finished

"""Coroutine resources: what becomes of returned values, troubles and bugs."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource as OrdinaryResource

from clinfra import errors
from clinfra.web.exchange import IExchange, Response
from clinfra.web.resource import STATUS_OF, _go_on, answer, write_response
from tests.web.clients import Answer, Client, Handled, get, make_site


class TroubleTests(SynchronousTestCase):
    """Errors of the domain."""

    def ask(self, trouble: BaseException, *, wait: bool = False) -> Answer:
        """Ask a resource that raises, at once or after a while."""
        go: Deferred[None] = Deferred()

        async def respond(exchange: IExchange) -> Response:
            if wait:
                await go
            raise trouble

        client = Client(*make_site(respond))
        client.send(get())
        go.callback(None)
        (response,) = client.answers()
        return response

    def test_table(self) -> None:
        """Each has its status, and its sentence as plain text."""
        for kind, status in STATUS_OF.items():
            trouble = (
                errors.MethodNotAllowed(["GET", "HEAD"])
                if kind is errors.MethodNotAllowed
                else kind("This is why.")
            )
            for wait in (False, True):
                response = self.ask(trouble, wait=wait)
                self.assertEqual(status, response.status)
                self.assertEqual(f"{trouble.sentence}\n".encode(), response.body)
                kind_of_text = response.fields["Content-Type"]
                self.assertEqual("text/plain; charset=utf-8", kind_of_text)

    def test_every_trouble_has_a_status(self) -> None:
        """None is forgotten in the table."""
        for kind in errors.Trouble.__subclasses__():
            self.assertIn(kind, STATUS_OF)

    def test_allow(self) -> None:
        """405 says what is allowed."""
        response = self.ask(errors.MethodNotAllowed(["GET", "PUT"]))

        self.assertEqual("GET, PUT", response.fields["Allow"])

    def test_retry_after(self) -> None:
        """503 says when to come again."""
        response = self.ask(errors.Overloaded("Busy.", 7))

        self.assertEqual("7", response.fields["Retry-After"])

    def test_subclass(self) -> None:
        """A product's own kind of trouble is told like its base."""

        class NoSuchPool(errors.NotFound):
            pass

        self.assertEqual(404, self.ask(NoSuchPool("No such pool.")).status)

    def test_bug(self) -> None:
        """Anything else is logged, and its text is not shown."""
        for wait in (False, True):
            response = self.ask(LookupError("secret"), wait=wait)
            self.assertEqual(500, response.status)
            self.assertNotIn(b"secret", response.body)
            self.assertEqual(1, len(self.flushLoggedErrors(LookupError)))

    def test_after_the_head(self) -> None:
        """Trouble inside an answer cuts the connection."""

        async def pieces() -> AsyncIterator[bytes]:
            yield b"some"
            raise errors.OriginFailed("The origin hung up.")

        async def respond(exchange: IExchange) -> Response:
            return Response(200, (), pieces())

        client = Client(*make_site(respond))
        client.send(get() + get())

        self.assertTrue(client.transport.aborted)
        self.assertFalse(bytes(client.received).endswith(b"0\r\n\r\n"))

    def test_thrown_away(self) -> None:
        """An answer that is given up in the middle of a piece ends what makes it."""
        ended: list[str] = []

        async def pieces() -> AsyncIterator[bytes]:
            try:
                yield b"some"
                await Deferred()
            finally:
                ended.append("generator")

        async def respond(exchange: IExchange) -> None:
            writing = write_response(exchange, Response(200, (), pieces()))
            writing.send(None)
            writing.close()
            ended.append("answer")

        client = Client(*make_site(respond))
        client.send(get())

        gc.collect()
        self.assertEqual({"answer", "generator"}, set(ended))
        self.assertEqual([], self.flushLoggedErrors())

    def test_collected_in_any_order(self) -> None:
        """A request that is thrown away whole may lose its handler first."""

        async def respond() -> None:
            await Deferred()

        running = respond()
        waiting = _go_on(running, running.send(None))
        waiting.send(None)
        running.close()
        waiting.close()

    def test_nothing_returned(self) -> None:
        """None means that the exchange has been answered, now or later."""
        later: list[IExchange] = []

        async def respond(exchange: IExchange) -> None:
            later.append(exchange)

        client = Client(*make_site(respond))
        client.send(get())
        self.assertEqual(b"", bytes(client.received))
        later[0].respond(200, (), b"here")

        self.assertEqual([b"here"], [each.body for each in client.answers()])


class LaneTests(SynchronousTestCase):
    """The fast lane."""

    def test_takes_and_declines(self) -> None:
        """What it takes is not asked of the resources, the rest is."""

        def lane(exchange: IExchange) -> bool:
            if exchange.head.target == b"/fast":
                exchange.respond(200, (), b"fast")
                return True
            return False

        async def respond(exchange: IExchange) -> Response:
            return Response(200, (), b"slow")

        client = Client(*make_site(respond, lane=lane))
        client.send(get(b"/fast") + get(b"/slow") + get(b"/fast"))

        bodies = [each.body for each in client.answers()]
        self.assertEqual([b"fast", b"slow", b"fast"], bodies)

    def test_may_wait(self) -> None:
        """It may take a request and answer with a coroutine."""
        go: Deferred[None] = Deferred()

        async def respond(exchange: IExchange) -> Response:
            await go
            raise errors.NotFound("Not here.")

        def lane(exchange: IExchange) -> bool:
            answer(exchange, respond)
            return True

        client = Client(*make_site(lane=lane))
        client.send(get())
        go.callback(None)

        self.assertEqual([404], [each.status for each in client.answers()])

    def test_bug(self) -> None:
        """A lane that raises is logged, and the request answered 500."""

        def lane(exchange: IExchange) -> bool:
            raise LookupError

        client = Client(*make_site(lane=lane))
        client.send(get() + get())

        self.assertEqual([500, 500], [each.status for each in client.answers()])
        self.assertEqual(2, len(self.flushLoggedErrors(LookupError)))


class TreeTests(SynchronousTestCase):
    """Our resources among ordinary ones."""

    def test_body_is_streamed(self) -> None:
        """Below an ordinary resource, ours still reads its body as it comes."""
        pieces: list[bytes] = []

        async def respond(exchange: IExchange) -> Response:
            while piece := await exchange.body.read():
                pieces.append(piece)
            return Response(201)

        root = OrdinaryResource()
        root.putChild(b"up", Handled(respond))
        client = Client(*make_site(resource=root))
        client.send(b"PUT /up HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nabc")
        self.assertEqual([b"abc"], pieces)
        client.send(b"def")

        self.assertEqual([201], [each.status for each in client.answers()])

    def test_missing(self) -> None:
        """What is not there is the ordinary 404."""
        client = Client(*make_site(resource=OrdinaryResource()))
        client.send(get(b"/nothing"))
        self.flushWarnings()  # twisted.web's own page is deprecated

        self.assertEqual([404], [each.status for each in client.answers()])


class SiteTests(SynchronousTestCase):
    """What connections share."""

    def test_access_log(self) -> None:
        """It is told of each request once, with its time; its bugs harm nobody."""
        lines: list[tuple[bytes, int, int, float]] = []

        def access_log(exchange: IExchange, seconds: float) -> None:
            lines.append(
                (exchange.head.target, exchange.status, exchange.bytes_out, seconds)
            )
            raise LookupError

        go: Deferred[None] = Deferred()

        async def respond(exchange: IExchange) -> Response:
            await go
            return Response(200, (), b"ok")

        site, clock = make_site(respond, access_log=access_log)
        client = Client(site, clock)
        client.send(get(b"/a"))
        clock.advance(3)
        go.callback(None)
        client.send(get(b"/b"))

        self.assertEqual([(b"/a", 200, 2, 3.0), (b"/b", 200, 2, 0.0)], lines)
        self.assertEqual(2, client.received.count(b"200 OK"))
        self.assertEqual(2, len(self.flushLoggedErrors(LookupError)))

    def test_date(self) -> None:
        """The Date field follows the clock."""
        clock = Clock()
        clock.advance(1_700_000_000)
        site, _ = make_site(clock=clock)
        client = Client(site, clock)
        client.send(get())
        clock.advance(2)
        client.send(get())

        dates = [each.fields["Date"] for each in client.answers()]
        self.assertEqual("Tue, 14 Nov 2023 22:13:20 GMT", dates[0])
        self.assertEqual("Tue, 14 Nov 2023 22:13:22 GMT", dates[1])

    def test_graceful_stop(self) -> None:
        """Idle connections close, answers under way are finished, then it is over."""
        go: Deferred[None] = Deferred()

        async def respond(exchange: IExchange) -> Response:
            await go
            return Response(200, (), b"ok")

        site, clock = make_site(respond)
        idle = Client(site, clock)
        busy = Client(site, clock)
        busy.send(get())
        site.stop_accepting()
        drained = site.drained(10)
        clock.advance(0)
        self.assertTrue(idle.closed)
        self.assertFalse(busy.closed)
        go.callback(None)
        clock.advance(0)

        (response,) = busy.answers()
        self.assertEqual(
            (200, "close"), (response.status, response.fields["Connection"])
        )
        self.successResultOf(drained)
        self.assertEqual([], clock.getDelayedCalls())

    def test_stop_is_bounded(self) -> None:
        """Whoever takes longer than allowed is cut."""

        async def respond(exchange: IExchange) -> Response:
            await Deferred()
            raise AssertionError

        site, clock = make_site(respond)
        client = Client(site, clock)
        client.send(get())
        site.stop_accepting()
        drained = site.drained(10)
        clock.pump([1] * 12)

        self.assertTrue(client.closed)
        self.successResultOf(drained)

    def test_no_timers(self) -> None:
        """A site that nobody is connected to keeps no timer running."""
        site, clock = make_site()
        self.assertEqual([], clock.getDelayedCalls())
        client = Client(site, clock)
        self.assertEqual(1, len(clock.getDelayedCalls()))
        client.hang_up()

        self.assertEqual([], clock.getDelayedCalls())

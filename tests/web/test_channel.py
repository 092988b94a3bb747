"""A connection's life: order, keep-alive, refusals, slow and gone clients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import Bytes, Limits, Seconds
from clinfra.errors import ClientGone, Forbidden
from clinfra.web.exchange import IExchange, Response
from clinfra.web.site import Site
from tests.web.clients import FULL, Client, echo, get, ignore, make_site

PUT = b"PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n%b\r\n"


def put(length: int, *fields: bytes) -> bytes:
    """Return the head of a PUT."""
    return PUT % (length, b"".join(field + b"\r\n" for field in fields))


class Later:
    """Answers some requests only when told to."""

    def __init__(self) -> None:
        self.waiting: dict[bytes, Deferred[None]] = {}
        self.trouble: list[BaseException] = []
        self.done: list[bool] = []

    async def respond(self, exchange: IExchange) -> Response:
        exchange.on_done(self.done.append)
        target = exchange.head.target
        if target.startswith(b"/later"):
            self.waiting[target] = Deferred()
            try:
                await self.waiting[target]
            except BaseException as trouble:
                self.trouble.append(trouble)
                raise
        return Response(200, (), target)

    def release(self, target: bytes) -> None:
        self.waiting.pop(target).callback(None)


class OrderTests(SynchronousTestCase):
    """Requests sent ahead."""

    def setUp(self) -> None:
        self.later = Later()
        self.site, self.clock = make_site(self.later.respond)
        self.client = Client(self.site, self.clock)

    def bodies(self) -> list[bytes]:
        return [answer.body for answer in self.client.answers()]

    def test_in_order(self) -> None:
        """Answers come in the order of the requests, whichever have to wait."""
        targets = [b"/a", b"/later1", b"/b", b"/c", b"/later2", b"/d"]
        self.client.send(b"".join(map(get, targets)))
        self.assertEqual(targets[:1], self.bodies())
        self.later.release(b"/later1")
        self.assertEqual(targets[:4], self.bodies())
        self.later.release(b"/later2")

        self.assertEqual(targets, self.bodies())

    def test_many(self) -> None:
        """Thousands in one segment are no recursion."""
        self.client.send(get(b"/x") * 5000, piece=1 << 20)

        self.assertEqual(5000, self.client.received.count(b"200 OK"))

    def test_many_after_a_wait(self) -> None:
        """Nor are they when the first made them wait; and all are answered."""
        self.client.send(get(b"/later") + get(b"/x") * 2000)
        self.assertEqual(b"", bytes(self.client.received))
        self.later.release(b"/later")
        self.client.turn()

        self.assertEqual(2001, self.client.received.count(b"200 OK"))

    def test_bounded(self) -> None:
        """Above the depth nothing more is read from the socket."""
        self.client.send(get(b"/later"))
        self.client.send(get(b"/x") * 1000, piece=100)

        self.assertGreater(self.client.unsent, 30_000)
        self.later.release(b"/later")
        self.client.turn()
        self.assertEqual(0, self.client.unsent)
        self.assertEqual(1001, self.client.received.count(b"200 OK"))

    def test_close_ends_it(self) -> None:
        """What was sent after `Connection: close` is not answered."""
        self.client.send(get(b"/a", b"Connection: close") + get(b"/b"))

        self.assertEqual([b"/a"], self.bodies())
        self.assertTrue(self.client.saw_end)


class PersistenceTests(SynchronousTestCase):
    """When a connection goes on, and when not."""

    def client(self, respond: Callable[[IExchange], Any] = echo) -> Client:
        return Client(*make_site(respond))

    def test_http10(self) -> None:
        """HTTP/1.0 closes after its answer."""
        client = self.client()
        client.send(get(version=b"1.0"))

        (answer,) = client.answers()
        self.assertEqual("close", answer.fields["Connection"])
        self.assertTrue(client.closed)

    def test_http10_keep_alive(self) -> None:
        """Unless it asks not to."""
        client = self.client()
        client.send(get(b"/", b"Connection: keep-alive", version=b"1.0"))

        (answer,) = client.answers()
        self.assertEqual("keep-alive", answer.fields["Connection"])
        self.assertFalse(client.saw_end)

    def test_http10_without_length(self) -> None:
        """An answer of unknown length ends with the connection."""

        async def respond(exchange: IExchange) -> None:
            exchange.start(200, (), None)
            exchange.write(b"all of it")
            exchange.finish()

        client = self.client(respond)
        client.send(get(b"/", b"Connection: keep-alive", version=b"1.0"))

        (answer,) = client.answers()
        self.assertNotIn("Transfer-Encoding", answer.fields)
        self.assertEqual(b"all of it", answer.body)
        self.assertTrue(client.closed)

    def test_small_unread_body(self) -> None:
        """A small body nobody wants is dropped, and the connection goes on."""
        client = self.client(ignore)
        client.send(put(60000))
        self.assertEqual([200], [each.status for each in client.answers()])
        client.send(b"GET / " * 10000 + get())

        self.assertEqual([200, 200], [each.status for each in client.answers()])
        self.assertFalse(client.saw_end)

    def test_large_unread_body(self) -> None:
        """A large one is not worth it: the answer says close, and then it is closed."""
        client = self.client(ignore)
        client.send(put(900_000) + b"a" * 1000)

        (answer,) = client.answers()
        self.assertEqual("close", answer.fields["Connection"])
        self.assertTrue(client.saw_end)
        self.assertFalse(client.closed)  # the client can read the answer first
        client.send(b"a" * 100_000)
        self.assertFalse(client.closed)
        client.channel.readConnectionLost()
        client.clock.advance(0)
        self.assertTrue(client.closed)

    def test_lingering_is_bounded(self) -> None:
        """Who sends on regardless is cut, by bytes or by time."""
        client = self.client(ignore)
        client.send(put(1_000_000))
        for _ in range(20):
            client.send(b"a" * 100_000)
        self.assertTrue(client.closed)

        client = self.client(ignore)
        client.send(put(1_000_000))
        for _ in range(8):
            client.clock.advance(1)
        self.assertTrue(client.closed)


class ContinueTests(SynchronousTestCase):
    """Expect: 100-continue."""

    def test_asked_for(self) -> None:
        """100 Continue is sent when the body is wanted, not before."""
        wanted: Deferred[None] = Deferred()

        async def respond(exchange: IExchange) -> Response:
            await wanted
            return await echo(exchange)

        client = Client(*make_site(respond))
        client.send(put(3, b"Expect: 100-continue"))
        self.assertEqual(b"", bytes(client.received))
        wanted.callback(None)
        self.assertEqual(b"HTTP/1.1 100 Continue\r\n\r\n", bytes(client.received))
        client.send(b"abc" + get())
        self.assertEqual(2, client.received.count(b"200 OK"))

    def test_refused_early(self) -> None:
        """A request refused before its body was asked for gets only the refusal."""

        async def respond(exchange: IExchange) -> Response:
            raise Forbidden("Not here.")

        client = Client(*make_site(respond))
        client.send(put(3, b"Expect: 100-continue"))

        (answer,) = client.answers()
        self.assertEqual((403, b"Not here.\n"), (answer.status, answer.body))
        self.assertEqual("close", answer.fields["Connection"])
        self.assertTrue(client.saw_end)

    def test_not_waited_for(self) -> None:
        """When the body came anyway nothing is said."""
        client = Client(*make_site(echo))
        client.send(put(3, b"Expect: 100-continue") + b"abc")

        self.assertNotIn(b"100", bytes(client.received))


class GoneTests(SynchronousTestCase):
    """Clients that hang up."""

    def setUp(self) -> None:
        self.later = Later()
        self.site, self.clock = make_site(self.later.respond)
        self.client = Client(self.site, self.clock)

    def test_cancelled(self) -> None:
        """Work for a client that is gone is cancelled."""
        self.client.send(get(b"/later"))
        self.client.hang_up()

        self.assertIsInstance(self.later.trouble[0], CancelledError)
        self.assertEqual([False], self.later.done)
        self.assertEqual({}, self.site.channels)

    def test_shut_down_soon_answered(self) -> None:
        """A client that shuts down its side still gets an answer that comes soon."""
        self.client.send(get(b"/later"))
        self.client.channel.readConnectionLost()
        self.clock.advance(3)
        self.later.release(b"/later")

        self.assertEqual([200], [each.status for each in self.client.answers()])
        self.assertEqual([True], self.later.done)
        self.clock.advance(0)
        self.assertTrue(self.client.closed)

    def test_shut_down(self) -> None:
        """A client that shuts down its side is not worked for much longer."""
        self.client.send(get(b"/later"))
        self.client.channel.readConnectionLost()
        for _ in range(7):
            self.clock.advance(1)

        self.assertEqual([False], self.later.done)
        self.assertTrue(self.client.closed)

    def test_shut_down_with_more_sent_ahead(self) -> None:
        """What was sent ahead is answered too, if that begins soon."""
        self.client.send(get(b"/later") + get(b"/now") + get(b"/later2"))
        self.client.channel.readConnectionLost()
        self.later.release(b"/later")
        self.assertEqual([200, 200], [each.status for each in self.client.answers()])
        for _ in range(7):
            self.clock.advance(1)

        self.assertEqual([True, True, False], self.later.done)
        self.assertTrue(self.client.closed)

    def test_shut_down_inside_the_body(self) -> None:
        """A body that can never be whole ends its request at once."""
        self.client.send(put(10).replace(b" /", b" /later", 1) + b"12345")
        self.client.channel.readConnectionLost()
        self.clock.advance(0)

        self.assertEqual([False], self.later.done)
        self.assertTrue(self.client.closed)

    def test_sent_ahead_not_done(self) -> None:
        """Requests sent ahead are not begun."""
        self.client.send(get(b"/later") + get(b"/other"))
        self.client.hang_up()

        self.assertEqual([False], self.later.done)

    def test_inside_the_body(self) -> None:
        """Whoever reads the body is told."""
        seen: list[BaseException] = []

        async def respond(exchange: IExchange) -> Response:
            try:
                return await echo(exchange)
            except BaseException as trouble:
                seen.append(trouble)
                raise

        client = Client(*make_site(respond))
        client.send(put(100) + b"abc")
        client.hang_up()

        self.assertIsInstance(seen[0], ClientGone | CancelledError)

    def test_done_once(self) -> None:
        """The end of an answered request is not told again at the connection's."""
        self.client.send(get(b"/a"))
        self.client.hang_up()

        self.assertEqual([True], self.later.done)


class SlowTests(SynchronousTestCase):
    """Clients that keep us waiting."""

    LIMITS = Limits(
        head_timeout=Seconds(5),
        body_timeout=Seconds(7),
        idle_timeout=Seconds(11),
        write_timeout=Seconds(13),
        buffer_bytes=Bytes(100_000),
    )

    def open(
        self, respond: Callable[[IExchange], Any] = echo
    ) -> tuple[Site, Clock, Client]:
        site, clock = make_site(respond, limits=self.LIMITS)
        return site, clock, Client(site, clock)

    def wait(self, clock: Clock, seconds: int) -> None:
        clock.pump([0.5] * (2 * seconds))

    def test_idle(self) -> None:
        """A connection nobody uses is closed without a word."""
        _, clock, client = self.open()
        client.send(get())
        del client.received[:]
        self.wait(clock, 10)
        self.assertFalse(client.closed)
        self.wait(clock, 3)

        self.assertTrue(client.closed)
        self.assertEqual(b"", bytes(client.received))
        self.assertEqual([], clock.getDelayedCalls())

    def test_slow_head(self) -> None:
        """A head that dribbles in gets 408, however steadily it dribbles."""
        _, clock, client = self.open()
        for byte in get()[:-2]:
            client.send(bytes([byte]))
            self.wait(clock, 1)
            if client.saw_end:
                break

        self.assertEqual([408], [each.status for each in client.answers()])

    def test_slow_body(self) -> None:
        """Silence inside a body gets 408; a slow but steady body does not."""
        _, clock, client = self.open()
        client.send(put(10_000))
        for _ in range(5):
            self.wait(clock, 5)
            client.send(b"a" * 1000)
        self.assertEqual(b"", bytes(client.received))
        self.wait(clock, 9)

        (answer,) = client.answers()
        self.assertEqual((408, "close"), (answer.status, answer.fields["Connection"]))
        self.assertTrue(client.saw_end)

    def test_slow_dropped_body(self) -> None:
        """A body that is only dropped must come in time as well."""
        _, clock, client = self.open(ignore)
        client.send(put(10))
        self.wait(clock, 9)

        self.assertEqual([200], [each.status for each in client.answers()])
        self.assertTrue(client.saw_end)

    def test_slow_handler(self) -> None:
        """The time a resource takes is not the client's."""
        later = Later()
        _, clock, client = self.open(later.respond)
        client.send(get(b"/later"))
        self.wait(clock, 1000)
        later.release(b"/later")

        self.assertEqual([200], [each.status for each in client.answers()])

    def stream(self, count: int) -> Callable[[IExchange], Any]:
        async def respond(exchange: IExchange) -> None:
            exchange.start(200, (), count * 10_000)
            for _ in range(count):
                exchange.write(b"a" * 10_000)
                await exchange.drained()
            exchange.finish()

        return respond

    def test_slow_reader(self) -> None:
        """What waits for a slow reader is bounded, and all of it arrives in the end."""
        _, clock, client = self.open(self.stream(1000))
        client.reading = False
        client.send(get())
        self.wait(clock, 3)
        self.assertLessEqual(client.transport.most_waiting, FULL + 10_100)
        for _ in range(50):
            client.take(5000)
            self.wait(clock, 10)
        self.assertFalse(client.closed)
        client.take()
        self.clock_turns(clock)

        self.assertEqual(10_000_000, len(client.answers()[0].body))

    def clock_turns(self, clock: Clock) -> None:
        for _ in range(5):
            clock.advance(0)

    def test_reader_that_does_not_read(self) -> None:
        """Whoever takes nothing at all is cut, and the coroutine cancelled."""
        done: list[bool] = []
        stream = self.stream(1000)

        async def respond(exchange: IExchange) -> None:
            exchange.on_done(done.append)
            await stream(exchange)

        _, clock, client = self.open(respond)
        client.reading = False
        client.send(get())
        self.wait(clock, 20)

        self.assertTrue(client.closed)
        self.assertTrue(client.transport.aborted)
        self.assertEqual([False], done)

    def test_large_answer_at_once(self) -> None:
        """A large answer given at once costs a slow reader no copy of it."""
        large = b"0123456789" * 200_000

        async def respond(exchange: IExchange) -> Response:
            return Response(200, (), large)

        _, _, client = self.open(respond)
        client.reading = False
        client.send(get() + get(b"/next"))
        self.assertLess(client.transport.most_waiting, 140_000)
        client.take()

        answers = client.answers()
        self.assertEqual([large, large], [each.body for each in answers])

    def test_many_answers_to_a_slow_reader(self) -> None:
        """Requests sent ahead are not answered into a full buffer."""

        async def respond(exchange: IExchange) -> Response:
            return Response(200, (), b"a" * 50_000)

        _, clock, client = self.open(respond)
        client.reading = False
        client.send(get() * 500, piece=100)
        self.assertLess(client.transport.most_waiting, 200_000)
        self.assertGreater(client.unsent, 10_000)
        client.take()
        self.clock_turns(clock)

        self.assertEqual(500, client.received.count(b"200 OK"))

    def test_slow_upload_consumer(self) -> None:
        """A resource that does not read makes the client wait."""
        go: Deferred[None] = Deferred()

        async def respond(exchange: IExchange) -> Response:
            await go
            return await echo(exchange)

        site, clock = make_site(respond, limits=Limits(buffer_bytes=Bytes(100_000)))
        client = Client(site, clock)
        client.send(put(1_000_000) + b"a" * 1_000_000, piece=10_000)
        self.assertGreater(client.unsent, 800_000)
        go.callback(None)
        client.turn()

        self.assertEqual(0, client.unsent)
        self.assertEqual([200], [each.status for each in client.answers()])

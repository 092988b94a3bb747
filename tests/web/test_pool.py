"""The pool: who gets which connection, for how long, and what a response is.

How requests with bodies are sent, and sent again, is in test_pool_bodies.py; every way
an origin can die is in test_pool_failures.py.
"""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import OriginFailed, OriginTimeout, Overloaded
from clinfra.web.heads import Field, parse_request_head
from clinfra.web.pool import Origin, PoolSettings, make_request_head
from clinfra.web.responses import OriginResponse
from tests.web.origins import ORIGIN, Body, Line, Listener, Network, start

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class OriginTests(SynchronousTestCase):
    """Where requests can be sent, as configuration says it."""

    def test_parse(self) -> None:
        """Hosts, addresses and UNIX paths are read and written alike."""
        for text, origin in (
            ("a.example:80", Origin("a.example", 80)),
            ("10.0.0.1:8080", Origin("10.0.0.1", 8080)),
            ("[::1]:80", Origin("::1", 80)),
            ("unix:/run/a.sock", Origin(unix_path="/run/a.sock")),
        ):
            self.assertEqual(origin, Origin.parse(text))
            self.assertEqual(text, str(origin))

    def test_refusals(self) -> None:
        """Anything else is a ValueError."""
        for text in ("", "a", "a:", ":80", "a:0", "a:65536", "a:b", "::1:80", "unix:a"):
            with self.assertRaises(ValueError):
                Origin.parse(text)


class RequestHeadTests(SynchronousTestCase):
    """The head that is sent."""

    def fields(
        self, *fields: Field, method: bytes = b"GET", body: bytes | Body | None = None
    ) -> tuple[Field, ...]:
        """Return the fields of the head made of these."""
        raw = make_request_head(ORIGIN, method, b"/", fields, body)
        return parse_request_head(raw).fields

    def test_host(self) -> None:
        """Host is the origin unless the fields say otherwise."""
        self.assertEqual(((b"Host", b"origin.example:80"),), self.fields())
        self.assertEqual(((b"host", b"other"),), self.fields((b"host", b"other")))

    def test_framing_is_ours(self) -> None:
        """Fields of the connection and its framing are replaced by the truth."""
        fields = (
            (b"Host", b"h"),
            (b"Content-Length", b"9"),
            (b"transfer-encoding", b"gzip"),
            (b"Connection", b"close"),
            (b"Expect", b"100-continue"),
            (b"A", b"b"),
        )
        kept = ((b"Host", b"h"), (b"A", b"b"))

        self.assertEqual(kept, self.fields(*fields))
        for body, framing in (
            (b"xyz", (b"Content-Length", b"3")),
            (b"", (b"Content-Length", b"0")),
            (Body(7), (b"Content-Length", b"7")),
            (Body(None), (b"Transfer-Encoding", b"chunked")),
        ):
            sent = self.fields(*fields, method=b"PUT", body=body)

            self.assertEqual((*kept, framing), sent)

    def test_no_body(self) -> None:
        """Methods that usually have a body say when they have none."""
        self.assertEqual(
            (b"Content-Length", b"0"), self.fields(method=b"POST", body=None)[-1]
        )


class ReuseTests(SynchronousTestCase):
    """Connections are kept when it is safe, and only then."""

    def setUp(self) -> None:
        self.network = Network(
            PoolSettings(
                idle_connections=2, idle_timeout=4, max_connections=3, waiting=1
            )
        )

    def answered(self, answer: bytes = OK, method: bytes = b"GET") -> Line:
        """Send a request on a new connection and answer it."""
        _, listener = start(self.network, method)
        line = self.network.accept()
        line.take()
        line.send(answer)
        self.assertTrue(listener.over)
        return line

    def assert_kept(self, line: Line, kept: bool) -> None:
        """Assert whether the next request comes on the same line."""
        _, listener = start(self.network)
        self.assertEqual(not kept, bool(self.network.dials))
        if kept:
            self.assertTrue(line.take().startswith(b"GET / HTTP/1.1\r\n"))
            line.send(OK)
            self.assertEqual((b"ok", 1), (listener.body, listener.finished))

    def test_kept(self) -> None:
        """A response read whole leaves its connection for the next request."""
        line = self.answered()

        self.assert_kept(line, True)
        self.assert_kept(line, True)

    def test_kept_after_each_framing(self) -> None:
        """Every framing that says where the body ends is good for keeping."""
        for answer, method in (
            (b"HTTP/1.1 204 No Content\r\n\r\n", b"GET"),
            (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b"GET"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", b"HEAD"),
            (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"HEAD"),
            (b"HTTP/1.1 200 OK\r\n\r\n", b"HEAD"),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"GET"),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"1\r\na\r\n0\r\nX: y\r\n\r\n",
                b"GET",
            ),
            (
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 X\r\nA: b\r\n\r\n" + OK,
                b"GET",
            ),
            (
                b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n"
                b"Content-Length: 0\r\n\r\n",
                b"GET",
            ),
        ):
            self.network = Network()

            self.assert_kept(self.answered(answer, method), True)

    def test_not_kept(self) -> None:
        """A connection that will close, or said too much, is not used again."""
        for answer in (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
            OK + b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\nbody",
        ):
            self.network = Network()
            line = self.answered(answer)

            self.assert_kept(line, False)
            self.network.turn()
            self.assertTrue(line.lost)

    def test_last_used_first(self) -> None:
        """The connection used last is used next, so that the others can go."""
        _, first = start(self.network)
        _, second = start(self.network)
        one, two = self.network.accept(), self.network.accept()
        one.send(OK)
        two.send(OK)
        self.assertTrue(first.finished and second.finished)
        one.take()
        two.take()

        self.assert_kept(two, True)
        self.assertEqual(b"", one.take())

    def test_closed_while_idle(self) -> None:
        """A kept connection that its origin closes is forgotten at once."""
        line = self.answered()
        line.hang_up()

        self.assert_kept(line, False)

    def test_speaks_while_idle(self) -> None:
        """Bytes nobody asked for never answer the next request."""
        line = self.answered()
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

        self.assert_kept(line, False)

    def test_idle_timeout(self) -> None:
        """An unused connection is kept as long as configured, and then closed."""
        line = self.answered()
        self.network.pass_time(3.9)
        self.assertFalse(line.disconnecting)
        self.network.pass_time(1.5)

        self.assertTrue(line.lost)
        self.assertFalse(line.reset)
        self.assertEqual([], self.network.clock.getDelayedCalls())

    def test_closing_that_is_not_answered(self) -> None:
        """An origin that does not agree to the end is reset after a moment."""
        line = self.answered()
        line.loseConnection = lambda: None  # type: ignore[method-assign] # never ends
        line.abortConnection = lambda: line.hang_up()  # type: ignore[method-assign] # as above
        self.network.pass_time(4.7)
        self.assertFalse(line.lost)
        self.network.pass_time(2)

        self.assertTrue(line.lost)

    def test_idle_limit(self) -> None:
        """No more unused connections are kept than configured."""
        for _ in range(3):
            start(self.network)
        lines = [self.network.accept() for _ in range(3)]
        for line in lines:
            line.send(OK)
        self.network.turn()

        self.assertEqual([False, False, True], [line.lost for line in lines])

    def test_most_connections(self) -> None:
        """Beyond the most connections requests wait, then they are refused."""
        for _ in range(3):
            start(self.network)
        _, waiting = start(self.network)
        self.assertEqual(3, len(self.network.dials))
        self.assertEqual(4, self.network.pool.load(ORIGIN))
        with self.assertRaises(Overloaded):
            start(self.network)

        line = self.network.accept()
        line.take()
        line.send(OK)
        self.assertIn(b"GET /", line.take())
        line.send(OK)
        self.assertEqual(1, waiting.finished)

    def test_waiting_after_close(self) -> None:
        """When a connection ends, a new one is made for who waits."""
        for _ in range(3):
            start(self.network)
        _, waiting = start(self.network)
        self.network.accept().hang_up()

        self.assertEqual(3, len(self.network.dials))
        self.network.dials.rotate(1)
        self.network.accept().send(OK)
        self.assertEqual(1, waiting.finished)

    def test_waiting_after_refusal(self) -> None:
        """When a connection is refused, another is tried for who waits."""
        for _ in range(3):
            start(self.network)
        start(self.network)
        self.network.dials.popleft().refuse(ConnectionRefusedError())

        self.assertEqual(3, len(self.network.dials))

    def test_waiting_too_long(self) -> None:
        """Who waits longer than a connection may take is told."""
        for _ in range(3):
            start(self.network)
        _, waiting = start(self.network)
        self.network.pass_time(4.5)

        self.assertIsInstance(waiting.failure, Overloaded)

    def test_report(self) -> None:
        """The admin pages see what goes on; quiet origins are forgotten."""
        line = self.answered()
        start(self.network)
        start(self.network)

        self.assertEqual(
            {"origin.example:80": {"active": 2, "idle": 0, "waiting": 0}},
            self.network.pool.report(),
        )
        self.assertEqual(2, self.network.pool.load(ORIGIN))
        self.assertEqual(0, self.network.pool.load(Origin("other", 1)))
        line.hang_up()
        self.network.dials.popleft().refuse(ConnectionRefusedError())
        self.network.dials.popleft().refuse(ConnectionRefusedError())
        self.assertEqual({}, self.network.pool.report())
        self.assertEqual([], self.network.clock.getDelayedCalls())


class ResponseTests(SynchronousTestCase):
    """What a response is, whatever its framing and however it arrives."""

    def test_framings(self) -> None:
        """Length, chunks and the end of the connection each end a body."""
        for answer, hangs_up in (
            (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", False),
            (
                b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
                b"2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
                False,
            ),
            (b"HTTP/1.1 200 OK\r\n\r\nhello", True),
            (b"HTTP/1.0 200 OK\r\n\r\nhello", True),
        ):
            for size in (1, 2, 7, len(answer)):
                network = Network()
                _, listener = start(network)
                line = network.accept()
                for at in range(0, len(answer), size):
                    self.assertFalse(listener.over)
                    line.send(answer[at : at + size])
                if hangs_up:
                    self.assertFalse(listener.over)
                    line.hang_up()

                self.assertEqual((b"hello", 1), (listener.body, listener.finished))
                assert listener.head is not None
                self.assertEqual(200, listener.head.status)

    def test_equal_heads_are_one(self) -> None:
        """Equal heads are parsed once."""
        network = Network()
        _, first = start(network)
        line = network.accept()
        line.send(OK)
        _, second = start(network)
        line.send(OK)

        self.assertIs(first.head, second.head)

    @given(
        st.lists(st.binary(min_size=1, max_size=50), max_size=5),
        st.integers(0, 2),
        st.lists(st.integers(0, 400), max_size=8),
        st.integers(0, 400),
    )
    @settings(deadline=None)
    def test_whole_or_failed(
        self, pieces: list[bytes], framing: int, places: list[int], cut: int
    ) -> None:
        """Cut anywhere, a response fails; not cut, it is the same for any segments."""
        body = b"".join(pieces)
        head = b"HTTP/1.1 200 OK\r\n"
        if framing == 0:
            answer = head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        elif framing == 1:
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in pieces)
            answer = (
                head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"
            )
        else:
            answer = b"HTTP/1.1 100 Continue\r\n\r\n" + head
            answer += b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        whole = cut >= len(answer)
        answer = answer[:cut]
        bounds = sorted({0, len(answer), *(p % (len(answer) + 1) for p in places)})
        network = Network()
        _, listener = start(network)
        line = network.accept()
        for at, end in pairwise(bounds):
            line.send(answer[at:end])
        line.hang_up()

        self.assertEqual(whole, bool(listener.finished))
        self.assertTrue(listener.over)
        self.assertTrue(body.startswith(listener.body))
        if whole:
            self.assertEqual(body, listener.body)
        else:
            self.assertIsInstance(listener.failure, OriginFailed)


class PauseTests(SynchronousTestCase):
    """A receiver that needs a rest gets one."""

    def setUp(self) -> None:
        self.network = Network(PoolSettings(response_timeout=2, read_timeout=2))
        self.request, self.listener = start(self.network)

    def test_pause(self) -> None:
        """Nothing is read while paused, and no time-out runs."""
        line = self.network.accept()
        line.send(OK[:-1])
        self.request.pauseProducing()
        line.send(OK[-1:])
        self.network.pass_time(10)
        self.assertEqual((b"o", False), (self.listener.body, self.listener.over))
        self.request.resumeProducing()

        self.assertEqual((b"ok", 1), (self.listener.body, self.listener.finished))

    def test_pause_before_connection(self) -> None:
        """Pausing works before there is a connection."""
        self.request.pauseProducing()
        line = self.network.accept()
        line.send(OK)
        self.assertIsNone(self.listener.head)
        self.request.resumeProducing()

        self.assertEqual(1, self.listener.finished)

    def test_timeout_after_resume(self) -> None:
        """The time-out runs again after a rest."""
        line = self.network.accept()
        line.send(OK[:-1])
        self.request.pauseProducing()
        self.request.resumeProducing()
        self.network.pass_time(3.5)

        self.assertIsInstance(self.listener.failure, OriginTimeout)

    def test_paused_connection_is_read_again(self) -> None:
        """The next request on a connection does not inherit a pause."""
        line = self.network.accept()

        class Rests(Listener):
            def body_received(self, data: bytes) -> None:
                super().body_received(data)
                resting.pauseProducing()

        line.send(OK)
        rests = Rests()
        head = make_request_head(ORIGIN, b"GET", b"/", (), None)
        resting = self.network.pool.start(ORIGIN, b"GET", head, None, rests)
        line.send(OK)
        self.assertEqual(1, rests.finished)
        _, after = start(self.network)
        line.send(OK)

        self.assertEqual(1, after.finished)


class AbortTests(SynchronousTestCase):
    """An aborted request is forgotten, wherever it stands."""

    def setUp(self) -> None:
        self.network = Network(PoolSettings(max_connections=1))
        self.request, self.listener = start(self.network)

    def assert_forgotten(self) -> None:
        """Assert that nothing was heard and nothing is left."""
        self.network.turn()
        self.assertFalse(self.listener.over)
        self.request.abort()
        self.assertEqual({}, self.network.pool.report())

    def test_connecting(self) -> None:
        """The attempt to connect is given up."""
        dial = self.network.dials[0]
        self.request.abort()

        self.assertTrue(dial.given_up)
        self.assert_forgotten()

    def test_waiting_for_the_head(self) -> None:
        """The connection is closed."""
        line = self.network.accept()
        self.request.stopProducing()
        line.send(OK)

        self.assert_forgotten()
        self.assertTrue(line.lost)

    def test_inside_the_body(self) -> None:
        """The connection is closed, the rest of the body is nobody's."""
        line = self.network.accept()
        line.send(OK[:-1])
        self.request.abort()
        line.send(OK[-1:])

        self.assert_forgotten()

    def test_from_inside_a_callback(self) -> None:
        """A receiver may abort when it hears of the head or the body."""
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for answer in (OK, chunked + b"1\r\no\r\n1\r\nk\r\n0\r\n\r\n"):
            for when in ("response_started", "body_received"):
                network = Network()
                request, listener = start(network)
                setattr(listener, when, lambda _, request=request: request.abort())
                line = network.accept()
                line.send(answer)
                network.turn()

                self.assertFalse(listener.over)
                self.assertTrue(line.lost)

    def test_in_the_queue(self) -> None:
        """A place in the queue is given up."""
        waiting, listener = start(self.network)
        waiting.abort()
        self.network.accept().send(OK)

        self.assertEqual(0, len(self.network.dials))
        self.assertFalse(listener.over)


class CloseTests(SynchronousTestCase):
    """Closing the pool ends everything."""

    def test_in_order(self) -> None:
        """Unused connections are ended in order: a reset would alarm their origin."""
        network = Network(PoolSettings(max_connections=3))
        start(network)
        start(network)
        idle, active = network.accept(), network.accept()
        idle.send(OK)
        network.pool.close()
        network.turn()

        self.assertTrue(idle.lost and active.lost)
        self.assertEqual((False, True), (idle.reset, active.reset))

    def test_close(self) -> None:
        """Everybody is told, and it is over when the last connection is gone."""
        network = Network(PoolSettings(max_connections=3))
        listeners = [start(network)[1] for _ in range(5)]
        idle, active = network.accept(), network.accept()
        idle.send(OK)
        idle.take()
        closed = network.pool.close()
        self.assertNoResult(closed)
        network.turn()

        self.successResultOf(closed)
        self.assertEqual(1, listeners[0].finished)
        for listener in listeners[1:]:
            self.assertIsInstance(listener.failure, OriginFailed)
        self.assertTrue(idle.lost and active.lost)
        self.assertEqual({}, network.pool.report())
        self.assertEqual([], network.clock.getDelayedCalls())
        with self.assertRaises(Overloaded):
            start(network)

    def test_unused(self) -> None:
        """A pool that has nothing closes at once."""
        self.successResultOf(Network().pool.close())


class CoroutineTests(SynchronousTestCase):
    """The form for coroutines."""

    def setUp(self) -> None:
        self.network = Network()

    def ask(self) -> Deferred[OriginResponse]:
        """Start a request."""
        return Deferred.fromCoroutine(self.network.pool.request(ORIGIN, b"GET", b"/"))

    def test_read(self) -> None:
        """The head comes first, then the pieces as they come, then b""."""
        asked = self.ask()
        line = self.network.accept()
        line.send(OK[:-2])
        response = self.successResultOf(asked)
        self.assertEqual(200, response.head.status)
        reading = Deferred.fromCoroutine(response.read())
        self.assertNoResult(reading)
        line.send(b"o")
        self.assertEqual(b"o", self.successResultOf(reading))
        line.send(b"k")

        for expected in (b"k", b"", b""):
            reading = Deferred.fromCoroutine(response.read())
            self.assertEqual(expected, self.successResultOf(reading))

    def test_read_all(self) -> None:
        """A body is read whole up to a limit; beyond it the connection is closed."""
        for limit in (2, 1):
            self.network = Network()
            asked = self.ask()
            line = self.network.accept()
            line.send(OK)
            response = self.successResultOf(asked)
            reading = Deferred.fromCoroutine(response.read_all(limit))
            if limit == 2:
                self.assertEqual(b"ok", self.successResultOf(reading))
            else:
                self.failureResultOf(reading, OriginFailed)

    def test_iterate(self) -> None:
        """The pieces can be iterated over; stopping early closes the connection."""

        async def first(response: OriginResponse) -> bytes:
            pieces = aiter(response)
            piece = await anext(pieces)
            await pieces.aclose()  # type: ignore[attr-defined] # it is a generator
            return piece

        asked = self.ask()
        line = self.network.accept()
        line.send(OK[:-1])
        response = self.successResultOf(asked)

        got = self.successResultOf(Deferred.fromCoroutine(first(response)))
        self.assertEqual(b"o", got)
        self.network.turn()
        self.assertTrue(line.lost)

    def test_cut_short(self) -> None:
        """A body cut short raises when its end should come, and not before."""
        asked = self.ask()
        line = self.network.accept()
        line.send(OK[:-1])
        response = self.successResultOf(asked)
        line.hang_up()

        self.assertEqual(
            b"o", self.successResultOf(Deferred.fromCoroutine(response.read()))
        )
        self.failureResultOf(Deferred.fromCoroutine(response.read()), OriginFailed)

    def test_no_head(self) -> None:
        """Without a head the request raises."""
        asked = self.ask()
        self.network.accept().hang_up()

        self.failureResultOf(asked, OriginFailed)

    def test_cancel(self) -> None:
        """Cancelling the request, or a read, closes the connection."""
        asked = self.ask()
        line = self.network.accept()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.network.turn()
        self.assertTrue(line.lost)

        asked = self.ask()
        line = self.network.accept()
        line.send(OK[:-2])
        reading = Deferred.fromCoroutine(self.successResultOf(asked).read())
        reading.cancel()
        self.failureResultOf(reading, CancelledError)
        self.network.turn()
        self.assertTrue(line.lost)

    def test_slow_reader(self) -> None:
        """What a reader does not take stays with the origin, but for a bounded part."""
        asked = self.ask()
        line = self.network.accept()
        size = 1 << 20
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        response = self.successResultOf(asked)
        sent = 0
        while line.producerState == "producing":
            line.send(bytes(65536))
            sent += 65536
        self.assertEqual(256 * 1024, sent)
        line.send(bytes(size - sent))
        whole = Deferred.fromCoroutine(response.read_all(size))

        self.assertEqual(bytes(size), self.successResultOf(whole))

    def test_with(self) -> None:
        """Leaving an async with closes what was not read."""

        async def leave(response: OriginResponse) -> None:
            async with response:
                pass

        asked = self.ask()
        line = self.network.accept()
        line.send(OK[:-1])
        self.successResultOf(Deferred.fromCoroutine(leave(self.successResultOf(asked))))
        self.network.turn()

        self.assertTrue(line.lost)

    def test_thrown_away(self) -> None:
        """A reader that is given up while it waits is left alone."""

        async def read(response: OriginResponse) -> None:
            async with response:
                await response.read()

        asked = self.ask()
        line = self.network.accept()
        line.send(OK[:-2])
        reader = read(self.successResultOf(asked))
        reading = Deferred.fromCoroutine(reader)
        reader.close()
        self.network.turn()

        self.assertTrue(line.lost)
        self.assertNoResult(reading)

"""Every way an origin can die, and that none of them looks like a whole response."""

from __future__ import annotations

from twisted.internet.error import ConnectionLost, DNSLookupError
from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import OriginFailed, OriginTimeout
from clinfra.web.pool import PoolSettings
from tests.web.origins import Line, Listener, Network, start

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"
OK = HEAD + b"hello"


class DeathTests(SynchronousTestCase):
    """The origin dies on a connection that was made for the request."""

    def setUp(self) -> None:
        self.network = Network()

    def assert_failed(self, listener: Listener, replayable: bool) -> None:
        """Assert that a request failed, and nothing is left of it."""
        self.network.turn()
        failure = listener.failure
        assert isinstance(failure, OriginFailed)
        self.assertNotIsInstance(failure, OriginTimeout)
        self.assertEqual(replayable, failure.replayable)
        self.assertRegex(failure.sentence, r"\A[A-Z][^\r\n]+\.\Z")
        self.assertEqual({}, self.network.pool.report())

    def test_refused(self) -> None:
        """A refused connection has done nothing: any request may go elsewhere."""
        for method in (b"GET", b"POST"):
            for reason in (ConnectionRefusedError(), DNSLookupError()):
                _, listener = start(self.network, method, b"x")
                self.network.dials.popleft().refuse(reason)

                self.assert_failed(listener, True)
                assert listener.failure is not None
                self.assertIs(reason, listener.failure.__cause__)

    def test_hang_up_before_the_head(self) -> None:
        """A request that may have been done is only done again if that is no harm."""
        for method, replayable in ((b"GET", True), (b"PUT", True), (b"POST", False)):
            _, listener = start(self.network, method, b"x")
            self.network.accept().hang_up()

            self.assert_failed(listener, replayable)
            self.assertEqual(0, len(self.network.dials))

    def test_hang_up_inside_the_head(self) -> None:
        """Half a head is no response."""
        for cut in (1, len(HEAD) - 1):
            _, listener = start(self.network)
            line = self.network.accept()
            line.send(HEAD[:cut])
            line.hang_up()

            self.assert_failed(listener, True)
            self.assertIsNone(listener.head)

    def test_hang_up_after_interim(self) -> None:
        """An interim response is no response."""
        _, listener = start(self.network)
        line = self.network.accept()
        line.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        line.hang_up()

        self.assert_failed(listener, True)

    def test_cut_body(self) -> None:
        """A body shorter than announced never looks complete."""
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        for answer in (
            HEAD,
            HEAD + b"hell",
            chunked,
            chunked + b"5\r\nhell",
            chunked + b"5\r\nhello",
            chunked + b"5\r\nhello\r\n",
            chunked + b"5\r\nhello\r\n0\r\n",
            chunked + b"5\r\nhello\r\n0\r\nX: y\r\n",
        ):
            _, listener = start(self.network)
            line = self.network.accept()
            line.send(answer)
            line.hang_up()

            self.assertIsNotNone(listener.head)
            self.assert_failed(listener, False)

    def test_reset_instead_of_close(self) -> None:
        """A body that ends with the connection must end with an orderly close."""
        _, listener = start(self.network)
        line = self.network.accept()
        line.send(b"HTTP/1.1 200 OK\r\n\r\nhello")
        line.hang_up(ConnectionLost)

        self.assert_failed(listener, False)

    def test_garbage(self) -> None:
        """What is not HTTP, or can be read in two ways, is refused at once."""
        for answer in (
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"\r\n\r\n",
            b"\x00" * 70_000,
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000,
            b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\nContent-Length: 5\n\n\r\n\r\n",
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        ):
            _, listener = start(self.network)
            line = self.network.accept()
            line.send(answer)

            self.assertIsNone(listener.head)
            self.assert_failed(listener, False)
            self.assertTrue(line.lost)

    def test_garbage_without_end(self) -> None:
        """Nor is the rest of it waited for."""
        for answer in (
            b"S",
            b"hello",
            b"http/1.1 200 OK",
            b"HTTP/2 200",
            b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\n",
            b"HTTP/1.1 200 OK\r\nX: \x00",
        ):
            _, listener = start(self.network)
            line = self.network.accept()
            line.send(answer)

            self.assert_failed(listener, False)
            self.assertTrue(line.lost)

    def test_bad_chunk(self) -> None:
        """A broken chunk ends a response that has begun."""
        _, listener = start(self.network)
        line = self.network.accept()
        line.send(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\nx\r\n"
        )

        self.assert_failed(listener, False)
        self.assertTrue(line.lost)

    def test_broken_receiver(self) -> None:
        """A receiver that raises costs its own connection only."""
        _, listener = start(self.network)
        listener.response_started = None  # type: ignore[method-assign, assignment] # a bug
        line = self.network.accept()
        with self.assertRaises(TypeError):
            line.send(OK)
        line.hang_up(ConnectionLost)

        self.assert_failed(listener, False)


class StaleTests(SynchronousTestCase):
    """The origin closes a kept connection just when it is used again."""

    def setUp(self) -> None:
        self.network = Network()

    def kept(self) -> Line:
        """Return a connection that has been used and kept."""
        _, listener = start(self.network)
        line = self.network.accept()
        line.send(OK)
        assert listener.finished
        line.take()
        return line

    def test_sent_again(self) -> None:
        """What does no harm twice is sent again, on a new connection."""
        line = self.kept()
        _, listener = start(self.network)
        request = line.take()
        line.hang_up(ConnectionLost)
        self.assertFalse(listener.over)
        fresh = self.network.accept()

        self.assertEqual(request, fresh.take())
        fresh.send(OK)
        self.assertEqual((b"hello", 1), (listener.body, listener.finished))

    def test_what_was_left_over(self) -> None:
        """Bytes that belong to the answer before do not harm the next request."""
        for late in (b"hello", b"0\r\n\r\n", b"\r\n" + OK):
            with self.subTest(late):
                self.network = Network()
                line = self.kept()
                _, listener = start(self.network)
                line.send(late)
                self.network.pass_time(0.1)
                self.assertTrue(line.lost)
                fresh = self.network.accept()
                fresh.send(OK)

                self.assertTrue(listener.finished)

    def test_never_on_another_kept_one(self) -> None:
        """The second try is on a new connection, even when others are kept."""
        _, first = start(self.network)
        _, second = start(self.network)
        one, two = self.network.accept(), self.network.accept()
        one.send(OK)
        two.send(OK)
        self.assertTrue(first.finished and second.finished)
        start(self.network)
        two.hang_up()

        self.assertEqual(1, len(self.network.dials))

    def test_sent_again_once(self) -> None:
        """There is no third try."""
        line = self.kept()
        _, listener = start(self.network)
        line.hang_up()
        self.network.accept().hang_up()

        self.assertIsInstance(listener.failure, OriginFailed)
        self.assertEqual(0, len(self.network.dials))
        self.assertEqual({}, self.network.pool.report())

    def test_refused_the_second_time(self) -> None:
        """An origin that is gone says so."""
        line = self.kept()
        _, listener = start(self.network)
        line.hang_up()
        self.network.dials.popleft().refuse(ConnectionRefusedError())

        assert isinstance(listener.failure, OriginFailed)
        self.assertTrue(listener.failure.replayable)

    def test_not_when_the_response_began(self) -> None:
        """One byte of a response, and the request was done."""
        for beginning in (b"H", b"HTTP/1.1 100 Continue\r\n\r\n", HEAD):
            line = self.kept()
            _, listener = start(self.network)
            line.send(beginning)
            line.hang_up()

            self.assertIsInstance(listener.failure, OriginFailed)
            self.assertEqual(0, len(self.network.dials))

    def test_not_what_may_do_harm(self) -> None:
        """POST is never sent twice."""
        line = self.kept()
        _, listener = start(self.network, b"POST", b"once")
        line.hang_up()

        assert isinstance(listener.failure, OriginFailed)
        self.assertFalse(listener.failure.replayable)
        self.assertEqual(0, len(self.network.dials))

    def test_abort_of_the_second_try(self) -> None:
        """A request can be aborted between its two tries."""
        line = self.kept()
        request, listener = start(self.network)
        line.hang_up()
        request.abort()

        self.assertTrue(self.network.dials[0].given_up)
        self.assertFalse(listener.over)
        self.assertEqual({}, self.network.pool.report())


class SlowTests(SynchronousTestCase):
    """Time-outs: never early, and soon enough."""

    def setUp(self) -> None:
        self.network = Network(
            PoolSettings(connect_timeout=3, response_timeout=5, read_timeout=2)
        )

    def assert_timed_out(self, listener: Listener, replayable: bool) -> None:
        """Assert that a request was given up, and nothing is left of it."""
        failure = listener.failure
        assert isinstance(failure, OriginTimeout)
        self.assertEqual(replayable, failure.replayable)
        self.assertRegex(failure.sentence, r"\A[A-Z][^\r\n]+\.\Z")
        self.network.turn()
        self.assertEqual({}, self.network.pool.report())

    def test_connecting(self) -> None:
        """Connecting has a time of its own."""
        _, listener = start(self.network, b"POST", b"x")
        self.assertEqual(3, self.network.dials[0].timeout)
        self.network.dials[0].refuse(ConnectTimeout())

        self.assert_timed_out(listener, True)

    def test_before_the_head(self) -> None:
        """An origin that says nothing is given up after the response time-out."""
        for method, replayable in ((b"GET", True), (b"POST", False)):
            for said in (b"", b"HTTP/1.1 2", b"HTTP/1.1 100 Continue\r\n\r\n"):
                _, listener = start(self.network, method, b"x")
                line = self.network.accept()
                line.send(said)
                self.network.pass_time(4.9)
                self.assertFalse(listener.over)
                self.network.pass_time(1.2)

                self.assert_timed_out(listener, replayable)
                self.assertTrue(line.lost)

    def test_dripping_head(self) -> None:
        """A head that never ends does not buy time by dripping."""
        _, listener = start(self.network)
        line = self.network.accept()
        for byte in range(61):
            if not listener.over:
                line.send(HEAD[byte : byte + 1] if byte < 20 else b"x")
            self.network.pass_time(0.1)

        self.assert_timed_out(listener, True)

    def test_inside_the_body(self) -> None:
        """Silence inside a body is given up; a body that trickles is not."""
        _, listener = start(self.network)
        line = self.network.accept()
        line.send(HEAD)
        for byte in b"hell":
            self.network.pass_time(1.9)
            self.assertFalse(listener.over)
            line.send(bytes([byte]))
        self.network.pass_time(3.2)

        self.assert_timed_out(listener, False)
        self.assertTrue(line.lost)
        self.assertEqual(b"hell", listener.body)

    def test_not_after_the_end(self) -> None:
        """No time-out of a finished response hits the next one."""
        _, listener = start(self.network)
        line = self.network.accept()
        line.send(OK)
        self.network.pass_time(1.5)
        _, after = start(self.network)
        self.network.pass_time(4.5)

        self.assertTrue(listener.finished)
        self.assertFalse(after.over)
        line.send(OK)
        self.assertTrue(after.finished)

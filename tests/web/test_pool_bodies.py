"""Requests with bodies: sent as they come, and never twice from the middle.

The original's client sent an upload again from a stream that had been read already,
and stored an empty or cut blob as a success.  Here no origin may ever see a complete
request whose body is not exactly the sender's.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.error import ConnectionLost
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import ClientGone, InvalidRequest, OriginFailed, OriginTimeout
from clinfra.web.chunked import ChunkedDecoder
from clinfra.web.heads import parse_request_head
from clinfra.web.pool import PoolSettings
from tests.web.origins import Body, Line, Network, start

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def complete_body(sent: bytes) -> bytes | None:
    """Return the body of what an origin got, None when it is not a complete request."""
    raw, end, rest = sent.partition(b"\r\n\r\n")
    if not end:
        return None
    head = parse_request_head(raw + end)
    if head.content_length is not None:
        assert len(rest) <= head.content_length
        return rest if len(rest) == head.content_length else None
    decoder = ChunkedDecoder()
    pieces, after = decoder.feed(rest)
    assert not after
    return b"".join(pieces) if decoder.finished else None


class SendingTests(SynchronousTestCase):
    """A body on its way from its sender to the origin."""

    def setUp(self) -> None:
        self.network = Network(PoolSettings(response_timeout=2))

    def test_whole(self) -> None:
        """Bytes are sent with their length."""
        _, listener = start(self.network, b"PUT", b"hello")
        line = self.network.accept()

        self.assertEqual(b"hello", complete_body(line.take()))
        line.send(OK)
        self.assertEqual(1, listener.finished)

    def test_streamed(self) -> None:
        """Pieces are passed on as they come, with a length or in chunks."""
        for length in (5, None):
            body = Body(length)
            _, listener = start(self.network, b"PUT", body)
            line = self.network.accept()
            self.assertEqual(b"", line.take())
            body.feed(b"he")
            got = line.take()
            self.assertIn(b"he", got)
            body.feed(b"llo")
            got += line.take()
            body.feed(b"")
            got += line.take()

            self.assertEqual(b"hello", complete_body(got))
            line.send(OK)
            self.assertEqual(1, listener.finished)
            line.hang_up()

    def test_kept_after_streaming(self) -> None:
        """The connection is good for the next request."""
        _, listener = start(self.network, b"PUT", Body(None, [b"a", b""]))
        line = self.network.accept()
        line.send(OK)
        self.assertEqual(1, listener.finished)
        line.take()
        start(self.network)

        self.assertIn(b"GET", line.take())

    def test_empty(self) -> None:
        """A stream of nothing is an empty body."""
        _, _ = start(self.network, b"PUT", Body(None, [b""]))
        self.assertEqual(b"", complete_body(self.network.accept().take()))
        _, _ = start(self.network, b"PUT", Body(0, [b""]))
        self.assertEqual(b"", complete_body(self.network.accept().take()))

    def test_not_read_before_a_connection(self) -> None:
        """Nothing of a body is read for an origin that cannot be reached."""
        body = Body(5, [b"hello"])
        _, listener = start(self.network, b"POST", body)
        self.network.dials.popleft().refuse(ConnectionRefusedError())

        self.assertEqual(0, body.reads)
        assert isinstance(listener.failure, OriginFailed)
        self.assertTrue(listener.failure.replayable)

    def test_back_pressure(self) -> None:
        """No more is read from the sender than the origin takes."""
        body = Body(3, [b"a", b"b", b"c"])
        start(self.network, b"PUT", body)
        self.network.accept()
        self.assertEqual(3, body.reads)

        body = Body(3)
        start(self.network, b"PUT", body)
        line = self.network.accept()
        line.full = True
        for piece in (b"a", b"b", b"c"):
            body.feed(piece)
        self.assertEqual(1, body.reads)
        line.drain()
        self.assertEqual(3, body.reads)
        self.assertEqual(b"abc", complete_body(line.take()))

    def test_origin_takes_nothing(self) -> None:
        """An origin that takes nothing for too long is given up."""
        body = Body(3, [b"a", b"b"])
        _, listener = start(self.network, b"PUT", body)
        line = self.network.accept()
        line.full = True
        body.feed(b"c")
        self.network.pass_time(4)

        self.assertIsInstance(listener.failure, OriginTimeout)
        self.assertTrue(line.lost)

    def test_slow_sender(self) -> None:
        """While the sender is slow, the origin is not blamed."""
        body = Body(2, [b"a"])
        _, listener = start(self.network, b"PUT", body)
        line = self.network.accept()
        self.network.pass_time(60)
        self.assertFalse(listener.over)
        body.feed(b"b")
        self.network.pass_time(1.5)
        self.assertFalse(listener.over)
        line.send(OK)

        self.assertEqual(1, listener.finished)

    def test_resting_receiver(self) -> None:
        """While the receiver of the answer rests, the origin is not blamed either."""
        body = Body(2, [b"a"])
        request, listener = start(self.network, b"PUT", body)
        request.pauseProducing()
        line = self.network.accept()
        body.feed(b"b")
        line.send(OK)
        self.network.pass_time(60)
        self.assertFalse(listener.over)
        request.resumeProducing()

        self.assertEqual(1, listener.finished)

    def test_broken_sender(self) -> None:
        """When the sender breaks, the origin never sees a complete request."""
        for length in (5, None):
            for first in (b"", b"he"):
                body = Body(length, [first] if first else [])
                _, listener = start(self.network, b"PUT", body)
                line = self.network.accept()
                body.feed(ClientGone())
                self.network.turn()

                self.assertIsInstance(listener.failure, ClientGone)
                self.assertTrue(line.lost)
                self.assertIsNone(complete_body(line.take()))

    def test_broken_from_the_start(self) -> None:
        """A body that is broken already is told of after start, as all else is."""
        start(self.network)
        line = self.network.accept()
        line.send(OK)
        line.take()
        _, listener = start(self.network, b"PUT", Body(5, [ClientGone()]))
        self.assertFalse(listener.over)
        self.network.turn()

        self.assertIsInstance(listener.failure, ClientGone)
        self.assertEqual(b"", line.take())
        self.network.turn()
        self.assertEqual({}, self.network.pool.report())

    def test_wrong_length(self) -> None:
        """A body that is not as long as announced is never completed."""
        for pieces in ([b"hell", b""], [b"hello!"], [b"he", b"llo!"], [b""]):
            _, listener = start(self.network, b"PUT", Body(5, pieces))
            line = self.network.accept()
            self.network.turn()

            self.assertIsInstance(listener.failure, InvalidRequest)
            self.assertTrue(line.lost)
            self.assertIsNone(complete_body(line.take()))

    def test_early_answer(self) -> None:
        """An origin may answer before it has the whole body; the rest is dropped."""
        body = Body(1000, [b"a"])
        _, listener = start(self.network, b"PUT", body)
        line = self.network.accept()
        line.send(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n")
        self.assertEqual(1, listener.finished)
        self.network.turn()

        self.assertTrue(line.lost)
        self.assertFalse(body.wanted)
        self.assertEqual({}, self.network.pool.report())

    def test_abort(self) -> None:
        """Aborting stops reading from the sender."""
        body = Body(1000, [b"a"])
        request, listener = start(self.network, b"PUT", body)
        line = self.network.accept()
        request.abort()
        self.network.turn()

        self.assertTrue(line.lost)
        self.assertFalse(body.wanted or listener.over)


class SentAgainTests(SynchronousTestCase):
    """A kept connection dies under an upload."""

    def setUp(self) -> None:
        self.network = Network()

    def kept(self) -> Line:
        """Return a connection that has been used and kept."""
        start(self.network)
        line = self.network.accept()
        line.send(OK)
        line.take()
        return line

    def test_second_upload_after_a_restart(self) -> None:
        """The original's worst bug: the upload over a dead kept connection is empty."""
        line = self.kept()
        body = Body(None, [b"SECOND-DATA", b""])
        _, listener = start(self.network, b"PUT", body)
        line.hang_up(ConnectionLost)

        assert isinstance(listener.failure, OriginFailed)
        self.assertFalse(listener.failure.replayable)
        self.assertEqual(0, len(self.network.dials))

    def test_bytes(self) -> None:
        """A body at hand is sent again whole."""
        line = self.kept()
        _, listener = start(self.network, b"PUT", b"SECOND-DATA")
        line.hang_up()
        fresh = self.network.accept()

        self.assertEqual(b"SECOND-DATA", complete_body(fresh.take()))
        fresh.send(OK)
        self.assertEqual(1, listener.finished)

    def test_first_piece(self) -> None:
        """While only the first piece was taken, all can be sent again."""
        for length in (6, None):
            line = self.kept()
            body = Body(length, [b"SEC"])
            _, listener = start(self.network, b"PUT", body)
            self.assertIn(b"SEC", line.take())
            line.hang_up()
            fresh = self.network.accept()
            body.feed(b"OND")
            body.feed(b"")

            self.assertEqual(b"SECOND", complete_body(fresh.take()))
            fresh.send(OK)
            self.assertEqual(1, listener.finished)
            fresh.hang_up()

    def test_first_piece_was_all(self) -> None:
        """A body of one piece can be sent again."""
        line = self.kept()
        start(self.network, b"PUT", Body(6, [b"SECOND"]))
        line.hang_up()

        self.assertEqual(b"SECOND", complete_body(self.network.accept().take()))

    def test_nothing_sent(self) -> None:
        """Even POST goes to a new connection when nothing of it had been sent."""
        line = self.kept()
        body = Body(4)
        _, listener = start(self.network, b"POST", body)
        line.hang_up()
        fresh = self.network.accept()
        body.feed(b"once")

        self.assertEqual(b"once", complete_body(fresh.take()))
        fresh.send(OK)
        self.assertEqual(1, listener.finished)

    def test_streamed_post(self) -> None:
        """POST of which something was sent is not sent again."""
        line = self.kept()
        _, listener = start(self.network, b"POST", Body(4, [b"on"]))
        line.hang_up()

        assert isinstance(listener.failure, OriginFailed)
        self.assertFalse(listener.failure.replayable)
        self.assertEqual(0, len(self.network.dials))

    @given(
        st.sampled_from((b"PUT", b"POST")),
        st.booleans(),
        st.lists(st.binary(min_size=1, max_size=4), max_size=4),
        st.integers(0, 6),
        st.integers(0, 6),
    )
    @settings(deadline=None)
    def test_all_or_nothing(
        self, method: bytes, known: bool, pieces: list[bytes], first: int, second: int
    ) -> None:
        """Whenever connections die, an origin has the sender's body or no request."""
        self.network = Network()
        lines = [self.kept()]
        whole = b"".join(pieces)
        body = Body(len(whole) if known else None)
        _, listener = start(self.network, method, body)
        feed = [*pieces, b""]
        for number, piece in enumerate([*feed, *([None] * 8)]):
            if number in (first, second) and not listener.over:
                lines[-1].hang_up()
            if self.network.dials:
                lines.append(self.network.accept())
            if piece is not None:
                body.feed(piece)

        seen = [complete_body(line.take()) for line in lines]
        for each in seen:
            self.assertIn(each, (None, whole))
        if method == b"POST":
            self.assertLessEqual(sum(each is not None for each in seen), 1)
        if not listener.over:
            self.assertEqual(whole, seen[-1])

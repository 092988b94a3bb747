"""Upgrades: connections on which something else is spoken after a 101."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import Limits, PoolConfig
from clinfra.errors import ConfigProblems
from clinfra.keys import Bytes, Seconds
from clinfra.web.site import Site
from tests.proxy.stage import Asked, Stage, response
from tests.web.clients import Client

HANDSHAKE = (
    b"GET /chat HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"Sec-WebSocket-Version: 13\r\n\r\n"
)
SWITCHING = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzhZRbK+xOo=\r\n\r\n"
)
PATIENCE = 30.0


class TunnelTestCase(SynchronousTestCase):
    """A proxy before an origin that may switch."""

    def setUp(self) -> None:
        self.answer: bytes | None = SWITCHING
        self.stage = Stage(self, self.script, pools=self.pools())

    def pools(self) -> dict[str, PoolConfig]:
        """Return the one pool."""
        members = ("o1:80",)
        patience = Seconds(PATIENCE)
        return {"origin": PoolConfig(members=members, tunnel_timeout=patience)}

    def script(self, asked: Asked) -> bytes | None:
        """Answer; what comes after a 101 is no request, and the test's to take."""
        if self.answer is not None and b" 101 " in self.answer:
            del vars(asked.line)["write"]
        return self.answer

    @property
    def asked(self) -> Asked:
        """What the origin was asked last."""
        return self.stage.asked[-1]

    def connect(self, handshake: bytes = HANDSHAKE) -> Client:
        """Return a client that has sent its handshake."""
        client = self.stage.client()
        client.send(handshake)
        self.stage.turn()
        return client

    def open(self) -> Client:
        """Return a client whose connection is a tunnel; nothing of it is received."""
        client = self.connect()
        self.assertTrue(client.received.startswith(b"HTTP/1.1 101 "))
        client.received.clear()
        self.asked.line.take()
        return client

    def report(self) -> dict[str, int]:
        """Return what is shown of tunnels."""
        shown = self.stage.proxy.report()["modules"]["Forwarder"]["tunnels"]
        return dict(shown)


class HandshakeTests(TunnelTestCase):
    """A client asks to switch, and the origin decides."""

    def test_what_the_origin_gets(self) -> None:
        """The wish is ours for the next hop, the rest is the client's."""
        self.connect()
        asked = self.asked
        self.assertEqual(asked.field("Connection"), "Upgrade")
        self.assertEqual(asked.field("Upgrade"), "websocket")
        self.assertEqual(asked.field("Sec-WebSocket-Key"), "dGhlIHNhbXBsZSBub25jZQ==")

    def test_what_the_client_gets(self) -> None:
        """The origin's agreement, with its own fields."""
        client = self.connect()
        head = bytes(client.received).lower()
        self.assertTrue(head.startswith(b"http/1.1 101 switching protocols\r\n"))
        self.assertIn(b"\r\nconnection: upgrade\r\n", head)
        self.assertIn(b"\r\nupgrade: websocket\r\n", head)
        self.assertIn(b"\r\nsec-websocket-accept: ", head)
        self.assertNotIn(b"content-length", head)
        self.assertNotIn(b"transfer-encoding", head)

    def test_refused(self) -> None:
        """An origin that does not switch answers as ever; the connection goes on."""
        self.answer = response(b"no", status="403 Forbidden")
        client = self.connect()
        client.send(b"GET /other HTTP/1.1\r\nHost: example.com\r\n\r\n")
        self.stage.turn()
        self.assertEqual([each.status for each in client.answers()], [403, 403])

    def test_never_from_the_cache(self) -> None:
        """A page of the same name has nothing to do with it."""
        self.answer = response(b"page", "Cache-Control: max-age=60")
        self.stage.get("/chat")
        self.answer = SWITCHING
        self.assertTrue(self.connect().received.startswith(b"HTTP/1.1 101 "))

    def test_unknown_protocol(self) -> None:
        """Nobody tunnels what the operator does not know of; the wish is dropped."""
        self.answer = response(b"plain")
        for name in (b"h2c", b"TLS/1.0", b"other"):
            client = self.connect(HANDSHAKE.replace(b"websocket", name))
            self.assertIsNone(self.asked.field("Upgrade"))
            self.assertIsNone(self.asked.field("Connection"))
            self.assertEqual(client.answers()[0].body, b"plain")

    def test_first_known_of_several(self) -> None:
        """Of several protocols only one that is known is asked for."""
        self.connect(HANDSHAKE.replace(b"websocket", b"h2c, WebSocket"))
        self.assertEqual(self.asked.field("Upgrade"), "WebSocket")

    def test_not_meant_for_us(self) -> None:
        """Upgrade without Connection: upgrade is not for this hop."""
        self.answer = response(b"plain")
        self.connect(HANDSHAKE.replace(b"keep-alive, Upgrade", b"keep-alive"))
        self.assertIsNone(self.asked.field("Upgrade"))

    def test_http10(self) -> None:
        """HTTP/1.0 cannot switch."""
        self.answer = response(b"plain")
        self.connect(HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"))
        self.assertIsNone(self.asked.field("Upgrade"))

    def test_with_a_body(self) -> None:
        """A request with a body does not switch: where would it end?"""
        self.answer = response(b"plain")
        client = self.connect(
            HANDSHAKE[:-2].replace(b"GET", b"POST") + b"Content-Length: 2\r\n\r\nhi"
        )
        self.assertIsNone(self.asked.field("Upgrade"))
        self.assertEqual(client.answers()[0].body, b"plain")

    def test_unasked(self) -> None:
        """An origin that switches though nobody asked is broken."""
        client = self.connect(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
        self.assertEqual([each.status for each in client.answers()], [502])
        self.assertTrue(self.asked.line.lost)

    def test_to_something_else(self) -> None:
        """So is one that switches to something else."""
        self.answer = SWITCHING.replace(b"websocket", b"gopher")
        client = self.connect()
        self.assertEqual([each.status for each in client.answers()], [502])
        self.assertTrue(self.asked.line.lost)


class ConversationTests(TunnelTestCase):
    """Both sides say what they like, for as long as they like."""

    def test_both_ways(self) -> None:
        """Every byte arrives as it was sent."""
        client = self.open()
        client.send(b"\x81\x85GET / HTTP/1.1\r\n\r\n")
        self.assertEqual(self.asked.line.take(), b"\x81\x85GET / HTTP/1.1\r\n\r\n")
        self.asked.line.send(b"\x81\x02hi")
        self.asked.line.send(b"\x81\x02ho")
        self.assertEqual(client.received, b"\x81\x02hi\x81\x02ho")
        self.assertEqual(self.report(), {"open": 1, "opened": 1})

    def test_early_words(self) -> None:
        """What came with the handshake, or with the answer, is not lost."""
        self.answer = SWITCHING + b"first"
        client = self.connect(HANDSHAKE + b"early")
        self.assertTrue(client.received.endswith(b"\r\n\r\nfirst"))
        self.assertTrue(self.asked.line.take().endswith(b"early"))

    def test_client_leaves(self) -> None:
        """The origin is told by the end of its connection."""
        client = self.open()
        client.hang_up()
        self.stage.turn()
        self.assertTrue(self.asked.line.lost)
        self.assertEqual(self.report(), {"open": 0, "opened": 1})
        self.assertEqual(self.stage.proxy.pipeline.active, 0)

    def test_client_ends_its_side(self) -> None:
        """What the origin has left to say still arrives."""
        client = self.open()
        client.channel.readConnectionLost()
        self.stage.turn()
        self.assertTrue(self.asked.line.disconnecting)

    def test_origin_leaves(self) -> None:
        """The client gets what was said, then the end."""
        client = self.open()
        self.asked.line.send(b"bye")
        self.asked.line.hang_up()
        self.stage.turn()
        self.assertEqual(client.received, b"bye")
        self.assertTrue(client.saw_end)
        self.assertFalse(client.transport.aborted)
        self.assertEqual(self.report()["open"], 0)

    def test_origin_is_not_blamed(self) -> None:
        """A tunnel that is cut says nothing of how well an origin answers."""
        client = self.open()
        self.asked.line.hang_up(ConnectionResetError)
        self.stage.turn()
        self.assertTrue(client.saw_end)
        pools = self.stage.proxy.report()["modules"]["Forwarder"]["pools"]
        self.assertIn("1.0", str(pools))

    def test_connection_is_never_used_again(self) -> None:
        """The next request goes over another one."""
        first = self.open()
        line = self.asked.line
        first.hang_up()
        self.answer = response(b"page")
        self.stage.get("/page")
        self.assertIsNot(self.asked.line, line)


class SilenceTests(TunnelTestCase):
    """Tunnels may be silent, but not for ever."""

    def test_silent_for_long(self) -> None:
        """Silence is not the body time-out's business."""
        client = self.open()
        self.stage.pass_time(PATIENCE - 2)
        client.send(b"still here")
        self.stage.pass_time(PATIENCE - 2)
        self.asked.line.send(b"so am I")
        self.stage.pass_time(PATIENCE - 2)
        self.assertFalse(client.saw_end)

    def test_silent_for_too_long(self) -> None:
        """Both sides are let go."""
        client = self.open()
        self.stage.pass_time(PATIENCE + 3)
        self.assertTrue(client.saw_end)
        self.assertTrue(self.asked.line.lost)
        self.assertEqual(self.report()["open"], 0)


class PressureTests(TunnelTestCase):
    """Whoever is slow slows the other down, and costs little memory."""

    def setUp(self) -> None:
        super().setUp()
        self.limits = Limits(buffer_bytes=Bytes(10_000), write_timeout=Seconds(5))
        self.stage.site = Site(
            self.stage.proxy.resource,
            reactor=self.stage.clock,
            limits=self.limits,
            lane=self.stage.proxy.lane,
        )

    def test_slow_client(self) -> None:
        """The origin is not read while the client takes nothing."""
        client = self.open()
        client.reading = False
        self.asked.line.send(b"x" * 70_000)
        self.assertEqual(self.asked.line.producerState, "paused")
        self.asked.line.send(b"y")
        client.take()
        self.stage.turn()
        self.assertEqual(self.asked.line.producerState, "producing")
        self.assertEqual(client.received, b"x" * 70_000 + b"y")

    def test_slow_origin(self) -> None:
        """The client is not read while the origin takes nothing."""
        client = self.open()
        line = self.asked.line
        line.full = True
        for _ in range(5):
            client.send(b"x" * 8_000)
        self.assertGreater(client.unsent, 0)
        line.drain()
        self.stage.turn()
        self.assertEqual(client.unsent, 0)
        self.assertEqual(line.take(), b"x" * 40_000)

    def test_client_that_never_takes_anything(self) -> None:
        """It is cut after the usual time."""
        client = self.open()
        client.reading = False
        self.asked.line.send(b"x" * 70_000)
        self.stage.pass_time(8)
        self.assertTrue(client.transport.aborted)
        self.assertTrue(self.asked.line.lost)


class ConfigurationTests(SynchronousTestCase):
    """The operator says what is tunnelled."""

    def test_own_protocol(self) -> None:
        """Any name will do."""
        answer = SWITCHING.replace(b"websocket", b"mine/2")
        stage = Stage(self, lambda asked: answer, upgrades=("Mine/2",))
        client = stage.client()
        client.send(HANDSHAKE.replace(b"websocket", b"mine/2"))
        stage.turn()
        self.assertTrue(client.received.startswith(b"HTTP/1.1 101 "))

    def test_refused(self) -> None:
        """But not one that would carry requests past all rules, nor nonsense."""
        for name in ("h2c", "HTTP/2.0", "TLS/1.0", "two words", "ä", ""):
            with self.assertRaises(ConfigProblems):
                Stage(self, upgrades=(name,))

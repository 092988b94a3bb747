"""Active checks on a fake clock: what is asked, when, and what counts as well."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.error import ConnectionRefusedError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import CheckConfig, PoolConfig
from clinfra.proxy.connections import origin_of
from clinfra.proxy.member import parse_place
from clinfra.proxy.origin_pool import OriginPool
from clinfra.proxy.probing import Prober
from clinfra.web.pool import Origin
from tests.web.origins import Dial, Line

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class ProberTests(SynchronousTestCase):
    """One pool and its checks."""

    def prober(self, *members: str, **check: Any) -> Prober:
        """Return the checks of a pool, begun."""
        self.clock = Clock()
        self.dials: list[tuple[Origin, Dial]] = []
        config = CheckConfig(**{"kind": "http", "interval": 5.0, **check})
        self.pool = OriginPool(
            "web",
            tuple(map(parse_place, members)),
            PoolConfig(check=config),
            Random(1),
            self.clock.seconds,
        )
        it = Prober(
            self.pool,
            reactor=self.clock,
            connect=self._connect,
            origin_of=origin_of,
            rng=Random(1),
        )
        it.start()
        self.addCleanup(it.stop)
        return it

    def _connect(self, origin: Origin, factory: Any, timeout: float) -> Dial:
        dial = Dial(self.clock, factory, timeout)
        self.dials.append((origin, dial))
        return dial

    def answer(self, data: bytes) -> Line:
        """Let the oldest check connect, and answer it."""
        line = self.dials.pop(0)[1].accept()
        self.asked = line.take()
        if data:
            line.send(data)
        self.clock.advance(0)
        return line

    def up(self) -> list[bool]:
        """Return who is up."""
        return [member.up for member in self.pool.members]

    def test_what_is_asked(self) -> None:
        """The path, for the member's own name or the configured Host; never reused."""
        self.prober("a.test:80", path="/well?x")
        line = self.answer(OK)
        self.assertTrue(self.asked.startswith(b"GET /well?x HTTP/1.1\r\n"))
        self.assertIn(b"\r\nHost: a.test:80\r\n", self.asked)
        self.assertIn(b"\r\nConnection: close\r\n", self.asked)
        self.assertTrue(line.disconnecting)
        self.assertFalse(line.reset)
        self.prober("a.test:80", host="www.example")
        self.answer(OK)
        self.assertIn(b"\r\nHost: www.example\r\n", self.asked)

    def test_a_long_path(self) -> None:
        """A UNIX socket's path may be longer than a name of DNS."""
        self.prober(f"unix:/{'x' * 80}/o.sock")
        self.answer(OK)
        self.assertIn(b"\r\nHost: localhost\r\n", self.asked)
        self.assertEqual([True], self.up())

    def test_when(self) -> None:
        """At once, and again after each interval, more or less."""
        self.prober("a.test:80", "b.test:80")
        self.assertEqual(2, len(self.dials))
        self.answer(OK)
        self.answer(OK)
        self.clock.advance(4.4)
        self.assertEqual([], self.dials)
        self.clock.advance(1.2)
        self.assertEqual(
            ["a.test:80", "b.test:80"], [str(origin) for origin, _ in self.dials]
        )

    def test_bad_answers(self) -> None:
        """Wrong statuses, nonsense, cut bodies and refusals are bad; so is silence."""
        for data, why in (
            (OK.replace(b"200", b"503"), "the check was answered 503"),
            (b"nonsense\r\n\r\n", "bad"),
            (OK[:-1], "no answer within 2 s"),
            (b"", "no answer within 2 s"),
            (None, "refused"),
        ):
            self.prober("a.test:80", fall=1)
            if data is None:
                self.dials.pop()[1].refuse(ConnectionRefusedError())
                self.clock.advance(0)
            else:
                self.answer(data)
                self.clock.pump([0.5] * 5)
            (member,) = self.pool.members
            self.assertEqual([False], self.up(), data)
            self.assertIn(why, member.last_failure)

    def test_good_answers(self) -> None:
        """The configured statuses are good, whatever they are."""
        self.prober("a.test:80", fall=1, statuses=(404,))
        self.answer(OK.replace(b"200 OK", b"404 Not Found"))
        self.assertEqual([True], self.up())

    def test_text(self) -> None:
        """A good answer may have to say something."""
        for text, up in (("ok", True), ("fine", False)):
            self.prober("a.test:80", fall=1, text=text)
            self.answer(OK)
            self.assertEqual([up], self.up())

    def test_one_at_a_time(self) -> None:
        """A member that does not answer is not asked twice at a time."""
        self.prober("a.test:80", interval=1.0, timeout=10.0)
        self.clock.pump([1.0] * 5)
        self.assertEqual(1, len(self.dials))

    def test_connecting(self) -> None:
        """kind = "tcp": who takes connections is well, and gets no bytes."""
        self.prober("a.test:80", "b.test:80", kind="tcp", fall=1, rise=1)
        line = self.answer(b"")
        self.assertEqual((b"", True), (self.asked, line.disconnecting))
        self.dials.pop()[1].refuse(ConnectionRefusedError())
        self.clock.advance(0)
        self.assertEqual([True, False], self.up())

    def test_stop(self) -> None:
        """Checks under way end, and say nothing of their member."""
        it = self.prober("a.test:80", "b.test:80", fall=1)
        self.dials[0][1].accept()
        stopped = it.stop()
        self.clock.advance(0)
        self.successResultOf(stopped)
        self.assertEqual(([True, True], []), (self.up(), self.clock.getDelayedCalls()))

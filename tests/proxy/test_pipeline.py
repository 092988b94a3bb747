"""The life of a request: phases, answers, trouble, and modules that misbehave."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as HookTimeout
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import ModuleConfig
from clinfra.errors import Forbidden
from clinfra.proxy.message import Reply, Request
from clinfra.proxy.rules import RuleModule
from tests.proxy.stage import Stage, response

seen: list[str] = []
gate: list[Deferred[Any]] = []


class Watcher(RuleModule):
    """Writes down the phases."""

    def received(self, request: Request) -> None:
        seen.append("received")

    def route(self, request: Request) -> None:
        seen.append("route")

    def lookup(self, request: Request) -> None:
        seen.append("lookup")

    def hit(self, request: Request) -> None:
        seen.append("hit")

    def stale(self, request: Request) -> None:
        seen.append("stale")

    def miss(self, request: Request) -> None:
        seen.append("miss")

    def pass_(self, request: Request) -> None:
        seen.append("pass")

    def forward(self, request: Request) -> None:
        seen.append("forward")

    def response(self, request: Request) -> None:
        seen.append("response")

    def store(self, request: Request) -> None:
        seen.append("store")

    def deliver(self, request: Request) -> None:
        seen.append("deliver")

    def failed(self, request: Request, trouble: Exception) -> None:
        seen.append("failed")

    def done(self, request: Request) -> None:
        seen.append("done")


class Answers:
    """Answers "/here" itself; needs no base class."""

    def received(self, request: Request) -> Reply | None:
        if request.path == "/here":
            return Reply(200, ((b"X", b"1"),), b"here", served_by="Answers")
        return None


class Waits:
    """Answers "/wait" later, and sends "/on" on later."""

    async def received(self, request: Request) -> Reply | None:
        if request.path in ("/wait", "/on"):
            gate.append(Deferred())
            await gate[-1]
        return Reply(200, (), b"waited") if request.path == "/wait" else None


class Raises:
    """Fails in the phase the query names."""

    def _fail(self, phase: str, request: Request) -> None:
        if request.target == f"/?{phase}":
            raise RuntimeError(phase)
        if request.target == f"/forbidden?{phase}":
            raise Forbidden("Not for you.")

    def received(self, request: Request) -> None:
        self._fail("received", request)

    def lookup(self, request: Request) -> None:
        self._fail("lookup", request)

    def response(self, request: Request) -> None:
        self._fail("response", request)

    def deliver(self, request: Request) -> None:
        self._fail("deliver", request)

    def done(self, request: Request) -> None:
        self._fail("done", request)


class Splits:
    """Tries to split the answer."""

    def response(self, request: Request) -> None:
        assert request.reply is not None
        request.reply.set(b"X", b"a\r\nSet-Cookie: b=c")


class Nonsense:
    """Returns what makes no sense."""

    def received(self, request: Request) -> object:
        return 42


def use(cls: type[Any]) -> tuple[ModuleConfig, ...]:
    """Return the configuration of a module of this file."""
    return (ModuleConfig(use=f"{__name__}.{cls.__name__}"),)


class PhaseTests(SynchronousTestCase):
    """One list of phases."""

    def setUp(self) -> None:
        seen.clear()
        gate.clear()

    def test_order(self) -> None:
        """Miss, hit, stale, pass and a failure, each by its phases."""
        stage = Stage(
            self,
            lambda asked: response(b"x", "Cache-Control: max-age=9", 'ETag: "1"'),
            first=use(Watcher),
        )
        start, end = "received route lookup", "forward response store deliver done"
        for method, expected in (
            ("GET", f"{start} miss {end}"),
            ("GET", f"{start} hit deliver done"),
            ("POST", f"{start} pass {end}"),
            ("PURGE", f"{start} failed deliver done"),
        ):
            seen.clear()
            stage.get("/a", method=method)
            self.assertEqual(expected, " ".join(seen), method)
        stage.get("/a")
        stage.pass_time(10)
        seen.clear()
        stage.get("/a")
        self.assertEqual(f"{start} stale {end}", " ".join(seen))

    def test_answer_of_a_module(self) -> None:
        """A module's answer goes straight to the client, and says whose it is."""
        stage = Stage(self, first=use(Answers))
        answer = stage.get("/here")

        self.assertEqual(
            (200, b"here", "1"), (answer.status, answer.body, answer.fields["X"])
        )
        self.assertEqual("clinfra; detail=Answers", answer.fields["Cache-Status"])
        self.assertEqual([], stage.asked)

    def test_waiting(self) -> None:
        """A hook may wait; the request goes on from there."""
        stage = Stage(self, first=use(Waits))
        first, second = stage.ask("/wait"), stage.ask("/on")
        self.assertEqual((b"", b""), (first.received, second.received))
        for each in gate:
            each.callback(None)
        stage.turn()

        self.assertEqual(b"waited", first.answers()[0].body)
        self.assertEqual(b"hello", second.answers()[0].body)

    def test_hanging(self) -> None:
        """A hook that never comes back is cancelled in the end, and answered 500."""
        stage = Stage(self, first=use(Waits))
        client = stage.ask("/wait")
        stage.pass_time(301)

        self.assertEqual(500, client.answers()[0].status)
        self.assertTrue(gate[-1].called)
        self.assertEqual(1, len(self.flushLoggedErrors(HookTimeout)))

    def test_client_leaves_while_a_hook_waits(self) -> None:
        """The hook is cancelled."""
        stage = Stage(self, first=use(Waits))
        client = stage.ask("/wait")
        client.hang_up()

        self.assertTrue(gate[0].called)
        self.assertEqual(0, stage.proxy.pipeline.active)


class TroubleTests(SynchronousTestCase):
    """A module that fails is 500 and logged, never a hang."""

    def test_every_phase(self) -> None:
        """Wherever it is raised."""
        stage = Stage(self, first=use(Raises))
        for phase in ("received", "lookup", "response", "deliver"):
            answer = stage.get(f"/?{phase}")
            self.assertEqual((500, phase), (answer.status, phase))
            self.assertTrue(self.flushLoggedErrors(RuntimeError))
        self.assertEqual(200, stage.get("/?done").status)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_trouble(self) -> None:
        """Trouble in domain words becomes its status, without a log."""
        stage = Stage(self, first=use(Raises))
        for phase in ("received", "lookup", "response"):
            answer = stage.get(f"/forbidden?{phase}")
            self.assertEqual((403, b"Not for you.\n"), (answer.status, answer.body))

    def test_waiters_are_told(self) -> None:
        """Those who wait for a fetch that a module breaks are not left waiting."""
        stage = Stage(self, lambda asked: None, first=use(Raises))
        clients = [stage.ask("/?response") for _ in range(2)]
        stage.asked[0].line.send(response())
        stage.turn(30)

        self.assertEqual([500, 500], [each.answers()[0].status for each in clients])
        self.flushLoggedErrors(RuntimeError)

    def test_response_splitting(self) -> None:
        """A field with a line break is a 500, not a second field."""
        stage = Stage(self, first=use(Splits))
        answer = stage.get("/")

        self.assertEqual(500, answer.status)
        self.assertNotIn("Set-Cookie", answer.fields)
        self.flushLoggedErrors(ValueError)

    def test_nonsense(self) -> None:
        """A hook that returns what is no answer is a 500."""
        stage = Stage(self, first=use(Nonsense))

        self.assertEqual(500, stage.get("/").status)
        self.flushLoggedErrors(TypeError)


class LaneTests(SynchronousTestCase):
    """Modules decide whether repeated heads need asking about."""

    def test_modules_that_look_further(self) -> None:
        """A module that is not head_only is asked about every request."""
        stage = Stage(
            self,
            lambda asked: response(b"x", "Cache-Control: max-age=9"),
            first=use(Answers),
        )
        for _ in range(4):
            stage.get("/a")

        self.assertEqual(0, stage.proxy.pipeline.hits)

    def test_client_that_is_gone(self) -> None:
        """A client that leaves during its fetch is nobody to answer."""
        stage = Stage(self, lambda asked: None)
        client = stage.ask("/")
        client.hang_up()
        stage.turn()

        self.assertEqual(0, stage.proxy.pipeline.active)
        self.assertEqual({}, stage.proxy._surroundings.coalescer.flights)

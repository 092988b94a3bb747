"""The short way of a pass: quicker, and nobody can tell the difference."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import ModuleConfig, PoolConfig
from clinfra.proxy.message import Request
from clinfra.proxy.rules import RuleModule
from tests.proxy.stage import Asked, Stage, response
from tests.web.clients import Client

PRIVATE = "Cache-Control: no-store"
REQUEST = b"GET /a HTTP/1.1\r\nHost: example.com\r\n\r\n"

seen: list[str] = []


class Watches(RuleModule):
    """Writes down which answers it is asked about."""

    by_heads = True

    def response(self, request: Request) -> None:
        assert request.reply is not None
        seen.append(f"{request.reply.status}")


class Attentive(Watches):
    """Wants to see every answer."""

    by_heads = False


class Logs(RuleModule):
    """Wants to know how every request ends."""

    def done(self, request: Request) -> None:
        seen.append("done")


class Gated(RuleModule):
    """Has a say in every request."""

    head_only = True
    opened = True

    def received(self, request: Request) -> None:
        request.gates = (lambda exchange: Gated.opened,)


def use(cls: type[Any]) -> ModuleConfig:
    """Return the configuration of a module of this file."""
    return ModuleConfig(use=f"{__name__}.{cls.__name__}")


class PassageTestCase(SynchronousTestCase):
    """A page that is never kept, and one client that asks for it again and again."""

    module: type[RuleModule] = Watches
    members: tuple[str, ...] = ("o1:80",)
    spool = True

    def setUp(self) -> None:
        seen.clear()
        self.answer: bytes | None = response(b"hello", PRIVATE)
        self.asked: list[Asked] = []
        self.stage = Stage(
            self,
            self.script,
            first=(use(self.module),),
            pools={
                "origin": PoolConfig(members=self.members, spool_answers=self.spool)
            },
        )

    def script(self, asked: Asked) -> bytes | None:
        """Give the answer of the moment."""
        self.asked.append(asked)
        return self.answer

    def warm(self) -> Client:
        """Return a client whose next request takes the short way."""
        client = self.stage.client()
        self.ask(client, 3)
        seen.clear()
        client.received.clear()
        return client

    def ask(self, client: Client, times: int = 1) -> None:
        """Ask so often, one after the other."""
        for _ in range(times):
            client.send(REQUEST)
            self.stage.turn()

    @property
    def passes(self) -> int:
        """How many requests took the short way."""
        return self.stage.proxy.pipeline.passes

    @property
    def active(self) -> int:
        """How many requests are under way."""
        return self.stage.proxy.pipeline.active


class RepeatedPassTests(PassageTestCase):
    """Equal heads, equal answers."""

    def test_answers(self) -> None:
        """Every request is asked of the origin, and every answer is the same."""
        client = self.stage.client()
        self.ask(client, 6)
        first, *others = client.answers()
        self.assertEqual(len(self.asked), 6)
        self.assertEqual(self.passes, 3)
        self.assertEqual(first.body, b"hello")
        bypassed = [(each.status, each.fields.items(), each.body) for each in others]
        self.assertEqual(len(others), 5)
        self.assertTrue(all(each == bypassed[0] for each in bypassed))
        self.assertEqual(
            others[0].fields["Cache-Status"], "clinfra; fwd=bypass; fwd-status=200"
        )
        heads = {asked.head.raw for asked in self.asked}
        self.assertEqual(len(heads), 1)
        self.assertEqual(self.active, 0)

    def test_counted(self) -> None:
        """They count as requests, and as passed by the cache."""
        self.ask(self.stage.client(), 6)
        report = self.stage.proxy.report()
        self.assertEqual(report["requests"], 6)
        self.assertEqual(report["modules"]["DirectCache"]["pass"], 5)

    def test_modules_are_not_asked_again_for_a_second(self) -> None:
        """What is known of an answer is not older than that."""
        client = self.warm()
        self.ask(client, 3)
        self.assertEqual(seen, [])
        self.stage.pass_time(1.0)
        self.ask(client, 3)
        self.assertEqual(seen, ["200"])
        self.assertEqual([each.body for each in client.answers()], [b"hello"] * 6)

    def test_answer_with_another_head(self) -> None:
        """Another answer goes the long way, and may be kept."""
        client = self.warm()
        self.answer = response(b"new", "Cache-Control: max-age=60")
        self.ask(client, 3)
        self.assertEqual(seen, ["200"])
        self.assertEqual([each.body for each in client.answers()], [b"new"] * 3)
        self.assertEqual(self.active, 0)

    def test_body_in_pieces(self) -> None:
        """A body of unknown length comes as it comes."""
        self.answer = (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
            b"Cache-Control: no-store\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        client = self.warm()
        self.ask(client, 2)
        self.assertEqual([each.body for each in client.answers()], [b"abcde"] * 2)
        self.assertEqual(seen, [])

    def test_another_client_address(self) -> None:
        """What the origin is told of the client is true."""
        self.warm()
        other = Client(self.stage.site, self.stage.clock, address="192.0.2.99")
        self.ask(other, 3)
        told = [asked.field("X-Forwarded-For") for asked in self.asked[-3:]]
        self.assertEqual(told, ["192.0.2.99"] * 3)


class InterestedModuleTests(PassageTestCase):
    """A module that does not say that heads are all it goes by is always asked."""

    module = Attentive

    def test_asked_each_time(self) -> None:
        """It sees every answer."""
        client = self.warm()
        self.ask(client, 3)
        self.assertEqual(seen, ["200"] * 3)
        self.assertEqual(self.passes, 0)


class LoggingModuleTests(PassageTestCase):
    """So is one that wants to know when a request is over."""

    module = Logs

    def test_asked_each_time(self) -> None:
        """It hears of every request."""
        client = self.warm()
        self.ask(client, 3)
        self.assertEqual(seen, ["done"] * 3)
        self.assertEqual(self.passes, 0)


class BrokenPassTests(PassageTestCase):
    """Whatever goes wrong on the short way goes as wrong as on the long one."""

    def test_origin_cuts_its_answer(self) -> None:
        """The client's is cut as well."""
        client = self.warm()
        self.answer = None
        self.ask(client)
        self.assertEqual(self.active, 1)
        line = self.asked[-1].line
        line.send(response(b"hello", PRIVATE)[:-2])
        line.hang_up()
        self.stage.turn()
        self.assertTrue(client.transport.aborted)
        self.assertTrue(client.received.endswith(b"hel"))
        self.assertEqual(self.active, 0)

    def test_origin_hangs(self) -> None:
        """Operators see what is waited for, and for how long."""
        client = self.warm()
        self.answer = None
        self.ask(client)
        self.stage.pass_time(2)
        (row,) = self.stage.proxy.report()["under_way"]
        told = (row["request"], row["milliseconds"], row["phase"], row["origin"])
        self.assertEqual(told, ("GET example.com/a", 2000, "forward", "o1:80"))
        self.assertEqual(self.passes, 1)

    def test_origin_breaks_off_before_it_answers(self) -> None:
        """It is tried again as ever, and in the end the client is told."""
        client = self.warm()
        self.answer = None
        self.ask(client)
        for _ in range(4):
            self.asked[-1].line.hang_up()
            self.stage.turn()
        (answer,) = client.answers()
        self.assertEqual(answer.status, 503)
        self.assertEqual(self.active, 0)

    def test_origin_comes_back(self) -> None:
        """A try after a failed one has the answer."""
        client = self.warm()
        self.answer = None
        self.ask(client)
        self.asked[-1].line.hang_up()
        self.answer = response(b"hello", PRIVATE)
        self.stage.turn()
        self.asked[-1].line.hang_up()
        self.stage.turn()
        (answer,) = client.answers()
        self.assertEqual((answer.status, answer.body), (200, b"hello"))

    def test_origin_answers_in_time_no_more(self) -> None:
        """The client gets 504."""
        client = self.warm()
        self.answer = None
        self.ask(client)
        self.stage.pass_time(200)
        self.assertEqual([each.status for each in client.answers()], [504])
        self.assertEqual(self.active, 0)

    def test_client_leaves(self) -> None:
        """The origin is let go."""
        client = self.warm()
        self.answer = None
        self.ask(client)
        client.hang_up()
        self.stage.turn()
        self.assertTrue(self.asked[-1].line.lost)
        self.assertEqual(self.active, 0)


class SlowClientTests(PassageTestCase):
    """A client that takes no bytes has the origin wait, or takes the long way."""

    def test_kept_for_the_client(self) -> None:
        """What the client does not take waits here."""
        body = b"x" * 900_000
        self.answer = response(body, PRIVATE)
        client = self.warm()
        client.reading = False
        self.ask(client)
        self.assertEqual(self.active, 1)
        self.assertEqual(self.asked[-1].line.producerState, "producing")
        client.take()
        self.stage.turn()
        (answer,) = client.answers()
        self.assertEqual(answer.body, body)
        self.assertEqual(self.active, 0)


class SlowClientWithoutSpoolTests(PassageTestCase):
    """Where nothing is kept, the origin waits."""

    spool = False

    def test_paused_and_resumed(self) -> None:
        """Nothing is lost on the way."""
        body = b"x" * 300_000
        self.answer = response(body, PRIVATE)
        client = self.warm()
        self.answer = None
        client.reading = False
        self.ask(client)
        line = self.asked[-1].line
        whole = response(body, PRIVATE)
        line.send(whole[:200_000])
        self.assertEqual(line.producerState, "paused")
        line.send(whole[200_000:])
        client.take()
        self.stage.turn()
        (answer,) = client.answers()
        self.assertEqual(answer.body, body)


class SeveralMembersTests(PassageTestCase):
    """Every member of a pool is asked, each by its own head."""

    members = ("o1:80", "o2:80")

    def test_all_are_asked(self) -> None:
        """The short way is no shortcut past the choice of a member."""
        self.ask(self.stage.client(), 40)
        self.assertEqual({asked.origin for asked in self.asked}, {"o1:80", "o2:80"})
        self.assertGreater(self.passes, 30)


class GatedTests(PassageTestCase):
    """A rule that has a say in every request has one in these as well."""

    module = Gated

    def test_gate_is_shut(self) -> None:
        """Then the request takes the long way."""
        client = self.warm()
        self.ask(client)
        self.assertEqual(self.passes, 1)
        Gated.opened = False
        self.addCleanup(setattr, Gated, "opened", True)
        self.ask(client)
        self.assertEqual(self.passes, 1)
        self.assertEqual(len(client.answers()), 2)

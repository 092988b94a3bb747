"""Answers that nobody takes any more: their origins are let go, and nobody waits."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import CacheConfig, ModuleConfig, ProxyConfig
from clinfra.proxy.message import Reply, Request
from clinfra.proxy.rules import RuleModule
from tests.proxy.stage import Asked, Stage, response

FRESH = "Cache-Control: max-age=60"
CHUNKED_HEAD = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n"
    b'ETag: "v1"\r\nCache-Control: max-age=60\r\n\r\n'
)
CHUNK = b"400\r\n" + b"x" * 1024 + b"\r\n"

gate: list[Deferred[Any]] = []


class Replaces(RuleModule):
    """Gives another answer in the phase that the query names."""

    def _replace(self, request: Request, phase: str) -> Reply | None:
        if request.target == f"/?{phase}":
            return Reply(200, (), b"replaced", served_by="Replaces")
        return None

    def response(self, request: Request) -> Reply | None:
        return self._replace(request, "response")

    def store(self, request: Request) -> Reply | None:
        return self._replace(request, "store")

    def deliver(self, request: Request) -> Reply | None:
        return self._replace(request, "deliver")


class WaitsToDeliver(RuleModule):
    """Delivers only when it is told to."""

    async def deliver(self, request: Request) -> None:
        gate.append(Deferred())
        await gate[-1]


class MakesPrivate(RuleModule):
    """Says, after the cache has judged an answer, that it is for one client only."""

    def response(self, request: Request) -> None:
        assert request.reply is not None
        request.reply.set(b"Cache-Control", b"private")


def use(cls: type[Any]) -> ModuleConfig:
    """Return the configuration of a module of this file."""
    return ModuleConfig(use=f"{__name__}.{cls.__name__}")


class EndlessBodyTests(SynchronousTestCase):
    """A body without an end is not read on for nobody."""

    def setUp(self) -> None:
        self.held: list[Asked] = []
        self.stage = Stage(
            self,
            lambda asked: self.held.append(asked),
            cache=CacheConfig(object_bytes=4096),  # type: ignore[arg-type] # bytes
        )

    def test_client_left_and_it_is_too_large_to_share(self) -> None:
        """Once it cannot be kept, nothing is left to read it for."""
        first = self.stage.ask("/a")
        self.stage.ask("/a")
        first.hang_up()
        self.stage.turn()
        line = self.held[0].line
        line.send(CHUNKED_HEAD + CHUNK * 5)
        self.stage.turn()

        self.assertTrue(line.lost)
        self.assertEqual(2, len(self.held))

    def test_client_has_it_and_it_is_too_large_to_keep(self) -> None:
        """A client that got its 304 leaves nobody to read for."""
        client = self.stage.ask("/a", 'If-None-Match: "v1"')
        line = self.held[0].line
        line.send(CHUNKED_HEAD + CHUNK)
        self.stage.turn()
        self.assertEqual(304, client.answers()[0].status)
        self.assertFalse(line.lost)
        line.send(CHUNK * 5)
        self.stage.turn()

        self.assertTrue(line.lost)

    def test_everybody_left(self) -> None:
        """When the last who waits leaves, the fetch is given up."""
        first, second = self.stage.ask("/a"), self.stage.ask("/a")
        first.hang_up()
        self.stage.turn()
        line = self.held[0].line
        self.assertFalse(line.lost)
        second.hang_up()
        self.stage.turn()

        self.assertTrue(line.lost)
        self.stage.ask("/a")
        self.assertEqual(2, len(self.held))

    def test_nobody_has_patience(self) -> None:
        """Nor does it go on when all who waited were let go."""
        first = self.stage.ask("/a")
        self.stage.ask("/a")
        first.hang_up()
        self.stage.pass_time(11)

        self.assertTrue(self.held[0].line.lost)
        self.assertEqual(2, len(self.held))


class ReplacedAnswerTests(SynchronousTestCase):
    """A module may answer in the origin's place, at any phase."""

    def test_origin_is_let_go(self) -> None:
        """The connection is not kept waiting, and the next request is not either."""
        for phase in ("response", "store", "deliver"):
            with self.subTest(phase):
                stage = Stage(
                    self,
                    lambda asked: response(b"origin", FRESH, length=60000),
                    first=(use(Replaces),),
                )
                answer = stage.get(f"/?{phase}")
                self.assertEqual(b"replaced", answer.body)
                self.assertTrue(stage.asked[0].line.lost)
                self.assertEqual(b"replaced", stage.get(f"/?{phase}").body)

    def test_changed_after_the_cache(self) -> None:
        """What a later module makes of an answer decides whether it is kept."""
        usual = [ModuleConfig(use=each.use) for each in ProxyConfig().modules]
        names = [each.use for each in usual]
        usual.insert(names.index("DirectCache") + 1, use(MakesPrivate))
        stage = Stage(
            self, lambda asked: response(b"page", FRESH), pipeline=tuple(usual)
        )
        stage.get("/a")
        stage.get("/a")

        self.assertEqual(2, len(stage.asked))

    def test_client_leaves_before_it_is_delivered(self) -> None:
        """Those who wait for what it fetches are not left waiting."""
        gate.clear()
        stage = Stage(
            self, lambda asked: response(b"page", FRESH), first=(use(WaitsToDeliver),)
        )
        first = stage.ask("/a")
        first.hang_up()
        stage.turn()
        second = stage.ask("/a")
        self.assertEqual(2, len(gate))
        gate[-1].callback(None)
        stage.turn()

        self.assertEqual(b"page", second.answers()[0].body)

    def test_origin_cuts_before_it_is_delivered(self) -> None:
        """Later requests for the page do not wait for what was cut."""
        gate.clear()
        stage = Stage(
            self,
            lambda asked: response(b"pa", FRESH, length=4),
            first=(use(WaitsToDeliver),),
        )
        first = stage.ask("/a")
        stage.asked[0].line.hang_up()
        gate[0].callback(None)
        stage.turn()
        self.assertTrue(first.closed)
        stage.ask("/a")

        self.assertEqual(2, len(stage.asked))

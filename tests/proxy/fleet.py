"""Several proxies in memory over the same memcached and the same origin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from tests.proxy.memory_server import MemoryServer
from tests.proxy.stage import START, Asked, Script, Stage, response
from tests.web.clients import Client


class Fleet:
    """Proxies that share a clock, two memcached and an origin.

    Attributes:
        held: what the origin was asked and has not answered.
    """

    def __init__(
        self, test: SynchronousTestCase, count: int = 3, **options: object
    ) -> None:
        self.clock = Clock()
        self.clock.advance(START)
        self.servers = {
            name: MemoryServer(self.clock) for name in ("m1:11211", "m2:11211")
        }
        self.held: list[Asked] = []
        self.script: Script = self._hold
        self.stages = [
            Stage(
                test,
                lambda asked: self.script(asked),
                clock=self.clock,
                servers=self.servers,
                modules={"DirectCache": options},
            )
            for _ in range(count)
        ]

    def _hold(self, asked: Asked) -> None:
        self.held.append(asked)

    def ask(self, target: str = "/", *fields: str, times: int = 3) -> list[Client]:
        """Ask each proxy some times."""
        clients = [
            stage.ask(target, *fields, turns=0)
            for _ in range(times)
            for stage in self.stages
        ]
        self.turn()
        return clients

    def turn(self, seconds: float = 0.0) -> None:
        """Let the world turn, and time pass."""
        for _ in range(20):
            self.clock.advance(0)
        if seconds:
            self.clock.pump([0.01] * round(seconds * 100))
        for _ in range(20):
            self.clock.advance(0)

    def answer(self, number: int, *fields: str, body: bytes = b"page") -> None:
        """Have the origin answer."""
        self.held[number].line.send(response(body, *fields))
        self.turn(0.2)

    def purge(
        self, *urls: str, pages: Sequence[str] = (), proxy: int = 0, **more: Any
    ) -> int:
        """Purge on one of them."""
        urls = (*urls, *pages)
        purging = Deferred.fromCoroutine(self.stages[proxy].proxy.purge(urls, **more))
        known: list[int] = []
        purging.addCallback(known.append)
        self.turn()
        return known[0]

"""A forwarded read goes on at another replica, with the same bytes or not at all."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred

from clinfra.blob.resume import Rest
from clinfra.errors import OriginFailed
from clinfra.web.exchange import IExchange, Response
from clinfra.web.heads import Fields, ResponseHead
from clinfra.web.pool import Origin
from clinfra.web.resource import Resource
from tests.blob.test_router import RouterCase
from tests.sim.cluster import Host

HUGE = random.Random(9).randbytes((6 << 20) + 11)
OTHER = random.Random(10).randbytes(len(HUGE))


class BreakingOff(Resource):
    """A replica whose connections break while it sends."""

    def __init__(self, inner: Resource, after: int, dies: bool) -> None:
        super().__init__()
        self._inner, self._after, self._dies = inner, after, dies
        self._dead = False

    async def respond(self, exchange: IExchange) -> Response | None:
        """Send the beginning of an answer."""
        if self._dead:
            return Response(503)
        response = await self._inner.respond(exchange)
        assert response is not None
        body = response.body
        if isinstance(body, bytes) and len(body) > 1000:
            return evolve(response, body=self._begin(body), length=len(body))
        if not isinstance(body, bytes) and response.status == 206:
            return evolve(response, body=self._cut(body))
        return response

    async def _begin(self, body: bytes) -> AsyncIterator[bytes]:
        if self._after:
            yield body[: self._after]
        if len(body) > self._after:
            self._dead = self._dies
            raise OriginFailed("the power is gone")

    async def _cut(self, body: Any) -> AsyncIterator[bytes]:
        async for piece in body:
            yield piece[: self._after]
            raise OriginFailed("the power is gone")


class ResumeTests(RouterCase):
    """The replica that sends a body dies in the middle of it."""

    def setUp(self) -> None:
        super().setUp()
        (name,) = self.elsewhere()
        self.name = name
        self.stored = self.ask(self.first, "PUT", f"/{name}", HUGE).told["name"]
        self.cluster.run(5)

    def break_off(self, *hosts: Host, after: int = 1 << 20, dies: bool = False) -> None:
        """Let replicas break off every long answer, or the last, after so much."""
        for host in hosts:
            assert host.service is not None
            # Also on connections that there are already.
            site: Any = self.cluster.network.listeners[Origin(host.ip, 80)]
            site.resource = BreakingOff(host.service.resource, after, dies)

    def read(self, *fields: tuple[bytes, bytes]) -> tuple[int, bytes, bool]:
        """Read through a server that does not keep it: status, body, whether whole."""

        async def read() -> tuple[int, bytes, bool]:
            response = await self.pool.request(
                Origin(self.first.ip, 80), b"GET", f"/{self.stored}".encode(), fields
            )
            body = b""
            try:
                while piece := await response.read():
                    body += piece
            except OriginFailed:
                return response.head.status, body, False
            return response.head.status, body, True

        found: tuple[int, bytes, bool] = self.cluster.finish(
            Deferred.fromCoroutine(read())
        )
        return found

    def test_same_bytes(self) -> None:
        """The next replica sends what is missing; the client notices nothing."""
        one, other = self.keepers(self.stored)
        self.break_off(one)
        for _ in range(6):
            self.assertEqual((200, HUGE, True), self.read())
        self.cluster.crash(other)
        # One megabyte at a time is enough progress to go on.
        self.assertEqual((200, HUGE, True), self.read())

    def test_range(self) -> None:
        """So it does with the rest of a range."""
        self.break_off(*self.keepers(self.stored), after=2 << 20)
        wanted = (b"Range", b"bytes=100-%d" % (len(HUGE) - 100))
        self.assertEqual((206, HUGE[100:-99], True), self.read(wanted))

    def test_other_cluster(self) -> None:
        """When all of our own die after a while, another cluster has the rest."""
        self.break_off(*self.keepers(self.stored), after=10)
        self.assertEqual((200, HUGE, True), self.read())

    def test_parts_are_not_resumed(self) -> None:
        """Several ranges at once end broken."""
        self.break_off(*self.keepers(self.stored))
        status, _, whole = self.read((b"Range", b"bytes=0-3000000,4000000-5000000"))
        self.assertEqual((206, False), (status, whole))

    def test_never_mixed(self) -> None:
        """Where the others have newer bytes, it ends broken after old ones only."""
        one, other = self.keepers(self.stored)
        self.cluster.crash(one)
        self.assertEqual(200, self.ask(other, "PUT", f"/{self.name}", OTHER).status)
        self.cluster.run(5)
        for host in self.cluster.hosts.values():
            self.cluster.network.cut(one.ip, host.ip)
        self.cluster.start(one)
        self.cluster.network.join()
        for host in self.cluster.keepers(self.stored):
            if host is not one:
                self.cluster.network.cut(one.ip, host.ip)
        outcomes = set()
        for _ in range(20):
            self.break_off(one, dies=True)
            status, body, whole = self.read()
            self.assertEqual(200, status)
            if whole:
                self.assertEqual(OTHER, body)
            else:
                self.assertEqual(HUGE[: 1 << 20], body)
            outcomes.add(whole)
            self.cluster.run(2)
        self.assertEqual({True, False}, outcomes)

    def test_nobody_left(self) -> None:
        """With nobody who has more it ends broken, soon."""
        one, _ = self.keepers(self.stored)
        for host in self.cluster.keepers(self.stored):
            if host is not one:
                self.cluster.crash(host)
        self.break_off(one, after=9)
        began = self.cluster.clock.seconds()
        self.assertEqual((200, HUGE[:9], False), self.read())
        self.assertLess(self.cluster.clock.seconds() - began, 15)

    def test_in_process(self) -> None:
        """Products in the process get it whole, too."""
        self.break_off(*self.keepers(self.stored))
        assert self.first.service is not None
        reading = self.first.service.blobs.get(self.stored)
        _, body = self.cluster.finish(Deferred.fromCoroutine(reading))
        self.assertEqual(HUGE, body)

    def test_what_can_be_resumed(self) -> None:
        """Only what has a strong tag and a known end; nothing in several parts."""

        def told(status: int, fields: Fields, length: int | None) -> Rest | None:
            index = {name.lower(): (value,) for name, value in fields}
            return Rest.told(
                ResponseHead(status, b"", True, fields, index, length, False, True)
            )

        etag, five = (b"ETag", b'"a"'), (b"Content-Length", b"5")
        self.assertEqual(Rest(b'"a"', 0, 5, 5), told(200, (etag, five), 5))
        part = (b"Content-Range", b"bytes 2-6/9")
        self.assertEqual(Rest(b'"a"', 2, 7, 9), told(206, (etag, five, part), 5))
        self.assertEqual(
            ((b"Range", b"bytes=4-6"), (b"If-Match", b'"a"')),
            Rest(b'"a"', 2, 7, 9).after(2).fields,
        )
        for status, fields in (
            (200, (five,)),
            (200, ((b"ETag", b'W/"a"'), five)),
            (206, (etag, five)),
            (412, (etag, five)),
        ):
            self.assertIsNone(told(status, fields, 5))
        self.assertIsNone(told(200, (etag,), None))

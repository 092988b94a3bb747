"""Anything may happen to a connection in any order; some things must always hold."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import Bytes, Limits
from clinfra.errors import NotFound
from clinfra.web.exchange import IExchange, Response
from tests.web.clients import Client, get, make_site

LIMITS = Limits(buffer_bytes=Bytes(50_000), pipeline_depth=4)

KINDS = st.sampled_from(
    ["now", "later", "stream", "large", "upload", "chunks", "unread", "trouble"]
)
OPERATIONS = st.one_of(
    st.tuples(st.just("send"), KINDS, st.integers(1, 400)),
    st.tuples(st.just("release"), st.integers(0, 5), st.none()),
    st.tuples(st.just("reading"), st.booleans(), st.none()),
    st.tuples(st.just("take"), st.integers(1, 100_000), st.none()),
    st.tuples(st.just("wait"), st.sampled_from([0, 1, 3]), st.none()),
)


class World:
    """A site, one client, and handlers that wait to be released."""

    def __init__(self) -> None:
        self.sent = 0
        self.begun: list[bytes] = []
        self.done: list[tuple[bytes, bool]] = []
        self.waiting: list[Deferred[None]] = []
        self.site, self.clock = make_site(self.respond, limits=LIMITS)
        self.client = Client(self.site, self.clock)

    async def respond(self, exchange: IExchange) -> Response | None:
        target = exchange.head.target
        self.begun.append(target)
        exchange.on_done(lambda whole: self.done.append((target, whole)))
        kind = exchange.head.get(b"kind")
        tag = ((b"Tag", target),)
        if kind in (b"upload", b"chunks"):
            length = 0
            while piece := await exchange.body.read():
                length += len(piece)
            return Response(201, tag, b"%d" % length)
        if kind == b"later":
            self.waiting.append(Deferred())
            await self.waiting[-1]
        if kind == b"trouble":
            raise NotFound(target.decode())
        if kind == b"large":
            return Response(200, tag, target * 60_000)
        if kind == b"stream":
            exchange.start(200, tag, None)
            for _ in range(30):
                exchange.write(b"s" * 9_000)
                await exchange.drained()
            exchange.finish()
            return None
        return Response(200, tag, target)

    def request(self, kind: str, size: int) -> bytes:
        """Return the next request, numbered."""
        self.sent += 1
        target = b"/%d" % self.sent
        field = b"Kind: " + kind.encode()
        if kind in ("upload", "unread"):
            head = get(target, field, b"Content-Length: %d" % (size * 100))
            return head.replace(b"GET", b"PUT", 1) + b"u" * (size * 100)
        if kind == "chunks":
            head = get(target, field, b"Transfer-Encoding: chunked")
            chunk = b"%x\r\n%b\r\n" % (size, b"c" * size)
            return head.replace(b"GET", b"PUT", 1) + chunk * 3 + b"0\r\n\r\n"
        return get(target, field)

    def do(self, operation: tuple[Any, Any, Any]) -> None:
        """Do one thing."""
        what, first, second = operation
        if what == "send":
            self.client.send(self.request(first, second), piece=997)
        elif what == "release" and first < len(self.waiting):
            waiter = self.waiting.pop(first)
            if not waiter.called:
                waiter.callback(None)
                self.client.turn()
        elif what == "reading":
            self.client.reading = first
            if first:
                self.client.take()
        elif what == "take":
            self.client.take(first)
        elif what == "wait":
            self.clock.advance(first)


class RandomTests(SynchronousTestCase):
    """Random lives of a connection."""

    @settings(deadline=None, max_examples=120)
    @given(st.lists(OPERATIONS, max_size=25), st.booleans())
    def test_always(self, operations: list[Any], half: bool) -> None:
        """Order, bounds, and exactly one end for everything that was begun."""
        world = World()
        client = world.client
        for operation in operations:
            world.do(operation)
            self.assertLess(client.transport.most_waiting, 65536 + 140_000)
        # Everything that can be finished, is.
        client.take()
        for _ in range(200):
            if not world.waiting:
                break
            world.do(("release", 0, None))
        self.assertEqual(
            [b"/%d" % (n + 1) for n in range(len(world.begun))], world.begun
        )
        answers = client.answers()
        tags = [
            answer.fields["Tag"] or answer.body.decode().strip() for answer in answers
        ]
        self.assertEqual([f"/{n + 1}" for n in range(len(answers))], tags)
        self.assertEqual(world.sent, len(answers))
        self.assertEqual([True] * world.sent, [whole for _, whole in world.done])
        # And it can end in any state.
        client.send(world.request("later", 1)[: 40 if half else None])
        client.hang_up()
        world.clock.advance(0)
        self.assertEqual(len(world.begun), len(world.done))
        self.assertEqual({}, world.site.channels)
        self.assertEqual([], world.clock.getDelayedCalls())

    @settings(deadline=None, max_examples=120)
    @given(st.lists(OPERATIONS, max_size=12), st.integers(0, 2))
    def test_sudden_end(self, operations: list[Any], how: int) -> None:
        """However it ends, everything begun is told so once and nothing is left."""
        world = World()
        for operation in operations:
            world.do(operation)
        if how == 0:
            world.client.hang_up()
        elif how == 1:
            world.client.channel.readConnectionLost()
        else:
            world.site.stop_accepting()
            world.site.drained(2)
        for _ in range(100):
            world.client.take()
            world.clock.advance(1)
        targets = [target for target, _ in world.done]
        self.assertEqual(world.begun, targets)
        self.assertEqual({}, world.site.channels)
        self.assertEqual([], world.clock.getDelayedCalls())

"""memcached: batches, parts, and servers that are slow, dead or mad."""

from __future__ import annotations

from collections import deque
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pymemcache.client.rendezvous import RendezvousHash
from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import ClientFactory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.proxy.memcached import PART_BYTES, Memcached
from clinfra.web.pool import Origin
from tests.web.origins import Dial, Line


class World:
    """Some memcached servers, in memory, answering by hand."""

    def __init__(self, *servers: str) -> None:
        self.clock = Clock()
        self.dials: deque[tuple[str, Dial]] = deque()
        self.cache = Memcached(
            servers or ("m1:11211",), self.clock, self._connect, 0.25, 5.0, Random(1)
        )
        self.cache.start()

    def _connect(self, origin: Origin, factory: ClientFactory, timeout: float) -> Any:
        dial = Dial(self.clock, factory, timeout)
        self.dials.append((str(origin), dial))
        return dial

    def accept(self) -> Line:
        """Let the oldest attempt to connect succeed."""
        return self.dials.popleft()[1].accept()

    def get(self, key: bytes) -> list[bytes | None]:
        """Ask for a key; the value will be in the list."""
        found: list[bytes | None] = []
        self.cache.get(key, found.append)
        return found

    def turn(self) -> None:
        """Let the reactor turn."""
        self.clock.advance(0)


def value(key: bytes, data: bytes) -> bytes:
    """Return one value of an answer."""
    return b"VALUE %b 0 %d\r\n\0%b\r\n" % (key, len(data) + 1, data)


class BatchTests(SynchronousTestCase):
    """GETs of one turn go out together."""

    def test_one_command(self) -> None:
        """Different keys in one command, equal keys once, all callers answered."""
        world = World()
        line = world.accept()
        a, b, again = world.get(b"a"), world.get(b"b"), world.get(b"a")
        world.turn()

        self.assertEqual(b"get a b\r\n", line.take())
        line.send(value(b"a", b"1") + b"END\r\n")
        self.assertEqual(([b"1"], [None], [b"1"]), (a, b, again))

    def test_equal_keys_in_flight(self) -> None:
        """A key that is being asked for is not asked for again."""
        world = World()
        line = world.accept()
        first = world.get(b"a")
        world.turn()
        line.take()
        second = world.get(b"a")
        world.turn()

        self.assertEqual(b"", line.take())
        line.send(value(b"a", b"1") + b"END\r\n")
        self.assertEqual(([b"1"], [b"1"]), (first, second))

    def test_set_in_between(self) -> None:
        """Who asks after a set gets the new value, not the one on its way."""
        world = World()
        line = world.accept()
        before = world.get(b"a")
        world.cache.set(b"a", b"new", 60)
        after = world.get(b"a")
        world.turn()

        self.assertEqual(b"get a\r\nset a 0 60 4\r\n\0new\r\nget a\r\n", line.take())
        line.send(b"END\r\nSTORED\r\n" + value(b"a", b"new") + b"END\r\n")
        self.assertEqual(([None], [b"new"]), (before, after))

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.integers(1, 40), max_size=30))
    def test_any_segmentation(self, cuts: list[int]) -> None:
        """Answers in any pieces are read the same."""
        world = World()
        line = world.accept()
        a, b = world.get(b"a"), world.get(b"b")
        world.turn()
        world.cache.set(b"c", b"x", 1)
        deleted: list[bool] = []
        world.cache.delete(b"d", deleted.append)
        c = world.get(b"c")
        world.turn()
        raw = (
            value(b"a", b"END\r\nVALUE")
            + value(b"b", b"\r\n" * 20)
            + b"END\r\nSTORED\r\nDELETED\r\n"
            + value(b"c", b"x")
            + b"END\r\n"
        )
        for cut in cuts:
            piece, raw = raw[:cut], raw[cut:]
            if piece:
                line.send(piece)
        if raw:
            line.send(raw)

        self.assertEqual([b"END\r\nVALUE"], a)
        self.assertEqual([b"\r\n" * 20], b)
        self.assertEqual(([b"x"], [True]), (c, deleted))


class TroubleTests(SynchronousTestCase):
    """A server in trouble is a miss, at once or soon."""

    def test_not_connected(self) -> None:
        """Before it is connected, everything is a miss at once."""
        world = World()

        self.assertEqual([None], world.get(b"a"))

    def test_refused(self) -> None:
        """A server that refuses is tried again, less and less often."""
        world = World()
        waits = []
        for _ in range(4):
            world.dials.popleft()[1].refuse(ConnectionRefusedError())
            waited = 0
            while not world.dials:
                world.clock.advance(1)
                waited += 1
            waits.append(waited)

        self.assertEqual([5, 10, 20, 40], waits)
        world.accept()
        self.assertEqual({"m1:11211": True}, world.cache.report())

    def test_stalled(self) -> None:
        """No answer in time is a miss for all who wait; others do not wait at all."""
        world = World()
        line = world.accept()
        waiting = [world.get(b"%d" % number) for number in range(3)]
        world.turn()
        world.clock.advance(0.1)
        self.assertEqual([[]] * 3, waiting)
        world.clock.advance(0.16)

        self.assertEqual([[None]] * 3, waiting)
        self.assertEqual([None], world.get(b"x"))
        self.assertTrue(line.disconnecting)
        world.clock.advance(6)
        world.accept()
        self.assertEqual([], world.get(b"x"))

    def test_deletes_are_owed(self) -> None:
        """What a server that was away should have forgotten, it forgets first."""
        world = World()
        done: list[bool] = []
        world.cache.delete(b"before", done.append)
        line = world.accept()
        self.assertEqual(b"delete before\r\n", line.take())
        line.send(b"DELETED\r\n")
        world.cache.delete(b"unanswered", done.append)
        line.hang_up()
        world.cache.delete(b"away", done.append)
        self.assertEqual([False] * 3, done)
        world.clock.pump([1.0] * 6)
        line = world.accept()
        world.get(b"away")
        world.turn()

        self.assertEqual(
            b"delete unanswered\r\ndelete away\r\nget away\r\n", line.take()
        )
        line.send(b"NOT_FOUND\r\nDELETED\r\nEND\r\n")
        world.cache.stop()

    def test_stop_lets_writes_arrive(self) -> None:
        """Who stops waits until what was written is answered, then hangs up."""
        world = World()
        line = world.accept()
        world.cache.set(b"a", b"1" * PART_BYTES, 60)
        stopped = world.cache.stop()
        line.send(b"STORED\r\n")
        world.turn()
        self.assertNoResult(stopped)
        line.send(b"STORED\r\n")
        world.turn()

        self.successResultOf(stopped)
        self.assertTrue(line.lost)
        self.assertEqual([], world.clock.getDelayedCalls())

    def test_stop_waits_for_nobody_silent(self) -> None:
        """A server that does not answer in time holds no stop up, nor does one away."""
        world = World("m1:11211", "m2:11211")
        lines = [world.accept()]
        world.cache.set(b"a", b"1", 60)
        world.cache.set(b"b", b"1", 60)
        stopped = world.cache.stop()
        world.clock.pump([0.1] * 4)

        self.successResultOf(stopped)
        self.assertTrue(lines[0].disconnecting)

    def test_idle_is_not_stalled(self) -> None:
        """A server nobody asks anything is not slow."""
        world = World()
        line = world.accept()
        for _ in range(3):
            found = world.get(b"a")
            world.turn()
            line.send(b"END\r\n")
            self.assertEqual([None], found)
            world.clock.pump([0.1] * 50)

        self.assertFalse(line.disconnecting)

    def test_hang_up(self) -> None:
        """A server that hangs up is a miss for all who wait."""
        world = World()
        line = world.accept()
        asked = world.get(b"a")
        world.turn()
        queued = world.get(b"b")
        line.hang_up()

        self.assertEqual(([None], [None]), (asked, queued))

    def test_errors(self) -> None:
        """SERVER_ERROR is a miss for that batch only."""
        world = World()
        line = world.accept()
        first = world.get(b"a")
        world.turn()
        second = world.get(b"b")
        world.turn()
        line.send(b"SERVER_ERROR out of memory\r\n" + value(b"b", b"1") + b"END\r\n")

        self.assertEqual(([None], [b"1"]), (first, second))
        self.flushLoggedErrors()

    @settings(deadline=None, max_examples=100)
    @given(
        st.lists(
            st.sampled_from(
                [
                    *(
                        b"VALUE a 0 5\r\n",
                        b"VALUE a 0 -1\r\n",
                        b"VALUE\r\n",
                        b"END\r\n",
                    ),
                    *(
                        b"VALUE a 0 99999999999\r\n",
                        b"\0\r\n",
                        b"STORED\r\n",
                        b"12\r\n",
                    ),
                    *(
                        b"\xff\xfe\r\n",
                        b"x" * 5000,
                        b"rawDataReceived\r\n",
                        b"STAT\r\n",
                    ),
                ]
            ),
            max_size=6,
        )
    )
    def test_nonsense(self, pieces: list[bytes]) -> None:
        """Whatever a server says, callers are answered exactly once."""
        world = World()
        line = world.accept()
        found = world.get(b"a")
        world.turn()
        for piece in pieces:
            if not line.disconnecting:
                line.send(piece)
        world.clock.pump([0.1] * 10)

        self.assertEqual(1, len(found))
        self.flushLoggedErrors()


class PartTests(SynchronousTestCase):
    """Values over a megabyte."""

    def store(self, world: World, line: Line, data: bytes) -> dict[bytes, bytes]:
        """Set a value; return the items it was stored as."""
        world.cache.set(b"k", data, 60)
        raw, items = line.take(), {}
        while raw:
            head, _, raw = raw.partition(b"\r\n")
            _, key, _, _, length = head.split(b" ")
            items[key] = raw[: int(length)]
            raw = raw[int(length) + 2 :]
            line.send(b"STORED\r\n")
        return items

    def fetch(
        self, world: World, line: Line, items: dict[bytes, bytes]
    ) -> list[bytes | None]:
        """Get the value, answered from the items."""
        found = world.get(b"k")
        for _ in range(3):
            world.turn()
            asked = line.take()
            if asked:
                keys = asked.removeprefix(b"get ").removesuffix(b"\r\n").split(b" ")
                for key in keys:
                    if key in items:
                        item = items[key]
                        line.send(b"VALUE %b 0 %d\r\n%b\r\n" % (key, len(item), item))
                line.send(b"END\r\n")
        return found

    def test_round_trip(self) -> None:
        """A large value comes back as it was, no item is over the limit."""
        world = World()
        line = world.accept()
        data = bytes(range(256)) * 10_000
        items = self.store(world, line, data)

        self.assertTrue(all(len(item) <= PART_BYTES for item in items.values()))
        self.assertEqual([data], self.fetch(world, line, items))

    def test_lost_part(self) -> None:
        """A value with a part missing is a miss."""
        world = World()
        line = world.accept()
        items = self.store(world, line, b"x" * 3_000_000)
        del items[next(key for key in items if key.endswith(b":1"))]

        self.assertEqual([None], self.fetch(world, line, items))

    def test_never_torn(self) -> None:
        """Parts of two writes never mix: each write has names of its own."""
        world = World()
        line = world.accept()
        old = self.store(world, line, b"a" * 2_000_000)
        new = self.store(world, line, b"b" * 2_000_000)

        self.assertEqual({b"k"}, old.keys() & new.keys())
        self.assertEqual([b"b" * 2_000_000], self.fetch(world, line, {**old, **new}))


class PlacementTests(SynchronousTestCase):
    """Which server has a key."""

    @settings(deadline=None)
    @given(
        st.lists(
            st.sampled_from([f"10.0.0.{n}:11211" for n in range(9)]),
            min_size=1,
            unique=True,
        ),
        st.from_regex(r"[0-9a-f]{40}", fullmatch=True),
    )
    def test_as_pymemcache(self, servers: list[str], key: str) -> None:
        """Any pymemcache client with the same servers finds the same keys."""
        world = World(*servers)

        expected = RendezvousHash(list(servers)).get_node(key)
        self.assertEqual(expected, world.cache.node_of(key.encode()).name)

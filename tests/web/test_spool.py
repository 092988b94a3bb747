"""Bodies in unnamed files, and bodies that are taken in: nothing lost, nothing left."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Coroutine
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.errors import ClientGone
from clinfra.web.exchange import IBody
from clinfra.web.intake import Intake
from clinfra.web.spool import Spool
from tests.web.origins import Body

T = TypeVar("T")
ROOM = 1_000_000


class SpoolTestCase(SynchronousTestCase):
    """A spool of one megabyte."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(rmtree, self.directory)
        self.seconds = 0.0
        self.spool = Spool(self.directory / "new", ROOM, lambda: self.seconds)

    def result(self, work: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns at once."""
        return self.successResultOf(Deferred.fromCoroutine(work))


class FileTests(SpoolTestCase):
    """Files without names."""

    def test_written_and_read(self) -> None:
        """What was added is found in its place."""
        file = self.spool.file()
        self.addCleanup(file.close)
        self.assertTrue(self.result(file.append(b"abc")))
        self.assertTrue(self.result(file.append(b"defg")))
        self.assertEqual(self.result(file.read(2, 3)), b"cde")
        self.assertEqual(file.length, 7)

    def test_nothing_is_left(self) -> None:
        """No name is ever seen, and closing gives all of the room back."""
        file = self.spool.file()
        self.result(file.append(b"x" * 1000))
        self.assertEqual(list((self.directory / "new").iterdir()), [])
        self.assertEqual(self.spool.report()["bytes"], 1000)
        self.assertEqual(self.spool.report()["files"], 1)
        file.close()
        file.close()
        self.assertEqual(self.spool.used, 0)
        self.assertEqual(self.spool.files, 0)
        self.assertFalse(self.result(file.append(b"x")))
        self.failureResultOf(Deferred.fromCoroutine(file.read(0, 1)), ValueError)

    def test_full(self) -> None:
        """Over the bound nothing is written; room that is given back counts again."""
        first, second = self.spool.file(), self.spool.file()
        self.addCleanup(second.close)
        self.assertTrue(self.result(first.append(b"x" * (ROOM - 10))))
        self.assertFalse(self.result(second.append(b"x" * 11)))
        self.assertEqual(second.length, 0)
        self.assertEqual(self.spool.refusals, 1)
        first.close()
        self.assertTrue(self.result(second.append(b"x" * 11)))

    def test_cleared(self) -> None:
        """A file can be begun again."""
        file = self.spool.file()
        self.addCleanup(file.close)
        self.result(file.append(b"x" * ROOM))
        file.clear()
        self.assertEqual(self.spool.used, 0)
        self.assertTrue(self.result(file.append(b"yz")))
        self.assertEqual(self.result(file.read(0, 2)), b"yz")

    def test_bad_disk(self) -> None:
        """A disk that takes nothing is as good as a full one, and is told of."""
        (self.directory / "new").write_bytes(b"not a directory")
        file = self.spool.file()
        self.assertFalse(self.result(file.append(b"x")))
        self.assertEqual(self.spool.used, 0)
        self.assertEqual(self.spool.refusals, 1)
        file.close()


class IntakeTests(SpoolTestCase):
    """Bodies that are taken in."""

    def take(self, body: Body) -> tuple[Intake, Deferred[None]]:
        """Begin to take a body in."""
        intake = Intake(self.spool.file())
        self.addCleanup(intake.close)
        return intake, Deferred.fromCoroutine(intake.take(body))

    def read(self, intake: Intake) -> bytes:
        """Return the whole body."""
        body = intake.body()
        if isinstance(body, bytes):
            return body
        return self.result(read_all(body))

    def test_small(self) -> None:
        """A small body stays in memory; its length is known in the end."""
        intake, taken = self.take(Body(None, (b"ab", b"c", b"")))
        self.successResultOf(taken)
        self.assertEqual(intake.body(), b"abc")
        self.assertEqual(intake.length, 3)
        self.assertEqual(self.spool.files, 0)

    def test_many_at_once(self) -> None:
        """Many that come slowly go to files sooner, so that memory stays bounded."""
        self.spool.max_bytes = 1 << 30
        crowd = []
        for _ in range(600):
            body = Body(None, (b"x" * 200_000,))
            crowd.append(self.take(body))
        self.assertLess(self.spool.held, (64 << 20) + 200_000 + 600 * 16_384)
        self.assertEqual(self.spool.report()["held"], self.spool.held)
        self.assertGreater(self.spool.files, 0)
        for intake, taken in crowd:
            intake.close()
            taken.cancel()
            self.failureResultOf(taken)
        self.assertEqual((0, 0), (self.spool.held, self.spool.used))

    def test_large(self) -> None:
        """A large one is in a file, and can be read more than once."""
        data = os.urandom(700_000)
        pieces = [data[at : at + 50_000] for at in range(0, len(data), 50_000)]
        intake, taken = self.take(Body(len(data), (*pieces, b"")))
        self.successResultOf(taken)
        self.assertTrue(intake.whole)
        self.assertGreater(self.spool.used, 500_000)
        self.assertEqual(self.read(intake), data)
        self.assertEqual(self.read(intake), data)
        intake.close()
        self.assertEqual(self.spool.used, 0)

    def test_slow(self) -> None:
        """It waits for the sender."""
        body = Body(None)
        _, taken = self.take(body)
        body.feed(b"abc")
        self.assertNoResult(taken)
        body.feed(b"")
        self.successResultOf(taken)

    def test_no_room(self) -> None:
        """What finds no room comes from its sender, after what did."""
        data = os.urandom(2_000_000)
        pieces = [data[at : at + 90_000] for at in range(0, len(data), 90_000)]
        intake, taken = self.take(Body(len(data), (*pieces, b"")))
        self.successResultOf(taken)
        self.assertFalse(intake.whole)
        self.assertEqual(intake.length, len(data))
        self.assertLessEqual(self.spool.used, ROOM)
        self.assertEqual(self.read(intake), data)

    def test_sender_leaves(self) -> None:
        """Trouble with the body is the reader's to hear."""
        body = Body(None, (b"x" * 300_000,))
        intake, taken = self.take(body)
        body.feed(ClientGone())
        self.failureResultOf(taken, ClientGone)
        intake.close()
        self.assertEqual(self.spool.used, 0)

    def test_closed_while_it_is_read(self) -> None:
        """Whoever still reads hears that nobody wants it any more."""
        intake, taken = self.take(Body(None, (b"x" * 300_000, b"")))
        self.successResultOf(taken)
        body = intake.body()
        assert not isinstance(body, bytes)
        intake.close()
        self.failureResultOf(Deferred.fromCoroutine(body.read()), ClientGone)

    @given(
        st.lists(st.integers(1, 400_000), max_size=12),
        st.integers(0, ROOM),
        st.booleans(),
    )
    @settings(deadline=None, max_examples=60)
    def test_any_sizes(self, sizes: list[int], room: int, announced: bool) -> None:
        """Whatever the pieces and the room, all of it comes out in order."""
        pieces = [bytes([number]) * size for number, size in enumerate(sizes)]
        whole = b"".join(pieces)
        self.spool.max_bytes = room
        body = Body(len(whole) if announced else None, (*pieces, b""))
        intake, taken = self.take(body)
        self.successResultOf(taken)
        self.assertEqual(self.read(intake), whole)
        intake.close()
        self.assertEqual(self.spool.used, 0)


async def read_all(body: IBody) -> bytes:
    """Return all of a body."""
    pieces = []
    while piece := await body.read():
        pieces.append(piece)
    return b"".join(pieces)

"""A backlog gives back what was put, in order, whatever waits where."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from shutil import rmtree

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.web.backlog import MEMORY_BYTES, Backlog
from clinfra.web.spool import Spool, SpoolFile


class SlowDisk(SpoolFile):
    """A file whose writes end when the test says so."""

    def __init__(self, spool: Spool) -> None:
        super().__init__(spool)
        self.writing: list[Deferred[None]] = []

    async def append(self, data: bytes) -> bool:
        """Wait, then write."""
        self.writing.append(Deferred())
        await self.writing[-1]
        return await super().append(data)


class BacklogTests(SynchronousTestCase):
    """Bytes in, bytes out."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(rmtree, self.directory)
        self.spool = Spool(self.directory, 10 << 20, lambda: 0.0)
        self.full: list[bool] = []

    def make(self, max_bytes: int = 5 << 20, file: SpoolFile | None = None) -> Backlog:
        """Return a backlog."""
        made = Backlog(file or self.spool.file(), max_bytes, self.full.append)
        self.addCleanup(made.close)
        return made

    def take(self, backlog: Backlog) -> bytes:
        """Return a piece."""
        return self.successResultOf(Deferred.fromCoroutine(backlog.take()))

    def take_all(self, backlog: Backlog) -> bytes:
        """Return all pieces."""
        pieces = []
        while piece := self.take(backlog):
            pieces.append(piece)
        return b"".join(pieces)

    def test_little(self) -> None:
        """Little stays in memory."""
        backlog = self.make()
        backlog.put(b"ab")
        backlog.put(b"c")
        self.assertEqual(self.spool.files, 0)
        self.assertEqual(backlog.waiting, 3)
        self.assertEqual(self.take(backlog), b"abc")
        self.assertEqual(self.take(backlog), b"")

    def test_much(self) -> None:
        """Much goes to disk, and leaves nothing there when it has been taken."""
        backlog = self.make()
        data = os.urandom(3_000_000)
        for at in range(0, len(data), 60_000):
            backlog.put(data[at : at + 60_000])
        self.assertGreater(self.spool.used, len(data) - 2 * MEMORY_BYTES)
        self.assertEqual(self.full, [])
        self.assertEqual(self.take_all(backlog), data)
        self.assertEqual(self.spool.used, 0)

    def test_too_much(self) -> None:
        """It says when it is full, and when it is no longer."""
        backlog = self.make(max_bytes=1 << 20)
        put = b""
        while not self.full:
            put += (piece := os.urandom(65_536))
            backlog.put(piece)
        self.assertLess(len(put), (1 << 20) + 3 * MEMORY_BYTES)
        self.assertEqual(self.take_all(backlog), put)
        self.assertEqual(self.full, [True, False])

    def test_no_room(self) -> None:
        """Without a disk it is soon full, and loses nothing."""
        self.spool.max_bytes = 0
        backlog = self.make()
        data = os.urandom(MEMORY_BYTES)
        backlog.put(data)
        self.assertEqual(self.full, [True])
        self.assertEqual(self.take_all(backlog), data)
        self.assertEqual(self.full, [True, False])

    def test_while_the_disk_writes(self) -> None:
        """Whoever takes waits for the oldest; whoever puts is not held up at once."""
        file = SlowDisk(self.spool)
        backlog = self.make(file=file)
        first, second = os.urandom(MEMORY_BYTES), os.urandom(MEMORY_BYTES)
        backlog.put(first)
        taken = Deferred.fromCoroutine(backlog.take())
        self.assertNoResult(taken)
        backlog.put(second)
        self.assertEqual(self.full, [True])
        file.writing[0].callback(None)
        begun = self.successResultOf(taken)
        file.writing[1].callback(None)
        self.assertEqual(begun + self.take_all(backlog), first + second)

    def test_closed_while_the_disk_writes(self) -> None:
        """Nothing comes of it."""
        file = SlowDisk(self.spool)
        backlog = self.make(file=file)
        backlog.put(b"x" * MEMORY_BYTES)
        taken = Deferred.fromCoroutine(backlog.take())
        backlog.close()
        file.writing[0].callback(None)
        self.assertEqual(self.successResultOf(taken), b"")
        self.assertEqual(self.spool.used, 0)

    @given(
        st.lists(st.one_of(st.integers(1, 500_000), st.just(0)), max_size=30),
        st.integers(0, 3 << 20),
        st.integers(0, 3 << 20),
    )
    @settings(deadline=None, max_examples=60)
    def test_any_order(self, steps: list[int], room: int, max_bytes: int) -> None:
        """Puts (sizes) and takes (zeros) in any order give back all in order."""
        self.spool.max_bytes = room
        backlog = Backlog(self.spool.file(), max_bytes, self.full.append)
        put, taken = b"", b""
        for number, size in enumerate(steps):
            if size:
                put += (piece := bytes([number]) * size)
                backlog.put(piece)
            else:
                taken += self.take(backlog)
            self.assertEqual(backlog.waiting, len(put) - len(taken))
        self.assertEqual(taken + self.take_all(backlog), put)
        backlog.close()
        self.assertEqual(self.spool.used, 0)

"""Spooling: a body into an unnamed file."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from clinfra.errors import ClientGone, TooLarge
from clinfra.web.exchange import FileBody, IBody
from clinfra.web.streams import (
    Spooled,
    Threads,
    read_file,
    read_piece,
    spool,
    write_all,
)


@implementer(IBody)
class Pieces:
    """A body of given pieces; an exception among them is raised."""

    def __init__(self, *pieces: bytes | Exception, length: int | None = None) -> None:
        self.length = length
        self.left = list(pieces)

    async def read(self) -> bytes:
        if not self.left:
            return b""
        piece = self.left.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece


class FakeThreads:
    """A reactor and a thread pool that do everything at once."""

    calls = 0
    held: list[Any] | None = None

    def callFromThread(self, function: Any, *args: Any) -> None:
        function(*args)

    def callInThreadWithCallback(
        self, done: Any, function: Any, *args: Any, **more: Any
    ) -> None:
        self.calls += 1
        if self.held is not None:
            self.held.append(lambda: function(*args, **more))
            return
        try:
            result = function(*args, **more)
        except BaseException:
            done(False, Failure())
        else:
            done(True, result)


class SpoolTests(SynchronousTestCase):
    """A body becomes a file."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        self.directory.mkdir()

    def spool(self, body: Pieces, limit: int = 1 << 20, **more: Any) -> Spooled:
        return self.successResultOf(
            Deferred.fromCoroutine(spool(body, self.directory, limit, **more))
        )

    def read(self, body: FileBody, threads: Threads | None = None) -> bytes:
        async def read() -> bytes:
            return b"".join([piece async for piece in read_file(body, threads)])

        return self.successResultOf(Deferred.fromCoroutine(read()))

    def descriptors(self) -> int:
        return len(os.listdir("/proc/self/fd"))

    def test_whole(self) -> None:
        """Every byte is there, with its digest, in a file without a name."""
        pieces = [os.urandom(50_000) for _ in range(13)]
        spooled = self.spool(Pieces(*pieces), digest=True)
        data = b"".join(pieces)
        whole = FileBody(spooled.fd, 0, spooled.length, spooled.close)

        self.assertEqual(data, self.read(whole))
        self.assertEqual(hashlib.sha256(data).digest(), spooled.sha256)
        self.assertEqual([], os.listdir(self.directory))
        spooled.close()

    def test_in_threads(self) -> None:
        """Large pieces are written by a thread; the result is the same."""
        fake: Any = FakeThreads()
        pieces = [os.urandom(100_000) for _ in range(7)]
        spooled = self.spool(Pieces(*pieces), digest=True, threads=Threads(fake, fake))

        self.assertEqual(2, fake.calls)
        self.assertEqual(hashlib.sha256(b"".join(pieces)).digest(), spooled.sha256)
        spooled.close()

    def test_cancelled_in_a_thread(self) -> None:
        """A write still going on when its caller gives up hits no other file."""
        fake: Any = FakeThreads()
        fake.held = []
        before = self.descriptors()
        body = Pieces(b"a" * 300_000)
        waiting = Deferred.fromCoroutine(
            spool(body, self.directory, 1 << 20, threads=Threads(fake, fake))
        )
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        innocent = [
            os.open(self.directory / str(n), os.O_CREAT | os.O_RDWR) for n in "12"
        ]
        fake.held[0]()
        for fd in innocent:
            self.assertEqual(0, os.fstat(fd).st_size)
            os.close(fd)

        self.assertEqual(before, self.descriptors())

    def test_cold_file(self) -> None:
        """What is not in the page cache is read by a thread; the bytes are the same."""
        data = os.urandom(700_000)
        path = self.directory / "file"
        path.write_bytes(data)
        fake: Any = FakeThreads()
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            body = FileBody(file.fileno(), 100, 600_000, lambda: None)
            for _ in range(2):
                self.assertEqual(
                    data[100:600_100], self.read(body, Threads(fake, fake))
                )

    def test_short_file(self) -> None:
        """A file that is too short says so, in a thread or not."""
        fake: Any = FakeThreads()
        path = self.directory / "file"
        path.write_bytes(b"abc")
        with path.open("rb") as file:
            for threads in (None, Threads(fake, fake)):
                reading = read_piece(file.fileno(), 0, 4, threads)
                self.failureResultOf(Deferred.fromCoroutine(reading), EOFError)

    def test_empty(self) -> None:
        """No body is an empty file."""
        spooled = self.spool(Pieces())

        self.assertEqual((0, None), (spooled.length, spooled.sha256))
        spooled.close()

    def test_limit(self) -> None:
        """A body over the limit leaves nothing behind, announced or not."""
        before = self.descriptors()
        announced = Pieces(b"a" * 100, length=100)
        for body in (announced, Pieces(b"a" * 60, b"a" * 60)):
            waiting = Deferred.fromCoroutine(spool(body, self.directory, 99))
            self.failureResultOf(waiting, TooLarge)

        self.assertEqual(1, len(announced.left))
        self.assertEqual(before, self.descriptors())

    def test_gone(self) -> None:
        """Nor does one whose client goes away."""
        before = self.descriptors()
        body = Pieces(b"a" * 100, ClientGone())
        waiting = Deferred.fromCoroutine(spool(body, self.directory, 1000))
        self.failureResultOf(waiting, ClientGone)

        self.assertEqual(before, self.descriptors())

    def test_write_all(self) -> None:
        """Partial writes are gone on with."""
        reader, writer = os.pipe()
        write_all(writer, b"abc")

        self.assertEqual(b"abc", os.read(reader, 10))
        os.close(reader)
        os.close(writer)

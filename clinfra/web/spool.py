"""Room on disk for bodies on their way, while whoever sends or takes them is slow.

The files have no names, so nothing is left of them whatever happens.  All of them
together are bounded: without room (or without a disk that takes them) whoever wanted to
keep something finds out, and goes on without.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from twisted.logger import Logger

from clinfra.web.streams import Threads, read_piece, unnamed_file

log = Logger()

_COMPLAINT_SECONDS = 60.0
_MOST_HELD = 64 << 20


class Spool:
    """What one process may keep.

    Args:
        directory: made when it is first needed.
        max_bytes: of all files together.
        now: returns seconds, to complain of a bad disk now and then only.
        threads: where to wait for the disk; None means here.

    Attributes:
        used: bytes in files, or on their way there.
        files: how many are open.
        held: bytes in memory that wait to be enough for a file.
        refusals: how often there was no room.
    """

    def __init__(
        self,
        directory: Path,
        max_bytes: int,
        now: Callable[[], float],
        threads: Threads | None = None,
    ) -> None:
        self.max_bytes = max_bytes
        self.threads = threads
        self.used = 0
        self.files = 0
        self.held = 0
        self.refusals = 0
        self._directory = directory
        self._now = now
        self._complained_at = -_COMPLAINT_SECONDS

    def file(self) -> SpoolFile:
        """Return a new file, which is opened when something is written."""
        return SpoolFile(self)

    def take_room(self, count: int) -> bool:
        """Reserve so many bytes; False when there are not."""
        if self.used + count > self.max_bytes:
            self.refusals += 1
            return False
        self.used += count
        return True

    def give_back(self, count: int) -> None:
        """They are free again."""
        self.used -= count

    def open(self) -> int:
        """Open an unnamed file.  Raises OSError."""
        try:
            fd = unnamed_file(self._directory)
        except FileNotFoundError:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = unnamed_file(self._directory)
        self.files += 1
        return fd

    def closed(self) -> None:
        """A file has been closed."""
        self.files -= 1

    def failed(self, trouble: OSError) -> None:
        """The disk does not take what it should."""
        self.refusals += 1
        now = self._now()
        if now - self._complained_at >= _COMPLAINT_SECONDS:
            self._complained_at = now
            log.warn(
                "Bodies cannot be kept in {directory}: {trouble}",
                directory=str(self._directory),
                trouble=str(trouble),
            )

    def report(self) -> dict[str, int]:
        """Return the numbers for the admin pages."""
        return {
            "bytes": self.used,
            "max_bytes": self.max_bytes,
            "files": self.files,
            "held": self.held,
            "refusals": self.refusals,
        }


class SpoolFile:
    """Bytes in an unnamed file.

    Attributes:
        length: bytes that are there.
    """

    def __init__(self, spool: Spool) -> None:
        self.length = 0
        self._spool = spool
        self._fd = -1
        self._held = 0
        self._closed = False

    def hold(self, count: int) -> bool:
        """Say how many bytes wait in memory; False when all do with too many."""
        if not self._closed or not count:
            self._spool.held += count - self._held
            self._held = count
        return self._spool.held <= _MOST_HELD

    async def append(self, data: bytes) -> bool:
        """Add some bytes; False when there is no room: then nothing was added.

        Only one may be under way at a time.
        """
        spool = self._spool
        if self._closed or not spool.take_room(len(data)):
            return False
        try:
            if self._fd < 0:
                self._fd = spool.open()
            write = partial(_write, data=data, offset=self.length)
            if spool.threads is None:
                write(self._fd)
            else:
                await spool.threads.with_file(self._fd, write)
        except BaseException as trouble:
            spool.give_back(len(data))
            if not isinstance(trouble, OSError):
                raise
            spool.failed(trouble)
            return False
        if self._closed:
            spool.give_back(len(data))
            return False
        self.length += len(data)
        return True

    async def read(self, offset: int, count: int) -> bytes:
        """Return exactly these bytes.  Raises ValueError when it is closed."""
        if self._closed:
            raise ValueError("The file is closed.")
        return await read_piece(self._fd, offset, count, self._spool.threads)

    def clear(self) -> None:
        """Forget all that is there."""
        if self.length:
            self._spool.give_back(self.length)
            self.length = 0
            os.truncate(self._fd, 0)

    def close(self) -> None:
        """Forget all, and close the file.  May be called twice."""
        if self._closed:
            return
        self._closed = True
        self.hold(0)
        self._spool.give_back(self.length)
        self.length = 0
        if self._fd >= 0:
            os.close(self._fd)
            self._spool.closed()


def _write(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view = view[count:]
        offset += count

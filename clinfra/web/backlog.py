"""What has come and cannot go on yet: a queue of bytes, first in memory, then on disk.

Whoever produces is never held up as long as there is room; whoever takes gets all of it
in order.  Little waits in memory: the rest is in a file of a `spool.Spool`.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import Deferred

from clinfra.web.spool import SpoolFile

MEMORY_BYTES = 256 * 1024
"""What waits in memory before it is written, and is read at a time, about."""

_READ_PIECE = 128 * 1024


class Backlog:
    """Bytes in order: those in the file, those being written, then the newest.

    Args:
        file: for what memory does not take.
        max_bytes: most in the file.
        full: called with True when no more should come, with False when it may again.

    Attributes:
        waiting: bytes put and not taken.
    """

    def __init__(
        self, file: SpoolFile, max_bytes: int, full: Callable[[bool], None]
    ) -> None:
        self.waiting = 0
        self._file = file
        self._max_bytes = max_bytes
        self._tell_full = full
        self._read = 0
        self._newest: list[bytes] = []
        self._newest_bytes = 0
        self._writing = b""
        self._written: Deferred[None] | None = None
        self._is_full = False
        self._closed = False

    def put(self, data: bytes) -> None:
        """Add bytes; they are kept even when it is full."""
        if self._closed:
            return
        self.waiting += len(data)
        self._newest.append(data)
        self._newest_bytes += len(data)
        if self._newest_bytes >= MEMORY_BYTES:
            self._write_on()

    async def take(self) -> bytes:
        """Return the oldest bytes, b"" when there are none at present."""
        while True:
            left = self._file.length - self._read
            if left > 0:
                data = await self._file.read(self._read, min(left, _READ_PIECE))
                if self._closed:
                    return b""
                self._read += len(data)
                if self._read == self._file.length and not self._writing:
                    self._file.clear()
                    self._read = 0
                break
            if self._written is None:
                data = b"".join(self._newest)
                self._newest.clear()
                self._newest_bytes = 0
                break
            # They are on their way to the file, and come before the newest.
            written: Deferred[None] = Deferred()
            self._written.chainDeferred(written)
            await written
        self.waiting -= len(data)
        self._judge()
        return data

    def close(self) -> None:
        """Forget everything."""
        self._closed = True
        self.waiting = self._newest_bytes = 0
        self._newest.clear()
        self._file.close()

    def _write_on(self) -> None:
        """Write the newest to the file, one lot after the other."""
        if self._written is not None or self._closed:
            self._judge()
            return
        if self._file.length + self._newest_bytes > self._max_bytes:
            self._judge()
            return
        self._writing = b"".join(self._newest)
        self._newest.clear()
        self._newest_bytes = 0
        self._written = Deferred()
        Deferred.fromCoroutine(self._file.append(self._writing)).addBoth(self._wrote)

    def _wrote(self, kept: object) -> None:
        """The lot is in the file; or there is no room, and it stays the oldest here."""
        data, self._writing = self._writing, b""
        written, self._written = self._written, None
        if kept is not True and not self._closed:
            self._newest.insert(0, data)
            self._newest_bytes += len(data)
        elif self._newest_bytes >= MEMORY_BYTES:
            self._write_on()
        self._judge()
        if written is not None:
            written.callback(None)

    def _judge(self) -> None:
        """Say so when it has become full, or is no longer."""
        most = MEMORY_BYTES if not self._is_full else MEMORY_BYTES // 2
        full = self._newest_bytes >= most
        if full != self._is_full and not self._closed:
            self._is_full = full
            self._tell_full(full)

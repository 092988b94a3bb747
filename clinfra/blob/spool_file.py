"""A large body on its way in: a temporary file that becomes a volume of its own."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import zlib
from contextlib import suppress
from pathlib import Path

from zope.interface import implementer

from clinfra.blob import volume
from clinfra.blob.store import ISpool
from clinfra.blob.volume import VolumeHead
from clinfra.errors import StorageFull

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system says when a disk is full."""


def write_all(fd: int, buffers: list[bytes], offset: int) -> int:
    """Write buffers at an offset, whole; return the bytes written."""
    total = 0
    while buffers:
        batch, buffers = buffers[:512], buffers[512:]
        data: bytes | memoryview
        wanted = sum(map(len, batch))
        written = os.pwritev(fd, batch, offset + total)
        if written < wanted:
            data = memoryview(b"".join(batch))[written:]
            while data:
                more = os.pwrite(fd, data, offset + total + written)
                written += more
                data = data[more:]
        total += written
    return total


@implementer(ISpool)
class FileSpool:
    """A large body on its way into a volume of its own.

    The file is made by the first write.  A lock keeps a late `discard` (the client is
    gone) from a write still running in another thread.
    """

    def __init__(self, path: Path, name: str, content_type: str) -> None:
        self._path = path
        self._fd = -1
        self._over = False
        self._lock = threading.Lock()
        self._hash = hashlib.sha256()
        self._body_at = volume.VOLUME_HEAD_BYTES + volume.head_bytes(name, content_type)
        self.size = 0
        self.crc32 = 0

    @property
    def sha256(self) -> bytes:
        """The digest of what was written so far."""
        return self._hash.digest()

    def write(self, data: bytes) -> None:
        """Add bytes.  Raises errors.StorageFull."""
        with self._lock:
            try:
                write_all(self._file(), [data], self._body_at + self.size)
            except OSError as error:
                if error.errno in FULL:
                    raise StorageFull("Not enough space to keep this blob") from error
                raise
        self._hash.update(data)
        self.crc32 = zlib.crc32(data, self.crc32)
        self.size += len(data)

    def _file(self) -> int:
        if self._over:
            raise ValueError("the body was discarded")
        if self._fd < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._fd = os.open(self._path, flags, 0o600)
        return self._fd

    def sync(self) -> None:
        """Make what was written durable."""
        with self._lock:
            os.fdatasync(self._file())

    def discard(self) -> None:
        """Forget the body."""
        with self._lock:
            self._over = True
            fd, self._fd = self._fd, -1
            if fd >= 0:
                self._path.unlink(missing_ok=True)
                # What could not be written does not matter any more.
                with suppress(OSError):
                    os.close(fd)

    def place(self, path: Path, head: VolumeHead, record_head: bytes) -> int:
        """Become the volume at `path`; return its size."""
        raw = volume.pack_volume_head(head) + record_head
        if len(raw) != self._body_at:
            raise ValueError("the record's head is not of the length announced")
        with self._lock:
            fd = self._file()
            write_all(fd, [raw], 0)
            end = self._body_at + self.size
            end += write_all(fd, [volume.padding(end)], end)
            os.fdatasync(fd)
            self._path.rename(path)
            os.close(fd)
            self._fd, self._over = -1, True
        return end

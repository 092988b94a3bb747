"""A body on its way into a file of its own: a file without a name until it is whole.

Where the file system knows no unnamed files (O_TMPFILE), it has a name in a directory
that is emptied at start.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import zlib
from pathlib import Path

from zope.interface import implementer

from clinfra.blob.spool_file import FULL, write_all
from clinfra.blob.store import ISpool
from clinfra.errors import StorageFull

_NO_UNNAMED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)


@implementer(ISpool)
class BodyFile:
    """A body that becomes a file.

    The file is made by the first write.  A lock keeps a late `discard` (the client is
    gone) from a write still running in another thread.

    Args:
        path: what it is called meanwhile, if it must have a name.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd = -1
        self._named = False
        self._over = False
        self._lock = threading.Lock()
        self._hash = hashlib.sha256()
        self.size = 0
        self.crc32 = 0

    @property
    def sha256(self) -> bytes:
        """The digest of what was written so far."""
        return self._hash.digest()

    def write(self, data: bytes) -> None:
        """Add bytes.  Raises errors.StorageFull."""
        self.fill(data)
        self._hash.update(data)
        self.crc32 = zlib.crc32(data, self.crc32)

    def fill(self, data: bytes) -> None:
        """Add bytes whose digests nobody wants to know from us."""
        with self._lock:
            try:
                write_all(self._file(), [data], self.size)
            except OSError as error:
                if error.errno in FULL:
                    raise StorageFull("Not enough space to keep this blob") from error
                raise
        self.size += len(data)

    def _file(self) -> int:
        if self._over:
            raise ValueError("the body was discarded")
        if self._fd < 0:
            flags = os.O_RDWR | os.O_CLOEXEC
            try:
                self._fd = os.open(self._path.parent, flags | os.O_TMPFILE, 0o600)
            except OSError as error:
                if error.errno not in _NO_UNNAMED:
                    raise
                self._fd = os.open(self._path, flags | os.O_CREAT | os.O_EXCL, 0o600)
                self._named = True
        return self._fd

    def sync(self) -> None:
        """Make what was written durable."""
        with self._lock:
            os.fdatasync(self._file())

    def link(self, path: Path) -> None:
        """Give the file a name.  Raises FileExistsError."""
        with self._lock:
            if self._named:
                os.link(self._path, path)
                return
            # Only with a directory's descriptor does Python ask to follow the link.
            directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.link(f"/proc/self/fd/{self._file()}", path, src_dir_fd=directory)
            finally:
                os.close(directory)

    def replace(self, path: Path) -> None:
        """Give the file a name that another has, who loses it."""
        if not self._named:
            self.link(self._path)
            self._named = True
        self._path.rename(path)
        self._named = False

    def discard(self) -> None:
        """Forget the body; a name it was given stays."""
        with self._lock:
            self._over = True
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
                if self._named:
                    self._path.unlink(missing_ok=True)

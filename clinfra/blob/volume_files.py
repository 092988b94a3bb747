"""Volume files, read: what those who write them and those who only read share.

Any thread may read.  Bytes that a row points at never change where they are; a file
that is gone is a LookupError.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from functools import partial
from pathlib import Path

from attrs import define, field
from zope.interface import implementer

from clinfra.blob.records import Locator
from clinfra.blob.stock import path_of
from clinfra.blob.store import IBodies
from clinfra.web.exchange import FileBody

MAX_OPEN_FILES = 256


@implementer(IBodies)
@define(eq=False)
class VolumeFiles:
    """The volumes of one directory, kept open while they are read; see `IBodies`.

    Args:
        path: the directory.
    """

    _path: Path
    _open_files: OrderedDict[int, int] = field(init=False, factory=OrderedDict)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def close(self) -> None:
        """Close every file."""
        with self._lock:
            fds = list(self._open_files.values())
            self._open_files.clear()
        for fd in fds:
            os.close(fd)

    def let_go(self) -> None:
        """Close the files that another process has deleted: that frees their space."""
        with self._lock:
            open_files = list(self._open_files.items())
            gone = [number for number, fd in open_files if not os.fstat(fd).st_nlink]
            fds = [self._open_files.pop(number) for number in gone]
        for fd in fds:
            os.close(fd)

    def read(self, at: Locator, offset: int, length: int) -> bytes:
        """Return a piece of a body."""
        fd = self._borrow(at.volume)
        try:
            return os.pread(fd, length, at.offset + at.head_bytes + offset)
        finally:
            os.close(fd)

    def read_at_once(self, at: Locator, offset: int, length: int) -> bytes | None:
        """Return a piece of a body if it is in the page cache."""
        with self._lock:
            fd = self._open_files.get(at.volume, -1)
            if fd < 0:
                return None
            buffer = bytearray(length)
            try:
                read = os.preadv(
                    fd, [buffer], at.offset + at.head_bytes + offset, os.RWF_NOWAIT
                )
            except OSError:
                return None
        return bytes(buffer) if read == length else None

    def file_of(self, at: Locator, offset: int, length: int) -> FileBody:
        """Return a piece of a body as a piece of an open file."""
        fd = self._borrow(at.volume)
        start = at.offset + at.head_bytes + offset
        return FileBody(fd, start, length, partial(os.close, fd))

    def _borrow(self, number: int) -> int:
        """Return a descriptor of a volume that is the caller's to close."""
        with self._lock:
            fd = self._open_files.get(number, -1)
            if fd < 0:
                try:
                    fd = os.open(self._path_of(number), os.O_RDONLY | os.O_CLOEXEC)
                except FileNotFoundError:
                    raise LookupError(number) from None
                self._open_files[number] = fd
                if len(self._open_files) > MAX_OPEN_FILES:
                    os.close(self._open_files.popitem(last=False)[1])
            else:
                self._open_files.move_to_end(number)
            return os.dup(fd)

    def _close_file(self, number: int) -> None:
        with self._lock:
            fd = self._open_files.pop(number, -1)
        if fd >= 0:
            os.close(fd)

    def _path_of(self, number: int) -> Path:
        return path_of(self._path, number)

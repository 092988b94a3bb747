"""Local files as bodies of uploads and ends of downloads, for the command line."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from attrs import define, field
from zope.interface import implementer

from clinfra.web.exchange import IBody

PIECE_BYTES = 1 << 18

Tell = Callable[[int], object]
"""Called with how many bytes have been moved in all."""


@implementer(IBody)
@define(eq=False)
class FileUpload:
    """A file from its beginning, read piece by piece.

    Attributes:
        length: bytes.
    """

    _file: IO[bytes]
    length: int
    _tell: Tell
    _sent: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._file.seek(0)

    async def read(self) -> bytes:
        """Return the next piece, b"" at the end."""
        piece = self._file.read(PIECE_BYTES)
        self._sent += len(piece)
        self._tell(self._sent)
        return piece


@contextmanager
def opened_source(path: str) -> Iterator[tuple[IO[bytes], int]]:
    """Open a file to upload, "-" for standard input; yield it and its length.

    What comes from a pipe is kept in an unnamed file first, so that it can be sent
    again from its beginning.
    """
    if path == "-":
        with tempfile.TemporaryFile() as spool:
            shutil.copyfileobj(sys.stdin.buffer, spool, PIECE_BYTES)
            yield spool, spool.tell()
    else:
        with open(path, "rb") as source:
            yield source, os.fstat(source.fileno()).st_size


@contextmanager
def opened_target(path: str) -> Iterator[IO[bytes]]:
    """Open where a download goes, "-" for standard output.

    A file appears whole, or not at all: what is there already stays until then.
    """
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with open(handle, "wb") as part:
            yield part
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise

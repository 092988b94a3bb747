"""Files to the network and the network to files, without holding either in memory."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen
from twisted.internet.threads import deferToThreadPool

from clinfra.errors import TooLarge
from clinfra.web.transport import Eager

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorFromThreads
    from twisted.python.threadpool import ThreadPool

    from clinfra.web.channel_exchange import Exchange
    from clinfra.web.exchange import FileBody, IBody, IExchange

_SENDFILE_PIECE = 1 << 20
"""Most bytes sent in one turn of the reactor, so that others get theirs."""

_READ_PIECE = 256 * 1024
_WRITE_PIECE = 256 * 1024


async def send_file(exchange: Exchange, body: FileBody) -> None:
    """Add a piece of an open file to a begun answer.

    Raises:
        ClientGone: the client hung up.
        EOFError: the file is shorter than was said.
    """
    transport = exchange.channel.transport
    if not isinstance(transport, Eager) or transport.TLS or exchange.chunked:
        await pump_file(exchange, body)
        return
    offset = body.offset
    left = body.length
    if not exchange.wants_bytes:
        return
    while left:
        await exchange.drained()
        if left > _SENDFILE_PIECE:
            # Let the disk fetch the next piece while this one is sent.
            ahead = offset + _SENDFILE_PIECE
            os.posix_fadvise(body.fd, ahead, _SENDFILE_PIECE, os.POSIX_FADV_WILLNEED)
        sent = transport.sendFile(body.fd, offset, min(left, _SENDFILE_PIECE))
        exchange.sent_directly(sent)
        offset += sent
        left -= sent


async def pump_file(exchange: IExchange, body: FileBody) -> None:
    """Do what `send_file` does through any exchange, by reading."""
    for piece in read_file(body):
        exchange.write(piece)
        await exchange.drained()


def read_file(body: FileBody) -> Iterator[bytes]:
    """Read a piece of an open file, in pieces.

    Raises:
        EOFError: the file is shorter than was said.
    """
    offset = body.offset
    left = body.length
    while left:
        data = os.pread(body.fd, min(left, _READ_PIECE), offset)
        if not data:
            raise EOFError("The file is shorter than was said.")
        yield data
        offset += len(data)
        left -= len(data)


@frozen
class Spooled:
    """A body in an unnamed file.

    Attributes:
        fd: open for reading and writing; the owner closes it.
        sha256: digest of all of it; None when it was not asked for.
    """

    fd: int
    length: int
    sha256: bytes | None

    def close(self) -> None:
        """Close the file, and thereby remove it."""
        os.close(self.fd)


@frozen
class Threads:
    """Where blocking file writes go."""

    reactor: IReactorFromThreads
    pool: ThreadPool


async def spool(
    body: IBody,
    directory: Path,
    limit_bytes: int,
    *,
    digest: bool = False,
    threads: Threads | None = None,
) -> Spooled:
    """Write a request's body into an unnamed file.

    Args:
        limit_bytes: longest body accepted; a longer one that says so is refused before
            it is read.
        digest: compute SHA-256 on the way.
        threads: where writes (and digests) happen; None means at once, in this thread.

    Raises:
        TooLarge: the body is over the limit.  Nothing is left behind.
    """
    too_large = TooLarge(f"The body is over {limit_bytes} bytes.")
    if body.length is not None and body.length > limit_bytes:
        raise too_large
    fd = unnamed_file(directory)
    try:
        sha256 = hashlib.sha256() if digest else None
        length = 0
        pieces: list[bytes] = []
        waiting = 0

        def store(data: bytes) -> None:
            if sha256 is not None:
                sha256.update(data)
            write_all(fd, data)

        while True:
            piece = await body.read()
            length += len(piece)
            if length > limit_bytes:
                raise too_large
            pieces.append(piece)
            waiting += len(piece)
            if waiting and (waiting >= _WRITE_PIECE or not piece):
                data = b"".join(pieces)
                pieces.clear()
                if threads is None or waiting < _WRITE_PIECE:
                    store(data)
                else:
                    await deferToThreadPool(threads.reactor, threads.pool, store, data)
                waiting = 0
            if not piece:
                break
    except BaseException:
        os.close(fd)
        raise
    return Spooled(fd, length, sha256.digest() if sha256 is not None else None)


def unnamed_file(directory: Path) -> int:
    """Open a new file that has no name, for reading and writing."""
    try:
        return os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except (OSError, AttributeError):
        # Not every file system (or Unix) has O_TMPFILE.
        fd, path = tempfile.mkstemp(dir=directory)
        os.unlink(path)
        return fd


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data`, however many calls that takes."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]

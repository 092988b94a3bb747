"""Files to the network and the network to files, without holding either in memory.

# Note [Waiting for the disk]
What the kernel has in its page cache is read at once; the rest is fetched by a thread,
so that the reactor never waits for a disk.  `RWF_NOWAIT` tells the two apart.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import frozen
from twisted.internet.interfaces import IReactorThreads
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

_READ_PIECE = 128 * 1024
_WRITE_PIECE = 256 * 1024

_Result = TypeVar("_Result")


@frozen
class Threads:
    """Where work that waits for a disk is done."""

    reactor: IReactorFromThreads
    pool: ThreadPool

    @classmethod
    def of(cls, reactor: Any) -> Threads | None:
        """Return a reactor's own; None when it has none (in tests)."""
        if not IReactorThreads.providedBy(reactor):
            return None
        return cls(reactor, reactor.getThreadPool())

    async def with_file(self, fd: int, work: Callable[[int], _Result]) -> _Result:
        """Call `work` with a descriptor of the same file, in a thread.

        The descriptor is the thread's own: whoever is cancelled meanwhile may close
        `fd`, and its number may be given to another file, without harm.
        """
        own = os.dup(fd)

        def run() -> _Result:
            try:
                return work(own)
            finally:
                os.close(own)

        result: _Result = await deferToThreadPool(self.reactor, self.pool, run)
        return result


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
    if not exchange.wants_bytes:
        return
    threads = exchange.threads
    offset = body.offset
    left = body.length
    while left:
        await exchange.drained()
        count = min(left, _SENDFILE_PIECE)
        if threads is not None and not _is_cached(body.fd, offset, count):
            at, length = offset, count
            await threads.with_file(body.fd, lambda fd: _fetch(fd, at, length))  # noqa: B023 # awaited here
            await exchange.drained()
        if left > count:
            # Let the disk bring the next piece while this one is sent.
            os.posix_fadvise(
                body.fd, offset + count, _SENDFILE_PIECE, os.POSIX_FADV_WILLNEED
            )
        sent = transport.sendFile(body.fd, offset, count)
        exchange.sent_directly(sent)
        offset += sent
        left -= sent


async def pump_file(exchange: IExchange, body: FileBody) -> None:
    """Do what `send_file` does through any exchange, by reading."""
    async for piece in read_file(body, exchange.threads):
        exchange.write(piece)
        await exchange.drained()


async def read_file(body: FileBody, threads: Threads | None) -> AsyncIterator[bytes]:
    """Read a piece of an open file, in pieces.

    Raises:
        EOFError: the file is shorter than was said.
    """
    offset = body.offset
    end = body.offset + body.length
    while offset < end:
        data = await read_piece(
            body.fd, offset, min(end - offset, _READ_PIECE), threads
        )
        yield data
        offset += len(data)


async def read_piece(
    fd: int, offset: int, length: int, threads: Threads | None
) -> bytes:
    """Read exactly `length` bytes; see Note [Waiting for the disk].

    Args:
        threads: where to read what the kernel has not at hand; None means here.

    Raises:
        EOFError: the file is shorter than that.
    """
    data = b"" if threads is None else _read_cached(fd, offset, length)
    if len(data) < length:
        if threads is None:
            data = os.pread(fd, length, offset)
        else:
            data = await threads.with_file(
                fd, lambda own: os.pread(own, length, offset)
            )
    if len(data) < length:
        raise EOFError("The file is shorter than was said.")
    return data


def _read_cached(fd: int, offset: int, length: int) -> bytes:
    """Read what the page cache has of it, perhaps nothing."""
    buffer = bytearray(length)
    try:
        count = os.preadv(fd, [buffer], offset, os.RWF_NOWAIT)
    except OSError:
        # EAGAIN: not at hand.  EOPNOTSUPP: the file system cannot tell.
        return b""
    return bytes(buffer[:count])


def _is_cached(fd: int, offset: int, length: int) -> bool:
    """Tell whether both ends of a piece are in the page cache."""
    return bool(
        _read_cached(fd, offset, 1) and _read_cached(fd, offset + length - 1, 1)
    )


def _fetch(fd: int, offset: int, length: int) -> None:
    """Have the kernel read a piece into the page cache."""
    for at in range(offset, offset + length, _READ_PIECE):
        os.pread(fd, min(_READ_PIECE, offset + length - at), at)


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

        def store(fd: int, data: bytes) -> None:
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
                    store(fd, data)
                else:
                    await threads.with_file(fd, partial(store, data=data))
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

"""The files of a peer on their way here (see `clone`).

Pieces of them, a few at a time, each on a connection of its own, are written as they
come: nobody looks at these files before all of them are whole.  So a piece counts once
its checksum is right, and everything is synced once, at the end.  They are written past
the page cache, where that is possible: it keeps what it has, for those who read here,
and the work of filling it is more than all other.

What came before a download broke off is kept, with its checksums, for when the same
peer answers again: it is asked for its own checksums, and sends what differs.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import cast

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.python.failure import Failure

from clinfra.blob.clone import CLONE, CRC, INDEX, PIECE_BYTES, Offer, file_in
from clinfra.blob.peers import PeerFailed, Peers
from clinfra.blob.spool_file import FULL
from clinfra.blob.store_volume import sync_directory
from clinfra.blob.workers import Workers
from clinfra.errors import OriginFailed, StorageFull
from clinfra.web.responses import OriginResponse

LANES = 3
"""Pieces on their way at a time."""

READ_BYTES = 120 << 10
"""Read from a connection at a time, at most: what is larger the C library asks of the
kernel each time, which gives pages of zeros, and costs more than the network."""

BLOCK_BYTES = 2 << 20
"""Written at a time, at most; the next block comes meanwhile."""

_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS

ALIGNED_BYTES = 4096
"""Past the page cache, places and lengths are multiples of this."""


@frozen
class _Piece:
    """A piece of a file."""

    file: str
    offset: int
    length: int


@define(eq=False)
class Fetch:
    """Gets what a peer offers.

    Args:
        path: the directory it goes into.
        replica: our name.

    Attributes:
        heard: called with the peer's name whenever something came.
    """

    _path: Path
    _replica: str
    _workers: Workers
    _peers: Peers
    heard: Callable[[str], object] = field(init=False, default=lambda peer: None)
    _peer: str = field(init=False, default="")
    _here: dict[_Piece, int] = field(init=False, factory=dict)

    def missing_bytes(self, peer: str, offer: Offer) -> int:
        """Return how much space an offer still takes here."""
        whole = sum(offer.volumes.values()) + offer.index
        if peer != self._peer:
            return whole
        return max(0, whole - sum(piece.length for piece in self._here))

    async def get(self, peer: str, offer: Offer) -> None:
        """Get all files, whole and durable.

        Raises errors.Trouble, OSError.  What came by then is kept, unless it was the
        disk that was full.
        """
        if peer != self._peer:
            await self.forget()
            self._peer = peer
        try:
            await self._workers.run(self._make_files, offer)
            pieces = _pieces(offer)
            lanes = [
                Deferred.fromCoroutine(self._get_some(peer, offer.id, pieces))
                for _ in range(LANES)
            ]
            # Nobody writes any more when this fails.
            for success, result in await DeferredList(lanes, consumeErrors=True):
                if not success:
                    cast(Failure, result).raiseException()
            await self._workers.run(self._sync, offer)
        except StorageFull:
            await self.forget()
            raise

    def forget(self) -> Deferred[None]:
        """Remove what came."""
        self._peer = ""
        self._here.clear()
        return self._workers.run(partial(shutil.rmtree, self._path, ignore_errors=True))

    def _make_files(self, offer: Offer) -> None:
        """Make files of the right size, and no others.  A reader thread."""
        self._path.mkdir(parents=True, exist_ok=True)
        files = _files(offer)
        wanted = {file_in(self._path, name): size for name, size in files.items()}
        for path in self._path.iterdir():
            if path not in wanted:
                path.unlink()
        for path, size in wanted.items():
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, size)
                if size:
                    os.posix_fallocate(fd, 0, size)
            except OSError as error:
                raise _told_full(error) from error
            finally:
                os.close(fd)

    async def _get_some(self, peer: str, offer: str, pieces: Iterator[_Piece]) -> None:
        """Get pieces until there are no more, or one is not to be had."""
        blocks = _Blocks(self._workers)
        try:
            for piece in pieces:
                await self._get_piece(peer, offer, piece, blocks)
                self.heard(peer)
        except BaseException:
            for _ in pieces:
                pass
            raise

    async def _get_piece(
        self, peer: str, offer: str, piece: _Piece, blocks: _Blocks
    ) -> None:
        target = (
            f"/{CLONE}?for={self._replica}&id={offer}&file={piece.file}"
            f"&offset={piece.offset}&length={piece.length}"
        )
        known = self._here.pop(piece, None)
        if known is not None:
            target += f"&has={known}"
        response = await self._peers.call(peer, b"GET", target.encode())
        async with response:
            status, told = response.head.status, response.head.get(CRC.lower())
            if status == 304 and known is not None:
                self._here[piece] = known
                return
            if status != 200 or told is None or not told.isdigit():
                raise PeerFailed(peer, status, "it has no such piece")
            response.read_at_a_time(READ_BYTES)
            if await self._keep(response, piece, blocks) != int(told):
                raise OriginFailed(f"{peer}: a piece of a file was damaged on the way")
        self._here[piece] = int(told)

    async def _keep(
        self, response: OriginResponse, piece: _Piece, blocks: _Blocks
    ) -> int:
        """Write a piece, a block while the next one comes; return its CRC-32."""
        blocks.begin(file_in(self._path, piece.file), piece.offset)
        left = piece.length
        try:
            while left >= 0 and (data := await response.read()):
                left -= len(data)
                await blocks.add(data)
        finally:
            # This piece may be asked for again: nobody writes it any more then.
            crc = await blocks.end()
        if left:
            raise OriginFailed("A piece of a file is not as long as was asked for")
        return crc

    def _sync(self, offer: Offer) -> None:
        """Make everything durable.  A reader thread."""
        for name in _files(offer):
            fd = os.open(file_in(self._path, name), os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            except OSError as error:
                raise _told_full(error) from error
            finally:
                os.close(fd)
        sync_directory(self._path)
        sync_directory(self._path.parent)


@define(eq=False)
class _Blocks:
    """Writes what comes, in blocks: one is written while the other one fills."""

    _workers: Workers
    path: Path = field(init=False)
    _filling: memoryview = field(init=False)
    _written: memoryview = field(init=False)
    _filled: int = field(init=False, default=0)
    _at: int = field(init=False, default=0)
    _writing: Deferred[int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        # Such memory begins at a page, as the disk wants it.
        self._filling = memoryview(mmap.mmap(-1, BLOCK_BYTES, _PRIVATE))
        self._written = memoryview(mmap.mmap(-1, BLOCK_BYTES, _PRIVATE))

    def begin(self, path: Path, offset: int) -> None:
        """Write to a file, from there on."""
        self.path, self._at, self._filled = path, offset, 0
        self._writing = succeed(0)

    async def add(self, data: bytes) -> None:
        """Take what came.  Raises errors.StorageFull, OSError."""
        while data:
            room = BLOCK_BYTES - self._filled
            if not room:
                await self._write()
                continue
            taken, data = (
                (data, b"") if len(data) <= room else (data[:room], data[room:])
            )
            end = self._filled + len(taken)
            self._filling[self._filled : end] = taken
            self._filled = end

    async def end(self) -> int:
        """Return the CRC-32 of what came, once it is written.  Raises as `add`."""
        await self._write()
        return await self._writing

    async def _write(self) -> None:
        crc = await self._writing
        block = self._filling[: self._filled]
        self._writing = self._workers.run(write, self.path, block, self._at, crc)
        self._filling, self._written = self._written, self._filling
        self._at, self._filled = self._at + self._filled, 0


def _files(offer: Offer) -> dict[str, int]:
    """Return the size of each file, by its name."""
    files = {INDEX: offer.index}
    files.update((f"{number}", size) for number, size in offer.volumes.items())
    return files


def _pieces(offer: Offer) -> Iterator[_Piece]:
    for name, size in _files(offer).items():
        for offset in range(0, size, PIECE_BYTES):
            yield _Piece(name, offset, min(PIECE_BYTES, size - offset))


def write(path: Path, block: memoryview, offset: int, crc: int) -> int:
    """Write a block of a file; return the CRC-32 up to its end.  A reader thread.

    Raises errors.StorageFull, OSError.
    """
    crc = zlib.crc32(block, crc)
    even = len(block) - len(block) % ALIGNED_BYTES
    try:
        try:
            _write_all(path, block[:even], offset, os.O_DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            even = 0  # not with this file system
        _write_all(path, block[even:], offset + even)
    except OSError as error:
        raise _told_full(error) from error
    return crc


def _write_all(path: Path, block: memoryview, offset: int, how: int = 0) -> None:
    if not block:
        return
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC | how)
    try:
        while block:
            written = os.pwrite(fd, block, offset)
            block, offset = block[written:], offset + written
    finally:
        os.close(fd)


def _told_full(error: OSError) -> Exception:
    if error.errno in FULL:
        return StorageFull("Not enough space to keep what came")
    return error

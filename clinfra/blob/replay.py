"""A request's body, taken in whole so that it can be sent as often as need be.

Small ones stay in memory, large ones go into an unnamed file.  However often a body is
sent, it is sent from its beginning.
"""

from __future__ import annotations

import errno
import hashlib
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from attrs import define, field
from zope.interface import implementer

from clinfra.blob.digests import Announced
from clinfra.blob.reading import SMALL_BYTES
from clinfra.errors import ClientGone, StorageFull, TooLarge
from clinfra.web.exchange import IBody, IExchange
from clinfra.web.streams import Spooled, Threads, read_piece, spool

PIECE_BYTES = 1 << 18

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@define(eq=False)
class Replay:
    """A body at hand; whoever has it closes it.

    Attributes:
        sha256: digest of all of it.
        on_close: called once.
    """

    sha256: bytes
    _small: bytes = b""
    _spooled: Spooled | None = None
    _threads: Threads | None = None
    on_close: Callable[[], object] = lambda: None
    closed: bool = field(init=False, default=False)

    @classmethod
    def of(cls, body: bytes) -> Replay:
        """Return a body that was in memory all along."""
        return cls(hashlib.sha256(body).digest(), body)

    @property
    def is_small(self) -> bool:
        """It is in memory."""
        return self._spooled is None

    @property
    def length(self) -> int:
        """Return how long it is, bytes."""
        return len(self._small) if self._spooled is None else self._spooled.length

    def body(self) -> bytes | IBody:
        """Return it for being sent once, from its beginning."""
        if self._spooled is None:
            return self._small
        return _SpooledBody(self, self._spooled, self._threads)

    def close(self) -> None:
        """Let go of it; what still reads it fails."""
        if not self.closed:
            self.closed = True
            self.on_close()
            if self._spooled is not None:
                self._spooled.close()


@implementer(IBody)
class _SpooledBody:
    """A body in an unnamed file, from its beginning, until it is closed."""

    def __init__(
        self, replay: Replay, spooled: Spooled, threads: Threads | None
    ) -> None:
        self.length = spooled.length
        self._replay = replay
        self._spooled = spooled
        self._threads = threads
        self._offset = 0

    async def read(self) -> bytes:
        wanted = min(PIECE_BYTES, self.length - self._offset)
        if not wanted:
            return b""
        if self._replay.closed:
            raise ClientGone
        piece = await read_piece(self._spooled.fd, self._offset, wanted, self._threads)
        self._offset += wanted
        return piece


@define(eq=False)
class ReplayIntake:
    """Takes bodies in.

    Args:
        directory: where large ones are kept.
        max_blob_bytes: largest body.
        memory_bytes: held in memory at a time; the others go to disk.
    """

    _directory: Path
    _max_blob_bytes: int
    _memory_bytes: int = 64 << 20
    _held_bytes: int = field(init=False, default=0)

    async def take(self, exchange: IExchange, announced: Announced) -> Replay:
        """Take a request's body in.

        Raises errors.TooLarge, errors.StorageFull, InvalidRequest when it is not what
        was announced, and what `IBody.read` raises.
        """
        body = exchange.body
        pieces: list[bytes] = []
        size = 0
        if (body.length or 0) <= SMALL_BYTES:
            kept = False
            try:
                while piece := await body.read():
                    pieces.append(piece)
                    size += len(piece)
                    self._held_bytes += len(piece)
                    if size > self._max_blob_bytes:
                        raise self._too_large()
                    if size > SMALL_BYTES or self._held_bytes > self._memory_bytes:
                        break
                else:
                    whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                    announced.update(whole)
                    replay = Replay.of(whole)
                    announced.check(replay.sha256)
                    replay.on_close = partial(self._let_go, size)
                    kept = True
                    return replay
            finally:
                if not kept:
                    self._let_go(size)
        spooled = await self._spool(_Watched(pieces, body, announced), exchange.threads)
        replay = Replay(spooled.sha256 or b"", b"", spooled, exchange.threads)
        try:
            announced.check(replay.sha256)
        except BaseException:
            replay.close()
            raise
        return replay

    async def _spool(self, body: IBody, threads: Threads | None) -> Spooled:
        try:
            return await spool(
                body,
                self._directory,
                self._max_blob_bytes,
                digest=True,
                threads=threads,
            )
        except TooLarge:
            raise self._too_large() from None
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise StorageFull("Not enough space to keep this blob") from error
            raise

    def _let_go(self, size: int) -> None:
        self._held_bytes -= size

    def _too_large(self) -> TooLarge:
        return TooLarge(f"A blob cannot be larger than {self._max_blob_bytes} bytes")


@implementer(IBody)
class _Watched:
    """A body of which some has been read already, hashed on its way."""

    def __init__(
        self, pieces: Iterable[bytes], body: IBody, announced: Announced
    ) -> None:
        self.length = body.length
        self._pieces = deque(pieces)
        self._body = body
        self._announced = announced

    async def read(self) -> bytes:
        piece = self._pieces.popleft() if self._pieces else await self._body.read()
        self._announced.update(piece)
        return piece

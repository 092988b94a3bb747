"""Request bodies that are taken in before anybody is asked to deal with them.

A slow sender then ties up nobody but us.  A small body stays in memory, a larger one
goes to a file; where there is no room for all of it, the rest comes from its sender.
"""

from __future__ import annotations

from zope.interface import implementer

from clinfra.errors import ClientGone
from clinfra.web.exchange import IBody
from clinfra.web.spool import SpoolFile

_PIECE = 128 * 1024
_WRITE_PIECE = 256 * 1024
"""Bodies up to this stay in memory; longer ones are written in such pieces."""
_SMALL_PIECE = 16 * 1024
"""The same while many others are taken in, so that they do not fill the memory."""


class Intake:
    """A body that was taken in, as far as there was room.

    Attributes:
        length: of all of it; None when that is not known.
        whole: it is all here, and can be sent more than once.
    """

    def __init__(self, file: SpoolFile) -> None:
        self.length: int | None = None
        self.whole = False
        self._file = file
        self._tail = b""
        self._rest: IBody | None = None
        self._closed = False

    def body(self) -> bytes | IBody:
        """Return it from its beginning."""
        if self.whole and not self._file.length:
            return self._tail
        return _Kept(self)

    def close(self) -> None:
        """It is not needed any more; whoever still reads hears ClientGone."""
        self._closed = True
        self._file.close()

    async def take(self, body: IBody) -> None:
        """Take a body in.  Raises what reading it does; call `close` in any case."""
        pieces: list[bytes] = []
        waiting = 0
        self.length = body.length
        while piece := await body.read():
            pieces.append(piece)
            waiting += len(piece)
            room = self._file.hold(waiting)
            if waiting >= _WRITE_PIECE or (waiting >= _SMALL_PIECE and not room):
                data = b"".join(pieces)
                if not await self._file.append(data):
                    self._tail = data
                    self._rest = body
                    return
                pieces.clear()
                waiting = 0
                self._file.hold(0)
                # While the next piece is waited for, nothing of this one is kept.
                del data
            del piece
        self._tail = b"".join(pieces)
        self.length = self._file.length + waiting
        self.whole = True

    async def piece(self, offset: int) -> bytes:
        """Return what comes at this place, b"" at the end.  For readers."""
        if self._closed:
            raise ClientGone
        kept = self._file.length
        if offset < kept:
            return await self._file.read(offset, min(_PIECE, kept - offset))
        tail = self._tail[offset - kept :] if offset < kept + len(self._tail) else b""
        if tail or self._rest is None:
            return tail
        # Nobody reads the beginning again once it has been read to here.
        data: bytes = await self._rest.read()
        return data


@implementer(IBody)
class _Kept:
    """One reading of an intake."""

    def __init__(self, intake: Intake) -> None:
        self.length = intake.length
        self._intake = intake
        self._offset = 0

    async def read(self) -> bytes:
        """Return the next piece, b"" at the end."""
        data = await self._intake.piece(self._offset)
        self._offset += len(data)
        return data

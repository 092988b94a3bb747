"""A stored blob as the body of a request to another replica."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from zope.interface import implementer

from clinfra.blob.hot import Hot
from clinfra.blob.replica import Replica
from clinfra.web.exchange import IBody

PIECE_BYTES = 1 << 18


@implementer(IBody)
@define(eq=False)
class StoredBody:
    """Reads a blob of this machine piece by piece, also while it is being moved.

    `read` raises errors.StorageDamaged: our fault, never the receiver's.

    Args:
        moved: called whenever another piece is asked for: the last one is gone.

    Attributes:
        length: bytes.
    """

    _replica: Replica
    _hot: Hot
    _moved: Callable[[], object] = lambda: None
    length: int = field(init=False)
    _offset: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        data = self._hot.row.data
        self.length = data.size if data is not None else 0

    async def read(self) -> bytes:
        """Return the next piece, b"" at the end."""
        self._moved()
        wanted = min(PIECE_BYTES, self.length - self._offset)
        if not wanted:
            return b""
        piece = await self._replica.piece(self._hot, self._offset, wanted)
        self._offset += wanted
        return piece

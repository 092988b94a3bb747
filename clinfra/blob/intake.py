"""Taking a request body in: small ones in memory, large ones straight to the disk."""

from __future__ import annotations

from attrs import define

from clinfra.blob.digests import Announced
from clinfra.blob.reading import SMALL_BYTES
from clinfra.blob.store import IBlobStore, ISpool
from clinfra.blob.workers import Workers
from clinfra.errors import TooLarge
from clinfra.web.exchange import IBody

PIECE_BYTES = 1 << 18
"""Written to disk at a time."""


@define(eq=False)
class Intake:
    """Reads bodies.

    Args:
        max_blob_bytes: largest body.
        memory_bytes: small bodies held in memory at a time; when that is used up,
            even small ones go to disk.
    """

    store: IBlobStore
    workers: Workers
    max_blob_bytes: int
    memory_bytes: int = 64 << 20
    _held_bytes: int = 0

    def too_large(self) -> TooLarge:
        """Return what a body over the limit raises."""
        return TooLarge(f"A blob cannot be larger than {self.max_blob_bytes} bytes")

    async def take(
        self, body: IBody, name: str, content_type: str, announced: Announced
    ) -> bytes | ISpool:
        """Return the whole body; a short or aborted one leaves nothing.

        Raises:
            errors.TooLarge, errors.StorageFull, and what `IBody.read` raises.
        """
        if body.length is not None and body.length > self.max_blob_bytes:
            raise self.too_large()
        if body.length is not None and body.length > SMALL_BYTES:
            return await self._spool(body, name, content_type, announced, [])
        pieces: list[bytes] = []
        size = 0
        try:
            while piece := await body.read():
                size += len(piece)
                self._held_bytes += len(piece)
                announced.update(piece)
                pieces.append(piece)
                if size > self.max_blob_bytes:
                    raise self.too_large()
                if size > SMALL_BYTES or self._held_bytes > self.memory_bytes:
                    return await self._spool(
                        body, name, content_type, announced, pieces
                    )
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        finally:
            self._held_bytes -= size

    async def _spool(
        self,
        body: IBody,
        name: str,
        content_type: str,
        announced: Announced,
        pieces: list[bytes],
    ) -> ISpool:
        spool = self.store.spool(name, content_type)
        held = sum(map(len, pieces))
        size = held
        try:
            while piece := await body.read():
                size += len(piece)
                if size > self.max_blob_bytes:
                    raise self.too_large()
                announced.update(piece)
                pieces.append(piece)
                held += len(piece)
                if held >= PIECE_BYTES:
                    await self.workers.run(spool.write, b"".join(pieces))
                    pieces.clear()
                    held = 0
            if pieces:
                await self.workers.run(spool.write, b"".join(pieces))
                pieces.clear()
            await self.workers.run(spool.sync)
        except BaseException:
            self.workers.run(spool.discard)
            raise
        return spool

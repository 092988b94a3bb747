"""The blobs that this process answers for, by name: its own, and everybody's.

`LocalBlobs` is `IBlobs` for the other products in this process, and what the HTTP
resource stands on.  A name that lives elsewhere is asked for there; so is one that
should be here and is not, which then is brought back.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define
from zope.interface import implementer

from clinfra.blob import names
from clinfra.blob.concern import Concern, Wish
from clinfra.blob.forward import Forwarder
from clinfra.blob.heal import Healer
from clinfra.blob.hot import Hot
from clinfra.blob.info import NOT_FOUND, info_of
from clinfra.blob.records import EVERYWHERE, Row
from clinfra.blob.replica import SMALL_BYTES, Replica, Write
from clinfra.blob.topology import Placement, Topology
from clinfra.errors import NotFound, StorageDamaged, TooLarge
from clinfra.interfaces import BlobInfo, IBlobs


@implementer(IBlobs)
@define(eq=False)
class LocalBlobs:
    """Blobs kept by this process, and the way to those of others.

    Args:
        default_ttl_seconds: of blobs put without one; None for ever.
        serve_deleted: deleted blobs are served until purged.
        max_blob_bytes: largest blob.
        max_age_seconds: longest time caches are told to keep a blob.
        now: returns unix seconds.
    """

    topology: Topology
    replica: Replica
    concern: Concern
    forwarder: Forwarder
    healer: Healer
    default_ttl_seconds: int | None
    serve_deleted: bool
    max_blob_bytes: int
    max_age_seconds: float
    now: Callable[[], float]

    def place(self, name: str, *, encoded: bool, writing: bool) -> Placement:
        """Return where a name belongs.

        Raises errors.InvalidRequest: no name, or no place.
        """
        placement = self.topology.place(name, encoded=encoded)
        names.check_harmless(name)
        names.check_harmless(placement.stored)
        if writing:
            self.topology.check_writable(placement)
        return placement

    def is_here(self, placement: Placement) -> bool:
        """Return whether this replica keeps blobs of that placement."""
        return self.topology.is_here(placement)

    def is_gone(self, row: Row) -> bool:
        """Return whether a blob must not be served any more, whoever has its bytes."""
        ended = row.expiry.passed(self.now())
        return ended and (row.data is None or not self.serve_deleted)

    def encode(self, name: str) -> str:
        """Return the stored name of a plain name."""
        return self.topology.place(name, encoded=False).stored

    async def put(
        self,
        name: str,
        body: bytes,
        *,
        ttl_seconds: int | None = None,
        content_type: str | None = None,
        encoded: bool = False,
    ) -> BlobInfo:
        """Keep a body durably."""
        placement = self.place(name, encoded=encoded, writing=True)
        if len(body) > self.max_blob_bytes:
            raise TooLarge(f"A blob cannot be larger than {self.max_blob_bytes} bytes")
        ttl = self.default_ttl_seconds if ttl_seconds is None else ttl_seconds
        write = Write(ttl_seconds=ttl, content_type=content_type or "")
        if not self.is_here(placement):
            return await self.forwarder.keep(placement, body, write)
        with self.replica.room_for(len(body)):
            row = await self.replica.put(placement.stored, body, write)
        await self.concern.reach(row, EVERYWHERE, Wish())
        return info_of(row, placement.buckets)

    async def get(self, name: str) -> tuple[BlobInfo, bytes]:
        """Return a (small) blob whole."""
        placement = self.place(name, encoded=True, writing=False)
        hot = await self._find(placement)
        if hot is None:
            missing = self.is_here(placement)
            info = await self.forwarder.info(placement, missing=missing)
            body = await self.forwarder.fetch(
                placement, self.max_blob_bytes, missing=missing
            )
            if missing:
                self.healer.heal_soon(placement)
            return info, body
        if self.is_gone(hot.row):
            raise NotFound(NOT_FOUND)
        size = hot.row.data.size if hot.row.data is not None else 0
        if size <= SMALL_BYTES:
            body = await self.replica.body(hot)
        else:
            body = await self.replica.piece(hot, 0, size)
        return info_of(hot.row, placement.buckets), body

    async def info(self, name: str) -> BlobInfo:
        """Return what is known of a blob, deleted or not, until it is purged."""
        placement = self.place(name, encoded=True, writing=False)
        hot = await self._find(placement)
        if hot is None:
            missing = self.is_here(placement)
            return await self.forwarder.info(placement, missing=missing)
        if hot.row.data is None:
            raise NotFound(NOT_FOUND)
        return info_of(hot.row, placement.buckets)

    async def delete(self, name: str) -> BlobInfo:
        """Delete at once."""
        placement = self.place(name, encoded=True, writing=True)
        if not self.is_here(placement):
            return await self.forwarder.expire(placement, Write())
        row = await self.replica.expire(placement.stored, Write())
        await self.concern.reach(row, EVERYWHERE, Wish())
        return info_of(row, placement.buckets)

    async def _find(self, placement: Placement) -> Hot | None:
        """Return what this replica knows of a blob; None when others are to be asked.

        Raises errors.StorageDamaged when there are no others.
        """
        if not self.is_here(placement):
            return None
        try:
            hot = await self.replica.find(placement.stored)
        except StorageDamaged:
            if not self.forwarder.router.has_others(placement):
                raise
            return None
        if hot is None or (hot.row.data is None and not self.is_gone(hot.row)):
            return None
        return hot

"""The blobs of this process, by name: placement, and the replica behind it.

`LocalBlobs` is `IBlobs` for the other products in this process, and what the HTTP
resource stands on.  `home` is the seam for routing: today a name that belongs to
another replica is refused with a sentence that says whose it is.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define
from zope.interface import implementer

from clinfra.blob import names
from clinfra.blob.hot import Hot
from clinfra.blob.info import NOT_FOUND, info_of
from clinfra.blob.replica import SMALL_BYTES, Replica, Write
from clinfra.blob.topology import Placement, Topology
from clinfra.errors import NotFound, Overloaded, TooLarge
from clinfra.interfaces import BlobInfo, IBlobs


@implementer(IBlobs)
@define(eq=False)
class LocalBlobs:
    """Blobs kept by this process.

    Args:
        default_ttl_seconds: of blobs put without one; None for ever.
        serve_deleted: deleted blobs are served until purged.
        max_blob_bytes: largest blob.
        max_age_seconds: longest time caches are told to keep a blob.
        now: returns unix seconds.
    """

    topology: Topology
    replica: Replica
    default_ttl_seconds: int | None
    serve_deleted: bool
    max_blob_bytes: int
    max_age_seconds: float
    now: Callable[[], float]

    def place(self, name: str, *, encoded: bool, writing: bool) -> Placement:
        """Return where a name belongs; it is here.

        Raises:
            errors.InvalidRequest: no name, or no place.
            errors.NotFound: it does not live in this cluster.
            errors.Overloaded: another replica keeps it.
        """
        placement = self.topology.place(name, encoded=encoded)
        names.check_harmless(name)
        names.check_harmless(placement.stored)
        if writing:
            self.topology.check_writable(placement)
        if not self.topology.is_here(placement):
            self._elsewhere(placement)
        return placement

    def _elsewhere(self, placement: Placement) -> None:
        replicas = self.topology.replicas_of(placement)
        if not replicas:
            raise NotFound(NOT_FOUND)
        raise Overloaded(
            f"{placement.stored} is kept by {', '.join(replicas)}, ask one of them", 60
        )

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
        self.replica.check_space(len(body))
        ttl = self.default_ttl_seconds if ttl_seconds is None else ttl_seconds
        write = Write(ttl_seconds=ttl, content_type=content_type or "")
        row = await self.replica.put(placement.stored, body, write)
        return info_of(row, placement.buckets)

    async def get(self, name: str) -> tuple[BlobInfo, bytes]:
        """Return a (small) blob whole."""
        placement = self.place(name, encoded=True, writing=False)
        hot = await self.visible(placement.stored)
        size = hot.row.data.size if hot.row.data is not None else 0
        if size <= SMALL_BYTES:
            body = await self.replica.body(hot)
        else:
            body = await self.replica.piece(hot, 0, size)
        return info_of(hot.row, placement.buckets), body

    async def info(self, name: str) -> BlobInfo:
        """Return what is known of a blob, deleted or not, until it is purged."""
        placement = self.place(name, encoded=True, writing=False)
        hot = await self.replica.find(placement.stored)
        if hot is None or hot.row.data is None:
            raise NotFound(NOT_FOUND)
        return info_of(hot.row, placement.buckets)

    async def delete(self, name: str) -> BlobInfo:
        """Delete at once."""
        placement = self.place(name, encoded=True, writing=True)
        row = await self.replica.expire(placement.stored, Write())
        return info_of(row, placement.buckets)

    async def visible(self, stored: str) -> Hot:
        """Return a blob that may be served.  Raises errors.NotFound."""
        hot = await self.replica.find(stored)
        if (
            hot is None
            or hot.row.data is None
            or (hot.row.expiry.passed(self.now()) and not self.serve_deleted)
        ):
            raise NotFound(NOT_FOUND)
        return hot

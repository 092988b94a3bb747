"""Blobs of the whole cluster, asked for where they live.

`RoutedBlobs` is `IBlobs` for a process that keeps no blobs itself.
"""

from __future__ import annotations

import hashlib

from attrs import define
from zope.interface import implementer

from clinfra.blob import names
from clinfra.blob.download import READS
from clinfra.blob.forward import Forwarder
from clinfra.blob.replica import Write
from clinfra.blob.topology import Placement, Topology
from clinfra.errors import OriginFailed, TooLarge
from clinfra.interfaces import BlobInfo, IBlobs


@implementer(IBlobs)
@define(eq=False)
class RoutedBlobs:
    """The way to everybody's blobs.

    Args:
        default_ttl_seconds: of blobs put without one; None for ever.
        max_blob_bytes: largest blob.
    """

    topology: Topology
    forwarder: Forwarder
    default_ttl_seconds: int | None
    max_blob_bytes: int

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

    async def encode(self, name: str) -> str:
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
        return await self._put(placement, body, write)

    async def get(self, name: str) -> tuple[BlobInfo, bytes]:
        """Return a (small) blob whole."""
        return await self._get(self.place(name, encoded=True, writing=False))

    async def info(self, name: str) -> BlobInfo:
        """Return what is known of a blob, deleted or not, until it is purged."""
        return await self._info(self.place(name, encoded=True, writing=False))

    async def delete(self, name: str) -> BlobInfo:
        """Delete at once."""
        return await self._delete(self.place(name, encoded=True, writing=True))

    async def _put(self, placement: Placement, body: bytes, write: Write) -> BlobInfo:
        return await self.forwarder.keep(placement, body, write)

    async def _get(
        self, placement: Placement, *, missing: bool = False
    ) -> tuple[BlobInfo, bytes]:
        forwarder, most = self.forwarder, self.max_blob_bytes
        for _ in range(READS):
            info = await forwarder.info(placement, missing=missing)
            body = await forwarder.fetch(placement, most, missing=missing)
            if info.sha256 in (None, hashlib.sha256(body).hexdigest()):
                return info, body
        raise OriginFailed("The blob was replaced while it was being read.")

    async def _info(self, placement: Placement, *, missing: bool = False) -> BlobInfo:
        return await self.forwarder.info(placement, missing=missing)

    async def _delete(self, placement: Placement) -> BlobInfo:
        return await self.forwarder.expire(placement, Write())

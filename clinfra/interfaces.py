"""The seams of clinfra: what the products need from one another and from plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen
from zope.interface import Attribute, Interface


@frozen
class BlobInfo:
    """What is known of a blob (the original's info JSON is made of this).

    Attributes:
        name: stored (encoded) name.
        modified: 64-bit stamp of the bytes; None when only a delete has been seen.
        deleted: unix seconds of its expiry; 0 never.
        modified_deleted: 64-bit stamp of the expiry.
        buckets: cluster id → bucket id.
        size: bytes; None without data.
        sha256: hex digest of the bytes; None without data.
        content_type: as stored, or guessed from the name.
    """

    name: str
    modified: int | None
    deleted: int
    modified_deleted: int
    buckets: Mapping[int, int] = field(factory=dict)
    size: int | None = None
    sha256: str | None = None
    content_type: str = "application/octet-stream"


class IBlobs(Interface):
    """Somewhere to keep blobs: this process's replica, or one over HTTP."""

    def encode(name: str) -> str:
        """Return the stored name of a plain name (placement is in the name)."""

    async def put(
        name: str,
        body: bytes,
        *,
        ttl_seconds: int | None = None,
        content_type: str | None = None,
        encoded: bool = False,
    ) -> BlobInfo:
        """Keep `body` durably.  Raises errors.Trouble when that is not possible."""

    async def get(name: str) -> tuple[BlobInfo, bytes]:
        """Return a (small) blob whole.  Raises errors.NotFound."""

    async def info(name: str) -> BlobInfo:
        """Return what is known of a blob.  Raises errors.NotFound."""

    async def delete(name: str) -> BlobInfo:
        """Delete at once.  Deleting what is not there is not an error."""


class IProduct(Interface):
    """One of blob, image and proxy, as `daemon` runs it (also a Twisted service)."""

    name = Attribute("blob, image or proxy")
    resource = Attribute("a twisted.web resource that answers every request")
    lane = Attribute("fast lane: Callable[[IExchange], bool], or None")

    def open() -> None:
        """Open files, data bases and directories, before the reactor runs.

        Raises errors.StartupFailed.
        """

    def report() -> Mapping[str, Any]:
        """Return what the admin pages show, as JSON-able values.

        "not_ready", when there, lists why it cannot serve now: /health/ready says 503.
        """


class IPurge(Interface):
    """A cache that can be told to forget."""

    async def purge(urls: list[str]) -> int:
        """Forget every variant of these host_paths; return how many were known."""


Lane = Callable[[Any], bool]
"""Asked first with each `web.exchange.Exchange`; True when it has taken the request."""

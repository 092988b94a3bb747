"""The blobs that this process answers for, by name: its own, and everybody's.

`LocalBlobs` is `IBlobs` for the other products in this process, and what the HTTP
resource stands on.  A name that lives elsewhere is asked for there; so is one that
should be here and is not, which then is brought back.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define
from zope.interface import implementer

from clinfra.blob.concern import Concern, Wish
from clinfra.blob.digests import Announced
from clinfra.blob.heal import Healer
from clinfra.blob.hot import Hot
from clinfra.blob.info import NOT_FOUND, info_of
from clinfra.blob.intake import Intake
from clinfra.blob.reading import SMALL_BYTES
from clinfra.blob.records import EVERYWHERE, Row
from clinfra.blob.rejoin import Fence
from clinfra.blob.replay import Replay
from clinfra.blob.replica import Check, Replica, Write
from clinfra.blob.routed import RoutedBlobs
from clinfra.blob.stamps import LIMIT
from clinfra.blob.standing import Standing
from clinfra.blob.topology import Placement
from clinfra.errors import NotFound, Overloaded, StorageDamaged
from clinfra.interfaces import BlobInfo, ILendsBlobs
from clinfra.web.exchange import FileBody


@implementer(ILendsBlobs)
@define(eq=False, kw_only=True)
class LocalBlobs(RoutedBlobs):
    """Blobs kept by this process, and the way to those of others.

    Args:
        serve_deleted: deleted blobs are served until purged.
        max_age_seconds: longest time caches are told to keep a blob.
        now: returns unix seconds.
    """

    replica: Replica
    concern: Concern
    healer: Healer
    fence: Fence
    standing: Standing
    serve_deleted: bool
    max_age_seconds: float
    now: Callable[[], float]

    def is_here(self, placement: Placement) -> bool:
        """Return whether this replica keeps blobs of that placement."""
        return self.topology.is_here(placement)

    def is_gone(self, row: Row) -> bool:
        """Return whether a blob must not be served any more, whoever has its bytes."""
        ended = row.expiry.passed(self.now())
        return ended and (row.data is None or not self.serve_deleted)

    def late(self, write: Write, since: float) -> Check:
        """Return what refuses a PUT that was kept for us for too long: see `forgotten`.

        Args:
            since: when it was kept, unix seconds.
        """
        stamp = write.modified_deleted or write.modified or LIMIT

        def check(row: Row | None) -> None:
            if row is None:
                if self.standing.unsure:
                    raise Overloaded("This replica does not have what it had")
                self.fence.check_late(stamp, since)

        return check

    async def _put(self, placement: Placement, body: bytes, write: Write) -> BlobInfo:
        if not self.is_here(placement):
            return await super()._put(placement, body, write)
        ahead = self.concern.ahead(EVERYWHERE, Wish())
        with self.replica.room_for(len(body)):
            row = await self.replica.put(placement.stored, body, write, ahead=ahead)
        await self.concern.reach(row, EVERYWHERE, Wish(), ahead)
        return info_of(row, placement.buckets)

    async def _get(
        self, placement: Placement, *, missing: bool = False
    ) -> tuple[BlobInfo, bytes]:
        hot = await self._find(placement)
        if hot is None:
            missing = self._is_missing(placement)
            found = await super()._get(placement, missing=missing)
            if missing:
                self.healer.heal_soon(placement)
            return found
        if self.is_gone(hot.row):
            raise NotFound(NOT_FOUND)
        size = hot.row.data.size if hot.row.data is not None else 0
        if size <= SMALL_BYTES:
            body = await self.replica.body(hot)
        else:
            body = await self.replica.piece(hot, 0, size)
        return info_of(hot.row, placement.buckets), body

    async def lend(self, name: str) -> tuple[BlobInfo, FileBody | bytes]:
        """Return a blob: its bytes, or, of a large one, a piece of a file."""
        placement = self.place(name, encoded=True, writing=False)
        hot = await self._find(placement)
        size = 0 if hot is None or hot.row.data is None else hot.row.data.size
        if hot is None or size <= SMALL_BYTES or self.is_gone(hot.row):
            return await self._get(placement)
        body = await self.replica.file(hot, 0, size)
        return info_of(hot.row, placement.buckets), body

    async def _info(self, placement: Placement, *, missing: bool = False) -> BlobInfo:
        hot = await self._find(placement)
        if hot is None:
            return await super()._info(placement, missing=self._is_missing(placement))
        if hot.row.data is None:
            raise NotFound(NOT_FOUND)
        return info_of(hot.row, placement.buckets)

    async def _delete(self, placement: Placement) -> BlobInfo:
        if not self.is_here(placement):
            return await super()._delete(placement)
        row = await self.replica.expire(placement.stored, Write())
        await self.concern.reach(row, EVERYWHERE, Wish())
        return info_of(row, placement.buckets)

    async def adopt(
        self,
        intake: Intake,
        placement: Placement,
        write: Write,
        body: Replay | None,
        since: float,
    ) -> None:
        """Take a change over that was kept here for others, before it was ours.

        Args:
            since: when it was kept, unix seconds.

        Raises errors.Trouble.
        """
        name = placement.stored
        if body is None:
            await self.replica.expire(name, write)
            return
        source, check = body.body(), self.late(write, since)
        if not isinstance(source, bytes):
            announced = Announced({"sha256": body.sha256})
            taken = await intake.take(source, name, write.content_type, announced)
            await self.replica.put(name, taken, write, announced=announced, check=check)
        else:
            with self.replica.room_for(len(source)):
                await self.replica.put(name, source, write, check=check)

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
        return None if self.fence.holds(hot.row) else hot

    def _is_missing(self, placement: Placement) -> bool:
        """Return whether a blob should be here if it is anywhere."""
        here = self.is_here(placement)
        return here and not (self.fence.closed or self.standing.unsure)

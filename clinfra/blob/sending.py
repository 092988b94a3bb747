"""Getting the state of one name to one replica, in the original's own words.

A change that brought bytes is a PUT, any other a DELETE, which says when the blob ends.
The answer tells what the receiver has: when it turns out that it never had the bytes,
they follow.  Small changes to replicas of our own kind go in batches (see `batch`).

Whatever happens, here, there or in between, it takes so long at most; then it failed,
and whoever sends tries again.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, TimeoutError

from clinfra.blob.batch import Batches
from clinfra.blob.hot import Hot
from clinfra.blob.peers import PeerFailed, Peers, fits_original
from clinfra.blob.reading import SMALL_BYTES
from clinfra.blob.records import BYTES, Data, Row
from clinfra.blob.replica import Replica
from clinfra.blob.stored_body import StoredBody
from clinfra.blob.time_limit import TimeLimit
from clinfra.errors import StorageDamaged
from clinfra.interfaces import BlobInfo

SEND_SECONDS = 60.0
SLOWEST_BYTES_PER_SECOND = 32 << 10
"""How long a row may take until a replica has it: this, and its bytes at this pace."""

Moved = Callable[[], object]
"""Called whenever a piece of a large body is gone."""


@define(eq=False)
class Sender:
    """Sends rows of this machine.

    Args:
        now: returns unix seconds.
        forget_seconds: what ended longer ago than this is sent without its bytes:
            everybody purges it.
        clock: Twisted's IReactorTime.
    """

    _replica: Replica
    _peers: Peers
    _now: Callable[[], float]
    _forget_seconds: float
    _batches: Batches
    _clock: Any
    _limit: TimeLimit = field(init=False)

    @_limit.default
    def _make_limit(self) -> TimeLimit:
        return TimeLimit(self._clock)

    async def send(
        self,
        peer: str,
        row: Row,
        replicate: str,
        moved: Moved = lambda: None,
        *,
        newest: bool = False,
    ) -> None:
        """Have a replica merge a row, durably; a row that has changed is passed over.

        Args:
            newest: a row that has changed is not passed over, but sent as it is now:
                somebody waits until the replica has it, or what came after it.

        Raises:
            peers.PeerRefused, errors.NotFound: it will not have it.
            peers.PeerFailed: try again later.
            errors.StorageDamaged, OSError: it is we who cannot send it.
        """
        size = row.data.size if row.data is not None else 0
        longest = SEND_SECONDS + size / SLOWEST_BYTES_PER_SECOND
        sending = self._send_now(peer, row, replicate, moved, newest=newest)
        try:
            await self._limit.keep(longest, sending)
        except TimeoutError:
            raise PeerFailed(peer, 0, "it did not get it in time") from None

    async def _send_now(
        self, peer: str, row: Row, replicate: str, moved: Moved, *, newest: bool
    ) -> None:
        hot = await self._replica.find(row.name)
        if hot is None or (hot.row.seq > row.seq and not newest):
            # It is gone, or its newer state comes later in the feed.
            return
        if hot.row.seq < row.seq:
            hot = Hot(row, None)
        try:
            await self._send(peer, hot, replicate, moved)
        except PeerFailed as trouble:
            if not is_full(trouble) or not hot.row.expiry.passed(self._now()):
                raise
            # There is no space for what has ended; that it has is what counts.
            await self._peers.delete(peer, row.name, hot.row.expiry, replicate)
        except (StorageDamaged, OSError):
            again = await self._replica.find(row.name)
            if again is not None and again.row.seq == hot.row.seq:
                raise

    def send_ahead(self, peer: str, row: Row, body: bytes) -> Deferred[None] | None:
        """Send a peer what is being committed here; None when no batch can take it.

        Fails as `send` does.
        """
        if self._is_over(row) or not self._batches.takes(peer, row):
            return None
        return self._batches.send(peer, "replica", row, body)

    def _is_over(self, row: Row) -> bool:
        return row.expiry.passed(self._now() - self._forget_seconds)

    async def _send(self, peer: str, hot: Hot, replicate: str, moved: Moved) -> None:
        row, data = hot.row, hot.row.data
        bytes_wanted = data is not None and not self._is_over(row)
        if (data is None or bytes_wanted) and self._batches.takes(peer, row):
            small = await self._replica.body(hot) if data is not None else None
            await self._batches.send(peer, replicate, row, small)
        else:
            await self._send_alone(peer, hot, replicate, bytes_wanted, moved)

    async def _send_alone(
        self,
        peer: str,
        hot: Hot,
        replicate: str,
        bytes_wanted: bool,
        moved: Moved,
    ) -> None:
        row, data = hot.row, hot.row.data
        if not fits_original(row.name) and self._peers.is_ours(peer) is None:
            await self._peers.learn(peer)
        self._peers.check_fits(peer, row.name)
        if not bytes_wanted or not row.fanout & BYTES:
            told = await self._peers.delete(peer, row.name, row.expiry, replicate)
            if data is None or not bytes_wanted or not lacks(told, data):
                return
        body: bytes | StoredBody = StoredBody(self._replica, hot, moved)
        if data is not None and data.size <= SMALL_BYTES:
            body = await self._replica.body(hot)
        await self._peers.put(peer, row.name, row.state, body, replicate)


def is_full(trouble: Exception) -> bool:
    """Return whether a replica could not take something for want of space."""
    status = HTTPStatus.INSUFFICIENT_STORAGE
    return isinstance(trouble, PeerFailed) and trouble.status == status


def lacks(told: BlobInfo, data: Data) -> bool:
    """Return whether who told this has less than `data`, as far as it can be seen."""
    if told.modified is None or told.modified < data.modified:
        return True
    return (
        told.modified == data.modified
        and told.sha256 is not None
        and told.sha256 < data.sha256.hex()
    )

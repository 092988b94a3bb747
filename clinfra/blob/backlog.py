"""How much a destination of changes has not got yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import frozen

from clinfra.blob.destinations import Destination, is_for
from clinfra.blob.index import IBlobIndex
from clinfra.blob.records import Row
from clinfra.blob.stamps import seconds_of
from clinfra.blob.topology import Topology

COUNTED_ROWS = 500
"""So many changes are looked at one by one; the rest is reckoned from them."""


@frozen
class Backlog:
    """What waits for a destination.

    Attributes:
        waiting: changes, those under way among them, those put aside not.
        estimated: `waiting` is reckoned, not counted.
        oldest: when the oldest of them was made, by its stamp, unix seconds.
        parked: names put aside.
        parked_since: when the first of them was, unix seconds.
    """

    waiting: int = 0
    estimated: bool = False
    oldest: float | None = None
    parked: int = 0
    parked_since: float | None = None

    def told(self, now: float) -> dict[str, Any]:
        """Return what status pages show."""
        return {
            "waiting": self.waiting,
            "waiting_is_estimate": self.estimated,
            "lag_seconds": _since(self.oldest, now),
            "parked": self.parked,
            "parked_seconds": _since(self.parked_since, now),
        }


def _since(then: float | None, now: float) -> float:
    return 0.0 if then is None else round(max(0.0, now - then), 1)


NOTHING: tuple[Sequence[Row], int] = (), 0
"""What `following` returns when there is nothing."""


def following(
    index: IBlobIndex, destination: Destination, after: int, limit: int
) -> tuple[Sequence[Row], int]:
    """Return some changes that may be for a destination, and up to where these are all.

    A reader thread.
    """
    # Looked at first: what is committed meanwhile may not be among the rows.
    last = index.last_seq()
    rows = index.changes(after, limit, destination.bit)
    return rows, rows[-1].seq if len(rows) == limit else last


def measure(
    index: IBlobIndex, destination: Destination, topology: Topology, cursor: int
) -> Backlog:
    """Return the backlog of a destination that has everything up to `cursor`.

    It takes a few milliseconds, however long the backlog is.  A reader thread.
    """
    rows = index.changes(cursor, COUNTED_ROWS)
    wanted = [row for row in rows if is_for(destination, topology, row)]
    waiting, estimated = len(wanted), len(rows) == COUNTED_ROWS
    if estimated:
        waiting = index.count_changes(cursor) * len(wanted) // len(rows)
    oldest = None
    if wanted:
        data, expiry = wanted[0].data, wanted[0].expiry
        stamp = max(expiry.modified_deleted, data.modified if data is not None else 0)
        oldest = seconds_of(stamp)
    return Backlog(waiting, estimated, oldest, *index.parking(destination.key))

"""Changes on their way to one destination past its feed, because somebody waits.

The feed meets them too.  It leaves them alone while they are under way, and sends those
that did not arrive.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable

from attrs import define, field
from twisted.internet.defer import Deferred

from clinfra.blob.records import Row

MAX_PUSHES = 65536


@define(eq=False)
class Pushes:
    """Pushes to one destination, by name; of each name the latest."""

    _under_way: OrderedDict[str, tuple[int, Deferred[bool]]] = field(
        init=False, factory=OrderedDict
    )

    def __len__(self) -> int:
        return len(self._under_way)

    async def run(self, row: Row, sending: Awaitable[object]) -> None:
        """Wait until a row is sent.  Raises what `sending` raises."""
        over: Deferred[bool] = Deferred()
        arrived = False
        self._under_way[row.name] = row.seq, over
        if len(self._under_way) > MAX_PUSHES:
            self._under_way.popitem(last=False)
        try:
            await sending
            arrived = True
        finally:
            known = self._under_way.get(row.name)
            if known is not None and known[1] is over:
                del self._under_way[row.name]
            over.callback(arrived)

    async def arrived(self, row: Row) -> bool:
        """Wait for the push of just this row, if there is one; return how it ended."""
        known = self._under_way.get(row.name)
        if known is None or known[0] != row.seq:
            return False
        waiter: Deferred[bool] = Deferred()
        known[1].addCallback(_tell, waiter)
        return await waiter


def _tell(arrived: bool, waiter: Deferred[bool]) -> bool:
    if not waiter.called:
        waiter.callback(arrived)
    return arrived

"""What this replica can answer for alone: not everything, when it was away or wiped.

A replica that lost its disk is *filling*: what is missing here may well exist.  As long
as it may exist on replicas that were not asked, or not to the end, it is *unsure*.
"""

from __future__ import annotations

from attrs import define, field
from twisted.internet.defer import Deferred


@define(eq=False)
class Standing:
    """What may be relied on.

    Attributes:
        filling: this replica has not got all that a peer has.
        unsure: what it lacks may exist elsewhere, even when nobody can be asked.
    """

    filling: bool = field(init=False, default=False)
    unsure: bool = field(init=False, default=False)
    _waiting: list[Deferred[None]] = field(init=False, factory=list)

    def begins_empty(self) -> None:
        """It has nothing, or has lost everything."""
        self.filling = self.unsure = True

    def filled(self) -> None:
        """It has everything that a peer has."""
        self.filling = False
        self.relied_on()

    def relied_on(self) -> None:
        """From now on what neither it nor anybody who can be asked has is nowhere."""
        self.unsure = False
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            waiter.callback(None)

    async def sure(self) -> None:
        """Wait until this replica can be relied on."""
        if self.unsure:
            waiter: Deferred[None] = Deferred()
            self._waiting.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiting:
                    self._waiting.remove(waiter)

"""Pauses in sending to one destination.

After a `Pause` all that waited try at once.  At the end of a `Rest` one change tries
before all others: that is for what costs much to try, as bodies do that a replica with
a full disk is sent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater


@define(eq=False)
class Pause:
    """It lasts for a while.

    Args:
        reactor: Twisted's IReactorTime.
        over: called whenever one ends.
    """

    _reactor: Any
    _over: Callable[[], object]
    _pause: Deferred[None] | None = field(init=False, default=None)

    @property
    def active(self) -> bool:
        """Whether it is under way."""
        return self._pause is not None

    def begin(self, seconds: float) -> None:
        """Pause, unless that is under way."""
        if self._pause is None:
            self._pause = deferLater(self._reactor, seconds)
            self._pause.addBoth(self._ended)

    def _ended(self, result: object) -> None:
        self._pause = None
        self._over()

    def end(self) -> None:
        """Pause no more."""
        if self._pause is not None:
            self._pause.cancel()

    async def wait(self) -> None:
        """Wait until it is over."""
        while self._pause is not None:
            waiter: Deferred[None] = Deferred()
            self._pause.addBoth(_tell, waiter)
            await waiter


def _tell(result: object, waiter: Deferred[None]) -> None:
    if not waiter.called:
        waiter.callback(None)


@define(eq=False)
class Rest:
    """It lasts until somebody got through.

    Args:
        reactor: Twisted's IReactorTime.
        seconds: until somebody tries, each time.
    """

    _reactor: Any
    _seconds: float
    _pause: Deferred[None] | None = field(init=False, default=None)
    _waiting: deque[Deferred[None]] = field(init=False, factory=deque)
    active: bool = field(init=False, default=False)

    def begin(self) -> None:
        """Nobody got through: pause, if that has not begun."""
        self.active = True
        if self._pause is None:
            self._pause = deferLater(self._reactor, self._seconds)
            self._pause.addBoth(self._let_one_try)

    def _let_one_try(self, result: object) -> None:
        self._pause = None
        if not self.active:
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.called:
                # If nothing is heard of it, somebody else tries in a while.
                self.begin()
                waiter.callback(None)
                return
        # Nobody is there to try: whoever comes next is to.
        self.active = False

    def end(self) -> None:
        """Somebody got through: all may."""
        if not self.active:
            return
        self.active = False
        if self._pause is not None:
            self._pause.cancel()
        waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(None)

    async def over(self) -> None:
        """Wait until it is over, or until one is to find out whether it is.

        Who returns from here tries, and says `begin` or `end` then.
        """
        if self.active:
            waiter: Deferred[None] = Deferred()
            self._waiting.append(waiter)
            await waiter

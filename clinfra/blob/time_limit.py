"""Ending what takes too long, at little cost: it is looked at every second."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall

LOOK_SECONDS = 1.0

T = TypeVar("T")


@define(eq=False)
class TimeLimit:
    """What is under way, and until when it may be.

    Args:
        clock: Twisted's IReactorTime.
    """

    _clock: Any
    _deadlines: dict[Deferred[Any], float] = field(init=False, factory=dict)
    _looking: IDelayedCall | None = field(init=False, default=None)

    async def keep(self, seconds: float, work: Coroutine[Any, Any, T]) -> T:
        """Return what work returns; it is cancelled when it takes longer, or a bit.

        Raises twisted.internet.defer.TimeoutError then.
        """
        doing = Deferred.fromCoroutine(work)
        if not doing.called:
            self._deadlines[doing] = self._clock.seconds() + seconds
            self._look_later()
        try:
            return await doing
        except CancelledError:
            if doing in self._deadlines:
                raise
            raise TimeoutError(seconds) from None
        finally:
            self._deadlines.pop(doing, None)

    def _look_later(self) -> None:
        if self._looking is None:
            self._looking = self._clock.callLater(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._looking = None
        now = self._clock.seconds()
        over = [doing for doing, end in self._deadlines.items() if end <= now]
        for doing in over:
            if self._deadlines.pop(doing, None) is not None:
                doing.cancel()
        if self._deadlines:
            self._look_later()

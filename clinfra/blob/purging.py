"""Purging now and then, and whenever somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from clinfra.blob.expire import Reaper


@define(eq=False)
class Purging:
    """Has the reaper run, once at a time.

    Args:
        hindered: whether nothing may be removed just now.
        interval_seconds: between two runs.
    """

    log = Logger()

    _reaper: Reaper
    _hindered: Callable[[], bool]
    _reactor: Any
    _interval_seconds: float
    _loop: LoopingCall = field(init=False)
    _running: Deferred[Any] | None = field(init=False, default=None)

    @_loop.default
    def _make_loop(self) -> LoopingCall:
        loop = LoopingCall(self.soon)
        loop.clock = self._reactor
        return loop

    def start(self) -> None:
        """Purge from time to time."""
        self._loop.start(self._interval_seconds, now=False)

    def stop(self) -> None:
        """Purge no more; what is under way ends."""
        if self._loop.running:
            self._loop.stop()
        if self._running is not None:
            self._running.cancel()

    def soon(self) -> bool:
        """Begin to purge; False when that is under way, or cannot be now."""
        if self._running is not None or self._hindered():
            return False
        self._running = Deferred.fromCoroutine(self._reaper.run())

        def over(result: object) -> None:
            self._running = None

        def failed(failure: Any) -> None:
            self._reaper.status = f"failed ({failure.value})"
            if self._loop.running:
                self.log.failure("purging failed", failure=failure)

        self._running.addErrback(failed).addCallback(over)
        if self._running is not None and self._running.called:
            self._running = None
        return True

"""Work in the background that is asked for: one at a time, and at most one waiting."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

Work = Callable[[], Coroutine[Any, Any, object]]


@define(eq=False)
class Chore:
    """One kind of work.

    Args:
        name: for the log.
        failed: called with what went wrong, besides the log.
    """

    log = Logger()

    _name: str
    _failed: Callable[[BaseException], object] = lambda error: None
    _running: Deferred[Any] | None = field(init=False, default=None)
    _waiting: Work | None = field(init=False, default=None)
    _stopped: bool = field(init=False, default=False)

    def ask(self, work: Work) -> bool:
        """Have it done now, or after what runs; False when one is waiting already."""
        if self._stopped or self._waiting is not None:
            return False
        if self._running is not None:
            self._waiting = work
        else:
            self._begin(work)
        return True

    def stop(self) -> None:
        """Cancel what runs; begin nothing any more."""
        self._stopped, self._waiting = True, None
        if self._running is not None:
            self._running.cancel()

    def _begin(self, work: Work) -> None:
        running = Deferred.fromCoroutine(work())
        self._running = running
        running.addErrback(self._went_wrong).addCallback(self._over)

    def _went_wrong(self, failure: Failure) -> None:
        if failure.check(CancelledError) and self._stopped:
            return
        self.log.failure("{name} failed", failure, name=self._name)
        if failure.value is not None:
            self._failed(failure.value)

    def _over(self, result: object) -> None:
        self._running = None
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._begin(waiting)

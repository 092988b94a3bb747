"""One request that several servers can answer: asked in turn, or two at a time.

When the one that was asked is slower than it should be, the next is asked too, and the
first good answer wins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredQueue
from twisted.python.failure import Failure

from clinfra.web.responses import OriginResponse

LAST_PATIENCE_SECONDS = 1.0
"""After how long more any request that may be hurried is sent to a second server."""

Ask = Callable[[str], Coroutine[Any, Any, OriginResponse]]
"""Sends one server the request."""


@define(eq=False)
class Race:
    """One such request.

    Args:
        waiting: whom to ask, in order.
        goes_on: errors after which the next is asked.
        clock: Twisted's IReactorTime.
        patience: seconds after which the next is asked too; None for ever.
        may_hurry: whether it may be.
        is_slow: told who takes longer than that.

    Attributes:
        answers: who answered with which status, not good enough.
        failed: who failed, and how.
        answered_after: told how long each answer took, seconds.
    """

    _ask: Ask
    _waiting: deque[str]
    _goes_on: tuple[type[Exception], ...]
    _clock: Any
    _patience: float | None
    _may_hurry: Callable[[], bool]
    _is_slow: Callable[[str], object]
    answered_after: Callable[[float], object] = field(
        init=False, default=lambda seconds: None
    )
    answers: list[tuple[str, int]] = field(init=False, factory=list)
    failed: list[tuple[str, Exception]] = field(init=False, factory=list)
    _running: dict[str, Deferred[None]] = field(init=False, factory=dict)
    _events: DeferredQueue[tuple[str, Any] | None] = field(
        init=False, factory=DeferredQueue
    )
    _over: bool = field(init=False, default=False)
    _hurried: bool = field(init=False, default=False)
    _timer: Any = field(init=False, default=None)

    async def run(
        self, settles: Callable[[OriginResponse], bool]
    ) -> tuple[str, OriginResponse] | None:
        """Return who gave the first answer that settles it, and the answer."""
        self._start()
        while self._running:
            event = await self._events.get()
            if event is None:
                self._late()
                continue
            server, answer = event
            del self._running[server]
            if isinstance(answer, OriginResponse):
                if settles(answer):
                    return server, answer
                self.answers.append((server, answer.head.status))
                answer.abort()
            elif answer.check(*self._goes_on):
                self.failed.append((server, answer.value))
            else:
                answer.raiseException()
            if not self._running:
                self._start()
        return None

    def _start(self) -> None:
        """Ask the next one."""
        if not self._waiting:
            return
        server = self._waiting.popleft()
        clock = self._clock
        began = clock.seconds()

        def answered(answer: OriginResponse | Failure) -> None:
            if isinstance(answer, OriginResponse):
                self.answered_after(clock.seconds() - began)
            if not self._over:
                self._events.put((server, answer))
            elif isinstance(answer, OriginResponse):
                answer.abort()

        self._stop_timer()
        if self._patience is not None:
            self._timer = clock.callLater(self._patience, self._events.put, None)
        asking = Deferred.fromCoroutine(self._ask(server))
        self._running[server] = asking.addBoth(answered)

    def _late(self) -> None:
        """Those who are being asked take longer than they should."""
        self._timer = None
        for server in self._running:
            self._is_slow(server)
        if self._waiting and (self._hurried or self._may_hurry()):
            self._start()
        elif self._waiting:
            # Enough others hurry already; but nobody waits for a time-out.
            self._hurried = True
            self._timer = self._clock.callLater(
                LAST_PATIENCE_SECONDS, self._events.put, None
            )

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def end(self) -> None:
        """Nobody waits any more; who is still being asked may tell how it is."""
        self._over = True
        self._stop_timer()
        for event in self._events.pending:
            if event is not None and isinstance(event[1], OriginResponse):
                event[1].abort()

    def cancel(self) -> None:
        """Ask nobody any more."""
        self.end()
        for asking in list(self._running.values()):
            asking.cancel()

"""A response from `pool`, for coroutines: its head, then its body piece by piece."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred

from clinfra.errors import OriginFailed
from clinfra.web.heads import ResponseHead

if TYPE_CHECKING:
    from clinfra.web.pool import OriginRequest

_ENOUGH = 256 * 1024
"""Bytes kept for a reader that is busy; then the origin is paused."""


class OriginResponse:
    """What `Pool.request` gives; a `pool.Receiver`.

    Whoever does not read it to its end must abort it, or use it in an `async with`.

    Attributes:
        head: the ResponseHead.
    """

    head: ResponseHead
    _request: OriginRequest

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._complete = False
        self._trouble: Exception | None = None
        self._waiter: Deferred[None] | None = None
        self._begun = False

    async def expect(self, request: OriginRequest) -> OriginResponse:
        """Wait for the head; cancelling aborts the request.  For the pool."""
        self._request = request
        while not self._begun and self._trouble is None:
            await self._wait()
        if self._trouble is not None and not self._begun:
            raise self._trouble
        return self

    def read_at_a_time(self, most_bytes: int) -> None:
        """Have so much of the body read at a time, at most, where that can be chosen.

        Large bodies in large pieces cost fewer turns of the reactor.
        """
        connection = self._request.connection
        if connection is not None:
            connection.read_at_a_time(most_bytes)

    async def read(self) -> bytes:
        """Return the next piece of the body, b"" at its end.

        Cancelling aborts.  Raises errors.OriginFailed when the body is cut short or
        was aborted, errors.OriginTimeout.
        """
        while not self._pieces:
            if self._trouble is not None:
                raise self._trouble
            if self._complete:
                return b""
            await self._wait()
        piece = self._pieces.popleft()
        self._held -= len(piece)
        if not self._pieces:
            self._request.resumeProducing()
        return piece

    async def read_all(self, max_bytes: int) -> bytes:
        """Return the whole body.  Raises as `read`, and OriginFailed when longer."""
        pieces = []
        left = max_bytes
        while piece := await self.read():
            pieces.append(piece)
            left -= len(piece)
            if left < 0:
                self.abort()
                raise OriginFailed(f"The answer from behind is over {max_bytes} bytes.")
        return b"".join(pieces)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the pieces of the body: it can be a Response's body as it is."""
        try:
            while piece := await self.read():
                yield piece
        finally:
            self.abort()

    def abort(self) -> None:
        """Stop here and close the connection; no harm when it is complete."""
        if not self._complete:
            self._request.abort()
            self._pieces.clear()
            self.response_failed(OriginFailed("The answer from behind was given up."))

    async def __aenter__(self) -> OriginResponse:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.abort()

    async def _wait(self) -> None:
        self._waiter = Deferred(self._cancelled)
        try:
            await self._waiter
        finally:
            # A reader that is thrown away must not be woken by aborting.
            self._waiter = None

    def _cancelled(self, waiter: Deferred[None]) -> None:
        self._waiter = None
        self.abort()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    # What the pool tells: see `pool.Receiver`.

    def response_started(self, head: ResponseHead) -> None:
        """The head is in."""
        self.head = head
        self._begun = True
        self._wake()

    def body_received(self, data: bytes) -> None:
        """A piece of the body."""
        self._pieces.append(data)
        self._held += len(data)
        if self._held >= _ENOUGH:
            self._request.pauseProducing()
        self._wake()

    def response_finished(self) -> None:
        """The body is complete."""
        self._complete = True
        self._wake()

    def response_failed(self, reason: Exception) -> None:
        """The body stays incomplete."""
        if self._trouble is None:
            self._trouble = reason
        self._wake()

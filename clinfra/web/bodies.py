"""A request's body on its way from the connection to whoever reads it."""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred
from zope.interface import implementer

from clinfra.errors import ClientGone, InvalidRequest, TooLarge
from clinfra.web.chunked import BadChunk, ChunkedDecoder
from clinfra.web.exchange import IBody

if TYPE_CHECKING:
    from clinfra.config import Limits
    from clinfra.web.channel import Channel

_ENDLESS = 1 << 62
_SMALL = 64 * 1024
"""An unread rest up to this is read and dropped to keep the connection."""


@implementer(IBody)
class EmptyBody:
    """The body of a request that has none."""

    __slots__ = ()
    length = 0
    received = 0
    complete = True
    broken = False

    def fail(self, trouble: Exception) -> None:
        """Nothing can go wrong with nothing."""

    async def read(self) -> bytes:
        """Return b"": the end."""
        return b""


EMPTY_BODY = EmptyBody()


@implementer(IBody)
class RequestBody:
    """Keeps what has come and not been read, within the listener's bound.

    Attributes:
        length: bytes announced; None for a chunked body.
        complete: everything has come (it may not have been read yet).
        broken: what comes cannot be made sense of; the connection must end.
        discarding: nobody will read any more; what comes is dropped.
    """

    __slots__ = (
        "_channel",
        "_counted",
        "_decoder",
        "_expects",
        "_held",
        "_left",
        "_limit",
        "_patience",
        "_pieces",
        "_trouble",
        "_waited_since",
        "_waiter",
        "broken",
        "complete",
        "discarding",
        "length",
    )

    def __init__(
        self, channel: Channel, length: int | None, limit: int, expects: bool
    ) -> None:
        self._channel = channel
        self._decoder = ChunkedDecoder() if length is None else None
        self._left = self._counted = limit if length is None else length
        self._limit = limit
        self._patience = inf
        self._waited_since: float | None = None
        self._expects = expects
        self._pieces: deque[bytes] = deque()
        self._held = 0
        self._waiter: Deferred[None] | None = None
        self._trouble: Exception | None = None
        self.length = length
        self.complete = False
        self.broken = False
        self.discarding = False

    @property
    def waiting(self) -> int:
        """Bytes that have come and not been read."""
        return self._held

    @property
    def received(self) -> int:
        """Bytes that have come."""
        return (self._limit if self.length is None else self.length) - self._left

    @property
    def left(self) -> int:
        """Most bytes that may come and be waited for, as far as is known."""
        return self._left

    @property
    def read_wanted(self) -> bool:
        """Somebody is waiting for the next piece, or for the end."""
        return self._waiter is not None or self.discarding

    def due(self, now: float, limits: Limits) -> float:
        """Return when it will have been waited for long enough.

        That is the configured silence; but silences add up, and what comes in between
        makes good for them only at the configured rate.
        """
        came, self._counted = self._counted - self._left, self._left
        self.rest(now)
        rate = limits.body_rate
        gained = came / rate if rate else came and inf
        self._patience = min(self._patience + gained, limits.body_timeout)
        self._waited_since = now
        return now + self._patience

    def rest(self, now: float) -> None:
        """Nobody waits for it for now."""
        if self._waited_since is not None:
            self._patience -= now - self._waited_since
            self._waited_since = None

    @property
    def droppable(self) -> bool:
        """The rest is small, known, and on its way: cheaper to read than to close."""
        return (
            self._decoder is None
            and self._left <= _SMALL
            and not self.broken
            and not self._expects
        )

    def end(self) -> bool:
        """The client sends no more; False when that makes a body of less than all."""
        return self.complete

    def feed(self, data: bytes) -> bytes:
        """Take bytes from the wire; return those that belong to the next request."""
        if self.broken:
            return b""
        if self._decoder is None:
            left = self._left
            if len(data) > left:
                piece, rest = data[:left], data[left:]
            else:
                piece, rest = data, b""
            self._left = left = left - len(piece)
            self.complete = not left
        else:
            try:
                pieces, rest = self._decoder.feed(data)
            except BadChunk as bad:
                self.fail(InvalidRequest(bad.sentence))
                return b""
            piece = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            self._left -= len(piece)
            if self._left < 0:
                self.fail(TooLarge(f"The body is over {self._limit} bytes."))
                return b""
            self.complete = self._decoder.finished
        if data:
            self._expects = False
        if piece and not self.discarding:
            self._pieces.append(piece)
            self._held += len(piece)
        if piece or self.complete:
            self._wake()
        return rest

    def fail(self, trouble: Exception) -> None:
        """Let the reader find `trouble` after what has come."""
        self.broken = True
        if self._trouble is None:
            self._trouble = trouble
        self._wake()

    def discard(self) -> None:
        """Drop what is here and what will come."""
        self.discarding = True
        self._pieces.clear()
        self._held = 0

    async def read(self) -> bytes:
        """Return the next piece, b"" at the end; see `IBody`."""
        while not self._pieces:
            if self._trouble is not None:
                raise self._trouble
            if self.complete:
                return b""
            if self.discarding:
                raise ClientGone
            if self._waiter is not None:
                raise RuntimeError("The body is being read already.")
            if self._expects:
                self._expects = False
                self._channel.send_continue()
            self._waiter = Deferred(self._forget)
            self._channel.body_wanted()
            await self._waiter
        piece = self._pieces.popleft()
        self._held -= len(piece)
        self._channel.body_taken()
        return piece

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    def _forget(self, waiter: Deferred[None]) -> None:
        self._waiter = None


class SwitchedBody(RequestBody):
    """All that a client sends once it has switched protocols; it may be silent."""

    __slots__ = ()

    left = 0
    read_wanted = False
    droppable = False

    def __init__(self, channel: Channel) -> None:
        super().__init__(channel, _ENDLESS, 0, False)

    def end(self) -> bool:
        """The client sends no more: that is all."""
        self.complete = True
        self._wake()
        return True

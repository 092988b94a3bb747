"""A head start: a small change travels to peers while it is being committed here.

So both disks work at the same time.  What arrives counts when the commit has succeeded
with just the state that was sent.  When it fails, the client hears of that, and cannot
know what became of the change (as when the connection breaks): a peer that has it got
the stamp it would have had here, and gives it back when the two compare.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from clinfra.blob.records import Row
from clinfra.blob.sending import Sender

Begun = Mapping[str, Awaitable[None]]
"""Peer → what goes there already; raises as `Sender.send`."""

NOTHING_BEGUN: Begun = {}


class _Sending:
    """How sending ends, whether or not somebody comes to wait for it."""

    def __init__(self, sending: Deferred[None]) -> None:
        self._trouble: BaseException | None = None
        self._over = sending.addErrback(self._failed)

    def _failed(self, failure: Failure) -> None:
        self._trouble = failure.value

    def __await__(self) -> Generator[Deferred[None], None, None]:
        yield from self._over
        if self._trouble is not None:
            raise self._trouble


@define(eq=False)
class HeadStart:
    """Sends one change while it is being committed.

    Args:
        peers: returns those who are up, in the order to send to them.
        needed: to how many.
    """

    _sender: Sender
    _peers: Callable[[], Sequence[str]]
    _needed: int
    _row: Row | None = field(init=False, default=None)
    _begun: dict[str, _Sending] = field(init=False, factory=dict)

    def __call__(self, row: Row, body: bytes) -> None:
        """The row is about to be committed."""
        self._row = row
        for peer in self._peers()[: self._needed]:
            sending = self._sender.send_ahead(peer, row, body)
            if sending is not None:
                self._begun[peer] = _Sending(sending)

    def begun(self, row: Row) -> Begun:
        """Return what was begun of just the row that was committed in the end."""
        if self._row is None or self._row.state is not row.state:
            return NOTHING_BEGUN
        return self._begun

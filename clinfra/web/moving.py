"""Connections that go to the process which is to answer their next request.

One process accepts all connections, and deals them out to others that cannot answer
everything.  Who reads a head that is for another process hands the client's socket
over, with the bytes that were read from it; the other goes on as if it had read them
itself.  So nothing is passed on: bodies, interim answers, hang-ups and addresses are as
they are.  Nobody else waits for a connection's first request: clients that send only
one are answered where they were accepted.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Protocol, cast

from clinfra.web.channel import Channel
from clinfra.web.heads import BadHead, RequestHead
from clinfra.web.link import BUSY, CLOSING, GONE, READY
from clinfra.web.transport import is_movable, take_away, unsent

if TYPE_CHECKING:
    from clinfra.web.site import Site

_AGAIN_SECONDS = 0.01
"""After which it is looked again whether everything is sent."""


class Mover(Protocol):
    """Who takes connections to where they belong."""

    def takes_next(self) -> bool:
        """Tell whether a connection that is accepted now is to be dealt out."""

    def stays(self, head: RequestHead) -> bool:
        """Tell whether a request may be answered here; also when nobody else could."""

    def move(self, descriptor: int, said: bytes) -> None:
        """Hand a connection over, and close the descriptor then.

        Args:
            said: what was read from it and not answered.
        """


class MovingChannel(Channel):
    """One client connection, here until a request comes that belongs elsewhere.

    Args:
        staying: how many requests are answered here in any case.
    """

    __slots__ = ("_more", "_mover", "_raw", "_said", "_staying")

    def __init__(self, site: Site, mover: Mover, staying: int = 0) -> None:
        super().__init__(site)
        self._mover = mover
        self._staying = staying
        self._raw = b""
        self._more = b""
        self._said: bytes | None = None

    def dataReceived(self, data: bytes) -> None:
        """Take what the client sent, and take it along."""
        if self._said is None:
            super().dataReceived(data)
        else:
            self._said += data

    def retire(self) -> None:
        """Leave as soon as no request is being answered here."""
        if self._state == READY and is_movable(self.transport):
            self._leave(bytes(self._held or b""))

    def _requests(self, data: bytes) -> None:
        """Handle the requests in `data` one by one, until one belongs elsewhere."""
        while data:
            if data.startswith(b"\r\n"):
                data = data.lstrip(b"\r\n") or b"\r\n"
            end = data.find(b"\r\n\r\n") + 4
            raw = data[:end]
            head = None
            if end != 3:
                try:
                    head = self.site.memo.get(raw) or self.site.read_head(raw)
                except BadHead:
                    head = None
            if head is None or head.content_length != 0:
                if head is None or self._stays(head):
                    super()._requests(data)
                else:
                    self._leave(data)
                return
            if not self._stays(head):
                self._leave(data)
                return
            self._raw, self._more = raw, data[end:]
            super()._requests(raw)
            data, self._more = self._more, b""
            if data and (self._state != READY or self.blocked):
                if self._state < CLOSING:
                    self._hold(data)
                else:
                    self.drop(len(data))
                return

    def _stays(self, head: RequestHead) -> bool:
        if self._staying:
            self._staying -= 1
            return True
        return self._mover.stays(head) or not is_movable(self.transport)

    def _rest(self) -> None:
        """Wait for the next request, here or elsewhere, unless it is there."""
        if self._more:
            return
        if self.site.retiring and not self._ended:
            self.retire()
        if self._state == READY:
            super()._rest()

    def _regulate(self) -> None:
        """Read from the socket unless too much is waiting here, or it leaves."""
        if self._said is None:
            super()._regulate()

    def move(self) -> None:
        """Have the request that is being answered answered elsewhere.

        Nothing must have been sent of the answer, and the request have no body.
        """
        if self._state != BUSY:
            return  # the client is gone
        more, self._more = self._more, b""
        self._leave(self._raw + more + bytes(self._held or b""))

    def _leave(self, said: bytes) -> None:
        self._exchange = self._body = self._held = None
        self._said = said
        self._state = CLOSING
        self.deadline = inf
        self.read_on(False)
        self.site.reactor.callLater(0, self._go)

    def _go(self) -> None:
        """Hand the connection over as soon as all earlier answers are sent."""
        transport = cast(Any, self.transport)
        if self._state == GONE:
            return
        if self._tail is not None or unsent(transport):
            self.deadline = self.site.now
            self.site.reactor.callLater(_AGAIN_SECONDS, self._go)
        else:
            transport.unregisterProducer()
            self._mover.move(take_away(transport), self._said or b"")

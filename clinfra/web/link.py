"""The transport's side of a client connection: back-pressure, refusals, closing.

`channel` builds on this; here nothing is known of requests.

# Note [Lingering close]
Closing a socket with unread bytes makes the kernel send a reset, and the client may
then never see the answer.  So when a request is refused while more is coming, our
sending side is shut down first, and what comes is dropped for a while (in bytes and in
time).
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

from twisted.internet.interfaces import ISSLTransport, ITCPTransport

from clinfra.web.answer_head import status_line
from clinfra.web.transport import (
    TCP_CLOSE,
    TCP_CLOSE_WAIT,
    Wire,
    backlog,
    peer_state,
)

if TYPE_CHECKING:
    from clinfra.web.site import Site

_PIECE = 128 * 1024
"""Largest part of an answer given to the transport at once, in bytes."""

ENDED_SECONDS = 5.0
"""How long an answer may take to begin when the client sends no more."""

LOOK_SECONDS = 1.0
"""How often a client from whom nothing is read is looked at."""

_LINGER_BYTES = 1 << 20
_LINGER_SECONDS = 2.0

# Where a connection stands.
READY = 0  # between requests, or inside a head
BUSY = 1  # a request is being answered, or the rest of its body dropped
LINGERING = 2  # our side is shut down; what comes is dropped
CLOSING = 3  # closes as soon as everything is sent
GONE = 4


class Link:
    """One client connection, as far as its transport goes.

    Attributes:
        site: the listener it belongs to.
        transport: the socket, TLS or not.
        secure: it is TLS.
        blocked: the transport has more to send than it should.
        deadline: reactor seconds when the channel's `late` is to be called.
    """

    __slots__ = (
        "_allowance",
        "_ends",
        "_left_at",
        "_paused",
        "_seen",
        "_seen_at",
        "_state",
        "_tail",
        "blocked",
        "deadline",
        "secure",
        "site",
        "transport",
    )

    transport: Wire

    def __init__(self, site: Site) -> None:
        self.site = site
        self.blocked = False
        self.deadline = inf
        self._state = READY
        self._paused = False
        self._ends: tuple[str, int] | None = None
        self.secure = False
        self._tail: memoryview | None = None
        self._allowance = 0
        self._left_at: float | None = None
        self._seen: int | None = None
        self._seen_at = 0.0

    # Who is there.

    def attach(self, transport: Wire) -> None:
        """Take over a connected transport."""
        self.transport = transport
        no_delay = getattr(transport, "setTcpNoDelay", None)
        if no_delay is not None:
            no_delay(True)
        transport.registerProducer(self, True)
        self.secure = ISSLTransport.providedBy(transport)

    def ends(self) -> tuple[str, int]:
        """Return the peer's address and our port; "" and 0 for UNIX sockets.

        First asked when a request is in: a PROXY header has been read by then, and the
        socket is still there to be asked.
        """
        if self._ends is None:
            self._ends = (
                getattr(self.transport.getPeer(), "host", "") or "",
                getattr(self.transport.getHost(), "port", 0) or 0,
            )
        return self._ends

    # Sending and reading.

    def put(self, message: bytes, body: bytes = b"") -> bool:
        """Send a message and its large body; False when some of it must wait.

        What is large is not copied into the transport's buffer: a slow client costs
        its position in it.
        """
        if body:
            self.transport.write(message)
            message = body
        if len(message) <= _PIECE:
            self.transport.write(message)
            return True
        self._tail = memoryview(message)
        return self.push_tail()

    def push_tail(self) -> bool:
        """Go on with what `put` left; True when nothing is left."""
        while self._tail is not None and not self.blocked:
            tail = self._tail
            self._tail = tail[_PIECE:] if len(tail) > _PIECE else None
            self.transport.write(bytes(tail[:_PIECE]))
        return self._tail is None

    def read_on(self, wanted: bool) -> None:
        """Read from the socket, or stop reading."""
        if wanted == self._paused:
            self._paused = not wanted
            if wanted:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    # The end.

    def refuse(
        self, status: int, sentence: str, fields: tuple[bytes, ...] = ()
    ) -> None:
        """Answer what is not a request, and close."""
        body = sentence.encode() + b"\n"
        self.site.note_refusal(self.ends()[0], status, sentence, len(body))
        self.transport.write(
            b"%b%b%b\r\nContent-Type: text/plain; charset=utf-8"
            b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b"
            % (status_line(status), self.site.stamp, b"".join(fields), len(body), body)
        )
        self.close(lingering=True)

    def close(self, lingering: bool = False) -> None:
        """Close when everything is sent; see Note [Lingering close]."""
        if self._state > BUSY:
            return
        self._seen = None
        self.deadline = self.site.now + _LINGER_SECONDS
        self.transport.unregisterProducer()
        if lingering and ITCPTransport.providedBy(self.transport) and not self.secure:
            self._state = LINGERING
            self._allowance = _LINGER_BYTES
            self.transport.loseWriteConnection()
            self.read_on(True)
        else:
            self._state = CLOSING
            self.transport.loseConnection()

    def drop(self, count: int) -> None:
        """Count what comes while lingering."""
        self._allowance -= count
        if self._allowance < 0 and self._state == LINGERING:
            self.close_now()

    def close_now(self) -> None:
        """Close when everything is sent, without lingering."""
        if self._state < CLOSING:
            self._state = CLOSING
            self.transport.unregisterProducer()
            self.transport.loseConnection()

    def abort(self) -> None:
        """Cut the connection."""
        if self._state != GONE:
            self._state = CLOSING
            self._tail = None
            self.transport.unregisterProducer()
            self.transport.abortConnection()

    def check_progress(self, now: float) -> None:
        """Cut a client that takes no bytes, or does not close; to be called often."""
        waiting = backlog(self.transport)
        if self._seen is None or (waiting and waiting != self._seen):
            self._seen = waiting or 0
            self._seen_at = now
        else:
            all_taken = self._state > BUSY and waiting == 0
            patience = _LINGER_SECONDS if all_taken else self.site.limits.write_timeout
            if now - self._seen_at >= patience:
                self.abort()
        self.deadline = now

    def look(self, now: float, begun: bool) -> None:
        """See whether a client is still there from whom nothing is read for now.

        Args:
            begun: it is being answered.
        """
        self.deadline = now + LOOK_SECONDS if self._paused else inf
        state = peer_state(self.transport)
        if state == TCP_CLOSE_WAIT and not begun:
            self._left_at = self._left_at or now
            if now - self._left_at >= ENDED_SECONDS:
                self.abort()
        elif state == TCP_CLOSE:
            self.abort()
        else:
            self._left_at = None

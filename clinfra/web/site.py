"""A listener: what all connections to one port share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from email.utils import formatdate
from heapq import nsmallest
from math import inf
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IReactorTime,
)
from twisted.logger import Logger
from twisted.web import server
from twisted.web.resource import IResource

from clinfra.config import Limits
from clinfra.web.channel import Channel
from clinfra.web.channel_exchange import Exchange
from clinfra.web.exchange import IExchange
from clinfra.web.heads import BadHead, RequestHead, parse_request_head
from clinfra.web.memo import Memo
from clinfra.web.moving import Mover, MovingChannel
from clinfra.web.refused import Refused
from clinfra.web.request import serve
from clinfra.web.streams import Threads
from clinfra.web.tracing import Tracing
from clinfra.web.transport import adopt

if TYPE_CHECKING:
    from clinfra.interfaces import Lane

log = Logger()

_SWEEP_SECONDS = 1.0
_MEMO_ENTRIES = 8192
_MEMO_BYTES = 4 << 20
_MEMO_HEAD_BYTES = 2048
_AT_A_TIME = 100
"""One in so many connections is closed at a time: looking for them takes a while."""
_REFUSALS = 64
"""Connections over the limit that are told so at a time; others are just closed."""


class _Session(server.Session):
    """A session whose time is its site's."""

    def __init__(self, site: Site, uid: bytes) -> None:
        super().__init__(site, uid, reactor=site.reactor)


class Site(server.Site):
    """A `twisted.web` Site on our own channel.

    Args:
        resource: root of the resources, ours or anybody's.
        lane: asked first with each exchange; True when it has taken it.
        access_log: called once per request, with the seconds it took.
        server: what the Server field of answers says.
        tracing: gives requests their ids; None when nobody wants to see them.

    Attributes:
        now: the reactor's seconds, as of the last sweep.
        stamp: the Server and Date fields of this second, each after a line end.
        date: the Date field alone.
        threads: where to wait for disks; None when the reactor has no threads.
        memo: heads parsed before, by their bytes.
        channels: every open connection, the oldest first.
        draining: no further request is accepted on any connection.
        retiring: and those that another process could have go there.
        requests: how many were received.
        refusals: how many heads and connections were turned away, by status.
        evicted: how many idle connections made room for others.
        mover: deals connections out to other processes, when there are such.

    # Note [Making room]
    When there are as many connections as there may be, those that have been idle for
    longest are closed for new ones: a client that keeps one for its next request can
    open another, and one that was never going to say anything is no loss.
    """

    sessionFactory = _Session  # type: ignore[assignment] # knows its reactor

    def __init__(
        self,
        resource: IResource,
        *,
        reactor: IReactorTime,
        limits: Limits | None = None,
        lane: Lane | None = None,
        access_log: Callable[[IExchange, float], None] | None = None,
        server: bytes = b"clinfra",
        tracing: Tracing | None = None,
    ) -> None:
        super().__init__(resource, reactor=reactor)
        self.limits = limits if limits is not None else Limits()
        self.lane = lane
        self.access_log = access_log
        self.tracing = tracing
        self.mover: Mover | None = None
        self.time = reactor.seconds
        self.threads = Threads.of(reactor)
        self.channels: dict[Channel, None] = {}
        self.memo: Memo[bytes, RequestHead] = Memo(_MEMO_ENTRIES, _MEMO_BYTES)
        self.draining = False
        self.retiring = False
        self.requests = 0
        self.refusals: Counter[int] = Counter()
        self.evicted = 0
        self._leaving: dict[Channel, None] = {}
        self._full_at = -inf
        self._server = b"\r\nServer: " + server
        self._sweeping: IDelayedCall | None = None
        self._unflushed: list[Exchange] = []
        self._emptied: list[Deferred[None]] = []
        self._tick()

    # The factory.

    def startFactory(self) -> None:
        """Nothing of the stock access log is wanted."""

    def stopFactory(self) -> None:
        """Nothing to close: connections outlive their port."""

    def acceptableProtocols(self) -> list[bytes]:
        """Offer HTTP/1.1 only in TLS negotiations."""
        return [b"http/1.1"]

    def buildProtocol(self, addr: IAddress | None) -> Channel | None:  # type: ignore[override] # stock returns a proxy of its own channel
        """Make a channel, unless there are far too many."""
        most = self.limits.connections
        if len(self.channels) >= most + most // _AT_A_TIME + _REFUSALS:
            self.refusals[503] += 1
            return None
        mover = self.mover
        if mover is None or not mover.takes_next():
            return Channel(self)
        return MovingChannel(self, mover, staying=1)

    def adopt(self, descriptor: int, said: bytes, mover: Mover) -> None:
        """Go on with a connection of another process; the next request is ours.

        Args:
            descriptor: of the connection; it is duplicated.
            said: what was read from it already.
            mover: takes it to where the requests after that belong.
        """
        channel = MovingChannel(self, mover, staying=1)
        adopted = adopt(self.reactor, descriptor, channel)
        if adopted is not None:
            channel.dataReceived(said)

    # What channels tell and ask.

    def opened(self, channel: Channel) -> bool:
        """Take note of a connection; False when it is one too many."""
        self.channels[channel] = None
        if self._sweeping is None:
            self._tick()
            self._sweeping = self.reactor.callLater(_SWEEP_SECONDS, self._sweep)
        return self._present() <= self.limits.connections or self._make_room(channel)

    def _present(self) -> int:
        """Return how many connections there are, without those told to go."""
        return len(self.channels) - len(self._leaving)

    def _make_room(self, newcomer: Channel) -> bool:
        """Close some idle connections; False when that does not do.

        Then it is not tried again in the same second: looking costs too much.
        """
        if self._full_at == self.now:
            return False
        idle = [
            each
            for each in self.channels
            if each not in self._leaving and each.dispensable and each is not newcomer
        ]
        some = max(1, self.limits.connections // _AT_A_TIME)
        for channel in nsmallest(some, idle, key=attrgetter("deadline")):
            self.evicted += 1
            self._leaving[channel] = None
            channel.close()
            channel.close_now()  # if it was lingering
        if self._present() <= self.limits.connections:
            return True
        self._full_at = self.now
        return False

    def closed(self, channel: Channel) -> None:
        """Forget a connection."""
        self.channels.pop(channel, None)
        self._leaving.pop(channel, None)
        if not self.channels:
            if self._sweeping is not None:
                self._sweeping.cancel()
                self._sweeping = None
            waiting, self._emptied = self._emptied, []
            for waiter in waiting:
                waiter.callback(None)

    def read_head(self, raw: bytes) -> RequestHead:
        """Parse a request's head, and remember it.  Raises BadHead."""
        known = self.memo.recall(raw, len(raw))
        if known is not None:
            return known
        limits = self.limits
        if len(raw) > limits.head_bytes:
            raise BadHead(*self.too_long(raw))
        head = parse_request_head(raw, max_fields=limits.header_count)
        if head.content_length and head.content_length > limits.body_bytes:
            raise BadHead(413, f"The body is over {limits.body_bytes} bytes.")
        if len(raw) <= _MEMO_HEAD_BYTES:
            self.memo.keep(raw, head, len(raw))
        return head

    def too_long(self, head: bytes) -> tuple[int, str]:
        """Return status and sentence for a head over the limit."""
        if 0 <= head.find(b"\r\n") < self.limits.head_bytes:
            return 431, "The header fields are too long."
        return 414, "The request line is too long."

    def dispatch(self, exchange: Exchange) -> None:
        """Have a request answered, by the lane or by the resources."""
        self.requests += 1
        lane = self.lane
        try:
            if lane is None or not lane(exchange):
                serve(exchange, self)
        except Exception:
            log.failure("A request failed.")
            if exchange.status:
                exchange.abort()
            else:
                exchange.respond(
                    500,
                    ((b"Content-Type", b"text/plain; charset=utf-8"),),
                    b"Something went wrong here.\n",
                )

    def note_refusal(
        self, client_ip: str, status: int, sentence: str, body_bytes: int
    ) -> None:
        """Count, and log, what was turned away before it became a request."""
        self.refusals[status] += 1
        if self.access_log is not None:
            why = {"refused": sentence}
            refused = Refused(client_ip, status, body_bytes, why, self.time())
            try:
                self.access_log(cast(Any, refused), 0.0)
            except Exception:
                log.failure("The access log failed.")

    def report(self) -> Mapping[str, Any]:
        """Return the numbers for the admin pages."""
        return {
            "connections": len(self.channels),
            "most_connections": self.limits.connections,
            "requests": self.requests,
            "refused": {str(each): n for each, n in sorted(self.refusals.items())},
            "evicted": self.evicted,
        }

    def flush_later(self, exchange: Exchange) -> None:
        """Have its head sent at the end of this turn, if no body came before."""
        if not self._unflushed:
            self.reactor.callLater(0, self._flush)
        self._unflushed.append(exchange)

    def _flush(self) -> None:
        unflushed, self._unflushed = self._unflushed, []
        for exchange in unflushed:
            exchange.flush()

    # Time.

    def _tick(self) -> None:
        self.now = self.time()
        self.date = b"\r\nDate: " + formatdate(self.now, usegmt=True).encode()
        self.stamp = self._server + self.date

    def _sweep(self) -> None:
        """Once a second: the Date field, and whoever is late."""
        self._sweeping = self.reactor.callLater(_SWEEP_SECONDS, self._sweep)
        self._tick()
        now = self.now
        for channel in [each for each in self.channels if each.deadline <= now]:
            channel.late(now)

    # The end.

    def stop_accepting(self) -> None:
        """Close idle connections; the others close after the answer they are at."""
        self.draining = True
        for channel in list(self.channels):
            if channel.idle:
                channel.close()

    def retire(self) -> None:
        """Have every connection closed after its next answer; leave idle ones open.

        For a process that another one takes over from: whoever is about to send a
        request on an idle connection gets an answer to it.  `drained` sees to the rest.
        Connections that came from another process go back there instead.
        """
        self.draining = self.retiring = True
        for channel in list(self.channels):
            if isinstance(channel, MovingChannel):
                channel.retire()

    def drained(self, timeout_seconds: float) -> Deferred[None]:
        """Fire when no connection is left; after the time-out, cut those that are."""
        finished: Deferred[None] = Deferred()
        if not self.channels:
            finished.callback(None)
            return finished
        self._emptied.append(finished)
        cutting = self.reactor.callLater(timeout_seconds, self._cut)

        def stop_cutting(result: None) -> None:
            if cutting.active():
                cutting.cancel()

        return finished.addCallback(stop_cutting)

    def _cut(self) -> None:
        for channel in list(self.channels):
            if channel.idle:
                channel.close()
            else:
                channel.abort()

"""The pool's side of one origin: who is connected, who waits, who comes next."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from twisted.internet.error import TimeoutError as ConnectTimeout
from twisted.internet.interfaces import IConnector
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

from clinfra.errors import OriginFailed, OriginTimeout, Overloaded
from clinfra.web.connection import OriginConnection

if TYPE_CHECKING:
    from clinfra.web.pool import Origin, OriginRequest, Pool


class Peer:
    """One origin with all its connections and requests."""

    def __init__(self, pool: Pool, origin: Origin) -> None:
        self.pool = pool
        self._origin = origin
        self._idle: list[OriginConnection] = []
        # In order of coming: what is done to all of them is then done in order.
        self._connections: dict[OriginConnection, None] = {}
        self._dialling: dict[OriginRequest, None] = {}
        self._waiting: deque[OriginRequest] = deque()

    def dispatch(self, request: OriginRequest, fresh: bool = False) -> None:
        """Find a connection: a kept one (the last used first), a new one, or later.

        Raises errors.Overloaded, unless `fresh`: a request once accepted may wait.
        """
        if self._idle and not fresh:
            self._idle.pop().begin(request)
        elif self._total < self.pool.settings.max_connections:
            self._dial(request)
        elif fresh or len(self._waiting) < self.pool.settings.waiting:
            request.deadline = self.pool.now + self.pool.waiting_wait
            self._waiting.append(request)
        else:
            raise Overloaded("Too many requests wait for the server behind us.")

    def leave_queue(self, request: OriginRequest) -> None:
        """Wait no more."""
        if request in self._waiting:
            self._waiting.remove(request)

    def _dial(self, request: OriginRequest) -> None:
        self._dialling[request] = None
        settings = self.pool.settings
        request.connector = self.pool.connect(
            self._origin, _Dial(self, request), settings.connect_timeout
        )

    def connected(self, request: OriginRequest, connection: OriginConnection) -> None:
        """The connection made for `request` is there."""
        self._dialling.pop(request, None)
        self._connections[connection] = None
        request.connector = None
        connection.begin(request)

    def not_connected(self, request: OriginRequest, reason: Failure) -> None:
        """The connection for `request` was refused, took too long, or was given up."""
        self._dialling.pop(request, None)
        request.connector = None
        if reason.check(ConnectTimeout):
            trouble: OriginFailed = OriginTimeout(
                "The server behind us did not take the connection in time.",
                request.replayable,
            )
        else:
            trouble = OriginFailed(
                "The server behind us cannot be reached.", request.replayable
            )
        trouble.__cause__ = reason.value
        try:
            request.failed(trouble)
        finally:
            self.next()

    def connection_free(self, connection: OriginConnection) -> None:
        """A response was read whole: the connection can take the next request."""
        if self._waiting:
            connection.begin(self._waiting.popleft())
        elif self.pool.closed or len(self._idle) >= self.pool.settings.idle_connections:
            connection.close()
        else:
            connection.deadline = self.pool.now + self.pool.settings.idle_timeout
            self._idle.append(connection)

    def connection_lost(self, connection: OriginConnection) -> None:
        """The connection is gone; `next` follows when its request has been told."""
        self._connections.pop(connection, None)
        self.connection_unusable(connection)

    def connection_unusable(self, connection: OriginConnection) -> None:
        """The connection is going, and must not be given to a request."""
        if connection in self._idle:
            self._idle.remove(connection)

    def next(self) -> None:
        """A place for a connection has become free."""
        if self._waiting:
            self._dial(self._waiting.popleft())
        elif not self._total:
            self.pool.forget(self._origin)

    @property
    def _total(self) -> int:
        return len(self._connections) + len(self._dialling)

    @property
    def load(self) -> int:
        """Requests under way."""
        return self._total - len(self._idle) + len(self._waiting)

    def report(self) -> dict[str, int]:
        """Return the numbers for the admin pages."""
        idle, waiting = len(self._idle), len(self._waiting)
        return {"active": self._total - idle, "idle": idle, "waiting": waiting}

    def sweep(self, now: float) -> None:
        """End what has taken too long."""
        for connection in [each for each in self._connections if each.deadline < now]:
            # What one of them does may have changed another's.
            if connection.deadline < now:
                connection.timed_out()
        while self._waiting and self._waiting[0].deadline < now:
            self._waiting.popleft().failed(
                Overloaded("No connection to the server behind us became free in time.")
            )

    def close(self) -> None:
        """Give up everything."""
        trouble = OriginFailed("This server is stopping.")
        while self._waiting:
            self._waiting.popleft().failed(trouble)
        for request in list(self._dialling):
            if request.connector is not None:
                request.connector.disconnect()
        for connection in list(self._idle):
            connection.close()
        for connection in list(self._connections):
            if not connection.closing:
                connection.fail(trouble)


class _Dial(ClientFactory):
    """Makes one connection for one request."""

    noisy = False

    def __init__(self, peer: Peer, request: OriginRequest) -> None:
        self._peer = peer
        self._request = request

    def buildProtocol(self, addr: object) -> OriginConnection:
        return OriginConnection(self._peer, self._request)

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        self._peer.not_connected(self._request, reason)

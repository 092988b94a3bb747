"""Load on an HTTP server: so many requests at a time, each followed by the next.

A slow answer keeps its connection from asking, so the rate tells what a server can do
and the latencies what those see who wait; neither tells what happens to clients that
do not wait for one another.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from clinfra.errors import Trouble
from clinfra.shell.latencies import Latencies
from clinfra.web.heads import Field, ResponseHead
from clinfra.web.pool import Origin, OriginRequest, Pool, make_request_head

_TARGET = re.compile(r"[!-~]+")


class BadTarget(Exception):
    """A URL cannot be asked for; a plain sentence."""


@frozen
class Target:
    """What is asked for.

    Attributes:
        origin: the server.
        path, query: what is asked of it; the query with its "?" unless it is empty.
        host: as the Host field has it.
        secure: by TLS.
    """

    origin: Origin
    path: str
    query: str
    host: str
    secure: bool = False

    @classmethod
    def parse(cls, url: str) -> Target:
        """Read a URL.  Raises BadTarget."""
        try:
            parts = urlsplit(url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
        except ValueError as error:
            raise BadTarget(f"{url!r}: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadTarget(f"{url!r} is not a URL such as http://HOST:PORT/PATH")
        path = parts.path or "/"
        query = f"?{parts.query}" if parts.query else ""
        if not _TARGET.fullmatch(path + query):
            raise BadTarget(f"{url!r} has characters that must be percent-encoded")
        secure = parts.scheme == "https"
        host = parts.netloc.rpartition("@")[2]
        return cls(Origin(parts.hostname, port), path, query, host, secure)


@frozen
class Work:
    """What each request is.

    Attributes:
        body: what is put; None to get.
        fields: further header fields.
        run: makes names of puts that no other run has.
    """

    target: Target
    body: bytes | None = None
    fields: tuple[Field, ...] = ()
    method: bytes = b"GET"
    run: str = ""

    def head(self, number: int) -> bytes:
        """Return the head of a request.

        What is put below a path that ends with "/" gets a name of its own.
        """
        path = self.target.path
        if self.run and path.endswith("/"):
            path += f"bench-{self.run}-{number}"
        named = any(name.lower() == b"host" for name, _ in self.fields)
        host = () if named else ((b"Host", self.target.host.encode("latin-1")),)
        return make_request_head(
            self.target.origin,
            self.method,
            (path + self.target.query).encode("ascii"),
            (*host, *self.fields),
            self.body,
        )

    @property
    def alike(self) -> bool:
        """Whether all requests have the same head."""
        return not (self.run and self.target.path.endswith("/"))


@define(eq=False)
class Outcome:
    """What came of it.

    Attributes:
        statuses: how many answers had which.
        failures: sentence → how often there was no (whole) answer.
        body_bytes: taken in.
        seconds: that it took.
    """

    latencies: Latencies = field(factory=Latencies)
    statuses: Counter[int] = field(factory=Counter)
    failures: Counter[str] = field(factory=Counter)
    body_bytes: int = 0
    seconds: float = 0.0

    @property
    def answered(self) -> int:
        return self.latencies.count

    @property
    def has_any(self) -> bool:
        return bool(self.answered or self.failures)

    @property
    def errors(self) -> int:
        """Failures, and answers of 400 and up."""
        refused = sum(n for status, n in self.statuses.items() if status >= 400)
        return refused + sum(self.failures.values())

    @property
    def per_second(self) -> float:
        return self.answered / self.seconds if self.seconds else 0.0


@define(eq=False)
class _Client:
    """One after the other; a pool.Receiver."""

    _load: Load
    _began: float = 0.0
    _status: int = 0
    request: OriginRequest | None = None

    def ask(self) -> None:
        load = self._load
        self._began = load.now()
        head = load.next_head()
        work = load.work
        try:
            self.request = load.pool.start(
                work.target.origin, work.method, head, work.body, self
            )
        except Trouble as trouble:
            self.response_failed(trouble)

    def response_started(self, head: ResponseHead) -> None:
        self._status = head.status

    def body_received(self, data: bytes) -> None:
        self._load.outcome.body_bytes += len(data)

    def response_finished(self) -> None:
        load = self._load
        load.outcome.latencies.add(load.now() - self._began)
        load.outcome.statuses[self._status] += 1
        self._again(0)

    def response_failed(self, reason: Exception) -> None:
        told = reason.__cause__ or reason
        self._load.outcome.failures[str(told)] += 1
        # A server that refuses would else be asked as fast as it can refuse.
        self._again(_PAUSE_AFTER_FAILURE_SECONDS)

    def _again(self, pause: float) -> None:
        self.request = None
        self._load.end_if_due()
        # By the reactor: answers that come at once would else pile up calls.
        self._load.later(pause, self.ask)


_PAUSE_AFTER_FAILURE_SECONDS = 0.05


@define(eq=False)
class Load:
    """One run.

    Args:
        reactor: tells the time.
        connections: requests under way at a time.
    """

    _reactor: Any
    pool: Pool
    work: Work
    connections: int
    now: Callable[[], float]
    outcome: Outcome = field(factory=Outcome)
    _number: int = 0
    _head: bytes = b""
    _ending: bool = False
    _due: bool = False
    _over: Deferred[None] | None = None
    _clients: list[_Client] = field(factory=list)

    async def run(self, seconds: float) -> Outcome:
        """Ask for so long, or until there is a first answer; return what came of it."""
        began = self.now()
        self._clients = [_Client(self) for _ in range(self.connections)]
        for client in self._clients:
            client.ask()
        over: Deferred[None] = Deferred()
        self._over = over
        timer = self._reactor.callLater(seconds, self._time_is_up)
        try:
            await over
        finally:
            self._ending = True
            self.outcome.seconds = self.now() - began
            if timer.active():
                timer.cancel()
            for client in self._clients:
                if client.request is not None:
                    client.request.abort()
        return self.outcome

    def _time_is_up(self) -> None:
        self._due = True
        self.end_if_due()

    def end_if_due(self) -> None:
        """End if the time is up; a slow server has until its first answer."""
        if self._due and self._over is not None and self.outcome.has_any:
            over, self._over = self._over, None
            over.callback(None)

    def next_head(self) -> bytes:
        """Return the head of the next request."""
        if not self.work.alike:
            self._number += 1
            return self.work.head(self._number)
        if not self._head:
            self._head = self.work.head(0)
        return self._head

    def later(self, pause: float, call: Callable[[], None]) -> None:
        """Go on with a client, unless it is over."""
        if not self._ending:
            self._reactor.callLater(pause, self._unless_over, call)

    def _unless_over(self, call: Callable[[], None]) -> None:
        if not self._ending:
            call()

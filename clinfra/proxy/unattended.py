"""Requests that no client waits for: the cache asks an origin by itself.

Such a request is one that came in, as it was when it was looked up; only its exchange
is another, and what is written there is thrown away.  Origins, rules and logs see it
like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from attrs import define, field
from zope.interface import implementer

from clinfra.proxy.message import Request, drop_fields
from clinfra.web.exchange import FileBody, IBody, IExchange
from clinfra.web.heads import Fields, RequestHead

_RANGE = frozenset((b"range", b"if-range"))


@implementer(IBody)
class NoBody:
    """The body of a request without one."""

    length = 0

    async def read(self) -> bytes:
        """Return nothing."""
        return b""


@implementer(IExchange)
@define(eq=False)
class Unattended:
    """An exchange without a client."""

    head: RequestHead
    client_ip: str
    local_port: int
    secure: bool
    started_at: float
    body: NoBody = field(factory=NoBody)
    notes: dict[str, Any] = field(factory=lambda: {"client": "cache"})
    status: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    finished: bool = False
    threads: Any = None
    trace: Any = None
    _done: list[Callable[[bool], None]] = field(factory=list)

    def respond(self, status: int, fields: Fields = (), body: bytes = b"") -> None:
        """Nobody reads it."""
        self.status = status
        self._end(True)

    def send(self, prebuilt: bytes, status: int, body_bytes: int) -> None:
        """Nobody reads it."""
        self.respond(status)

    def start(self, status: int, fields: Fields, length: int | None) -> None:
        """Nobody reads it."""
        self.status = status

    def write(self, data: bytes) -> None:
        """Nobody reads it."""

    async def drained(self) -> None:
        """There is always room for what is thrown away."""

    async def send_file(self, body: FileBody) -> None:
        """Nobody reads it."""
        body.close()

    def finish(self) -> None:
        """It is over."""
        self._end(True)

    def abort(self) -> None:
        """It is over, and there is no good answer."""
        self._end(False)

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """It need never pause."""

    def unregisterProducer(self) -> None:
        """It never paused."""

    def on_done(self, callback: Callable[[bool], None]) -> None:
        """Call back once it is over."""
        self._done.append(callback)

    def _end(self, whole: bool) -> None:
        if self.finished:
            return
        self.finished = True
        for callback in self._done:
            callback(whole)


def behind(request: Request, now: float) -> Request:
    """Return a GET of the same page as `request`, for the whole of it, without client.

    Args:
        request: as it was looked up; not answered yet.
        now: reactor seconds.
    """
    exchange = request.exchange
    return attrs.evolve(
        request,
        exchange=Unattended(
            request.head, exchange.client_ip, exchange.local_port, exchange.secure, now
        ),
        method=b"GET",
        fields=drop_fields(request.fields, _RANGE),
        annotations=dict(request.annotations),
        outcome="",
        reply=None,
        flight=None,
        cache_state=None,
        waiting=None,
        upgrade=b"",
        intake=None,
        plan=None,
    )

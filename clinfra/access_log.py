"""One line per request.

Nothing here knows a product.  Busy sites answer the same few heads over and over, so
what a line says of a request and its answer is made once for equal ones: the rest is
the time, the client and how long it took.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from clinfra.logs import escape_word, hide_secrets, plain
from clinfra.web.exchange import IExchange
from clinfra.web.heads import RequestHead

_MEMO_REQUESTS = 1024
_MEMO_HEAD_BYTES = 2048
"""How many heads, and how long ones, are remembered with their text: sites give equal
short heads as one object."""

_MOST_CLIENTS = 4096

_SHORT_SECONDS = 0.1
_SHORT = tuple(f"{tenth / 10:.1f}" for tenth in range(1001))
"""Milliseconds up to `_SHORT_SECONDS`, by their tenths, as they are written."""

_RESERVED = frozenset(
    (
        *("time", "event", "service", "client", "method", "host", "target", "status"),
        *("bytes", "ms", "trace_id", "request_id"),
    )
)

Known = tuple[int, int, Mapping[str, Any], str, str]
"""Of an answer: status, body bytes, notes; then the text before and after its ms."""


def _request_text(head: RequestHead) -> str:
    """Return "METHOD host/target", printable and without secrets."""
    target = hide_secrets((head.host + head.target).decode("latin-1"))
    return f"{escape_word(head.method.decode('latin-1'))} {escape_word(target)}"


class AccessLog:
    """One line per request, for `web.site.Site`.

    Text: time, service, client, method, host and target, status, body bytes, ms,
    then what products noted: "… GET example.org/a 200 1024 0.8ms cache=hit".
    A status of 0 means the client went away before there was one.  Where requests are
    traced (`web.tracing`), the ids stand after the ms.

    Args:
        write: takes a line; `LineWriter.write`.
        service: name of the product.
        clock: returns unix seconds.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        service: str,
        *,
        json_lines: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._write = write
        self._service = service
        self._clock = clock
        self._json = json_lines
        self._until = 0.0
        self._begin = ""
        self._unit = "" if json_lines else "ms"
        self._known: dict[RequestHead, Known] = {}
        self._clients: dict[str, str] = {}

    def __call__(self, exchange: IExchange, seconds: float) -> None:
        now = self._clock()
        if not self._until - 1 <= now < self._until:
            self._turn(int(now))
        notes, status, size = exchange.notes, exchange.status, exchange.bytes_out
        known = self._known.get(exchange.head)
        if known is None or known[0] != status or known[1] != size or known[2] != notes:
            known = self._say(exchange.head, status, size, notes)
        ip = exchange.client_ip
        client = self._clients.get(ip) or self._say_client(ip)
        if 0 <= seconds < _SHORT_SECONDS:
            ms = _SHORT[int(seconds * 10_000 + 0.5)]
        else:
            ms = f"{seconds * 1000:.1f}"
        trace = exchange.trace
        ids = "" if trace is None else self._say_trace(trace)
        self._write(f"{self._begin}{client}{known[3]}{ms}{self._unit}{ids}{known[4]}")

    def _turn(self, second: int) -> None:
        """Begin another second."""
        self._until = second + 1
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
        if self._json:
            head = {"time": stamp, "event": "request", "service": self._service}
            self._begin = json.dumps(head)[:-1] + ', "client": '
        else:
            self._begin = f"{stamp} {self._service} "

    def _say_client(self, ip: str) -> str:
        if len(self._clients) >= _MOST_CLIENTS:
            self._clients.clear()
        said = json.dumps(ip) if self._json else escape_word(ip) or "-"
        self._clients[ip] = said
        return said

    def _say(
        self, head: RequestHead, status: int, size: int, notes: Mapping[str, Any]
    ) -> Known:
        """Put a request and its answer into words, and remember them."""
        say = self._say_json if self._json else self._say_text
        known = (status, size, dict(notes), *say(head, status, size, notes))
        if len(head.raw) <= _MEMO_HEAD_BYTES:
            if len(self._known) >= _MEMO_REQUESTS:
                self._known.clear()
            self._known[head] = known
        return known

    def _say_text(
        self, head: RequestHead, status: int, size: int, notes: Mapping[str, Any]
    ) -> tuple[str, str]:
        words = [f" {name}={escape_word(str(value))}" for name, value in notes.items()]
        return f" {_request_text(head)} {status} {size} ", "".join(words) + "\n"

    def _say_json(
        self, head: RequestHead, status: int, size: int, notes: Mapping[str, Any]
    ) -> tuple[str, str]:
        request = {
            "method": head.method.decode("latin-1"),
            "host": head.host.decode("latin-1"),
            "target": hide_secrets(head.target.decode("latin-1")),
            "status": status,
            "bytes": size,
        }
        noted = {k: plain(v) for k, v in notes.items() if k not in _RESERVED}
        tail = f", {json.dumps(noted)[1:]}" if noted else "}"
        return f', {json.dumps(request)[1:-1]}, "ms": ', tail + "\n"

    def _say_trace(self, trace: Any) -> str:
        if self._json:
            return (
                f', "trace_id": "{trace.trace_id}"'
                f', "request_id": {json.dumps(trace.request_id)}'
            )
        said = f" trace={trace.trace_id}"
        if trace.request_id != trace.trace_id:
            said += f" id={escape_word(trace.request_id)}"
        return said

"""One line per request, and its count.

Nothing here knows a product.  Busy sites give the same answer to the same head over and
over, so what is said of it is remembered: in one second, equal answers to one client
have one line, and are counted together.  That is most of what makes hits from memory
cheap to log.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define

from clinfra.logs import escape_word, hide_secrets, plain
from clinfra.tally import NO_CACHE, Tally
from clinfra.web.exchange import IExchange
from clinfra.web.heads import RequestHead
from clinfra.web.tracing import Trace

_MEMO_REQUESTS = 1024
_MEMO_HEAD_BYTES = 2048
"""How many heads, and how long ones, are remembered with their text: sites give equal
short heads as one object."""

_MOST_CLIENTS = 4096

_TENTHS = 10_000
"""Of milliseconds in a second: as exactly as times are told."""

_SHORT = tuple(f"{tenth / 10:.1f}" for tenth in range(1000))
"""Milliseconds by their tenths, as they are written."""

_RESERVED = frozenset(
    (
        *("time", "event", "service", "client", "method", "host", "target", "status"),
        *("bytes", "ms", "trace_id", "request_id"),
    )
)


@define(eq=False)
class _Run:
    """Equal answers to one head.

    Attributes:
        status, size, notes, client_ip: what is equal.
        tenths: of milliseconds that each took; None when there is no line for others.
        before, after: the text on both sides of the ms.
        line: the whole, this second.
        count: how many are not in the tally yet.
        seconds: that those took in all.
    """

    status: int
    size: int
    notes: Mapping[str, Any]
    before: str
    after: str
    client_ip: str = ""
    tenths: int | None = None
    line: str = ""
    count: int = 0
    seconds: float = 0.0


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
        tally: counts them as well.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        service: str,
        *,
        json_lines: bool = False,
        clock: Callable[[], float] = time.time,
        tally: Tally | None = None,
    ) -> None:
        self._write = write
        self._service = service
        self._clock = clock
        self._json = json_lines
        self._tally = tally
        if tally is not None:
            tally.before_report = self._count_all
        self._since = self._until = 0.0
        self._begin = ""
        self._unit = "" if json_lines else "ms"
        self._runs: dict[RequestHead, _Run] = {}
        self._clients: dict[str, str] = {}

    def __call__(self, exchange: IExchange, seconds: float) -> None:
        now = self._clock()
        if not self._since <= now < self._until:
            self._turn(int(now))
        run = self._runs.get(exchange.head)
        tenths = int(seconds * _TENTHS)
        if (
            run is not None
            and run.tenths == tenths
            and run.status == exchange.status
            and run.size == exchange.bytes_out
            and run.client_ip == exchange.client_ip
            and run.notes == exchange.notes
        ):
            run.count += 1
            run.seconds += seconds
            self._write(run.line)
        else:
            self._write(self._say(run, exchange, seconds, tenths))

    def _turn(self, second: int) -> None:
        """Begin another second: no line holds any more."""
        self._count_all()
        for run in self._runs.values():
            run.tenths = None
        self._since, self._until = second, second + 1
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))
        if self._json:
            head = {"time": stamp, "event": "request", "service": self._service}
            self._begin = json.dumps(head)[:-1] + ', "client": '
        else:
            self._begin = f"{stamp} {self._service} "

    def _count_all(self) -> None:
        for run in self._runs.values():
            if run.count:
                self._count(run)

    def _count(self, run: _Run) -> None:
        """Put equal requests into the tally."""
        count, run.count = run.count, 0
        seconds, run.seconds = run.seconds, 0.0
        if self._tally is not None:
            state = run.notes.get("cache", NO_CACHE)
            # Just inside of its tenth, which is all inside of one bucket.
            about = ((run.tenths or 0) + 0.5) / _TENTHS
            self._tally.add(run.status, state, run.size, about, count, seconds)

    def _say(
        self, run: _Run | None, exchange: IExchange, seconds: float, tenths: int
    ) -> str:
        """Return the line of a request unlike the one before with its head."""
        if run is not None and run.count:
            self._count(run)
        notes = exchange.notes
        if (
            run is None
            or run.status != exchange.status
            or run.size != exchange.bytes_out
            or run.notes != notes
        ):
            run = self._begin_run(exchange.head, exchange, dict(notes))
        ip = run.client_ip = exchange.client_ip
        client = self._clients.get(ip) or self._say_client(ip)
        ms = _SHORT[tenths] if 0 <= tenths < len(_SHORT) else f"{seconds * 1000:.1f}"
        run.count = 1
        run.seconds = seconds
        run.tenths = tenths
        trace = exchange.trace
        ids = "" if trace is None else self._say_trace(trace)
        if trace is not None or len(exchange.head.raw) > _MEMO_HEAD_BYTES:
            self._count(run)
            run.tenths = None
        run.line = f"{self._begin}{client}{run.before}{ms}{self._unit}{ids}{run.after}"
        return run.line

    def _begin_run(
        self, head: RequestHead, exchange: IExchange, notes: Mapping[str, Any]
    ) -> _Run:
        """Put a request and its answer into words, and remember them."""
        status, size = exchange.status, exchange.bytes_out
        say = self._say_json if self._json else self._say_text
        run = _Run(status, size, notes, *say(head, status, size, notes))
        if len(head.raw) <= _MEMO_HEAD_BYTES:
            if len(self._runs) >= _MEMO_REQUESTS:
                self._count_all()
                self._runs.clear()
            self._runs[head] = run
        return run

    def _say_client(self, ip: str) -> str:
        if len(self._clients) >= _MOST_CLIENTS:
            self._clients.clear()
        said = json.dumps(ip) if self._json else escape_word(ip) or "-"
        self._clients[ip] = said
        return said

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
        after = f", {json.dumps(noted)[1:]}" if noted else "}"
        return f', {json.dumps(request)[1:-1]}, "ms": ', after + "\n"

    def _say_trace(self, trace: Trace) -> str:
        if self._json:
            return (
                f', "trace_id": "{trace.trace_id}"'
                f', "request_id": {json.dumps(trace.request_id)}'
            )
        said = f" trace={trace.trace_id}"
        if trace.request_id != trace.trace_id:
            said += f" id={escape_word(trace.request_id)}"
        return said

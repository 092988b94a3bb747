"""The head of an answer, as bytes.

Pure.  Splitting an answer in two, or lying about where it ends, is impossible from here
on: fields with CR, LF or NUL and fields that frame a message are refused.
"""

from __future__ import annotations

import re
from functools import lru_cache
from http import HTTPStatus

from clinfra.web.heads import Fields

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_STATUS_LINES = {
    code: b"HTTP/1.1 %d %b" % (code, reason) for code, reason in _REASONS.items()
}
BODILESS = frozenset((204, 304))
"""Statuses whose answers never have a body."""

FRAMING = frozenset((b"content-length", b"transfer-encoding", b"connection"))
"""Fields that say where a message ends; only exchanges write them."""

_SPECIAL = re.compile(
    rb"\n(content-length|transfer-encoding|connection|date|server):", re.IGNORECASE
)
_colon = b": ".join


def status_line(status: int) -> bytes:
    """Return the status line of an answer, without its line end."""
    line = _STATUS_LINES.get(status)
    return line if line is not None else b"HTTP/1.1 %d Status" % status


@lru_cache(maxsize=256)
def field_block(fields: Fields, stamp: bytes, date: bytes) -> bytes:
    """Return a head's fields, each after a line end; see `IExchange.respond`.

    The last ones are remembered: many answers of a second are alike.

    Args:
        stamp: the Server and Date fields to add unless they are given.
        date: the Date field at the end of `stamp`.
    """
    if not fields:
        return stamp
    block = b"\r\n" + b"\r\n".join([_colon(field) for field in fields])
    count = len(fields)
    if block.count(b"\r") != count or block.count(b"\n") != count or b"\0" in block:
        raise ValueError("A header field of an answer has CR, LF or NUL in it.")
    special = _SPECIAL.findall(block)
    if special:
        names = {name.lower() for name in special}
        if names & FRAMING:
            raise ValueError("An answer's framing is not for its maker to say.")
        if b"date" in names:
            stamp = b"" if b"server" in names else stamp[: -len(date)]
        else:
            stamp = date
    return block + stamp

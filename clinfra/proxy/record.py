"""What is kept under a key of memcached: entries, and what pages vary on.

Pure.  An entry is a fixed head (see `_FIXED`), its name, tags and generations (a line
each), its fields as they go out, its body; a page whose answers vary has a record of
the fields they vary on instead, and its entries are under keys of their own (see
`key`).  Both begin with a mark that changes whenever the layout does; what has another
mark is a miss.
"""

from __future__ import annotations

import struct

from clinfra.proxy.entry import PREBUILT_BYTES, Entry, Vary

ENTRY_MARK = b"clinfra4"
VARY_MARK = b"clinfraV"
_WHOLE = b"\0" + ENTRY_MARK
_FIXED = struct.Struct("!8sHBdddddIII")
"""Mark, status, flags, born, lifetime, both windows, asked at, lengths of the rest."""

_ALWAYS_VALIDATE = 1
_NEVER_STALE = 2
"""Flags."""


def encode_vary(vary: Vary) -> bytes:
    """Return the record of what a page varies on."""
    return b"\n".join((VARY_MARK + vary.generation, *vary.names))


def encode(entry: Entry) -> bytes:
    """Return the record of an entry."""
    block = entry.block
    scope = b"\n".join(
        (entry.name.encode(), b" ".join(entry.tags), b" ".join(entry.generations))
    )
    fixed = _FIXED.pack(
        ENTRY_MARK,
        entry.status,
        _ALWAYS_VALIDATE * entry.always_validate | _NEVER_STALE * entry.never_stale,
        entry.born,
        entry.lifetime,
        entry.refresh_window,
        entry.error_window,
        entry.asked_at,
        len(scope),
        len(block),
        len(entry.body),
    )
    return fixed + scope + block + entry.body


def decode(key: bytes, primary: bytes, raw: bytes) -> Entry | Vary | None:
    """Read a record; None when it is not one, or not one of this layout."""
    mark = raw[:8]
    if mark == VARY_MARK:
        generation, *names = raw[8:].split(b"\n")
        return Vary(generation, tuple(names))
    if mark != ENTRY_MARK or len(raw) < _FIXED.size:
        return None
    _, status, flags, born, lifetime, *rest = _FIXED.unpack_from(raw)
    refresh, error, asked_at, scope_bytes, block_bytes, body_bytes = rest
    block = _FIXED.size + scope_bytes
    start = block + block_bytes
    if len(raw) != start + body_bytes:
        return None
    scope = raw[_FIXED.size : block].split(b"\n")
    if len(scope) != 3:
        return None
    fields = []
    for line in raw[block:start].split(b"\r\n"):
        name, colon, value = line.partition(b": ")
        if colon:
            fields.append((name, value))
    return Entry(
        key,
        primary,
        status,
        tuple(fields),
        raw[start:],
        born,
        lifetime,
        bool(flags & _ALWAYS_VALIDATE),
        bool(flags & _NEVER_STALE),
        refresh,
        error,
        scope[0].decode("utf-8", "replace"),
        tuple(scope[1].split()),
        tuple(scope[2].split()),
        asked_at,
    )


Plain = tuple[int, bytes, bytes, float, float, float, bytes]
"""As much of a record as a plain hit needs: status; fields as they go out; body; when
it was born, until when it is fresh and when it was asked for, in Unix seconds; and its
name, tags and generations, a line each."""


def decode_plain(item: bytes) -> Plain | None:
    """Read the record of an answer that may be used unasked; None when it is another.

    Large ones are left to `decode`: clients share their bytes.

    Args:
        item: as memcached has it: a mark of `memcached`, then the record.
    """
    if item[:9] != _WHOLE or len(item) < _FIXED.size + 1:
        return None
    fixed = _FIXED.unpack_from(item, 1)
    _, status, flags, born, lifetime, _, _, asked_at, *lengths = fixed
    scope_bytes, block_bytes, body_bytes = lengths
    scope = _FIXED.size + 1
    block = scope + scope_bytes
    body = block + block_bytes
    if (
        flags & _ALWAYS_VALIDATE
        or body_bytes > PREBUILT_BYTES
        or len(item) != body + body_bytes
    ):
        return None
    return (
        status,
        item[block:body],
        item[body:],
        born,
        born + lifetime,
        asked_at,
        item[scope:block],
    )

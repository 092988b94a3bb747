"""Which directives rule here: Cache-Control, or a field for this kind of cache.

Pure.  An origin says in `CDN-Cache-Control` (RFC 9213) or `Surrogate-Control` what it
wants of a cache like this one, and in Cache-Control what it wants of browsers.  The
first such field that can be read is all that counts then: neither Cache-Control nor
Expires does any more.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from clinfra.web.headers import parse_cache_control
from clinfra.web.structured import Token, parse_dictionary

Getter = Callable[[bytes], bytes | None]
"""Returns the value of a field by its lower-case name, repeats joined by a comma."""

Directives = Mapping[bytes, bytes | None]

_SURROGATE_AGE = re.compile(rb"([0-9]{1,10})(?:\+([0-9]{1,10}))?")
_DELTA_SECONDS = frozenset(
    (b"max-age", b"s-maxage", b"stale-while-revalidate", b"stale-if-error")
)


def ruling_directives(get: Getter, targets: Sequence[bytes]) -> tuple[Directives, bool]:
    """Return the directives that count, and whether a targeted field gave them.

    Args:
        get: the response's fields.
        targets: lower-case names of the fields meant for this cache, the first first.
    """
    for name in targets:
        value = get(name)
        if value is not None:
            read = _surrogate if name == b"surrogate-control" else _structured
            directives = read(value)
            if directives:
                return directives, True
    return cache_control(get(b"cache-control") or b""), False


cache_control = lru_cache(maxsize=1024)(parse_cache_control)


@lru_cache(maxsize=1024)
def _structured(value: bytes) -> Directives | None:
    """Read a targeted field by RFC 9213 §2.1; None when it is to be ignored.

    A directive whose argument is of the wrong type says nothing.
    """
    members = parse_dictionary(value)
    if members is None:
        return None
    directives: dict[bytes, bytes | None] = {}
    for name, argument in members.items():
        if name in _DELTA_SECONDS:
            if type(argument) is int and argument >= 0:
                directives[name] = b"%d" % argument
        elif argument is True:
            directives[name] = None
        elif isinstance(argument, bytes):
            directives[name] = argument
        elif isinstance(argument, Token):
            directives[name] = argument.text
    # A field of nothing but what cannot be understood still is the one that counts.
    return directives or ({b"": None} if members else None)


@lru_cache(maxsize=1024)
def _surrogate(value: bytes) -> Directives | None:
    """Read Surrogate-Control: "max-age=FRESH+STALE", no-store, no-store-remote."""
    said = parse_cache_control(value)
    directives: dict[bytes, bytes | None] = {}
    if b"no-store" in said or b"no-store-remote" in said:
        directives[b"no-store"] = None
    age = said.get(b"max-age")
    match = _SURROGATE_AGE.fullmatch(age.partition(b";")[0]) if age else None
    if match is not None:
        directives[b"max-age"] = match[1]
        if match[2] is not None:
            directives[b"stale-while-revalidate"] = match[2]
    return directives

"""What may be kept, and for how long: RFC 9111 as a shared cache reads it.

Pure.  Only lifetimes an origin states count; nothing is guessed.  In order:
`X-MCP-Cache-Control: max-age` (meant for this cache alone), `s-maxage`, `max-age`,
`Expires` less `Date`.  What is doubtful is not fresh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

from attrs import frozen

from clinfra.proxy.key import vary_names
from clinfra.web.headers import (
    directive_seconds,
    parse_cache_control,
    parse_delta_seconds,
    parse_etag,
    parse_http_date,
)

Getter = Callable[[bytes], bytes | None]
"""Returns the value of a field by its lower-case name, repeats joined by a comma."""

UNDERSTOOD = frozenset(
    (200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501)
)
"""Statuses whose caching rules are known here (for must-understand)."""

NEVER_STORED = frozenset((206, 304))
"""Parts, and news about what is stored already."""

_directives = lru_cache(maxsize=1024)(parse_cache_control)


@frozen
class Wish:
    """What a request's Cache-Control asks of a cache.

    Attributes:
        no_cache: answer from the cache only after asking the origin.
        no_store: do not keep the answer.
        max_age, min_fresh: seconds; None when not asked for.
        only_if_cached: 504 rather than asking the origin.
    """

    no_cache: bool = False
    no_store: bool = False
    max_age: int | None = None
    min_fresh: int | None = None
    only_if_cached: bool = False

    def accepts(self, age_seconds: float, ttl_seconds: float) -> bool:
        """Whether a fresh answer of this age may be used without validation."""
        if self.no_cache:
            return False
        if self.max_age is not None and age_seconds > self.max_age:
            return False
        return self.min_fresh is None or ttl_seconds >= self.min_fresh


NO_WISH = Wish()


def read_wish(get: Getter) -> Wish:
    """Read a request's Cache-Control, or its Pragma when there is none."""
    control = get(b"cache-control")
    if control is None:
        pragma = get(b"pragma")
        if pragma is None or b"no-cache" not in _directives(pragma):
            return NO_WISH
        return Wish(no_cache=True)
    directives = _directives(control)
    return Wish(
        no_cache=b"no-cache" in directives,
        no_store=b"no-store" in directives,
        max_age=directive_seconds(directives, b"max-age"),
        min_fresh=directive_seconds(directives, b"min-fresh"),
        only_if_cached=b"only-if-cached" in directives,
    )


@frozen
class Verdict:
    """Whether a response may be kept.

    Attributes:
        refused: why it may not, in a word for the logs; "" when it may.
        lifetime: seconds it stays fresh, counted from age 0.
        age: seconds it was old when it arrived.
        always_validate: it is never fresh (no-cache).
    """

    refused: str = ""
    lifetime: float = 0.0
    age: float = 0.0
    always_validate: bool = False


def judge(
    status: int,
    get: Getter,
    request_get: Getter,
    *,
    asked_at: float,
    answered_at: float,
    negative_ttl: float = 0.0,
    set_cookie_allowed: bool = False,
) -> Verdict:
    """Say whether the response to a GET may be kept, and for how long.

    Args:
        get: the response's fields.
        request_get: the request's fields.
        asked_at, answered_at: Unix seconds when the request was sent and its response
            head came.
        negative_ttl: lifetime of a 404 that states none; 0 when it is not kept.
        set_cookie_allowed: keep it though it sets cookies.
    """
    if status in NEVER_STORED or not 200 <= status <= 599:
        return Verdict("status")
    directives = _directives(get(b"cache-control") or b"")
    if b"must-understand" in directives:
        if status not in UNDERSTOOD:
            return Verdict("must-understand")
    elif b"no-store" in directives:
        return Verdict("no-store")
    if b"private" in directives:
        return Verdict("private")
    if read_wish(request_get).no_store:
        return Verdict("request-no-store")
    if request_get(b"authorization") is not None and not (
        b"public" in directives
        or b"s-maxage" in directives
        or b"must-revalidate" in directives
    ):
        return Verdict("authorization")
    if not set_cookie_allowed and get(b"set-cookie") is not None:
        return Verdict("set-cookie")
    if vary_names(get(b"vary")) is None:
        return Verdict("vary")
    lifetime = lifetime_seconds(get, directives, answered_at)
    always_validate = b"no-cache" in directives
    if lifetime is None:
        if status == 404 and negative_ttl > 0:
            lifetime = negative_ttl
        elif always_validate:
            lifetime = 0.0
        else:
            return Verdict("no-lifetime")
    age = initial_age_seconds(get, asked_at, answered_at)
    if (always_validate or lifetime <= age) and not _has_validator(get):
        return Verdict("not-fresh")
    return Verdict("", lifetime, age, always_validate)


def lifetime_seconds(
    get: Getter, directives: Mapping[bytes, bytes | None], answered_at: float
) -> float | None:
    """Return how long a response says it is fresh; None when it does not say."""
    ours = get(b"x-mcp-cache-control")
    if ours is not None:
        seconds = directive_seconds(_directives(ours), b"max-age")
        if seconds:
            return float(seconds)
    for name in (b"s-maxage", b"max-age"):
        seconds = directive_seconds(directives, name)
        if seconds is not None:
            return float(seconds)
    expires = get(b"expires")
    if expires is None:
        return None
    until = parse_http_date(expires)
    if until is None:
        return 0.0
    return max(0.0, until - _date(get, answered_at))


def initial_age_seconds(get: Getter, asked_at: float, answered_at: float) -> float:
    """Return a response's corrected initial age (RFC 9111 §4.2.3)."""
    said = get(b"age")
    age = parse_delta_seconds(said.partition(b",")[0].strip()) if said else None
    corrected = (age or 0) + max(0.0, answered_at - asked_at)
    apparent = max(0.0, int(answered_at) - _date(get, answered_at))
    return max(apparent, corrected)


def _date(get: Getter, answered_at: float) -> float:
    date = get(b"date")
    seconds = parse_http_date(date) if date is not None else None
    return int(answered_at) if seconds is None else seconds


def _has_validator(get: Getter) -> bool:
    etag = get(b"etag")
    if etag is not None and parse_etag(etag) is not None:
        return True
    modified = get(b"last-modified")
    return modified is not None and parse_http_date(modified) is not None

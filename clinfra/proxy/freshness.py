"""What may be kept, and for how long: RFC 9111 as a shared cache reads it.

Pure.  Only lifetimes an origin states count; nothing is guessed unless the operator
wants it.  In order: `X-MCP-Cache-Control: max-age` (meant for this cache alone), then
`s-maxage` and `max-age` of the field that rules (see `targeted`), `Expires` less
`Date`.  What is doubtful is not fresh.
"""

from __future__ import annotations

from math import inf

from attrs import frozen

from clinfra.proxy.key import vary_names
from clinfra.proxy.targeted import (
    Directives,
    Getter,
    cache_control,
    ruling_directives,
)
from clinfra.web.headers import (
    directive_seconds,
    parse_delta_seconds,
    parse_etag,
    parse_http_date,
)

UNDERSTOOD = frozenset(
    (200, 203, 204, 300, 301, 302, 303, 307, 308, 404, 405, 410, 414, 501)
)
"""Statuses whose caching rules are known here (for must-understand)."""

NEVER_STORED = frozenset((206, 304))
"""Parts, and news about what is stored already."""

GUESSABLE = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
"""Statuses whose lifetime may be guessed (RFC 9110 §15.1), but for parts."""

_FORBID_STALE = (b"must-revalidate", b"proxy-revalidate", b"s-maxage", b"no-cache")


@frozen
class Wish:
    """What a request's Cache-Control asks of a cache.

    Attributes:
        no_cache: answer from the cache only after asking the origin.
        no_store: do not keep the answer.
        max_age, min_fresh, max_stale: seconds; None when not asked for.
        only_if_cached: 504 rather than asking the origin.
    """

    no_cache: bool = False
    no_store: bool = False
    max_age: int | None = None
    min_fresh: int | None = None
    max_stale: float | None = None
    only_if_cached: bool = False

    def accepts(self, age_seconds: float, ttl_seconds: float) -> bool:
        """Whether a fresh answer of this age may be used without validation."""
        if self.no_cache:
            return False
        if self.max_age is not None and age_seconds > self.max_age:
            return False
        return self.min_fresh is None or ttl_seconds >= self.min_fresh

    def accepts_stale(self, age_seconds: float, stale_seconds: float) -> bool:
        """Whether an answer that was fresh so long ago may be used all the same."""
        if self.max_stale is None or stale_seconds > self.max_stale:
            return False
        return self.accepts(age_seconds, inf) and not self.min_fresh


NO_WISH = Wish()


def read_wish(get: Getter) -> Wish:
    """Read a request's Cache-Control, or its Pragma when there is none."""
    control = get(b"cache-control")
    if control is None:
        pragma = get(b"pragma")
        if pragma is None or b"no-cache" not in cache_control(pragma):
            return NO_WISH
        return Wish(no_cache=True)
    directives = cache_control(control)
    max_stale: float | None = directive_seconds(directives, b"max-stale")
    if max_stale is not None and directives[b"max-stale"] is None:
        max_stale = inf
    return Wish(
        no_cache=b"no-cache" in directives,
        no_store=b"no-store" in directives,
        max_age=directive_seconds(directives, b"max-age"),
        min_fresh=directive_seconds(directives, b"min-fresh"),
        max_stale=max_stale,
        only_if_cached=b"only-if-cached" in directives,
    )


@frozen
class Terms:
    """What the operator adds to what origins say.

    Attributes:
        targets: lower-case names of the fields that rule instead of Cache-Control.
        set_cookie_allowed: keep an answer though it sets cookies.
        negative_ttl: lifetime of such an answer when it states none; 0 when there is
            none for it.
        heuristic_fraction: of the time since Last-Modified, taken for the lifetime of
            an answer that states none; 0 guesses nothing.
        heuristic_longest: seconds; no guess is longer.
        refresh_window, error_window: the windows of `Verdict`, in seconds, for answers
            that do not say.
    """

    targets: tuple[bytes, ...] = ()
    set_cookie_allowed: bool = False
    negative_ttl: float = 0.0
    heuristic_fraction: float = 0.0
    heuristic_longest: float = 86400.0
    refresh_window: float = 0.0
    error_window: float = 0.0


NO_TERMS = Terms()


@frozen
class Verdict:
    """Whether a response may be kept.

    Attributes:
        refused: why it may not, in a word for the logs; "" when it may.
        lifetime: seconds it stays fresh, counted from age 0.
        age: seconds it was old when it arrived.
        always_validate: it is never fresh (no-cache).
        never_stale: it must not be used stale, whatever happens (RFC 9111 §4.2.4).
        refresh_window: seconds past freshness in which it is used while it is
            validated (stale-while-revalidate, RFC 5861 §3).
        error_window: seconds past freshness in which it is used when the origin fails
            (stale-if-error, RFC 5861 §4).
    """

    refused: str = ""
    lifetime: float = 0.0
    age: float = 0.0
    always_validate: bool = False
    never_stale: bool = False
    refresh_window: float = 0.0
    error_window: float = 0.0


def judge(
    status: int,
    get: Getter,
    request_get: Getter,
    *,
    asked_at: float,
    answered_at: float,
    terms: Terms = NO_TERMS,
) -> Verdict:
    """Say whether the response to a GET may be kept, and for how long.

    Args:
        get: the response's fields.
        request_get: the request's fields.
        asked_at, answered_at: Unix seconds when the request was sent and its response
            head came.
        terms: what the operator wants.
    """
    if status in NEVER_STORED or not 200 <= status <= 599:
        return Verdict("status")
    directives, targeted = ruling_directives(get, terms.targets)
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
    if not terms.set_cookie_allowed and get(b"set-cookie") is not None:
        return Verdict("set-cookie")
    if vary_names(get(b"vary")) is None:
        return Verdict("vary")
    lifetime = lifetime_seconds(get, directives, answered_at, targeted)
    always_validate = b"no-cache" in directives
    if lifetime is None:
        guessed = _guess(status, get, directives, answered_at, terms)
        if terms.negative_ttl > 0:
            lifetime = terms.negative_ttl
        elif guessed is not None:
            lifetime = guessed
        elif always_validate:
            lifetime = 0.0
        else:
            return Verdict("no-lifetime")
    age = initial_age_seconds(get, asked_at, answered_at)
    never_stale = any(name in directives for name in _FORBID_STALE)
    refresh = error = 0.0
    said_refresh = directive_seconds(directives, b"stale-while-revalidate")
    said_error = directive_seconds(directives, b"stale-if-error")
    if not never_stale:
        refresh = terms.refresh_window if said_refresh is None else said_refresh
        error = terms.error_window if said_error is None else said_error
    useful = lifetime
    if not never_stale:
        useful += max(said_refresh or 0.0, said_error or 0.0)
    if (always_validate or useful <= age) and not _has_validator(get):
        return Verdict("not-fresh")
    return Verdict(
        "", lifetime, age, always_validate, never_stale, float(refresh), float(error)
    )


def lifetime_seconds(
    get: Getter, directives: Directives, answered_at: float, targeted: bool = False
) -> float | None:
    """Return how long a response says it is fresh; None when it does not say.

    Args:
        targeted: the directives are of a field for this cache: Expires is not.
    """
    ours = get(b"x-mcp-cache-control")
    if ours is not None:
        seconds = directive_seconds(cache_control(ours), b"max-age")
        if seconds:
            return float(seconds)
    for name in (b"s-maxage", b"max-age"):
        seconds = directive_seconds(directives, name)
        if seconds is not None:
            return float(seconds)
    expires = get(b"expires")
    if expires is None or targeted:
        return None
    until = parse_http_date(expires)
    if until is None:
        return 0.0
    return max(0.0, until - _date(get, answered_at))


def states_lifetime(get: Getter) -> bool:
    """Whether a response states a lifetime, by whatever field."""
    directives = cache_control(get(b"cache-control") or b"")
    return (
        b"max-age" in directives or b"s-maxage" in directives or bool(get(b"expires"))
    )


def _guess(
    status: int,
    get: Getter,
    directives: Directives,
    answered_at: float,
    terms: Terms,
) -> float | None:
    """Return the heuristic lifetime of RFC 9111 §4.2.2; None where none may be."""
    if not terms.heuristic_fraction:
        return None
    if status not in GUESSABLE and b"public" not in directives:
        return None
    modified = get(b"last-modified")
    changed_at = parse_http_date(modified) if modified is not None else None
    if changed_at is None:
        return None
    unchanged_for = max(0.0, _date(get, answered_at) - changed_at)
    return min(terms.heuristic_longest, terms.heuristic_fraction * unchanged_for)


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

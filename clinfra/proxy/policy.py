"""What the operator wants of the cache, page by page.

Pure.  The options of `modules.direct_cache`, compiled, and what they and `freshness`
say of a page and its answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial

from attrs import evolve, frozen

from clinfra.config import Pattern, Seconds, key
from clinfra.errors import ConfigProblems
from clinfra.patterns import Compiled, any_of, check_template, compile_pattern
from clinfra.proxy.bans import split_tags
from clinfra.proxy.freshness import Terms, Verdict, judge
from clinfra.proxy.key import primary_key
from clinfra.proxy.message import Reply
from clinfra.proxy.targeted import Getter
from clinfra.web.heads import Fields

_REFUSED_BY_FIELDS = frozenset(("no-store", "private", "vary", "no-lifetime"))
"""Refusals that equal fields always meet, whatever was asked."""

_REFUSALS = 1024
_PASSED_PAGES = 16384
_KEYS = 16384


@frozen
class Options:
    """Options of DirectCache."""

    hot_cache_match: tuple[Pattern, ...] = key(
        (), "Pages (host/path) kept in the hot tier; none given means all."
    )
    hot_cache_refresh: Seconds = key(
        Seconds(10), "How long a hot copy is used before memcached is asked again."
    )
    blind_304_match: tuple[Pattern, ...] = key(
        (), "Pages answered 304 to any request with If-Modified-Since."
    )
    cache_404_match: tuple[Pattern, ...] = key(
        (),
        "Pages whose 404 is kept for negative_ttl when it states no lifetime; see"
        " negative_statuses.",
    )
    negative_ttl: Seconds = key(Seconds(60), "How long such an answer is kept.")
    negative_statuses: tuple[int, ...] = key(
        (404, 410), "Statuses for which cache_404_match and negative_ttl hold."
    )
    set_cookie_match: tuple[Pattern, ...] = key(
        (), "Pages whose answers are kept though they set cookies."
    )
    targeted_fields: tuple[str, ...] = key(
        ("CDN-Cache-Control", "Surrogate-Control"),
        "Fields of origins that count instead of Cache-Control and Expires.",
    )
    stale_while_revalidate: Seconds = key(
        Seconds(0),
        "How long past freshness an answer is used while it is fetched anew, when it"
        " does not say.",
    )
    stale_if_error: Seconds = key(
        Seconds(300),
        "How long past freshness an answer is used when its origin fails, when it does"
        " not say; never when it has to be validated.",
    )
    error_statuses: tuple[int, ...] = key(
        (500, 502, 503, 504), "Statuses by which an origin is taken to have failed."
    )
    heuristic_fraction: float = key(
        0.0,
        "Part of the time since Last-Modified that an answer without a lifetime is"
        " fresh, such as 0.1; 0 guesses nothing.",
        least=0,
        most=1,
    )
    heuristic_longest: Seconds = key(
        Seconds(86400), "Longest lifetime that is guessed."
    )
    tag_fields: tuple[str, ...] = key(
        ("Surrogate-Key", "Cache-Tag"),
        "Fields in which origins tag their answers, to be purged together.",
    )
    one_encoding_match: tuple[Pattern, ...] = key(
        (Pattern(r"(?i)\.(?:jpe?g|png|gif|webp|avif)(?:\?|$)"),),
        "Pages for which Accept-Encoding is dropped: compressed already.",
    )
    key_transformations: tuple[tuple[str, str], ...] = key(
        (), "Pairs of regular expression and replacement, applied to cache keys."
    )
    honor_request: bool = key(
        True, "Obey Cache-Control in requests (no-cache, no-store, max-age, ...)."
    )
    pass_ttl: Seconds = key(
        Seconds(10), "How long a page is passed after an answer that was not kept."
    )
    lease: Seconds = key(
        Seconds(3),
        "Processes that share memcached fetch a page one at a time; how long one that"
        " dies meanwhile holds up the others; 0 switches it off.",
    )
    patience: Seconds = key(
        Seconds(10), "How long a request waits for another's fetch of its page."
    )


class Policy:
    """Options, compiled.

    Attributes:
        passed: primary keys of pages whose answer was not kept → Unix seconds until
            which they are passed.
        error_statuses: by which an origin is taken to have failed.

    Raises:
        errors.ConfigProblems: a transformation is no regular expression.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._hot = any_of(options.hot_cache_match)
        self._blind_304 = any_of(options.blind_304_match)
        self._cache_404 = any_of(options.cache_404_match)
        self._set_cookie = any_of(options.set_cookie_match)
        self._one_encoding = any_of(options.one_encoding_match)
        self._transformations: list[tuple[Compiled, str]] = []
        problems = []
        for number, (pattern, replacement) in enumerate(options.key_transformations):
            try:
                compiled = compile_pattern(pattern)
                check_template(replacement, compiled)
            except ValueError as error:
                problems.append(f"key_transformations[{number}]: {error}")
            else:
                self._transformations.append((compiled, replacement))
        if problems:
            raise ConfigProblems(problems)
        self.page = lru_cache(maxsize=_KEYS)(partial(_page, self._transformations))
        self.passed: dict[bytes, float] = {}
        self._negative = frozenset(options.negative_statuses)
        self.error_statuses = frozenset(options.error_statuses)
        self._tag_fields = tuple(
            name.lower().encode("latin-1") for name in options.tag_fields
        )
        self._refused: dict[tuple[int, Fields], Verdict] = {}
        self._terms = Terms(
            targets=tuple(
                name.lower().encode("latin-1") for name in options.targeted_fields
            ),
            heuristic_fraction=options.heuristic_fraction,
            heuristic_longest=options.heuristic_longest,
            refresh_window=options.stale_while_revalidate,
            error_window=options.stale_if_error,
        )

    def name(self, host_path: str) -> str:
        """Return what a page is kept as: its host_path, transformations applied."""
        return _transformed(self._transformations, host_path)

    def tags(self, get: Getter) -> tuple[bytes, ...]:
        """Return the tags that an origin gave its answer, whose fields these are."""
        values = [get(name) for name in self._tag_fields]
        return split_tags(*values) if any(values) else ()

    def pages(self, host_path: str) -> list[bytes]:
        """Return the primary keys of a page by every scheme."""
        return [
            _page(self._transformations, scheme, host_path)
            for scheme in ("http", "https")
        ]

    def one_encoding(self, host_path: str) -> bool:
        """Whether Accept-Encoding means nothing for a page."""
        return self._one_encoding is not None and bool(self._one_encoding(host_path))

    def blind_304(self, host_path: str) -> bool:
        """Whether If-Modified-Since alone is answered 304."""
        return self._blind_304 is not None and bool(self._blind_304(host_path))

    def may_be_hot(self, host_path: str) -> bool:
        """Whether a page may be kept in this process."""
        return self._hot is None or bool(self._hot(host_path))

    def judge(
        self,
        host_path: str,
        reply: Reply,
        request_get: Getter,
        *,
        asked_at: float,
        answered_at: float,
    ) -> Verdict:
        """Say whether an answer may be kept; see `freshness.judge`."""
        status, fields = reply.status, reply.fields
        refused = self._refused.get((status, fields))
        if refused is not None:
            return refused
        negative = (
            status in self._negative and self._cache_404 and self._cache_404(host_path)
        )
        set_cookie = self._set_cookie is not None and self._set_cookie(host_path)
        terms = self._terms
        if negative or set_cookie:
            terms = evolve(
                terms,
                negative_ttl=self._options.negative_ttl if negative else 0.0,
                set_cookie_allowed=bool(set_cookie),
            )
        verdict = judge(
            status,
            reply.get,
            request_get,
            asked_at=asked_at,
            answered_at=answered_at,
            terms=terms,
        )
        if verdict.refused in _REFUSED_BY_FIELDS and status not in self._negative:
            if len(self._refused) >= _REFUSALS:
                self._refused.clear()
            self._refused[status, fields] = verdict
        return verdict

    def pass_page(self, primary: bytes, now: float) -> None:
        """Pass a page for a while: its answer was not kept."""
        if len(self.passed) >= _PASSED_PAGES:
            self.passed.clear()
        self.passed[primary] = now + self._options.pass_ttl


_Transformations = Sequence[tuple[Compiled, str]]


def _page(transformations: _Transformations, scheme: str, host_path: str) -> bytes:
    """Return the primary key of a page, transformations applied."""
    return primary_key(scheme, _transformed(transformations, host_path))


def _transformed(transformations: _Transformations, host_path: str) -> str:
    for pattern, replacement in transformations:
        host_path = pattern.replaced(host_path, replacement)
    return host_path

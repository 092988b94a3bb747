"""DirectCache: answers from the hot tier and memcached, and keeps what may be kept.

Looked up for GET and HEAD; only answers to GET are kept, and only as RFC 9111 lets a
shared cache keep them (`freshness`).  Stale entries are validated with the origin and
refreshed by its 304.  Requests for a page that is being fetched wait for that fetch.
A page whose answer could not be kept is passed for `pass_ttl` without waiting.

Every answer says what happened in Cache-Status (RFC 9211):

* `clinfra; hit; ttl=N`: from the cache; N seconds of freshness are left; Age is there
  too;
* `clinfra; hit; detail=coalesced`: from a fetch that another request began;
* `clinfra; fwd=R; fwd-status=S`, and `; stored` when it is kept.  R is `uri-miss`,
  `vary-miss`, `stale` (validated), `request` (the request wanted it so), `method`, or
  `bypass` (the page is passed);
* `clinfra; detail=NAME`: made by a rule module, e.g. a redirect.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults

from clinfra.config import Pattern, Seconds, key
from clinfra.errors import ConfigProblems, Forbidden, Trouble
from clinfra.proxy.cache import PageCache
from clinfra.proxy.entry import Entry
from clinfra.proxy.freshness import NO_WISH, Verdict, Wish, judge, read_wish
from clinfra.proxy.key import Getter, primary_key, variant_key, vary_names
from clinfra.proxy.message import Reply, Request, drop_fields
from clinfra.proxy.pipeline import PENDING
from clinfra.proxy.routes import any_of
from clinfra.proxy.rules import RuleModule, Surroundings
from clinfra.proxy.seeking import Collector, Landing, Seeking
from clinfra.web.conditional import evaluate
from clinfra.web.headers import format_http_date, parse_etag, parse_http_date
from clinfra.web.heads import Fields, RequestHead

_CONDITIONS = frozenset(
    (
        *(b"if-match", b"if-none-match", b"if-modified-since"),
        *(b"if-unmodified-since", b"if-range"),
    )
)
_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))
_NOT_PLAIN = (*_CONDITIONS, b"range", b"cache-control", b"pragma")
_THIS_REQUEST_ONLY = frozenset(("authorization", "request-no-store"))
_NOT_MODIFIED_DROPS = frozenset(
    (b"content-type", b"content-encoding", b"content-language", b"content-range")
)
_REFUSED_BY_FIELDS = frozenset(("no-store", "private", "vary", "no-lifetime"))
"""Refusals that equal fields always meet, whatever was asked."""

_REFUSALS = 1024
_PASSED_PAGES = 16384


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
        (), "Pages whose 404 is kept for negative_ttl when it states no lifetime."
    )
    negative_ttl: Seconds = key(Seconds(60), "How long such a 404 is kept.")
    set_cookie_match: tuple[Pattern, ...] = key(
        (), "Pages whose answers are kept though they set cookies."
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
    patience: Seconds = key(
        Seconds(10), "How long a request waits for another's fetch of its page."
    )


class DirectCache(RuleModule):
    """The cache as a rule module."""

    Config = Options
    head_only = True

    def __init__(self, config: Options) -> None:
        self._config = config
        self._hot_match = any_of(config.hot_cache_match)
        self._blind_304 = any_of(config.blind_304_match)
        self._cache_404 = any_of(config.cache_404_match)
        self._set_cookie = any_of(config.set_cookie_match)
        self._one_encoding = any_of(config.one_encoding_match)
        self._transformations = []
        problems = []
        for number, (pattern, replacement) in enumerate(config.key_transformations):
            try:
                self._transformations.append((re.compile(pattern), replacement))
            except re.error as error:
                problems.append(f"key_transformations[{number}]: {error}")
        if problems:
            raise ConfigProblems(problems)
        self._passed: dict[bytes, float] = {}
        self._refused: dict[tuple[int, Fields], Verdict] = {}

    def attach(self, surroundings: Surroundings) -> None:
        """Take the cache tiers and the table of flights."""
        self._cache: PageCache = surroundings.cache
        self._cache.refresh_seconds = self._config.hot_cache_refresh
        self._coalescer = surroundings.coalescer
        self._coalescer.patience_seconds = self._config.patience
        self._pipeline = surroundings.pipeline
        self._pipeline.hot = self._cache.hot.entries
        self._pipeline.on_over(self._over)
        self._object_bytes = surroundings.config.cache.object_bytes
        self._now = surroundings.reactor.seconds
        self._rng = surroundings.rng

    # Looking up.

    def page(self, scheme: str, host_path: str) -> bytes:
        """Return the primary key of a page, transformations applied."""
        for pattern, replacement in self._transformations:
            host_path = pattern.sub(replacement, host_path)
        return primary_key(scheme, host_path)

    def lookup(self, request: Request) -> object:
        """Look for an entry; wait for a fetch under way; or begin one."""
        if request.method == b"PURGE":
            raise Forbidden("Administrative function not available on this port.")
        if request.method not in (b"GET", b"HEAD") or request.head.content_length != 0:
            request.outcome = "pass"
            return None
        host_path = request.cache_host_path or request.host_path
        if (
            request.get(b"accept-encoding") is not None
            and self._one_encoding
            and self._one_encoding(host_path)
        ):
            request.set(b"Accept-Encoding", None)
        if (
            self._blind_304
            and self._blind_304(host_path)
            and request.get(b"if-modified-since") is not None
        ):
            return Reply(304, served_by="DirectCache")
        primary = self.page(request.scheme, host_path)
        head = request.head
        get = head.get if request.fields is head.fields else _getter(request)
        wish = read_wish(get) if self._config.honor_request else NO_WISH
        now = self._now()
        entry = self._cache.find_hot(primary, get, now)
        if entry is not None or self._cache.memcached is None:
            return self._decide(request, primary, get, wish, entry)
        outcome: list[object] = []
        waiting = False

        def found(entry: Entry | None) -> None:
            if request.over:
                return
            try:
                result = self._decide(request, primary, get, wish, entry)
            except Exception as error:
                if not waiting:
                    raise
                self._pipeline.fail(request, error)
                return
            if not waiting:
                outcome.append(result)
            elif result is not PENDING:
                self._pipeline.resume(request, result)

        self._cache.find(primary, get, now, found, self._may_be_hot(host_path))
        if outcome:
            return outcome[0]
        waiting = True
        return PENDING

    def _decide(
        self,
        request: Request,
        primary: bytes,
        get: Getter,
        wish: Wish,
        entry: Entry | None,
    ) -> object:
        now = self._now()
        if entry is not None:
            ttl = entry.ttl(now)
            if ttl > 0 and wish.accepts(entry.age(now), ttl):
                return self._hit(request, entry, now)
        if wish.only_if_cached:
            return Reply(
                504, body=b"It is not in the cache.\n", served_by="DirectCache"
            )
        return self._seek(request, primary, get, wish, entry)

    def _hit(
        self, request: Request, entry: Entry, now: float, detail: bytes = b""
    ) -> Reply:
        request.outcome = "hit"
        status: Fields = (
            (b"Age", b"%d" % entry.age(now)),
            (
                b"Cache-Status",
                detail or b"clinfra; hit; ttl=%d" % entry.ttl(now),
            ),
        )
        head = request.head
        answer = entry.answer(head, status, self._boundary)
        if head.method == b"GET" and not detail and _is_plain(head):
            self._pipeline.remember(request, entry)
        self._cache.count("hits")
        return Reply(*answer, served_by="DirectCache")

    def _seek(
        self,
        request: Request,
        primary: bytes,
        get: Getter,
        wish: Wish,
        entry: Entry | None,
    ) -> object:
        """Have the origin asked; by this request, or by the one that already does."""
        known = self._cache.hot.varies.get(primary)
        reason = b"uri-miss" if known is None else b"vary-miss"
        if entry is not None:
            reason = b"request" if entry.ttl(self._now()) > 0 else b"stale"
        seeking = Seeking(primary, get, reason, self._cache.purges)
        request.cache_state = seeking
        if (
            request.method == b"HEAD"
            or wish.no_store
            or request.head.get(b"range") is not None
        ):
            request.outcome = "pass"
            seeking.reason = b"request" if wish.no_store else reason
            return None
        if entry is None and self._is_passed(primary):
            request.outcome = "pass"
            seeking.reason = b"bypass"
            self._remember_pass(request, primary, get)
            return None
        if not wish.no_cache:
            flight_key = primary
            if known is not None:
                vary = known.vary
                flight_key = variant_key(primary, vary.generation, vary.names, get)
            seeking.flight_key = flight_key

            def landed(outcome: object) -> None:
                seeking.waiter = None
                self._landed(request, seeking, entry, outcome)

            flight = self._coalescer.join(flight_key, landed)
            if flight is None:
                seeking.waiter = landed
                return PENDING
            request.flight = flight
        self._begin(request, seeking, entry)
        return None

    def _begin(self, request: Request, seeking: Seeking, entry: Entry | None) -> None:
        """Make this the request that asks the origin, for everybody."""
        seeking.unconditional = True
        seeking.purges = self._cache.purges
        fields = drop_fields(request.fields, _CONDITIONS)
        conditions = entry.conditions() if entry is not None else ()
        if entry is not None and conditions:
            seeking.stale = entry
            request.outcome = "stale"
            fields = (*fields, *conditions)
        else:
            request.outcome = "miss"
        if fields != request.fields:
            request.fields = fields

    def _landed(
        self, request: Request, seeking: Seeking, entry: Entry | None, outcome: object
    ) -> None:
        """The fetch this request waited for is over."""
        if request.over:
            return
        if isinstance(outcome, Trouble):
            self._pipeline.fail(request, outcome)
            return
        if isinstance(outcome, Landing) and outcome.answers(seeking.get):
            detail = b"clinfra; hit; detail=coalesced"
            self._cache.count("coalesced")
            reply = self._hit(request, outcome.entry, self._now(), detail)
            self._pipeline.resume(request, reply)
            return
        self._begin(request, seeking, entry)
        self._pipeline.resume(request, None)

    # The origin's answer.

    def response(self, request: Request) -> object:
        """Judge an origin's answer; make an answer of a 304 to our own question."""
        reply = request.reply
        assert reply is not None
        seeking: Seeking | None = request.cache_state
        if seeking is None:
            if request.method not in _SAFE and 200 <= reply.status < 400:
                self._invalidate(request)
            return None
        if request.method != b"GET":
            return None
        stale = seeking.stale
        if stale is not None and reply.status == 304:
            etag = reply.get(b"etag")
            if etag is not None and etag != stale.get(b"etag"):
                return self._ask_again(request, seeking, reply)
            return self._refresh(request, seeking, stale, reply)
        verdict = self._judge(request, seeking, reply)
        if not verdict.refused and (reply.length or 0) > self._object_bytes:
            verdict = Verdict("too-large")
        seeking.verdict = verdict
        if verdict.refused:
            self._not_kept(request, seeking, verdict)
        return None

    def store(self, request: Request) -> None:
        """Have the body collected, or keep the answer at once."""
        seeking: Seeking | None = request.cache_state
        reply = request.reply
        if seeking is None or reply is None:
            return
        verdict = seeking.verdict
        if verdict is None or verdict.refused:
            return
        self._passed.pop(seeking.primary, None)
        seeking.stored = True
        # The answer to the client may become a 304; what is kept may not.
        kept = Reply(reply.status, reply.fields)
        collector = Collector(
            self._object_bytes,
            lambda body: self._kept(request, seeking, kept, verdict, body),
            lambda: self._give_up(request),
        )
        if reply.stream is not None:
            reply.taps.append(collector)
        else:
            collector.data(reply.body)
            collector.end(True)

    def deliver(self, request: Request) -> None:
        """Say what happened; answer the conditions that were not forwarded."""
        reply = request.reply
        assert reply is not None
        seeking: Seeking | None = request.cache_state
        if request.outcome == "hit":
            request.exchange.notes["cache"] = "hit"
            return
        forwarded = request.attempt > 0 and reply.served_by == "Forwarder"
        if not forwarded:
            detail = reply.served_by.encode("ascii") or b"none"
            status = b"clinfra; detail=" + detail
        else:
            reason = seeking.reason if seeking is not None else b"method"
            status = b"clinfra; fwd=%b; fwd-status=%d" % (reason, reply.status)
            if seeking is not None and seeking.stored:
                status += b"; stored"
            request.exchange.notes["cache"] = request.outcome or "pass"
            self._cache.count(request.outcome or "pass")
        reply.fields = (*reply.fields, (b"Cache-Status", status))
        if forwarded and seeking is not None and seeking.unconditional:
            self._apply_conditions(request, reply)

    def failed(self, request: Request, trouble: Trouble) -> None:
        """Those who wait for this fetch get the same trouble."""
        if request.flight is not None:
            request.flight.land(trouble)

    def _kept(
        self,
        request: Request,
        seeking: Seeking,
        reply: Reply,
        verdict: Verdict,
        body: bytes,
    ) -> None:
        """A whole answer that may be kept is here: keep it, share it."""
        entry = Entry.of(
            seeking.primary,
            seeking.primary,
            reply.status,
            reply.fields,
            body,
            verdict,
            request.answered_at,
        )
        names = vary_names(reply.get(b"vary")) or ()
        self._keep(request, seeking, entry, names)

    def _give_up(self, request: Request) -> None:
        """There will be nothing to share."""
        if request.flight is not None:
            request.flight.land(None)

    def _keep(
        self,
        request: Request,
        seeking: Seeking,
        entry: Entry,
        names: tuple[bytes, ...],
    ) -> None:
        flight = request.flight
        old = self._cache.purged_since(seeking.primary, seeking.purges)
        if not old and (flight is None or not flight.doomed):
            hot = self._may_be_hot(request.cache_host_path or request.host_path)
            self._cache.store(entry, names, seeking.get, self._now(), hot)
            self._cache.count("stored")
        if flight is not None:
            flight.land(Landing(entry, names, seeking.get))

    def _judge(self, request: Request, seeking: Seeking, reply: Reply) -> Verdict:
        status, fields = reply.status, reply.fields
        refused = self._refused.get((status, fields))
        if refused is not None:
            return refused
        host_path = request.cache_host_path or request.host_path
        negative = 0.0
        if status == 404 and self._cache_404 and self._cache_404(host_path):
            negative = self._config.negative_ttl
        verdict = judge(
            status,
            reply.get,
            seeking.get,
            asked_at=request.asked_at,
            answered_at=request.answered_at,
            negative_ttl=negative,
            set_cookie_allowed=bool(self._set_cookie and self._set_cookie(host_path)),
        )
        if verdict.refused in _REFUSED_BY_FIELDS and status != 404:
            if len(self._refused) >= _REFUSALS:
                self._refused.clear()
            self._refused[status, fields] = verdict
        return verdict

    def _refresh(
        self, request: Request, seeking: Seeking, stale: Entry, reply: Reply
    ) -> Reply:
        """Answer with the stale entry, brought up to date by the origin's 304."""
        if reply.stream is not None:
            reply.stream.discard()
        if reply.get(b"date") is None:
            reply.set(b"Date", format_http_date(int(request.answered_at)))
        fields = stale.updated_fields(drop_fields(reply.fields, _OF_FORWARDING))
        fresh = Reply(stale.status, fields)
        verdict = self._judge(request, seeking, fresh)
        entry = Entry.of(
            stale.key,
            stale.primary,
            stale.status,
            fields,
            stale.body,
            verdict,
            request.answered_at,
        )
        names = vary_names(fresh.get(b"vary")) or ()
        if verdict.refused:
            self._cache.purge(seeking.primary)
            self._give_up(request)
        else:
            self._keep(request, seeking, entry, names)
        said = b"clinfra; fwd=stale; fwd-status=304"
        status: Fields = (
            (b"Age", b"%d" % entry.age(self._now())),
            (b"Cache-Status", said if verdict.refused else said + b"; stored"),
        )
        answer = entry.answer(request.head, status, self._boundary)
        request.exchange.notes["cache"] = "validated"
        self._cache.count("validated")
        request.outcome = "hit"
        return Reply(*answer, served_by="DirectCache")

    def _ask_again(self, request: Request, seeking: Seeking, reply: Reply) -> object:
        """The 304 speaks of something else than what is kept: fetch it whole."""
        if reply.stream is not None:
            reply.stream.discard()
        seeking.stale = None
        request.fields = drop_fields(request.fields, _CONDITIONS)
        request.reply = None
        self._pipeline.retry(request)
        return PENDING

    def _apply_conditions(self, request: Request, reply: Reply) -> None:
        if reply.status != 200:
            return
        etag, modified = reply.get(b"etag"), reply.get(b"last-modified")
        status = evaluate(
            request.head,
            parse_etag(etag) if etag is not None else None,
            parse_http_date(modified) if modified is not None else None,
        )
        if status is None:
            return
        reply.status = status
        reply.fields = drop_fields(reply.fields, _NOT_MODIFIED_DROPS)
        reply.muted = True

    def _may_be_hot(self, host_path: str) -> bool:
        return self._hot_match is None or bool(self._hot_match(host_path))

    def _not_kept(self, request: Request, seeking: Seeking, verdict: Verdict) -> None:
        if verdict.refused not in _THIS_REQUEST_ONLY:
            if len(self._passed) >= _PASSED_PAGES:
                self._passed.clear()
            self._passed[seeking.primary] = self._now() + self._config.pass_ttl
        self._give_up(request)

    def _remember_pass(self, request: Request, primary: bytes, get: Getter) -> None:
        """Let equal heads be passed at once while the page is."""
        if request.method != b"GET":
            return
        passed, now, cache = self._passed, self._now, self._cache
        self._pipeline.remember_pass(
            request,
            lambda: passed.get(primary, 0.0) > now(),
            lambda: Seeking(primary, get, b"bypass", cache.purges),
        )

    def _is_passed(self, primary: bytes) -> bool:
        until = self._passed.get(primary)
        return until is not None and until > self._now()

    # Forgetting.

    def purge(self, host_paths: Sequence[str]) -> Deferred[int]:
        """Forget pages; fires with how many were known."""
        pages = [
            self._forget([self.page(scheme, host_path) for scheme in ("http", "https")])
            for host_path in host_paths
        ]
        return gatherResults(pages, consumeErrors=True).addCallback(sum)

    def _forget(self, primaries: Sequence[bytes]) -> Deferred[bool]:
        done = []
        for primary in primaries:
            for flight_key in self._flight_keys(primary):
                self._coalescer.doom(flight_key)
            self._passed.pop(primary, None)
            done.append(self._cache.purge(primary))
        return gatherResults(done, consumeErrors=True).addCallback(any)

    def _flight_keys(self, primary: bytes) -> list[bytes]:
        known = self._cache.hot.varies.get(primary)
        return [primary, *(known.keys if known is not None else ())]

    def _invalidate(self, request: Request) -> None:
        """An unsafe method changed a page: what is kept of it is out of date."""
        host_path = request.cache_host_path or request.host_path
        self._forget(
            [self.page(scheme, host_path) for scheme in ("http", "https")]
        ).addErrback(lambda failure: None)

    def _over(self, request: Request) -> None:
        """A request is over: wait no longer, and let nobody wait in vain."""
        seeking: Seeking | None = request.cache_state
        if seeking is not None and seeking.waiter is not None:
            self._coalescer.leave(seeking.flight_key, seeking.waiter)
            seeking.waiter = None
        flight = request.flight
        if flight is None:
            return
        relay = request.origin_request
        if relay is None or (
            not flight.waiters and not (seeking is not None and seeking.stored)
        ):
            flight.land(None)

    def _boundary(self) -> bytes:
        return b"%032x" % self._rng.getrandbits(128)

    def report(self) -> Mapping[str, Any]:
        """Return what the admin pages show."""
        return {
            **self._cache.report(),
            "hits": self._cache.counters.get("hits", 0) + self._pipeline.hits,
            "fetching": len(self._coalescer.flights),
        }


_OF_FORWARDING = frozenset((b"via", b"cache-status"))


def _getter(request: Request) -> Getter:
    """Return the request's fields as they are now, whatever rules change later."""
    fields: dict[bytes, bytes] = {}
    for name, value in request.fields:
        lower = name.lower()
        known = fields.get(lower)
        fields[lower] = value if known is None else known + b", " + value
    return fields.get


def _is_plain(head: RequestHead) -> bool:
    return not any(name in head.index for name in _NOT_PLAIN)

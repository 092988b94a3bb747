"""DirectCache: answers from the hot tier and memcached, and keeps what may be kept.

Looked up for GET and HEAD; only answers to GET are kept, and only as RFC 9111 lets a
shared cache keep them (`freshness`).  Stale entries are validated with the origin and
refreshed by its 304; while that goes on, or when the origin fails, they are used as
long as they may be (RFC 5861).  Requests for a page that is being fetched wait for that
fetch.  A page whose answer could not be kept is passed for `pass_ttl` without waiting.

Every answer says what happened in Cache-Status (RFC 9211):

* `clinfra; hit; ttl=N`: from the cache; N seconds of freshness are left; Age is there
  too;
* `clinfra; hit; ttl=-N; detail=WHY`: stale since N seconds, and used because of
  `stale-while-revalidate`, `stale-if-error`, `maintenance`, or the request's
  `max-stale`;
* `clinfra; hit; detail=coalesced`: from a fetch that another request began;
* `clinfra; fwd=R; fwd-status=S`, and `; stored` when it is kept.  R is `uri-miss`,
  `vary-miss`, `stale` (validated), `request` (the request wanted it so), `method`, or
  `bypass` (the page is passed);
* `clinfra; detail=NAME`: made by a rule module, e.g. a redirect.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from math import inf
from typing import Any

from attrs import fields
from twisted.internet.defer import Deferred, gatherResults

from clinfra.errors import (
    Forbidden,
    OriginFailed,
    OriginsDown,
    OriginTimeout,
    Overloaded,
    Trouble,
)
from clinfra.proxy.cache import PageCache
from clinfra.proxy.entry import Entry
from clinfra.proxy.fetching import Fetching
from clinfra.proxy.forgetting import Forgetting, page_named
from clinfra.proxy.freshness import NO_WISH, Wish, read_wish, states_lifetime
from clinfra.proxy.hits import Hits
from clinfra.proxy.keeping import Keeping
from clinfra.proxy.key import Getter
from clinfra.proxy.lease import Leases
from clinfra.proxy.looking import Looking
from clinfra.proxy.message import Reply, Request, drop_fields
from clinfra.proxy.pipeline import PENDING
from clinfra.proxy.policy import Options, Policy
from clinfra.proxy.quick_hits import QuickHits
from clinfra.proxy.rules import RuleModule, Surroundings
from clinfra.proxy.scopes import Scopes
from clinfra.proxy.seeking import (
    CONDITIONS,
    Seeking,
    apply_conditions,
    forward_status,
    frozen_getter,
    made_status,
)
from clinfra.proxy.unattended import Unattended
from clinfra.web.heads import Fields

_ORIGIN_TROUBLES = (OriginFailed, OriginTimeout, Overloaded)

_SHORTEST_LEASE_SECONDS = 2.0
"""memcached may end a shorter one at once: it counts the ticks of its own clock."""

_OUTCOMES = ("miss", "stale", "validated")
"""What is counted of requests that the cache has no answer for, besides passes."""

_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE"))


class DirectCache(RuleModule):
    """The cache as a rule module."""

    Config = Options
    head_only = True
    reloadable = False
    by_heads = True
    ignores_hits = True

    def __init__(self, config: Options) -> None:
        self._config = config
        self._policy = Policy(config)

    def attach(self, surroundings: Surroundings) -> None:
        """Take the cache tiers and the table of flights."""
        self._cache: PageCache = surroundings.cache
        self._cache.refresh_seconds = self._config.hot_cache_refresh
        self._pipeline = surroundings.pipeline
        self._origins = surroundings.origins
        if self._cache.memcached is not None:
            self._cache.scopes = Scopes(
                self._cache.memcached,
                surroundings.rng,
                surroundings.reactor.seconds,
                self._config.hot_cache_refresh,
            )
            self._pipeline.elsewhere = QuickHits(
                self._cache,
                self._cache.scopes,
                self._pipeline,
                surroundings.reactor.seconds,
                surroundings.rng,
            ).take
        self._coalescer = surroundings.coalescer
        self._coalescer.patience_seconds = self._config.patience
        self._pipeline.hot = self._cache.hot.entries
        self._now = surroundings.reactor.seconds
        self._forgetting = Forgetting(
            self._policy, self._cache, self._coalescer, self._now
        )
        self._keeping = Keeping(
            self._policy,
            self._cache,
            surroundings.config.cache.object_bytes,
            surroundings.trusted,
            self._now,
        )
        rng = surroundings.rng
        self._boundary = lambda: b"%032x" % rng.getrandbits(128)
        self._hits = Hits(self._cache, self._pipeline, self._now, self._boundary)
        self._fetching = Fetching(
            self._policy,
            self._cache,
            self._coalescer,
            self._pipeline,
            self._hits,
            self._now,
            surroundings.reactor.callLater,
            self._leases(surroundings),
        )
        self._pipeline.on_over(self._fetching.over)

    def _leases(self, surroundings: Surroundings) -> Leases | None:
        """Return what makes processes fetch one at a time, if that is wanted."""
        memcached, config = self._cache.memcached, self._config
        if memcached is None or not config.lease:
            return None
        return Leases(
            memcached,
            surroundings.reactor,
            max(_SHORTEST_LEASE_SECONDS, config.lease),
            config.patience,
            surroundings.rng,
        )

    # Looking up.

    def lookup(self, request: Request) -> object:
        """Look for an entry; wait for a fetch under way; or begin one."""
        if request.method == b"PURGE":
            raise Forbidden("Administrative function not available on this port.")
        if (
            request.method not in (b"GET", b"HEAD")
            or request.head.content_length != 0
            or request.upgrade
        ):
            request.outcome = "pass"
            return None
        host_path = request.cache_host_path or request.host_path
        policy = self._policy
        if request.get(b"accept-encoding") is not None and policy.one_encoding(
            host_path
        ):
            request.set(b"Accept-Encoding", None)
        if request.get(b"if-modified-since") is not None and policy.blind_304(
            host_path
        ):
            return Reply(304, served_by="DirectCache")
        primary = policy.page(request.scheme, host_path)
        head = request.head
        get = (
            head.get if request.fields is head.fields else frozen_getter(request.fields)
        )
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
            if entry is not None and result is not PENDING:
                self._cache.memcached_hits += 1
            if not waiting:
                outcome.append(result)
            elif result is not PENDING:
                self._pipeline.resume(request, result)

        self._cache.find(primary, get, now, found, policy.may_be_hot(host_path))
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
            age = entry.age(now)
            if ttl > 0:
                if wish.accepts(age, ttl):
                    return self._hits.fresh(request, entry, now)
            elif not entry.never_stale and wish.accepts_stale(age, -ttl):
                return self._hits.stale(request, entry, b"max-stale")
            elif entry.serves_while_refreshed(now) and wish.accepts(age, inf):
                self._fetching.refresh_later(request, primary, get, entry)
                return self._hits.stale(request, entry, b"stale-while-revalidate")
        if wish.only_if_cached:
            raise OriginTimeout("It is not in the cache.")
        return self._fetching.seek(request, primary, get, wish, entry)

    def miss(self, request: Request) -> Reply | None:
        """Use what is kept at once while all origins are down: they may well hang."""
        seeking: Seeking | None = request.cache_state
        if seeking is None or seeking.known is None:
            return None
        pool = self._origins.pool(request.pool)
        if pool is None or not pool.all_down:
            return None
        instead = self._hits.instead(request)
        if instead is not None and request.flight is not None:
            request.flight.land(OriginsDown("All servers behind us are down."))
        return instead

    stale = miss

    # The origin's answer.

    def response(self, request: Request) -> object:
        """Judge an origin's answer; make an answer of a 304 to our own question."""
        reply = request.reply
        assert reply is not None
        seeking: Seeking | None = request.cache_state
        if seeking is None:
            if request.method not in _SAFE and 200 <= reply.status < 400:
                # What is kept of a page that was changed is out of date.
                self._forgetting.changed(request, reply)
                if request.method == b"POST":
                    self._answered_post(request, reply)
            return None
        if reply.status in self._policy.error_statuses:
            instead = self._hits.instead(request)
            if instead is not None:
                if request.flight is not None:
                    request.flight.land(OriginFailed("The origin failed."))
                return instead
        if request.method != b"GET":
            return None
        stale = seeking.stale
        if stale is not None and reply.status == 304:
            etag = reply.get(b"etag")
            if etag is not None and etag != stale.get(b"etag"):
                return self._ask_again(request, seeking, reply)
            return self._refresh(request, seeking, stale, reply)
        self._keeping.settle(request, seeking, reply)
        return None

    def _answered_post(self, request: Request, reply: Reply) -> None:
        """Keep the answer to a POST that says it is the page itself.

        RFC 9110 §9.3.3: it has an explicit lifetime, and its Content-Location is what
        was posted to.
        """
        location = reply.get(b"content-location")
        if (
            location is None
            or request.cache_host_path
            or page_named(request, location) != request.host_path
            or not states_lifetime(reply.get)
        ):
            return
        primary = self._policy.page(request.scheme, request.host_path)
        get = frozen_getter(request.fields)
        seeking = Seeking(primary, get, b"method", self._cache.purges)
        request.cache_state = seeking
        self._keeping.settle(request, seeking, reply)

    def store(self, request: Request) -> None:
        """Have the body collected, or keep the answer at once."""
        seeking: Seeking | None = request.cache_state
        reply = request.reply
        if seeking is None or reply is None or seeking.verdict is None:
            return
        if reply.fields is not seeking.judged:
            # A module after this one has changed it.
            self._keeping.settle(request, seeking, reply)
        if not seeking.verdict.refused:
            self._keeping.collect(request, seeking, reply)

    def deliver(self, request: Request) -> None:
        """Say what happened; answer the conditions that were not forwarded."""
        reply = request.reply
        assert reply is not None
        seeking: Seeking | None = request.cache_state
        if request.outcome == "hit":
            request.exchange.notes["cache"] = "hit"
            return
        if type(request.exchange) is Unattended:
            reply.muted = True
        forwarded = request.attempt > 0 and reply.served_by == "Forwarder"
        status = forward_status(reply, seeking) if forwarded else made_status(reply)
        reply.fields = (*reply.fields, (b"Cache-Status", status))
        if forwarded:
            request.exchange.notes["cache"] = request.outcome
            self._cache.count(request.outcome)
            if seeking is not None and seeking.unconditional:
                apply_conditions(request.head, reply)

    def failed(self, request: Request, trouble: Trouble) -> Reply | None:
        """Answer with what is stale, if it may be; who waits for this fetch does so."""
        if request.flight is not None:
            request.flight.land(trouble)
        if isinstance(trouble, _ORIGIN_TROUBLES) and request.cache_state is not None:
            return self._hits.instead(request, trouble)
        return None

    def _refresh(
        self, request: Request, seeking: Seeking, stale: Entry, reply: Reply
    ) -> Reply:
        """Answer with the stale entry, brought up to date by the origin's 304."""
        if reply.stream is not None:
            reply.stream.discard()
        request.reply = None
        entry, kept = self._keeping.refresh(request, seeking, stale, reply.fields)
        said = b"clinfra; fwd=stale; fwd-status=304"
        status: Fields = (
            (b"Age", b"%d" % entry.age(self._now())),
            (b"Cache-Status", said + b"; stored" if kept else said),
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
        request.fields = drop_fields(request.fields, CONDITIONS)
        request.reply = None
        self._pipeline.retry(request)
        return PENDING

    # Forgetting.

    def purge(
        self,
        host_paths: Sequence[str] = (),
        *,
        prefixes: Sequence[str] = (),
        tags: Sequence[str] = (),
        soft: bool = False,
    ) -> Deferred[int]:
        """Forget pages; see interfaces.IPurge."""
        forgetting = self._forgetting
        return gatherResults(
            [
                forgetting.purge(host_paths, soft),
                forgetting.purge_prefixes(prefixes, soft),
                forgetting.purge_tags(tags, soft),
            ],
            consumeErrors=True,
        ).addCallback(sum)

    def look_up(
        self, host_paths: Sequence[str]
    ) -> Coroutine[Any, Any, list[dict[str, Any]]]:
        """Return what is kept of pages; see interfaces.IPurge."""
        return Looking(self._policy, self._cache, self._now).look_up(host_paths)

    def report(self) -> Mapping[str, Any]:
        """Return what the admin pages show."""
        counters, elsewhere = self._cache.counters, self._cache.memcached_hits
        hits = counters.get("hits", 0) + self._pipeline.hits
        passes = counters.get("pass", 0) + self._pipeline.passes
        outcomes = {each: counters.get(each, 0) for each in _OUTCOMES}
        return {
            **self._cache.report(),
            "hits": hits,
            "pass": passes,
            "tiers": {"memory": hits - elsewhere, "memcached": elsewhere},
            "outcomes": {**outcomes, "pass": passes},
            "fetching": len(self._coalescer.flights),
        }

    def listing(self) -> Mapping[str, Any]:
        """Return the connections to memcached, and the options that are not usual."""
        memcached = self._cache.memcached
        usual = Options()
        return {
            "sockets": memcached.sockets() if memcached is not None else [],
            "options": {
                each.name: getattr(self._config, each.name)
                for each in fields(Options)
                if getattr(self._config, each.name) != getattr(usual, each.name)
            },
        }

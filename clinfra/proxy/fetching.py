"""Having origins asked for pages: by one request, for everybody who wants the page.

`modules.direct_cache` decides that an origin has to be asked, `pipeline` has it done,
`keeping` decides what becomes of its answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen

from clinfra.errors import Trouble
from clinfra.proxy.cache import PageCache
from clinfra.proxy.coalesce import AGAIN, Coalescer
from clinfra.proxy.entry import Entry
from clinfra.proxy.freshness import Wish
from clinfra.proxy.hits import Hits
from clinfra.proxy.key import Getter, variant_key
from clinfra.proxy.lease import UNSHARED, Lease, Leases
from clinfra.proxy.message import Request, drop_fields
from clinfra.proxy.pipeline import PENDING, Pipeline
from clinfra.proxy.policy import Policy
from clinfra.proxy.seeking import CONDITIONS, Landing, Seeking
from clinfra.proxy.unattended import behind


@frozen
class Fetching:
    """Has origins asked.

    Attributes:
        now: returns Unix seconds.
        call_later: the reactor's.
        leases: what keeps other processes from fetching the same; None without any.
    """

    policy: Policy
    cache: PageCache
    coalescer: Coalescer
    pipeline: Pipeline
    hits: Hits
    now: Callable[[], float]
    call_later: Callable[..., Any]
    leases: Leases | None = None

    def refresh_later(
        self, request: Request, primary: bytes, get: Getter, entry: Entry
    ) -> None:
        """Have the origin asked while clients get what is stale."""
        flight = self.coalescer.start(entry.key)
        if flight is None:
            return
        asking = behind(request, self.now())
        seeking = Seeking(primary, get, b"stale", self.cache.purges)
        seeking.flight_key = entry.key
        asking.cache_state = seeking
        asking.flight = flight

        def ask(lease: Lease | None) -> None:
            flight.lease = lease
            self._begin(asking, seeking, entry)
            self.pipeline.launch(asking)

        def settled(lease: Lease | None, alone: bool) -> None:
            if lease is not None or alone:
                ask(lease)
            else:
                # Another process asks; what it gets is looked for in memcached.
                entry.hot_until = 0.0
                flight.land(AGAIN)

        leases = self.leases
        if leases is None:
            self.call_later(0, ask, None)
        else:
            leases.try_to_take(entry.key, settled)

    def seek(
        self,
        request: Request,
        primary: bytes,
        get: Getter,
        wish: Wish,
        entry: Entry | None,
    ) -> object:
        """Have the origin asked; by this request, or by the one that already does."""
        known = self.cache.hot.varies.get(primary)
        reason = b"uri-miss" if known is None else b"vary-miss"
        if entry is not None:
            reason = b"request" if entry.ttl(self.now()) > 0 else b"stale"
        seeking = Seeking(primary, get, reason, self.cache.purges, known=entry)
        request.cache_state = seeking
        if (
            request.method == b"HEAD"
            or wish.no_store
            or request.head.get(b"range") is not None
        ):
            request.outcome = "pass"
            seeking.reason = b"request" if wish.no_store else reason
            return None
        if entry is None and self.policy.passed.get(primary, 0.0) > self.now():
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
                if outcome is AGAIN and not request.over:
                    result = self.seek(request, primary, get, wish, entry)
                    if result is not PENDING:
                        self.pipeline.resume(request, None)
                    return
                self._landed(request, seeking, entry, outcome)

            flight = self.coalescer.join(flight_key, landed)
            if flight is None:
                seeking.waiter = landed
                return PENDING
            request.flight = flight
            if self.leases is not None and not (entry and entry.always_validate):
                return self._contend(request, seeking, entry)
        self._begin(request, seeking, entry)
        return None

    def _contend(
        self, request: Request, seeking: Seeking, entry: Entry | None
    ) -> object:
        """Fetch, or wait until another process has fetched."""
        leases, flight = self.leases, request.flight
        assert leases is not None
        waiting = False
        settled_at_once = False

        def look(found: Callable[[Entry | None], None]) -> None:
            def seen(there: Entry | None) -> None:
                new = there is not None and (entry is None or there.born > entry.born)
                found(there if new else None)

            primary, hot = seeking.primary, self._may_be_hot(request)
            self.cache.find(primary, seeking.get, self.now(), seen, hot)

        def settled(outcome: Any) -> None:
            nonlocal settled_at_once
            if isinstance(outcome, Lease):
                if flight.landed:
                    outcome.end()
                else:
                    flight.lease = outcome
            if flight.landed or request.over:
                return
            if isinstance(outcome, Entry):
                self.cache.count("fetched_elsewhere")
                known = self.cache.hot.varies.get(seeking.primary)
                names = known.vary.names if known is not None else ()
                flight.land(Landing(outcome, names, seeking.get))
                request.flight = None
                self._landed(request, seeking, entry, outcome)
                return
            if outcome is UNSHARED:
                self.policy.pass_page(seeking.primary, self.now())
                flight.land(None)
                request.flight = None
            self._begin(request, seeking, entry)
            if waiting:
                self.pipeline.resume(request, None)
            else:
                settled_at_once = True

        leases.take(seeking.flight_key, look, settled)
        if settled_at_once:
            return None
        waiting = True
        return PENDING

    def _may_be_hot(self, request: Request) -> bool:
        return self.policy.may_be_hot(request.cache_host_path or request.host_path)

    def _begin(self, request: Request, seeking: Seeking, entry: Entry | None) -> None:
        """Make this the request that asks the origin, for everybody."""
        seeking.unconditional = True
        seeking.purges = self.cache.purges
        fields = drop_fields(request.fields, CONDITIONS)
        conditions = entry.conditions() if entry is not None else ()
        if entry is not None and conditions:
            seeking.stale = entry
            request.outcome = "stale"
            fields = (*fields, *conditions)
        else:
            request.outcome = "miss"
        request.fields = fields

    def _landed(
        self, request: Request, seeking: Seeking, entry: Entry | None, outcome: object
    ) -> None:
        """The fetch this request waited for is over."""
        if request.over:
            return
        if isinstance(outcome, Trouble):
            self.pipeline.fail(request, outcome)
            return
        if isinstance(outcome, Landing) and outcome.answers(seeking.get):
            outcome = outcome.entry
        if isinstance(outcome, Entry):
            detail = b"clinfra; hit; detail=coalesced"
            self.cache.count("coalesced")
            reply = self.hits.hit(request, outcome, self.now(), detail)
            self.pipeline.resume(request, reply)
            return
        self._begin(request, seeking, entry)
        self.pipeline.resume(request, None)

    def _remember_pass(self, request: Request, primary: bytes, get: Getter) -> None:
        """Let equal heads be passed at once while the page is."""
        if request.method != b"GET":
            return
        policy, now, cache = self.policy, self.now, self.cache
        self.pipeline.remember_pass(
            request,
            lambda: policy.passed.get(primary, 0.0) > now(),
            lambda: Seeking(primary, get, b"bypass", cache.purges),
        )

    def over(self, request: Request) -> None:
        """A request is over: wait no longer, and let nobody wait in vain."""
        seeking: Seeking | None = request.cache_state
        if seeking is not None and seeking.waiter is not None:
            self.coalescer.leave(seeking.flight_key, seeking.waiter)
            seeking.waiter = None
        flight = request.flight
        if flight is None:
            return
        relay = request.origin_request
        if relay is None or (
            not flight.waiters and not (seeking is not None and seeking.stored)
        ):
            flight.land(AGAIN)
        else:
            flight.abandoned = lambda: self._abandon(request)

    def _abandon(self, request: Request) -> None:
        """Neither the client nor anybody else wants what is being fetched."""
        request.origin_request.abort()
        request.flight.land(AGAIN)

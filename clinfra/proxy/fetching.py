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
from clinfra.proxy.coalesce import Coalescer
from clinfra.proxy.entry import Entry
from clinfra.proxy.freshness import Wish
from clinfra.proxy.hits import Hits
from clinfra.proxy.key import Getter, variant_key
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
    """

    policy: Policy
    cache: PageCache
    coalescer: Coalescer
    pipeline: Pipeline
    hits: Hits
    now: Callable[[], float]
    call_later: Callable[..., Any]

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

        def ask() -> None:
            self._begin(asking, seeking, entry)
            self.pipeline.launch(asking)

        self.call_later(0, ask)

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
                self._landed(request, seeking, entry, outcome)

            flight = self.coalescer.join(flight_key, landed)
            if flight is None:
                seeking.waiter = landed
                return PENDING
            request.flight = flight
        self._begin(request, seeking, entry)
        return None

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
        if fields != request.fields:
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
            detail = b"clinfra; hit; detail=coalesced"
            self.cache.count("coalesced")
            reply = self.hits.hit(request, outcome.entry, self.now(), detail)
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
            flight.land(None)
        else:
            flight.abandoned = lambda: self._abandon(request)

    def _abandon(self, request: Request) -> None:
        """Neither the client nor anybody else wants what is being fetched."""
        request.origin_request.abort()
        request.flight.land(None)

"""Keeping origins' answers: which of them, under what key, and for whom they are right.

`modules.direct_cache` looks up and decides who asks; what comes back ends here.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from clinfra.proxy.bans import MOST_TAGS
from clinfra.proxy.cache import PageCache
from clinfra.proxy.clients import TrustedProxies
from clinfra.proxy.entry import Entry
from clinfra.proxy.freshness import Verdict
from clinfra.proxy.hygiene import unkeyed_names
from clinfra.proxy.key import Getter, vary_names
from clinfra.proxy.message import Reply, Request, index_fields
from clinfra.proxy.policy import Policy
from clinfra.proxy.seeking import Collector, Landing, Seeking
from clinfra.web.heads import Fields

_THIS_REQUEST_ONLY = frozenset(("authorization", "request-no-store", "status"))
"""Refusals that say nothing of what others would get from the page."""


@frozen
class Keeping:
    """Keeps answers, and hands them to those who wait for them.

    Attributes:
        object_bytes: largest body kept.
        trusted: the proxies before us.
        now: returns Unix seconds.
    """

    policy: Policy
    cache: PageCache
    object_bytes: int
    trusted: TrustedProxies
    now: Callable[[], float]

    def settle(self, request: Request, seeking: Seeking, reply: Reply) -> None:
        """Decide whether an answer is kept; who waits for one that is not is told."""
        verdict = self._judge(request, seeking, reply)
        if not verdict.refused and (reply.length or 0) > self.object_bytes:
            verdict = Verdict("too-large")
        seeking.verdict, seeking.judged = verdict, reply.fields
        if verdict.refused:
            if verdict.refused not in _THIS_REQUEST_ONLY:
                self.policy.pass_page(seeking.primary, self.now())
            self.give_up(request)

    def collect(self, request: Request, seeking: Seeking, reply: Reply) -> None:
        """Keep an answer that may be kept, as soon as its body is whole."""
        verdict = seeking.verdict
        assert verdict is not None
        self.policy.passed.pop(seeking.primary, None)
        seeking.stored = True
        # The answer to the client may become a 304; what is kept may not.
        status, fields = reply.status, reply.fields

        def kept(body: bytes) -> None:
            primary, now = seeking.primary, request.answered_at
            entry = Entry.of(primary, status, fields, body, verdict, now)
            self._keep(request, seeking, entry)

        collector = Collector(self.object_bytes, kept, lambda: self.give_up(request))
        if reply.stream is not None:
            reply.taps.append(collector)
        else:
            collector.data(reply.body)
            collector.end(True)

    def refresh(
        self, request: Request, seeking: Seeking, stale: Entry, fields: Fields
    ) -> tuple[Entry, bool]:
        """Bring a stale entry up to date by a 304's fields.

        Returns:
            The entry, and whether it is kept.
        """
        now = request.answered_at
        fresh = Reply(stale.status, stale.updated_fields(fields, now))
        verdict = self._judge(request, seeking, fresh)
        entry = Entry.of(
            stale.primary, fresh.status, fresh.fields, stale.body, verdict, now
        )
        if verdict.refused:
            self.cache.purge(seeking.primary)
            self.give_up(request)
        else:
            self._keep(request, seeking, entry)
        return entry, not verdict.refused

    def give_up(self, request: Request) -> None:
        """There will be nothing to share."""
        if request.flight is not None:
            request.flight.land(None)
        if request.origin_request is not None:
            request.origin_request.tap_gave_up()

    def _judge(self, request: Request, seeking: Seeking, reply: Reply) -> Verdict:
        return self.policy.judge(
            request.cache_host_path or request.host_path,
            reply,
            seeking.get,
            asked_at=request.asked_at,
            answered_at=request.answered_at,
        )

    def _keep(self, request: Request, seeking: Seeking, entry: Entry) -> None:
        """Keep a whole answer, unless it is out of date already; share it."""
        flight = request.flight
        if flight is None or flight.lease is None:
            self._keep_now(request, seeking, entry, False)
            return
        flight.lease.check(
            lambda holds: self._keep_now(request, seeking, entry, not holds)
        )

    def _keep_now(
        self, request: Request, seeking: Seeking, entry: Entry, purged: bool
    ) -> None:
        flight = request.flight
        get: Getter = index_fields(entry.fields).get
        names = self._names(request, get)
        old = self.cache.purged_since(seeking.primary, seeking.purges)
        host_path = request.cache_host_path or request.host_path
        entry.name = self.policy.name(host_path)
        entry.tags = self.policy.tags(get)
        entry.asked_at = request.asked_at
        if (
            not (old or purged)
            and (flight is None or not flight.doomed)
            and len(entry.tags) <= MOST_TAGS
            and self.cache.heed_bans(entry, seeking.purges)
        ):
            hot = self.policy.may_be_hot(host_path)
            get, now = seeking.get, self.now()
            if flight is not None and flight.lease is not None:
                # Other processes wait until it is there.
                lease, flight.lease = flight.lease, None
                self.cache.store(entry, names, get, now, hot, lease.end)
            else:
                self.cache.store(entry, names, get, now, hot)
            self.cache.count("stored")
        if flight is not None:
            flight.doomed = flight.doomed or purged
            flight.land(Landing(entry, names, seeking.get))

    def _names(self, request: Request, get: Getter) -> tuple[bytes, ...]:
        """Return what an answer varies on, by its own word or by ours."""
        names = vary_names(get(b"vary")) or ()
        if request.cache_host_path:
            return names  # A rule said what the page is called.
        trusted = self.trusted.trusts(request.exchange.client_ip)
        return tuple(sorted({*names, *unkeyed_names(request, trusted)}))

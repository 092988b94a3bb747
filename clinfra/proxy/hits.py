"""Hits: answers made of what is kept, and what is said of them in Cache-Status."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from clinfra.errors import Maintenance, Trouble
from clinfra.proxy.cache import PageCache
from clinfra.proxy.entry import Entry
from clinfra.proxy.known import send_hit
from clinfra.proxy.message import Reply, Request
from clinfra.proxy.pipeline import PENDING, Pipeline
from clinfra.proxy.seeking import is_plain
from clinfra.web.heads import Fields


@frozen
class Hits:
    """Makes answers of entries.

    Attributes:
        now: returns Unix seconds.
        boundary: makes one for an answer in several parts.
    """

    cache: PageCache
    pipeline: Pipeline
    now: Callable[[], float]
    boundary: Callable[[], bytes]

    def fresh(self, request: Request, entry: Entry, now: float) -> object:
        """Answer with what is fresh: on the spot, when no rule wants to see it."""
        head = request.head
        if head.method == b"GET" and is_plain(head):
            self.pipeline.remember(request, entry)
            if request.rules.memoable and not request.gates:
                request.outcome = "hit"
                self.cache.count("hits")
                send_hit(request.exchange, entry, now)
                return PENDING
        return self.hit(request, entry, now)

    def hit(
        self, request: Request, entry: Entry, now: float, detail: bytes = b""
    ) -> Reply:
        """Answer from the cache.

        Args:
            detail: the whole Cache-Status, when there is more to say than usual.
        """
        request.outcome = "hit"
        told = detail or b"clinfra; hit; ttl=%d" % entry.ttl(now)
        status: Fields = (
            (b"Age", b"%d" % entry.age(now)),
            (b"Cache-Status", told),
        )
        head = request.head
        self.cache.count("hits")
        if head.method == b"GET" and is_plain(head):
            answer = entry.status, (*entry.fields, *status), entry.body
        else:
            answer = entry.answer(head, status, self.boundary)
        return Reply(*answer, served_by="DirectCache")

    def stale(self, request: Request, entry: Entry, why: bytes) -> Reply:
        """Answer with what is stale, and say why that may be."""
        now = self.now()
        self.cache.count(why.decode("ascii").replace("-", "_"))
        told = b"clinfra; hit; ttl=%d; detail=%b" % (entry.ttl(now), why)
        return self.hit(request, entry, now, told)

    def instead(self, request: Request, trouble: Trouble | None = None) -> Reply | None:
        """Return what is kept, to be used instead of an origin's failure.

        While operators keep origins from being asked, whatever is kept will do.
        """
        entry: Entry | None = request.cache_state.known
        if entry is None:
            return None
        if isinstance(trouble, Maintenance) and not entry.never_stale:
            return self.stale(request, entry, b"maintenance")
        if not entry.serves_on_error(self.now()):
            return None
        return self.stale(request, entry, b"stale-if-error")

"""Making the cache forget: purges, and pages that were changed.

A page is forgotten by every scheme and with all its variants, in both tiers; what is
being fetched of it just now will not be kept.  Prefixes and tags are forgotten by bans
(see `bans`), and so is what is only to be taken for stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from urllib.parse import urljoin, urlsplit

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults

from clinfra.proxy.bans import PAGE, PREFIX, TAG, Ban
from clinfra.proxy.cache import PageCache
from clinfra.proxy.coalesce import Coalescer
from clinfra.proxy.message import Reply, Request, join_host_path
from clinfra.proxy.policy import Policy


@frozen
class Forgetting:
    """Forgets pages.

    Attributes:
        now: returns Unix seconds.
    """

    policy: Policy
    cache: PageCache
    coalescer: Coalescer
    now: Callable[[], float]

    def purge(self, host_paths: Sequence[str], soft: bool = False) -> Deferred[int]:
        """Forget pages, or take them for stale; fires with how many were known."""
        if soft:
            return self._ban(PAGE, map(self.policy.name, host_paths), soft)
        pages = [self.forget(host_path) for host_path in host_paths]
        return gatherResults(pages, consumeErrors=True).addCallback(sum)

    def purge_prefixes(self, prefixes: Sequence[str], soft: bool) -> Deferred[int]:
        """Forget pages by the beginnings of their host_paths, the host at least.

        Fires with how many were known in this process.
        """
        return self._ban(PREFIX, map(self.policy.name, prefixes), soft)

    def purge_tags(self, tags: Sequence[str], soft: bool) -> Deferred[int]:
        """Forget pages by their tags; fires with how many this process had."""
        return self._ban(TAG, tags, soft)

    def forget(self, host_path: str) -> Deferred[bool]:
        """Forget a page; fires with whether it was known."""
        done = []
        for primary in self.policy.pages(host_path):
            known = self.cache.hot.varies.get(primary)
            for flight_key in (primary, *(known.keys if known is not None else ())):
                self.coalescer.doom(flight_key)
            self.policy.passed.pop(primary, None)
            done.append(self.cache.purge(primary))
        return gatherResults(done, consumeErrors=True).addCallback(any)

    def changed(self, request: Request, reply: Reply) -> None:
        """Forget the page of a request that changed something, and what it names.

        That is RFC 9111 §4.4: Location and Content-Location too, of the same origin.
        """
        pages = {request.cache_host_path or request.host_path: None}
        for name in (b"location", b"content-location"):
            reference = reply.get(name)
            if reference is not None:
                page = page_named(request, reference)
                if page is not None:
                    pages[page] = None
        for page in pages:
            self.forget(page)

    def _ban(self, kind: str, texts: Iterable[str], soft: bool) -> Deferred[int]:
        covered = 0
        told: list[Deferred[None]] = []
        for text in dict.fromkeys(texts):
            done: Deferred[None] = Deferred()
            told.append(done)
            ban = Ban(self.now(), kind, text, soft)
            covered += self.cache.ban(ban, partial(done.callback, None))
        all_told = gatherResults(told, consumeErrors=True)
        return all_told.addCallback(lambda results: covered)


def page_named(request: Request, reference: bytes) -> str | None:
    """Return the host_path of a URI reference; None when it is of another origin."""
    authority = request.authority.decode("latin-1")
    try:
        base = f"{request.scheme}://{authority}{request.target}"
        parts = urlsplit(urljoin(base, reference.decode("latin-1")))
        if parts.scheme != request.scheme or parts.netloc.lower() != authority.lower():
            return None
    except ValueError:
        return None
    target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
    return join_host_path(request.host, request.port, target)

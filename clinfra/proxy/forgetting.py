"""Making the cache forget: purges, and pages that were changed.

A page is forgotten by every scheme and with all its variants, in both tiers; what is
being fetched of it just now will not be kept.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults

from clinfra.proxy.cache import PageCache
from clinfra.proxy.coalesce import Coalescer
from clinfra.proxy.policy import Policy


@frozen
class Forgetting:
    """Forgets pages."""

    policy: Policy
    cache: PageCache
    coalescer: Coalescer

    def purge(self, host_paths: Sequence[str]) -> Deferred[int]:
        """Forget pages; fires with how many were known."""
        pages = [self.forget(host_path) for host_path in host_paths]
        return gatherResults(pages, consumeErrors=True).addCallback(sum)

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

"""Making the cache forget: purges, and pages that were changed.

A page is forgotten by every scheme and with all its variants, in both tiers; what is
being fetched of it just now will not be kept.  Prefixes and tags are forgotten by bans
(see `bans`), and so is what is only to be taken for stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from attrs import frozen
from twisted.internet.defer import Deferred, gatherResults

from clinfra.proxy.bans import PAGE, PREFIX, TAG, Ban
from clinfra.proxy.cache import PageCache
from clinfra.proxy.coalesce import Coalescer
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

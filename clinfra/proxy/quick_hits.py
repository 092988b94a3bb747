"""Hits from memcached that need not be read: they are sent on almost as they are.

A head that led to a page before leads there again (`pipeline`).  When that page is not
in this process, its record is asked for at once, without asking the rules; fields and
body in it are as they go out.  Whatever is not plain (stale, tagged, varying, banned,
large) takes the long way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from random import Random

from attrs import define

from clinfra.proxy.cache import PageCache
from clinfra.proxy.entry import plain_hit
from clinfra.proxy.pipeline import Pipeline
from clinfra.proxy.record import decode_plain
from clinfra.proxy.rule_hits import RuleHits
from clinfra.proxy.scopes import Scopes, host_scope
from clinfra.web.exchange import IExchange

_ADMITTED = 8
"""One in so many pages is kept in memory when that is full: a scan empties it late."""


@define(eq=False)
class QuickHits:
    """Answers exchanges with what memcached has.

    Args:
        pipeline: takes exchanges the long way, and counts.
        now: returns Unix seconds.
        rng: draws what is kept in memory.
    """

    cache: PageCache
    scopes: Scopes
    pipeline: Pipeline
    now: Callable[[], float]
    rng: Random

    def take(
        self, exchange: IExchange, key: bytes, counted: tuple[RuleHits, ...]
    ) -> None:
        """Answer an exchange whose page does not vary and has this key.

        Args:
            counted: the hits of the rules that led there.
        """
        memcached = self.cache.memcached
        hot = self.cache.hot
        if memcached is None or (
            hot.max_bytes
            and (
                hot.bytes_used < hot.max_bytes * 0.9
                or not self.rng.randrange(_ADMITTED)
            )
        ):
            self.pipeline.begin(exchange)
            return
        purges = self.cache.purges

        def found(item: bytes | None) -> None:
            if exchange.finished:
                return
            now = self.now()
            plain = decode_plain(item) if item is not None else None
            if plain is None or purges != self.cache.purges:
                self.pipeline.begin(exchange)
                return
            status, block, body, born, fresh_until, asked_at, scope = plain
            if now >= fresh_until or not self._passes(scope, asked_at, now):
                self.pipeline.begin(exchange)
                return
            self.pipeline.hits += 1
            for rule in counted:
                rule.count += 1
            self.cache.memcached_hits += 1
            exchange.notes["cache"] = "hit"
            message = plain_hit(status, block, body, born, fresh_until, now)
            exchange.send(message, status, len(body))

        memcached.get_item(key, found)

    def _passes(self, named: bytes, asked_at: float, now: float) -> bool:
        """Whether it is known that no ban holds for what was asked for then.

        Args:
            named: its name, tags and generations, a line each.
        """
        read = _host_and_generation(named)
        if read is None:
            return False
        scope = self.scopes.known(read[0], now)
        return (
            scope is not None
            and scope.generation == read[1]
            and scope.settled_before(asked_at)
        )


@lru_cache(maxsize=16384)
def _host_and_generation(scope: bytes) -> tuple[bytes, bytes] | None:
    """Return the key of the host's scope and its generation; None with tags."""
    name, tags, generations = scope.split(b"\n")
    if tags:
        return None
    return host_scope(name.decode("utf-8", "replace")), generations

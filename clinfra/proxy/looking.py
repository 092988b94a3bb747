"""Looking up what the cache has of a page, for operators.

In memory every variant is found; in memcached the page's own record: when answers vary,
only on what is known there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred

from clinfra.proxy.cache import PageCache
from clinfra.proxy.entry import Entry, Vary
from clinfra.proxy.policy import Policy
from clinfra.proxy.record import decode

MOST_VARIANTS = 50
"""Told of one page."""

_SCHEMES = ("http", "https")


@frozen
class Looking:
    """Looks up pages.

    Attributes:
        now: returns Unix seconds.
    """

    policy: Policy
    cache: PageCache
    now: Callable[[], float]

    async def look_up(self, host_paths: Sequence[str]) -> list[dict[str, Any]]:
        """Return a table for each answer that is kept of some pages."""
        found: list[dict[str, Any]] = []
        for host_path in host_paths:
            pages = zip(_SCHEMES, self.policy.pages(host_path), strict=True)
            for scheme, primary in pages:
                page = {"page": f"{scheme}://{host_path}"}
                found += ({**page, **told} for told in self._in_memory(primary))
                found += [{**page, **each} for each in await self._afar(primary)]
        return found

    def _in_memory(self, primary: bytes) -> Iterator[Mapping[str, Any]]:
        hot = self.cache.hot
        known = hot.varies.get(primary)
        keys = [primary, *sorted(known.keys)] if known is not None else [primary]
        names = known.vary.names if known is not None else ()
        for key in keys[:MOST_VARIANTS]:
            entry = hot.entries.get(key)
            if entry is not None:
                yield {"tier": "memory", **self._told(entry), **_varying(names)}

    async def _afar(self, primary: bytes) -> list[Mapping[str, Any]]:
        memcached = self.cache.memcached
        if memcached is None:
            return []
        answer: Deferred[bytes | None] = Deferred()
        memcached.get(primary, answer.callback)
        raw = await answer
        record = None if raw is None else decode(primary, primary, raw)
        if isinstance(record, Vary):
            return [{"tier": "memcached", **_varying(record.names)}]
        if isinstance(record, Entry):
            return [{"tier": "memcached", **self._told(record)}]
        return []

    def _told(self, entry: Entry) -> Mapping[str, Any]:
        now = self.now()
        kind = entry.get(b"content-type") or b""
        told: dict[str, Any] = {
            "status": entry.status,
            "bytes": len(entry.body),
            "type": kind.decode("latin-1"),
            "age_seconds": round(max(0.0, now - entry.born)),
            "fresh_seconds": round(entry.fresh_until - now),
        }
        if entry.tags:
            told["tags"] = [tag.decode("utf-8", "replace") for tag in entry.tags[:50]]
        return told


def _varying(names: Sequence[bytes]) -> Mapping[str, Any]:
    return {"varies_on": [name.decode("latin-1") for name in names]} if names else {}

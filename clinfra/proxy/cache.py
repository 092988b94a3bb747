"""Where answers are kept: a hot tier in this process over memcached.

With memcached, a hot copy is used unasked for `refresh_seconds` only, so that what
another process purged or replaced is soon seen.  What bans cover is not used, whichever
tier it comes from (`bans`, `scopes`).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from math import inf
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from clinfra.proxy.bans import Ban
from clinfra.proxy.entry import Entry, Vary
from clinfra.proxy.hot_tier import HotTier, HotVary
from clinfra.proxy.key import Getter, variant_key
from clinfra.proxy.lease import lease_key
from clinfra.proxy.memcached import Memcached
from clinfra.proxy.record import decode, encode, encode_vary
from clinfra.proxy.scopes import Scopes, scope_of

MAX_VARY_NAMES = 16
"""A page that varies on more fields than this is not worth keeping."""


MAX_PURGES = 16384
"""Purges remembered so that a fetch begun before one is not kept after it."""

MAX_BANS = 4096
"""The same for bans."""


@define(eq=False)
class PageCache:
    """Both tiers.

    Args:
        hot: the tier in this process.
        memcached: the shared tier; None without one.
        rng: makes generations.
        grace_seconds: how long stale answers are kept for validation.
        refresh_seconds: how long a hot copy is used before memcached is asked again.

    Attributes:
        counters: events by name, for the reports.
        purges: how many there have been.
        memcached_hits: how many answers came from there.
        scopes: how bans reach memcached; None without it, or before there are any.
    """

    hot: HotTier
    memcached: Memcached | None
    rng: Random
    grace_seconds: float
    refresh_seconds: float
    counters: dict[str, int] = field(factory=dict, init=False)
    purges: int = field(default=0, init=False)
    memcached_hits: int = field(default=0, init=False)
    _last_raw: bytes | None = field(default=None, init=False)
    _last_record: Entry | Vary | None = field(default=None, init=False)
    scopes: Scopes | None = field(default=None, init=False)
    _bans: deque[tuple[int, Ban]] = field(
        factory=lambda: deque(maxlen=MAX_BANS), init=False
    )
    _purged: OrderedDict[bytes, int] = field(factory=OrderedDict, init=False)

    def find_hot(self, primary: bytes, get: Getter, now: float) -> Entry | None:
        """Return the entry in this process that answers a request, fresh or stale."""
        entry = self.hot.entries.get(primary)
        if entry is None:
            known = self.hot.varies.get(primary)
            if known is None:
                return None
            vary = known.vary
            entry = self.hot.entries.get(
                variant_key(primary, vary.generation, vary.names, get)
            )
            if entry is None:
                return None
        if now >= entry.hot_until and self._memcached_alive(primary):
            return None
        if now >= entry.fresh_until and entry.kept_for(now, self.grace_seconds) <= 0:
            self.hot.drop(entry.key)
            return None
        entry.used = True
        return entry

    def find(
        self,
        primary: bytes,
        get: Getter,
        now: float,
        found: Callable[[Entry | None], None],
        may_be_hot: bool = True,
    ) -> None:
        """Ask memcached for the entry that answers a request, fresh or stale.

        Args:
            found: called once, perhaps at once.
            may_be_hot: what is found may be kept in this process.
        """
        memcached = self.memcached
        if memcached is None:
            found(None)
            return

        purges = self.purges

        def with_page(raw: bytes | None) -> None:
            record = self._decode(primary, primary, raw)
            if self.purged_since(primary, purges):
                found(None)
            elif isinstance(record, Vary):
                key = variant_key(primary, record.generation, record.names, get)
                self.hot.learn(primary, record)
                memcached.get(key, lambda raw: with_variant(key, raw))
            else:
                # Purged, or it varies no more: what is known of variants is old.
                if record is not None or self._memcached_alive(primary):
                    self.hot.drop_page(primary)
                self._check(record, now, found, may_be_hot)

        def with_variant(key: bytes, raw: bytes | None) -> None:
            record = self._decode(key, primary, raw)
            entry = record if isinstance(record, Entry) else None
            if self.purged_since(primary, purges):
                entry = None
            self._check(entry, now, found, may_be_hot)

        memcached.get(primary, with_page)

    def _check(
        self,
        entry: Entry | None,
        now: float,
        found: Callable[[Entry | None], None],
        may_be_hot: bool,
    ) -> None:
        """Hand on what bans leave of an entry from memcached."""
        purges = self.purges

        def checked(entry: Entry | None) -> None:
            if entry is not None and (
                self.purged_since(entry.primary, purges)
                or not self.heed_bans(entry, purges)
            ):
                entry = None
            if entry is not None and may_be_hot:
                self._keep_hot(entry, now)
            found(entry)

        if entry is None or self.scopes is None:
            checked(entry)
        else:
            self.scopes.check(entry, checked)

    def store(
        self,
        entry: Entry,
        names: tuple[bytes, ...],
        get: Getter,
        now: float,
        may_be_hot: bool = True,
        stored: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep an answer in both tiers.

        Args:
            entry: its key is set here.
            names: what the answer varies on.
            get: the fields of the request it answers.
            stored: called when it is there.
        """
        primary = entry.primary
        known = self.hot.varies.get(primary)
        if known is not None or names:
            vary = self._vary(known, names)
            if len(vary.names) > MAX_VARY_NAMES:
                stored()
                return
            entry.key = variant_key(primary, vary.generation, vary.names, get)
            if known is None or known.vary is not vary:
                self.hot.learn(primary, vary)
                if self.memcached is not None:
                    self.memcached.set(
                        primary, encode_vary(vary), self._ttl(entry, now)
                    )
            elif self.memcached is not None:
                # Written again, or it would lapse before its variants do.
                self.memcached.set(primary, encode_vary(vary), self._ttl(entry, now))
        else:
            entry.key = primary
        if may_be_hot:
            self._keep_hot(entry, now)
        memcached = self.memcached
        if memcached is None:
            stored()
            return

        def write(entered: bool) -> None:
            if entered:
                ttl = self._ttl(entry, now)
                memcached.set(entry.key, encode(entry), ttl, stored)
            else:
                stored()

        if self.scopes is None:
            write(True)
        else:
            self.scopes.enter(entry, write)

    def ban(self, ban: Ban, done: Callable[[], None]) -> int:
        """Forget what a ban covers, or take it for stale, in both tiers.

        Args:
            done: called when memcached knows.

        Returns:
            How many pages of the hot tier it covered.
        """
        self.purges += 1
        self._bans.append((self.purges, ban))
        covered = self.hot.ban(ban)
        if self.scopes is None:
            done()
        else:
            self.scopes.ban(ban, scope_of(ban), done)
        return covered

    def heed_bans(self, entry: Entry, purges: int) -> bool:
        """Whether an answer may be kept or used; one that was banned gently is stale.

        Args:
            purges: that number when it was asked for; only bans since then count.
        """
        if self.purges == purges:
            return True
        if len(self._bans) == MAX_BANS and self._bans[0][0] > purges:
            return False  # there may have been more
        for number, ban in reversed(self._bans):
            if number <= purges:
                break
            if ban.covers(entry.name, entry.tags):
                if not ban.soft:
                    return False
                entry.expire(ban.at)
        return True

    def purge(self, primary: bytes) -> Deferred[bool]:
        """Forget a page and all its variants; fires with whether it was known."""
        self.purges += 1
        self._purged[primary] = self.purges
        self._purged.move_to_end(primary)
        if len(self._purged) > MAX_PURGES:
            self._purged.popitem(last=False)
        known = self.hot.drop_page(primary)
        done: Deferred[bool] = Deferred()
        if self.memcached is None:
            done.callback(known)
        else:
            # Whoever is fetching it fetches what is to be forgotten.
            self.memcached.delete(lease_key(primary), lambda deleted: None)
            self.memcached.delete(
                primary, lambda deleted: done.callback(deleted or known)
            )
        return done

    def purged_since(self, primary: bytes, purges: int) -> bool:
        """Whether a page was purged since `purges` was that number."""
        return self._purged.get(primary, 0) > purges

    def count(self, name: str) -> None:
        """Count an event."""
        self.counters[name] = self.counters.get(name, 0) + 1

    def report(self) -> Mapping[str, Any]:
        """Return what the admin pages show."""
        return {
            "entries": len(self.hot.entries),
            "bytes": self.hot.bytes_used,
            "max_bytes": self.hot.max_bytes,
            "evicted": self.hot.evicted,
            "tags": len(self.hot.tagged),
            "memcached": self.memcached.report() if self.memcached else {},
            **self.counters,
        }

    def _vary(self, known: HotVary | None, names: tuple[bytes, ...]) -> Vary:
        """Return the page's Vary with these names added.

        An answer that varies on less than others of the page did is one more variant of
        the page; a new name makes a new generation.
        """
        if known is not None:
            union = tuple(sorted({*known.vary.names, *names}))
            if union == known.vary.names:
                return known.vary
            names = union
        return Vary(b"%016x" % self.rng.getrandbits(64), names)

    def _decode(
        self, key: bytes, primary: bytes, raw: bytes | None
    ) -> Entry | Vary | None:
        """Read a record; equal readers of one turn are handed the same bytes."""
        if raw is None:
            return None
        if raw is not self._last_raw:
            self._last_record = decode(key, primary, raw)
            self._last_raw = raw
        return self._last_record

    def _memcached_alive(self, primary: bytes) -> bool:
        return self.memcached is not None and self.memcached.node_of(primary).alive

    def _keep_hot(self, entry: Entry, now: float) -> None:
        refresh = self.refresh_seconds if self.memcached is not None else inf
        # Not longer than the bans were known that let it pass.
        entry.hot_until = min(entry.hot_until or inf, now + refresh)
        self.hot.add(entry)

    def _ttl(self, entry: Entry, now: float) -> float:
        return max(1.0, entry.kept_for(now, self.grace_seconds))

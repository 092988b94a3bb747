"""The hot tier: answers in this process.

Bounded in bytes; evicts by second chance: what was used since it was last looked at
stays another round (cheaper to keep than an exact LRU, and a scan of pages used once
does not flush it).  Tags are indexed exactly, entry by entry.
"""

from __future__ import annotations

from collections import OrderedDict

from attrs import define, field

from clinfra.proxy.bans import TAG, Ban
from clinfra.proxy.entry import Entry, Vary

MAX_PAGES_WITHOUT_VARIANT = 16384
"""When so many pages vary, those without a variant in the hot tier are forgotten."""


@define(eq=False)
class HotVary:
    """A page's Vary and the variants of it in the hot tier."""

    vary: Vary
    keys: set[bytes] = field(factory=set)


@define(eq=False)
class HotTier:
    """Answers in memory, at most `max_bytes` of them.

    Attributes:
        entries: by key, the one looked at longest ago first.
        varies: by primary key, for pages that vary.
        tagged: keys of entries by their tags.
    """

    max_bytes: int
    max_object_bytes: int
    entries: OrderedDict[bytes, Entry] = field(factory=OrderedDict, init=False)
    varies: dict[bytes, HotVary] = field(factory=dict, init=False)
    tagged: dict[bytes, set[bytes]] = field(factory=dict, init=False)
    bytes_used: int = field(default=0, init=False)
    evicted: int = field(default=0, init=False)

    def learn(self, primary: bytes, vary: Vary) -> None:
        """Remember what a page varies on; variants of an older Vary are forgotten."""
        known = self.varies.get(primary)
        if known is not None and known.vary == vary:
            return
        self.drop_page(primary)
        if len(self.varies) >= MAX_PAGES_WITHOUT_VARIANT:
            for page in [page for page, known in self.varies.items() if not known.keys]:
                del self.varies[page]
        self.varies[primary] = HotVary(vary)

    def add(self, entry: Entry) -> None:
        """Keep an entry, if it is not too large, in place of any under its key."""
        size = entry.size
        if len(entry.body) > self.max_object_bytes or size > self.max_bytes:
            self.drop(entry.key)
            return
        replaced = self.entries.pop(entry.key, None)
        if replaced is not None:
            self.bytes_used -= replaced.size
            self._untag(replaced)
        self.entries[entry.key] = entry
        for tag in entry.tags:
            self.tagged.setdefault(tag, set()).add(entry.key)
        self.bytes_used += size
        if entry.key != entry.primary:
            known = self.varies.get(entry.primary)
            if known is not None:
                known.keys.add(entry.key)
        while self.bytes_used > self.max_bytes:
            self._evict()

    def drop(self, key: bytes) -> bool:
        """Forget one entry; whether it was there."""
        entry = self.entries.pop(key, None)
        if entry is None:
            return False
        self.bytes_used -= entry.size
        self._untag(entry)
        known = self.varies.get(entry.primary)
        if known is not None and key in known.keys:
            known.keys.discard(key)
            if not known.keys:
                del self.varies[entry.primary]
        return True

    def drop_page(self, primary: bytes) -> bool:
        """Forget a page and all its variants; whether anything was there."""
        known = self.varies.pop(primary, None)
        dropped = self.drop(primary)
        for key in known.keys if known is not None else ():
            dropped = self.drop(key) or dropped
        return dropped

    def ban(self, ban: Ban) -> int:
        """Forget what a ban covers, or take it for stale; return how many pages."""
        if ban.kind == TAG:
            keys = list(self.tagged.get(ban.text.encode("utf-8"), ()))
        else:
            keys = [
                key
                for key, entry in self.entries.items()
                if ban.covers(entry.name, entry.tags)
            ]
        pages = set()
        for key in keys:
            entry = self.entries[key]
            pages.add(entry.primary)
            if ban.soft:
                entry.expire(ban.at)
            else:
                self.drop(key)
        return len(pages)

    def _untag(self, entry: Entry) -> None:
        for tag in entry.tags:
            keys = self.tagged.get(tag)
            if keys is not None:
                keys.discard(entry.key)
                if not keys:
                    del self.tagged[tag]

    def _evict(self) -> None:
        key, entry = next(iter(self.entries.items()))
        if entry.used:
            entry.used = False
            self.entries.move_to_end(key)
            return
        self.drop(key)
        self.evicted += 1

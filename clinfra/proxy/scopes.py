"""Scopes: how a ban reaches what only memcached holds, exactly.

Every page is in the scope of its host, and in one for each of its tags.  memcached
keeps a record of each scope: a generation, drawn when the record was made, and the bans
since.  A kept answer carries the generations of its scopes.  It may be used only while
each of them has the same record still, and no ban there covers it.  So a record that is
lost, with a server or by eviction, takes everything in its scope along: that costs
hits, but never brings back what was purged.  A server that is away when a ban comes
is told to forget the record before it is used again.

Records are believed for as long as hot copies are.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from hashlib import blake2b
from random import Random

from attrs import define, field, frozen

from clinfra.proxy.bans import TAG, Ban, decode_bans
from clinfra.proxy.entry import Entry
from clinfra.proxy.memcached import Memcached

_MARK = b"clinfraS"
_GENERATION_DIGITS = 16
_MOST_RECORD_BYTES = 256 << 10
"""A scope with more bans than this is forgotten as a whole."""

_MOST_KNOWN = 16384
_CLOCK_SKEW_SECONDS = 0.02
"""Clocks of hosts may differ by this much; in doubt the ban wins."""

Read = Callable[["Mapping[bytes, Scope | None]"], None]


@frozen
class Scope:
    """What is known of a scope.

    Attributes:
        generation: of its record.
        bans: the newest first.
        read_at: Unix seconds.
    """

    generation: bytes
    bans: tuple[Ban, ...]
    read_at: float

    def settled_before(self, asked_at: float) -> bool:
        """Whether no ban can be about what was asked for then."""
        return not self.bans or self.bans[0].at + _CLOCK_SKEW_SECONDS <= asked_at


@lru_cache(maxsize=16384)
def host_scope(name: str) -> bytes:
    """Return the key of the scope of a page's host."""
    return _scope_key(b"host", name.partition("/")[0].encode("utf-8"))


@lru_cache(maxsize=16384)
def tag_scope(tag: bytes) -> bytes:
    """Return the key of a tag's scope."""
    return _scope_key(b"tag", tag)


def _scope_key(kind: bytes, name: bytes) -> bytes:
    digest = blake2b(name, digest_size=20, person=kind).hexdigest()
    return b"scope:" + digest.encode("ascii")


def scope_keys(name: str, tags: Iterable[bytes]) -> tuple[bytes, ...]:
    """Return the keys of a page's scopes, that of its host first."""
    return (host_scope(name), *map(tag_scope, tags))


@define(eq=False)
class Scopes:
    """Reads the records of scopes, makes them, and adds bans to them.

    Args:
        refresh_seconds: how long a record is believed.
    """

    memcached: Memcached
    rng: Random
    now: Callable[[], float]
    refresh_seconds: float
    _known: OrderedDict[bytes, Scope] = field(factory=OrderedDict, init=False)

    def ban(self, ban: Ban, key: bytes, done: Callable[[], None]) -> None:
        """Add a ban to a scope's record.

        A scope without a record needs none: nothing in it is valid.
        """
        self._known.pop(key, None)

        def appended(stored: bool | None) -> None:
            if stored is None:
                # Not taken, or nobody knows: the whole scope goes.
                self.memcached.delete(key, lambda known: done())
            else:
                done()

        self.memcached.append(key, ban.encode(), appended)

    def check(self, entry: Entry, checked: Callable[[Entry | None], None]) -> None:
        """Hand an entry on as far as its scopes allow: as it is, stale, or not at all.

        Args:
            checked: called once, perhaps at once.
        """
        keys = scope_keys(entry.name, entry.tags)
        if len(keys) != len(entry.generations):
            checked(None)
            return

        def read(records: Mapping[bytes, Scope | None]) -> None:
            oldest = self.now()
            expired_at = 0.0
            for key, generation in zip(keys, entry.generations, strict=True):
                scope = records[key]
                if scope is None or scope.generation != generation:
                    checked(None)
                    return
                oldest = min(oldest, scope.read_at)
                for ban in scope.bans:
                    if ban.at + _CLOCK_SKEW_SECONDS <= entry.asked_at:
                        break
                    if ban.covers(entry.name, entry.tags):
                        if not ban.soft:
                            checked(None)
                            return
                        expired_at = ban.at
            if expired_at:
                entry.expire(expired_at)
            entry.hot_until = oldest + self.refresh_seconds
            checked(entry)

        self._read(keys, read)

    def known(self, key: bytes, now: float) -> Scope | None:
        """Return a scope whose record need not be read again yet."""
        scope = self._known.get(key)
        if scope is None or now >= scope.read_at + self.refresh_seconds:
            return None
        return scope

    def enter(self, entry: Entry, entered: Callable[[bool], None]) -> None:
        """Give an entry that is to be kept the generations of its scopes.

        Args:
            entered: called once, with whether it may be kept now.
        """
        keys = scope_keys(entry.name, entry.tags)

        def read(records: Mapping[bytes, Scope | None]) -> None:
            missing = [key for key in keys if records[key] is None]
            if missing:
                self._make(missing, lambda: self._read(keys, made))
            else:
                made(records)

        def made(records: Mapping[bytes, Scope | None]) -> None:
            scopes = [records[key] for key in keys]
            found = [scope.generation for scope in scopes if scope is not None]
            entry.generations = tuple(found)
            entered(len(found) == len(keys))

        self._read(keys, read)

    def _read(self, keys: tuple[bytes, ...], read: Read) -> None:
        now = self.now()
        records: dict[bytes, Scope | None] = {}
        wanted = []
        for key in keys:
            known = self.known(key, now)
            if known is not None:
                records[key] = known
            else:
                wanted.append(key)
        if not wanted:
            read(records)
            return

        def got(key: bytes, raw: bytes | None) -> None:
            records[key] = self._learn(key, raw, now)
            if len(records) == len(keys):
                read(records)

        for key in wanted:
            self.memcached.get(key, lambda raw, key=key: got(key, raw))  # type: ignore[misc] # bound now

    def _learn(self, key: bytes, raw: bytes | None, now: float) -> Scope | None:
        self._known.pop(key, None)
        if raw is None:
            return None
        start = len(_MARK) + _GENERATION_DIGITS
        bans = decode_bans(raw[start:]) if raw.startswith(_MARK) else None
        if bans is None or len(raw) > _MOST_RECORD_BYTES:
            self.memcached.delete(key, lambda known: None)
            return None
        scope = self._known[key] = Scope(raw[len(_MARK) : start], bans, now)
        if len(self._known) > _MOST_KNOWN:
            self._known.popitem(last=False)
        return scope

    def _make(self, keys: Iterable[bytes], made: Callable[[], None]) -> None:
        """Make records; `made` is called when each is there, or cannot be."""
        left = set(keys)

        def added(key: bytes) -> None:
            left.discard(key)
            if not left:
                made()

        for key in tuple(left):
            generation = b"%016x" % self.rng.getrandbits(64)
            self.memcached.add(
                key,
                _MARK + generation,
                0,
                lambda stored, key=key: added(key),  # type: ignore[misc] # bound now
            )


def scope_of(ban: Ban) -> bytes:
    """Return the key of the scope that a ban belongs to."""
    if ban.kind == TAG:
        return tag_scope(ban.text.encode("utf-8"))
    return host_scope(ban.text)

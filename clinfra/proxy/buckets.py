"""Token buckets: how often something may happen.  Pure.

A bucket holds up to `burst` tokens and gets `rate` a second; who takes one more than
there is has to wait.  A bucket that nobody has used for long is full, which is what no
bucket at all is; so only those in use are kept, and not more than `MOST_BUCKETS`.
"""

from __future__ import annotations

import struct
from collections import OrderedDict

from attrs import define, field

MOST_BUCKETS = 65536

_SHARED = struct.Struct("!dd")
"""Tokens, and the unix seconds when there were so many."""


@define(eq=False)
class Bucket:
    """One bucket.

    Attributes:
        tokens: how many there were at `at`; less than none are owed.
        at: seconds, when that was.
        taken: since somebody last asked (`Buckets.drain`).
    """

    tokens: float
    at: float
    taken: int = 0


@define(eq=False)
class Buckets:
    """All buckets of one limit, by whatever it counts.

    Args:
        rate: tokens a second.
        burst: most tokens in a bucket.
        forgotten: buckets in use that were given up for want of room.
    """

    rate: float
    burst: float
    forgotten: int = field(default=0, init=False)
    _buckets: OrderedDict[str, Bucket] = field(factory=OrderedDict, init=False)

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, key: str, now: float) -> float:
        """Return how many seconds it takes until there is a token; take none."""
        bucket = self._buckets.get(key)
        if bucket is None:
            return 0.0
        return max(0.0, (1.0 - self._level(bucket, now)) / self.rate)

    def take(self, key: str, now: float) -> None:
        """Take a token, though there may be none: then it is owed."""
        buckets = self._buckets
        bucket = buckets.get(key)
        if bucket is None:
            self._make_room(now)
            bucket = buckets[key] = Bucket(self.burst, now)
        else:
            bucket.tokens = self._level(bucket, now)
            bucket.at = now
            buckets.move_to_end(key)
        bucket.tokens -= 1.0
        bucket.taken += 1

    def drain(self) -> dict[str, int]:
        """Return how many tokens were taken of which bucket since the last time."""
        taken = {key: each.taken for key, each in self._buckets.items() if each.taken}
        for key in taken:
            self._buckets[key].taken = 0
        return taken

    def share(self, key: str, taken: int, shared: bytes | None, now: float) -> bytes:
        """Bring a bucket that several processes share in line with the others.

        Args:
            taken: what `drain` said was taken here, and the others do not know of yet.
            shared: the bucket as they left it; None when that is not known.

        Returns:
            what to leave for them.
        """
        bucket = self._buckets.get(key)
        pending = 0 if bucket is None else bucket.taken
        if shared is not None and len(shared) == _SHARED.size:
            tokens, at = _SHARED.unpack(shared)
            level = min(self.burst, tokens + max(0.0, now - at) * self.rate) - taken
        elif bucket is not None:
            level = self._level(bucket, now) + pending
        else:
            level = self.burst - taken
        if bucket is not None:
            bucket.tokens, bucket.at = level - pending, now
        return _SHARED.pack(level, now)

    def _level(self, bucket: Bucket, now: float) -> float:
        level = bucket.tokens + (now - bucket.at) * self.rate
        return level if level < self.burst else self.burst

    def _make_room(self, now: float) -> None:
        """Drop what is full again; if nothing is, what was used longest ago."""
        buckets = self._buckets
        while buckets:
            key = next(iter(buckets))
            if self._level(buckets[key], now) < self.burst:
                break
            del buckets[key]
        if len(buckets) >= MOST_BUCKETS:
            buckets.popitem(last=False)
            self.forgotten += 1

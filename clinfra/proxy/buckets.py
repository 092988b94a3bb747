"""Token buckets: how often something may happen.  Pure.

A bucket holds up to `burst` tokens and gets `rate` a second; who takes one more than
there is has to wait.  A bucket that nobody has used for long is full, which is what no
bucket at all is; so only those in use are kept, and not more than `MOST_BUCKETS`.
"""

from __future__ import annotations

from collections import OrderedDict
from math import inf

from attrs import define, field

MOST_BUCKETS = 65536
_RECENT_SECONDS = 2.0


@define(eq=False)
class Bucket:
    """One bucket.

    Attributes:
        tokens: how many there were at `at`; less than none are owed.
        at: seconds, when that was.
        taken: since somebody last asked (`Buckets.drain`).
        seen, seen_at: the shared count when it was last seen.
    """

    tokens: float
    at: float
    taken: int = 0
    seen: int = 0
    seen_at: float = -inf


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

    def window(self) -> float:
        """Return how long it takes to fill a bucket: what is older does not count."""
        return min(3600.0, max(1.0, self.burst / self.rate))

    def learn(
        self, key: str, ours: int, total: int, now: float, elapsed: float
    ) -> None:
        """Take what others took of a bucket that several processes share.

        Args:
            ours: what was just added to the shared count of this window.
            total: the shared count after that.
            elapsed: seconds since the window began.
        """
        bucket = self._buckets.get(key)
        if bucket is None:
            return
        level = self._level(bucket, now)
        if now - bucket.seen_at <= _RECENT_SECONDS and total >= bucket.seen:
            level -= max(0, total - ours - bucket.seen)
        else:
            # A new window, or nobody asked here for a while: what one bucket for all
            # would have, had it been full when the window began.
            level = min(level, self.burst - total + elapsed * self.rate)
        bucket.tokens, bucket.at = level, now
        bucket.seen, bucket.seen_at = total, now

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

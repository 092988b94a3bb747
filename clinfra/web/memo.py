"""What was worked out before, by what it was worked out from; bounded.  Pure.

Two generations: when the younger one is full it becomes the older one, and what is
asked for again moves back.  So what is in use stays, a working set that is a little too
large costs a little instead of everything, and finding something young is finding it in
a plain dict.
"""

from __future__ import annotations

from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Memo(dict[K, V], Generic[K, V]):
    """The younger generation is the dict itself: look there first, then `recall`.

    Args:
        max_entries: in each generation.
        max_bytes: of what is counted for the entries of each, about.
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        super().__init__()
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._bytes = 0
        self._older: dict[K, V] = {}

    def clear(self) -> None:
        """Forget everything."""
        super().clear()
        self._older = {}
        self._bytes = 0

    def keep(self, key: K, value: V, size: int) -> None:
        """Remember something that counts for `size` bytes."""
        if len(self) >= self._max_entries or self._bytes >= self._max_bytes:
            older = dict(self)
            self.clear()
            self._older = older
        self[key] = value
        self._bytes += size

    def recall(self, key: K, size: int) -> V | None:
        """Return what the older generation has, and make it young again."""
        value = self._older.pop(key, None)
        if value is not None:
            self.keep(key, value, size)
        return value

"""Whose turn it is, when several kinds of work wait for the same workers.

Pure.  Each kind has had so much work done; the one that has had least is next.  A kind
that comes back after it had nothing to do has no claim to what it did not use.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Turns(Generic[T]):
    """Queues of work, one for each kind."""

    def __init__(self, kinds: Sequence[str]) -> None:
        self._waiting: dict[str, deque[tuple[T, int]]] = {
            kind: deque() for kind in kinds
        }
        self._had = dict.fromkeys(kinds, 0)
        self._level = 0

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def push(self, kind: str, work: T, cost: int) -> None:
        """Add work behind what waits of its kind."""
        queue = self._waiting[kind]
        if not queue:
            self._had[kind] = max(self._had[kind], self._level)
        queue.append((work, cost))

    def pop(self) -> T:
        """Take the work that is next.  Raises IndexError when there is none."""
        kinds = [kind for kind, queue in self._waiting.items() if queue]
        if not kinds:
            raise IndexError("nothing waits")
        kind = min(kinds, key=self._had.__getitem__)
        work, cost = self._waiting[kind].popleft()
        self._level = self._had[kind]
        self._had[kind] += cost
        return work

    def remove(self, kind: str, work: T) -> None:
        """Take away work that waits no more.  Raises ValueError when it does not."""
        queue = self._waiting[kind]
        for at, (each, _) in enumerate(queue):
            if each is work:
                del queue[at]
                return
        raise ValueError("it does not wait")

    def clear(self) -> list[T]:
        """Take away everything, and return it."""
        works = [work for queue in self._waiting.values() for work, _ in queue]
        for queue in self._waiting.values():
            queue.clear()
        return works

    def waiting(self, kind: str) -> int:
        """Return how many of a kind wait."""
        return len(self._waiting[kind])

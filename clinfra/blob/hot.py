"""What is read most, in memory: rows, and the bytes of small blobs.

Bounded by bytes, oldest use first out.  The replica drops a name here in the same
reactor turn in which its change is answered, so what is found here is always the
newest acknowledged state.
"""

from __future__ import annotations

from collections import OrderedDict

from attrs import define, field

from clinfra.blob.records import Row

MAX_TARGETS = 65536


@define(eq=False)
class Hot:
    """A blob in memory.

    Attributes:
        row: as in the index.
        body: the whole body, checked, when it is small enough.
        head: the unchanging header fields of a plain 200, made when first needed.
        valid: False once the name has changed or was dropped: `targets` may still lead
            here.
    """

    row: Row
    body: bytes | None
    head: bytes = b""
    valid: bool = True

    @property
    def weight(self) -> int:
        """Bytes of memory, about."""
        return 1200 + 2 * len(self.row.name) + len(self.body or b"")


@define(eq=False)
class HotCache:
    """Names read lately, up to `max_bytes` of memory."""

    max_bytes: int
    used_bytes: int = 0
    hits: int = 0
    misses: int = 0
    _found: OrderedDict[str, Hot] = field(init=False, factory=OrderedDict)
    targets: dict[bytes, Hot] = field(init=False, factory=dict)
    """Request target → the blob it means; check `valid` before use."""

    def get(self, name: str) -> Hot | None:
        """Return a name if it is here."""
        found = self._found.get(name)
        if found is None:
            self.misses += 1
            return None
        self.hits += 1
        self._found.move_to_end(name)
        return found

    def put(self, hot: Hot) -> None:
        """Keep a name, and drop those used longest ago."""
        self.drop(hot.row.name)
        if hot.weight > self.max_bytes // 8:
            return
        self._found[hot.row.name] = hot
        self.used_bytes += hot.weight
        while self.used_bytes > self.max_bytes:
            _, oldest = self._found.popitem(last=False)
            oldest.valid = False
            self.used_bytes -= oldest.weight

    def drop(self, name: str) -> None:
        """Forget a name."""
        found = self._found.pop(name, None)
        if found is not None:
            found.valid = False
            self.used_bytes -= found.weight

    def remember_target(self, target: bytes, hot: Hot) -> None:
        """Let a request target lead straight to a blob."""
        if len(self.targets) >= MAX_TARGETS:
            self.targets.clear()
        self.targets[target] = hot

    def touch(self, hot: Hot) -> None:
        """Count a use that went past `get`."""
        self.hits += 1
        self._found.move_to_end(hot.row.name)

    def has(self, hot: Hot) -> bool:
        """Return whether this very blob is kept here."""
        return self._found.get(hot.row.name) is hot

    def __len__(self) -> int:
        return len(self._found)

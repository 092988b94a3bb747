"""What is read most, in memory: rows, and the bytes of small blobs.

Bounded by bytes, oldest use first out.  Bytes go before rows: a row leads straight to
the page cache.  The replica replaces or drops a name here in the same reactor turn in
which its change is answered, so what is found here is always the newest acknowledged
state.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

from attrs import define, field

from clinfra.blob.records import Row

MAX_TARGETS = 65536

ROW_BYTES = 1200
"""Memory of a row and what leads to it, about."""


@define(eq=False)
class Hot:
    """A blob in memory.

    Attributes:
        row: as in the index.
        body: the whole body, checked, when it is small enough and read lately.
        head: the unchanging header fields of a plain 200, made when first needed.
        valid: False once the name has changed or was dropped: `targets` may still lead
            here.
        slot, generation: what a reading process believes it by (see `generations`).
    """

    row: Row
    body: bytes | None
    head: bytes = b""
    valid: bool = True
    slot: int = 0
    generation: int = 0

    @property
    def row_bytes(self) -> int:
        """Memory without the body, about."""
        return ROW_BYTES + 4 * len(self.row.name)


@define(eq=False)
class HotCache:
    """Names read lately, up to `max_bytes` of memory; a quarter of it for rows."""

    max_bytes: int
    hits: int = 0
    misses: int = 0
    _row_bytes: int = field(init=False, default=0)
    _body_bytes: int = field(init=False, default=0)
    _rows: OrderedDict[str, Hot] = field(init=False, factory=OrderedDict)
    _bodies: OrderedDict[str, Hot] = field(init=False, factory=OrderedDict)
    targets: dict[bytes, Hot] = field(init=False, factory=dict)
    """Request target → the blob it means; check `valid` before use."""

    @property
    def used_bytes(self) -> int:
        """Memory in use, about."""
        return self._row_bytes + self._body_bytes

    def get(self, name: str) -> Hot | None:
        """Return a name if it is here."""
        found = self._rows.get(name)
        if found is None:
            self.misses += 1
            return None
        self.touch(found)
        return found

    def touch(self, hot: Hot) -> None:
        """Count a use."""
        self.hits += 1
        self._rows.move_to_end(hot.row.name)
        if hot.body is not None:
            self._bodies.move_to_end(hot.row.name)

    def put(self, hot: Hot) -> None:
        """Keep a name, and drop those used longest ago."""
        self.drop(hot.row.name)
        body, hot.body = hot.body, None
        self._rows[hot.row.name] = hot
        self._row_bytes += hot.row_bytes
        while self._row_bytes > self.max_bytes // 4:
            self.drop(next(iter(self._rows)))
        if body is not None:
            self.keep_body(hot, body)

    def keep_body(self, hot: Hot, body: bytes) -> None:
        """Keep the body of a name that is here."""
        if hot.body is not None or not self.has(hot):
            return
        if len(body) > self.max_bytes // 8:
            return
        hot.body = body
        self._bodies[hot.row.name] = hot
        self._body_bytes += len(body)
        while self._body_bytes > self.max_bytes - self.max_bytes // 4:
            self._drop_body(next(iter(self._bodies)))

    def _drop_body(self, name: str) -> None:
        found = self._bodies.pop(name, None)
        if found is not None and found.body is not None:
            self._body_bytes -= len(found.body)
            found.body = None

    def drop(self, name: str) -> None:
        """Forget a name."""
        self._drop_body(name)
        found = self._rows.pop(name, None)
        if found is not None:
            found.valid = False
            self._row_bytes -= found.row_bytes

    def clear(self) -> None:
        """Forget all names."""
        for name in list(self._rows):
            self.drop(name)

    def drop_volumes(self, numbers: Collection[int]) -> None:
        """Forget all names whose bytes are in some volumes."""
        places = [(name, found.row.at) for name, found in self._rows.items()]
        for name, at in places:
            if at is not None and at.volume in numbers:
                self.drop(name)

    def remember_target(self, target: bytes, hot: Hot) -> None:
        """Let a request target lead straight to a blob."""
        if len(self.targets) >= MAX_TARGETS:
            self.targets.clear()
        self.targets[target] = hot

    def has(self, hot: Hot) -> bool:
        """Return whether this very blob is kept here."""
        return self._rows.get(hot.row.name) is hot

    def __len__(self) -> int:
        return len(self._rows)

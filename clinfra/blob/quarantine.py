"""Damaged blobs, kept for whoever wants to know what became of them.

For each a ``.json`` that says what it should have been and where it was, and a
``.bytes`` with what could still be read.  Bounded: when there are too many, what comes
is only logged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from attrs import define, field
from twisted.logger import Logger

from clinfra.blob.records import Row

MAX_ENTRIES = 1000
MAX_BYTES = 256 << 20


@define(eq=False)
class Quarantine:
    """A directory of them.  One thread at a time.

    Args:
        path: made with the first.
    """

    log = Logger()

    path: Path
    _used_bytes: int = field(init=False, default=-1)
    _entries: int = field(init=False, default=0)

    def keep(self, row: Row, why: str, pieces: Iterable[bytes]) -> bool:
        """Keep what is left of a blob; return whether there was room.

        Keeping the same damage twice is keeping it once.

        Args:
            why: a sentence.
            pieces: what can be read; it may end early.
        """
        data = row.data
        if data is None:
            return False
        known = hashlib.blake2b(row.name.encode("utf-8"), digest_size=16)
        known.update(data.modified.to_bytes(8, "big") + data.sha256)
        stem = self.path / known.hexdigest()
        try:
            self._measure()
            if stem.with_suffix(".json").exists():
                return True
            if self._entries >= MAX_ENTRIES or self._used_bytes + data.size > MAX_BYTES:
                self.log.error("no room to keep what is left of {name}", name=row.name)
                return False
            with stem.with_suffix(".bytes").open("wb") as file:
                for piece in pieces:
                    file.write(piece)
                    self._used_bytes += len(piece)
            told = {
                "name": row.name,
                "why": why,
                "modified": data.modified,
                "modified_deleted": row.expiry.modified_deleted,
                "deleted": row.expiry.deleted,
                "size": data.size,
                "sha256": data.sha256.hex(),
            }
            if row.at is not None:
                told |= {"volume": row.at.volume, "offset": row.at.offset}
            stem.with_suffix(".json").write_text(json.dumps(told, indent=1) + "\n")
            self._entries += 1
        except OSError as error:
            self.log.error(
                "cannot keep what is left of {name}: {error}",
                name=row.name,
                error=error,
            )
            return False
        return True

    def _measure(self) -> None:
        if self._used_bytes >= 0:
            return
        self.path.mkdir(parents=True, exist_ok=True)
        sizes = [path.stat().st_size for path in self.path.glob("*.bytes")]
        self._used_bytes, self._entries = sum(sizes), len(sizes)

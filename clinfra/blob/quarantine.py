"""Damaged blobs, kept for whoever wants to know what became of them.

For each a ``.json`` that says what it should have been and where it was, and a
``.bytes`` with what could still be read.  Bounded: when there are too many, what comes
is only logged.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.logger import Logger

from clinfra.blob.records import Data, Row

MAX_ENTRIES = 1000
MAX_BYTES = 256 << 20


@define(eq=False)
class Quarantine:
    """A directory of them.  Any thread.

    Args:
        path: made with the first.

    Attributes:
        entries: how many there are; None until somebody looked.
    """

    log = Logger()

    path: Path
    entries: int | None = field(init=False, default=None)
    _used_bytes: int = field(init=False, default=0)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

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
        with self._lock:
            return self._keep(row, data, why, pieces)

    def _keep(self, row: Row, data: Data, why: str, pieces: Iterable[bytes]) -> bool:
        known = hashlib.blake2b(row.name.encode("utf-8"), digest_size=16)
        known.update(data.modified.to_bytes(8, "big") + data.sha256)
        stem = self.path / known.hexdigest()
        try:
            entries = self._measured()
            if stem.with_suffix(".json").exists():
                return True
            if entries >= MAX_ENTRIES or self._used_bytes + data.size > MAX_BYTES:
                self.log.error("no room to keep what is left of {name}", name=row.name)
                return False
            self.path.mkdir(parents=True, exist_ok=True)
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
            self.entries = entries + 1
        except OSError as error:
            self.log.error(
                "cannot keep what is left of {name}: {error}",
                name=row.name,
                error=error,
            )
            return False
        return True

    def measure(self) -> None:
        """Count what is there."""
        with self._lock:
            self._measured()

    def _measured(self) -> int:
        if self.entries is None:
            sizes = [path.stat().st_size for path in self.path.glob("*.bytes")]
            self.entries, self._used_bytes = len(sizes), sum(sizes)
        return self.entries

    def told(self) -> list[dict[str, Any]]:
        """Return what is known of each of them, the latest first.

        "id" is for `discard`; "found_at" is in unix seconds; "kept" bytes are left.
        """
        found: list[dict[str, Any]] = []
        with self._lock:
            for path in self.path.glob("*.json"):
                try:
                    told = json.loads(path.read_text(encoding="utf-8"))
                    kept = path.with_suffix(".bytes").stat().st_size
                    at = int(path.stat().st_mtime)
                    found.append(
                        {"id": path.stem, "found_at": at, "kept": kept, **told}
                    )
                except (OSError, ValueError, TypeError) as error:
                    self.log.warn("cannot read {path}: {error}", path=path, error=error)
        return sorted(found, key=lambda told: (-told["found_at"], told["id"]))

    def discard(self, identity: str | None) -> int:
        """Delete one of them, or all; return how many that were."""
        with self._lock:
            stems = [path.stem for path in self.path.glob("*.json")]
            gone = [stem for stem in stems if identity in (None, stem)]
            for stem in gone:
                for suffix in (".json", ".bytes"):
                    (self.path / stem).with_suffix(suffix).unlink(missing_ok=True)
            self.entries = None
            self._measured()
        return len(gone)

"""`clinfra blob rebuild-index`: make the index anew from the volumes alone."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TextIO

from attrs import define

from clinfra.blob.datadir import IDENTITY_FILE, DataDirectory
from clinfra.blob.index import IndexDamaged
from clinfra.blob.index_sqlite import SqliteIndex
from clinfra.blob.recovery import Recovery, Summary
from clinfra.blob.store_volume import VolumeStore
from clinfra.errors import StartupFailed
from clinfra.progress import Progress


@define
class Rebuilt:
    """What a rebuild did; prints as one line."""

    summary: Summary
    path: Path

    def __str__(self) -> str:
        found = self.summary
        return (
            f"{self.path}: {found.adopted} records indexed,"
            f" {found.damaged} damaged stretches, {found.torn_bytes} torn bytes"
        )

    def told(self) -> dict[str, object]:
        """Return the same for programs."""
        found = self.summary
        return {
            "index": str(self.path),
            "records": found.adopted,
            "damaged": found.damaged,
            "torn_bytes": found.torn_bytes,
        }


def rebuild_index(data_dir: Path, terminal: TextIO | None = None) -> Rebuilt:
    """Rebuild the blob index of a stopped process; the old one is set aside.

    Args:
        data_dir: of the process, as its configuration says.
        terminal: where to show how far it is.

    Raises:
        StartupFailed: nothing is there, or another process uses it.
    """
    path = data_dir / "blob"
    try:
        owner = (path / IDENTITY_FILE).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise StartupFailed(f"no blob store in {data_dir}: {error}") from error
    directory = DataDirectory(path, owner)
    directory.open()
    try:
        index = SqliteIndex(directory.index)
        store = VolumeStore(directory.store, volume_bytes=1 << 30)
        try:
            index.open()
        except IndexDamaged:
            pass
        index.clear()
        index.close()
        progress = Progress(terminal, "rebuild", None, time.monotonic)
        try:
            summary = Recovery(index, store, progress.tell).run()
        finally:
            progress.end()
            index.close()
            store.close()
    except OSError as error:
        raise StartupFailed(f"cannot rebuild {directory.index}: {error}") from error
    finally:
        directory.close()
    return Rebuilt(summary, directory.index)

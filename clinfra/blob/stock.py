"""Taking stock of a directory of volumes when it is opened.

What is no volume is set aside, never deleted.  A volume whose head is damaged is still
a volume, as long as its name and one good record in it agree: its head is made anew.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

from twisted.logger import Logger

from clinfra.blob import volume
from clinfra.blob.volume import Found, VolumeHead

_ASIDE = "set-aside"
_OURS = ("tmp", _ASIDE)

log = Logger()


def path_of(directory: Path, number: int) -> Path:
    """Return the file of a volume."""
    return directory / f"{number:016x}.volume"


def take_stock(directory: Path) -> Iterator[tuple[VolumeHead, Path, int]]:
    """Yield the head, path and size (bytes) of every volume in a directory."""
    for path in sorted(directory.iterdir()):
        if path.name in _OURS:
            continue
        try:
            number = int(path.stem, 16)
            size = path.stat().st_size
            with path.open("rb") as file:
                head = volume.unpack_volume_head(file.read(volume.VOLUME_HEAD_BYTES))
            if head is None and path == path_of(directory, number):
                head = _mend(number, path, size)
        except (OSError, ValueError):
            head = None
        if head is None or path != path_of(directory, head.number):
            _set_aside(directory, path)
        else:
            yield head, path, size


def _mend(number: int, path: Path, size: int) -> VolumeHead | None:
    """Make the head of a volume anew, by what is in it; None when nothing is."""
    with path.open("r+b") as file:
        records = volume.scan(
            number,
            volume.VOLUME_HEAD_BYTES,
            size,
            lambda offset, length: os.pread(file.fileno(), length, offset),
            check_bodies=False,
        )
        for found in records:
            if isinstance(found, Found) and not found.record.is_void:
                changes = not found.record.has_body
                head = VolumeHead(number, volume.CHANGES_CLASS if changes else 0, 0)
                os.pwrite(file.fileno(), volume.pack_volume_head(head), 0)
                os.fsync(file.fileno())
                log.error("volume {number}: its head is made anew", number=number)
                return head
    return None


def _set_aside(directory: Path, path: Path) -> None:
    """Move what is not ours, or not readable, out of the way."""
    aside = directory / _ASIDE
    try:
        aside.mkdir(exist_ok=True)
        path.rename(aside / f"{path.name}.{time.time_ns()}")
        log.warn("set aside {path}: not a volume", path=str(path))
    except OSError as error:
        log.error("cannot set aside {path}: {error}", path=str(path), error=error)

"""The files of changes that are kept for others (see `handoff`).

A change is NUMBER.body, for a PUT, and NUMBER.json, which makes it valid: it is written
last, and both are durable before anybody hears of them.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from attrs import asdict, define, frozen

from clinfra.blob.records import Data, Expiry, State
from clinfra.blob.replay import PIECE_BYTES, Replay
from clinfra.blob.replica import Write
from clinfra.blob.workers import Workers
from clinfra.errors import StorageFull
from clinfra.web.exchange import FileBody
from clinfra.web.streams import Spooled, write_all


@frozen
class Kept:
    """A change that is kept.

    Attributes:
        method: "PUT" or "DELETE".
        replicate: where it is to travel on to, as it was asked for.
        write: with its stamps and end chosen.
        sha256, size: of its body; None of a DELETE.
        since: when it was kept, unix seconds.
    """

    number: int
    name: str
    method: str
    replicate: str
    write: Write
    sha256: bytes | None
    size: int
    since: float

    @property
    def state(self) -> State:
        """Return what it makes of a blob nothing else is known of."""
        write = self.write
        expiry = Expiry(write.modified_deleted or 0, write.deleted or 0)
        if self.sha256 is None:
            return State(None, expiry)
        modified, kind = write.modified or 0, write.content_type
        return State(Data(modified, self.sha256, self.size, 0, kind), expiry)


@define(eq=False)
class HandoffFiles:
    """A directory of changes.

    Args:
        min_free_bytes: nothing is written when less of the disk would be left.
    """

    directory: Path
    _min_free_bytes: int
    _workers: Workers

    def load(self) -> tuple[list[Kept], list[tuple[Path, Exception]]]:
        """Return what is there in order, and what cannot be read; blocks."""
        kept: list[Kept] = []
        bad: list[tuple[Path, Exception]] = []
        if not self.directory.is_dir():
            return kept, bad
        paths = [path for path in self.directory.iterdir() if path.stem.isdigit()]
        whole = {int(path.stem) for path in paths if path.suffix == ".json"}
        for number in sorted(whole):
            path = self._path(number, "json")
            try:
                kept.append(_kept(number, path))
            except (OSError, ValueError, KeyError, TypeError) as error:
                bad.append((path, error))
        for path in paths:
            if path.suffix != ".json" and int(path.stem) not in whole:
                path.unlink()  # Its change was never answered.
        return kept, bad

    async def add(self, kept: Kept, body: Replay | None) -> None:
        """Write a change down, durably.  Raises StorageFull, OSError."""
        if body is not None:
            await self._add_body(kept.number, body)
        await self._workers.run(self._add_record, kept)

    async def _add_body(self, number: int, body: Replay) -> None:
        path = self._path(number, "body")
        source = body.body()
        fd = await self._workers.run(self._create, path)
        try:
            if isinstance(source, bytes):
                await self._workers.run(write_all, fd, source)
            else:
                while piece := await source.read():
                    await self._workers.run(write_all, fd, piece)
            await self._workers.run(os.fdatasync, fd)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)

    def _create(self, path: Path) -> int:
        self.directory.mkdir(mode=0o700, exist_ok=True)
        disk = os.statvfs(self.directory)
        if disk.f_bavail * disk.f_frsize < self._min_free_bytes:
            raise StorageFull("Not enough space to keep this blob")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        return os.open(path, flags, 0o600)

    def _add_record(self, kept: Kept) -> None:
        part = self._path(kept.number, "part")
        fd = self._create(part)
        try:
            write_all(fd, json.dumps(_told(kept)).encode("ascii"))
            os.fdatasync(fd)
        finally:
            os.close(fd)
        part.rename(self._path(kept.number, "json"))
        for directory in (self.directory, self.directory.parent):
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def remove(self, kept: Kept) -> None:
        """Delete a change; blocks."""
        self._path(kept.number, "json").unlink(missing_ok=True)
        self._path(kept.number, "body").unlink(missing_ok=True)

    async def replay(self, kept: Kept) -> Replay | None:
        """Return a change's body to be sent; None of a DELETE.  Raises OSError."""
        return await self._workers.run(self._replay, kept)

    def _replay(self, kept: Kept) -> Replay | None:
        if kept.sha256 is None:
            return None
        fd = self._open(kept)
        if kept.size <= PIECE_BYTES:
            try:
                return Replay(kept.sha256, os.read(fd, kept.size))
            finally:
                os.close(fd)
        return Replay(kept.sha256, b"", Spooled(fd, kept.size, kept.sha256))

    async def part(self, kept: Kept, offset: int, length: int) -> FileBody:
        """Return a piece of a change's body to be read.  Raises OSError."""
        fd = await self._workers.run(self._open, kept)
        return FileBody(fd, offset, length, lambda: os.close(fd))

    def _open(self, kept: Kept) -> int:
        fd = os.open(self._path(kept.number, "body"), os.O_RDONLY | os.O_CLOEXEC)
        if os.fstat(fd).st_size != kept.size:
            os.close(fd)
            raise OSError(f"the body of {kept.name} is not whole")
        return fd

    def _path(self, number: int, kind: str) -> Path:
        return self.directory / f"{number}.{kind}"


def _told(kept: Kept) -> dict[str, Any]:
    return {
        "name": kept.name,
        "method": kept.method,
        "replicate": kept.replicate,
        "write": asdict(kept.write),
        "sha256": kept.sha256.hex() if kept.sha256 is not None else None,
        "size": kept.size,
        "since": kept.since,
    }


def _kept(number: int, path: Path) -> Kept:
    told = json.loads(path.read_bytes())
    sha256 = told["sha256"]
    return Kept(
        number,
        str(told["name"]),
        str(told["method"]),
        str(told["replicate"]),
        Write(**told["write"]),
        bytes.fromhex(sha256) if sha256 is not None else None,
        int(told["size"]),
        float(told["since"]),
    )

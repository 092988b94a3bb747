"""Which of the files of a name hold the bytes that count.

``aa/bb/NAME`` does, once nobody reads older bytes any more; until then it is a file in
``_versions`` that is called after the name and its digest.  Readers look there first,
so a rename in between harms nobody.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import define, field, frozen
from twisted.logger import Logger

from clinfra.blob import layout
from clinfra.blob.records import Data
from clinfra.blob.store import Entry

VERSIONS = "_versions"

GRACE_SECONDS = 60.0
"""How long bytes that count no more are kept for those who still read them."""

MAX_PENDING = 65536
MAX_REMEMBERED = 65536


@frozen
class Pending:
    """What is to be tidied up for a name.

    Attributes:
        due: when, unix seconds.
        current: digest of the bytes that count; None when the name is forgotten.
        stale: digests of bytes that count no more.
    """

    due: float
    current: bytes | None
    stale: tuple[bytes, ...]


@define(eq=False)
class Versions:
    """The files of one directory.

    Changes are made in the writer thread, or before there is one.
    """

    log = Logger()

    _path: Path
    _pending: OrderedDict[str, Pending] = field(init=False, factory=OrderedDict)
    _named: OrderedDict[str, bytes] = field(init=False, factory=OrderedDict)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def __len__(self) -> int:
        """Return how many names are to be tidied up after."""
        return len(self._pending)

    def plain(self, name: str) -> Path:
        """Return where the bytes of a name belong."""
        return self._path / layout.path_of(name)

    def version(self, name: str, sha256: bytes) -> Path:
        """Return where just these bytes of a name wait."""
        return self._path / VERSIONS / layout.version_of(name, sha256)

    # Changes

    def pending(self, name: str) -> Pending | None:
        """Return what is to be tidied up for a name."""
        return self._pending.get(name)

    def expect(self, entry: Entry, now: float, *, kept: bool = False) -> None:
        """Note what there will be to tidy up once an entry's record counts.

        Args:
            kept: its bytes are where they were.
        """
        name, before = entry.name, self._pending.get(entry.name)
        stale = before.stale if before is not None else ()
        if before is not None and before.current is not None:
            stale = (*stale, before.current)
        if entry.dropped is not None:
            stale = (*stale, entry.dropped.sha256)
            pending = Pending(now + GRACE_SECONDS, None, stale)
        elif entry.body is not None and not kept:
            sha256 = data_of(entry).sha256
            pending = Pending(now + GRACE_SECONDS, sha256, stale)
        else:
            return
        self._pending[name] = pending
        self._pending.move_to_end(name)

    def take_back(self, name: str, pending: Pending | None) -> None:
        """Make it again what it was before `expect`."""
        self._pending.pop(name, None)
        if pending is not None:
            self._pending[name] = pending

    def tend(self, now: float, limit: int | None = None) -> None:
        """Tidy up what nobody reads any more."""
        while self._pending and limit != 0:
            name, pending = next(iter(self._pending.items()))
            if pending.due > now and len(self._pending) <= MAX_PENDING:
                return
            self._tidy(name)
            if limit is not None:
                limit -= 1

    def tend_all(self) -> None:
        """Tidy up everything: nobody reads."""
        for name in list(self._pending):
            self._tidy(name)

    def _tidy(self, name: str) -> None:
        """Give the bytes that count their proper name; delete the others."""
        pending = self._pending.pop(name)
        try:
            for sha256 in pending.stale:
                if sha256 != pending.current:
                    self.version(name, sha256).unlink(missing_ok=True)
            self.settle(name, pending.current)
        except OSError as error:
            self.log.error(
                "cannot tidy up after {name}: {error}", name=name, error=error
            )

    def settle(self, name: str, sha256: bytes | None) -> None:
        """Let a name's one file be that of the bytes that count, or none."""
        path = self.plain(name)
        if sha256 is None:
            path.unlink(missing_ok=True)
            return
        version = self.version(name, sha256)
        if version.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            version.rename(path)
        self.remember(name, sha256)

    def remember(self, name: str, sha256: bytes) -> None:
        """Note which bytes have the name."""
        with self._lock:
            self._named[name] = sha256
            if len(self._named) > MAX_REMEMBERED:
                self._named.popitem(last=False)

    def waiting(self) -> dict[str, int]:
        """Return file → inode of versions that nobody is about to tidy up."""
        about = {
            layout.version_of(name, sha256)
            for name, pending in self._pending.items()
            for sha256 in (*pending.stale, pending.current)
            if sha256 is not None
        }
        with os.scandir(self._path / VERSIONS) as found:
            return {each.name: each.inode() for each in found if each.name not in about}

    def delete(self, files: Mapping[str, int]) -> None:
        """Delete versions that count for nothing, unless they were made anew."""
        waiting = self.waiting()
        for name, inode in files.items():
            if waiting.get(name) != inode:
                continue
            try:
                (self._path / VERSIONS / name).unlink()
            except OSError as error:
                self.log.error("cannot delete {file}: {error}", file=name, error=error)

    # Reading: any thread

    def open(self, name: str, data: Data) -> int:
        """Open just these bytes of a name.  Raises LookupError."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            fd = os.open(self.version(name, data.sha256), flags)
        except FileNotFoundError:
            try:
                fd = os.open(self.plain(name), flags)
            except OSError:
                raise LookupError(name) from None
            with self._lock:
                named = self._named.get(name, data.sha256)
            if named != data.sha256:
                os.close(fd)
                raise LookupError(name) from None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != data.size:
            os.close(fd)
            raise LookupError(name)
        return fd

    def names(self) -> Iterator[str]:
        """Yield the names that have a file; whether it counts, the index knows."""
        for first in sorted(self._path.glob("[0-9a-f][0-9a-f]")):
            for directory, _, files in os.walk(first):
                for file in files:
                    path = os.path.relpath(os.path.join(directory, file), self._path)
                    name = layout.name_of(path)
                    if name is not None:
                        yield name


def data_of(entry: Entry) -> Data:
    """Return the data register of an entry that has a body."""
    if entry.state.data is None:
        raise ValueError("a body without a data register")
    return entry.state.data

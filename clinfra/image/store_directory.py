"""Blobs as files of a plain directory: `image.blob_url = "file:///DIRECTORY"`.

Each blob is one file, two directories deep by the hash of its name; expiry, type and
digest are an extended attribute of it.  So bytes and attribute appear, are replaced and
go as one, and whatever else looks at the directory sees pictures.  A file that came
here without the attribute never expires.

Several processes of a machine may share a directory.

# Note [Replacing and removing]
New files are written elsewhere and renamed into place.  Who renames or removes holds a
lock on the directory in question: so what the sweep found to have expired is not
removed after it was replaced.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar
from urllib.parse import quote

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.errors import (
    InvalidRequest,
    NotFound,
    StartupFailed,
    StorageDamaged,
    StorageFull,
)
from clinfra.image import store_names
from clinfra.image.store_names import Kept
from clinfra.interfaces import BlobInfo, IBlobs
from clinfra.web.streams import write_all

P = ParamSpec("P")
T = TypeVar("T")

ATTRIBUTE: Final = "user.clinfra"
INCOMING: Final = "incoming"
"""Where files are written before they have their names."""

_NOT_FOUND = "There is no such blob."
_LONGEST_FILE_NAME = 255
_ABANDONED_SECONDS = 3600
_SWEEP_SECONDS = 3600.0
_PAUSE_SECONDS = 0.05
"""Between two directories of a sweep."""

_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


@define(eq=False)
class Directory:
    """The files; everything here waits for the disk.

    Args:
        now: returns unix seconds.
    """

    path: Path
    _now: Callable[[], float] = time.time
    _made: set[Path] = field(init=False, factory=set)

    def open(self) -> None:
        """Make the directory, and see that it can do what is needed.

        Raises errors.StartupFailed.
        """
        try:
            self._incoming.mkdir(parents=True, exist_ok=True)
            with self._new_file() as (descriptor, _):
                os.setxattr(descriptor, ATTRIBUTE, b"{}")
        except OSError as error:
            reason = error.strerror
            if error.errno == errno.ENOTSUP:
                reason = "its file system keeps no extended attributes"
            raise StartupFailed(
                f"image.blob_url: cannot use {self.path}: {reason}"
            ) from error

    def put(
        self, stored: str, body: bytes, ttl_seconds: int | None, kind: str | None
    ) -> BlobInfo:
        """Write a blob; it is on the disk when this returns."""
        place = self._place(stored)
        kept = Kept.of(
            stored,
            hashlib.sha256(body).hexdigest(),
            now=self._now(),
            ttl_seconds=ttl_seconds,
            content_type=kind,
        )
        with self._new_file() as (descriptor, written):
            write_all(descriptor, body)
            os.setxattr(descriptor, ATTRIBUTE, kept.to_json())
            os.fsync(descriptor)
            self._make(place.parent)
            with _locked(place.parent) as directory:
                written.rename(place)
                os.fsync(directory)
        return kept.info(stored, len(body))

    def get(self, stored: str) -> tuple[BlobInfo, bytes]:
        """Read a blob.  Raises NotFound, StorageDamaged."""
        with self._file(stored) as file:
            kept = _kept(file.fileno())
            if kept is not None and kept.is_over(self._now()):
                raise NotFound(_NOT_FOUND)
            body = file.readall()
            sha256 = hashlib.sha256(body).hexdigest()
            if kept is None:
                kept = self._guessed(stored, file.fileno(), sha256)
            elif kept.sha256 != sha256:
                raise StorageDamaged("The bytes on the disk are not those stored.")
        return kept.info(stored, len(body)), body

    def info(self, stored: str) -> BlobInfo:
        """Return what is known of a blob.  Raises NotFound."""
        with self._file(stored) as file:
            kept = _kept(file.fileno())
            if kept is None:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                kept = self._guessed(stored, file.fileno(), sha256)
            if kept.is_over(self._now()):
                raise NotFound(_NOT_FOUND)
            return kept.info(stored, os.fstat(file.fileno()).st_size)

    def delete(self, stored: str) -> BlobInfo:
        """Remove a blob, if it is there."""
        place = self._place(stored)
        with suppress(FileNotFoundError), _locked(place.parent) as directory:
            place.unlink()
            os.fsync(directory)
        return store_names.deleted(stored, self._now())

    def leaves(self) -> Iterator[list[Path]]:
        """Yield the directories that have files, a few at a time."""
        yield from (
            _subdirectories(branch)
            for branch in _subdirectories(self.path)
            if branch.name != INCOMING
        )

    def sweep(self, leaf: Path) -> int:
        """Remove what has expired in one directory; return how many files that was."""
        expired = [file for file in leaf.iterdir() if self._is_over(file)]
        if not expired:
            return 0
        with _locked(leaf):
            # See Note [Replacing and removing].
            over = [file for file in expired if self._is_over(file)]
            for file in over:
                file.unlink(missing_ok=True)
        return len(over)

    def sweep_incoming(self) -> None:
        """Remove what was begun long ago by processes that ended in the middle."""
        for file in self._incoming.iterdir():
            with suppress(FileNotFoundError):
                if file.stat().st_mtime < self._now() - _ABANDONED_SECONDS:
                    file.unlink()

    def _is_over(self, file: Path) -> bool:
        try:
            kept = _kept(file)
        except FileNotFoundError:
            return False
        return kept is not None and kept.is_over(self._now())

    @property
    def _incoming(self) -> Path:
        return self.path / INCOMING

    def _place(self, stored: str) -> Path:
        """Return the file of a blob; its name has no slash and no dot in front.

        Raises InvalidRequest.
        """
        name = quote(store_names.check(stored), safe="!~+,=@")
        if len(name) > _LONGEST_FILE_NAME:
            raise InvalidRequest("Name is too long for a file")
        digest = hashlib.sha256(stored.encode()).hexdigest()
        return self.path / digest[:2] / digest[2:4] / name

    def _file(self, stored: str) -> FileIO:
        try:
            return FileIO(self._place(stored))
        except FileNotFoundError:
            raise NotFound(_NOT_FOUND) from None

    def _make(self, leaf: Path) -> None:
        """Make a directory that lasts."""
        leaf.mkdir(parents=True, exist_ok=True)
        if leaf not in self._made:
            for directory in (leaf.parent, self.path):
                with _opened(directory) as descriptor:
                    os.fsync(descriptor)
            self._made.add(leaf)

    @contextmanager
    def _new_file(self) -> Iterator[tuple[int, Path]]:
        """Open a new file, which is removed unless it was renamed."""
        path = self._incoming / secrets.token_hex(16)
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o666)
        try:
            yield descriptor, path
        finally:
            os.close(descriptor)
            path.unlink(missing_ok=True)

    def _guessed(self, stored: str, descriptor: int, sha256: str) -> Kept:
        """Return what can be told of a file that came without attribute."""
        modified = os.fstat(descriptor).st_mtime
        return Kept.of(
            stored, sha256, now=modified, ttl_seconds=None, content_type=None
        )


def _kept(file: int | Path) -> Kept | None:
    try:
        return Kept.from_json(os.getxattr(file, ATTRIBUTE))
    except ValueError:
        return None
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _locked(directory: Path) -> Iterator[int]:
    with _opened(directory) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor


def _subdirectories(directory: Path) -> list[Path]:
    with os.scandir(directory) as entries:
        return [Path(each) for each in entries if each.is_dir(follow_symlinks=False)]


@implementer(IBlobs)
@define(eq=False)
class DirectoryStore:
    """Blobs in a directory, for a reactor; files are read and written by threads.

    Args:
        reactor: Twisted's.
    """

    log = Logger()

    _files: Directory
    _reactor: Any = field(kw_only=True)
    _sweeping: Deferred[None] = field(init=False, factory=lambda: succeed(None))

    def open(self) -> None:
        """See that the directory can be used, before the reactor runs; sweep later.

        Raises errors.StartupFailed.
        """
        self._files.open()
        self._reactor.callWhenRunning(self._start)

    def _start(self) -> None:
        self._sweeping = Deferred.fromCoroutine(self._sweep())
        self._sweeping.addErrback(lambda failure: failure.trap(CancelledError))

    def close(self) -> Deferred[None]:
        """Sweep no more."""
        self._sweeping.cancel()
        return succeed(None)

    async def encode(self, name: str) -> str:
        """Return the stored name of a plain name."""
        return store_names.encode(name)

    async def put(
        self,
        name: str,
        body: bytes,
        *,
        ttl_seconds: int | None = None,
        content_type: str | None = None,
        encoded: bool = False,
    ) -> BlobInfo:
        """Keep a body durably.  Raises errors.StorageFull."""
        stored = name if encoded else store_names.encode(name)
        return await self._do(self._files.put, stored, body, ttl_seconds, content_type)

    async def get(self, name: str) -> tuple[BlobInfo, bytes]:
        """Return a blob whole.  Raises errors.NotFound, errors.StorageDamaged."""
        return await self._do(self._files.get, name)

    async def info(self, name: str) -> BlobInfo:
        """Return what is known of a blob.  Raises errors.NotFound."""
        return await self._do(self._files.info, name)

    async def delete(self, name: str) -> BlobInfo:
        """Delete at once."""
        return await self._do(self._files.delete, name)

    async def _do(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Work in a thread; troubles of the disk become those of a store."""
        try:
            return await self._in_thread(work, *args, **kwargs)
        except OSError as error:
            self.log.error(
                "image.blob_url: {path}: {error}",
                path=error.filename or str(self._files.path),
                error=error.strerror,
            )
            if error.errno in _FULL:
                raise StorageFull("There is no room for what was sent.") from error
            raise StorageDamaged("The directory of blobs cannot be used.") from error

    async def _in_thread(
        self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        threads = self._reactor.getThreadPool()
        result: T = await deferToThreadPool(
            self._reactor, threads, work, *args, **kwargs
        )
        return result

    async def _sweep(self) -> None:
        """Remove what has expired, round after round, a directory at a time."""
        while True:
            removed = 0
            try:
                branches = self._files.leaves()
                while (
                    leaves := await self._in_thread(next, branches, None)
                ) is not None:
                    for leaf in leaves:
                        removed += await self._in_thread(self._files.sweep, leaf)
                        await deferLater(self._reactor, _PAUSE_SECONDS)
                await self._in_thread(self._files.sweep_incoming)
            except OSError as error:
                self.log.error(
                    "cannot sweep {path}: {error}",
                    path=error.filename,
                    error=error.strerror,
                )
            if removed:
                self.log.info("{removed} blobs had expired", removed=removed)
            await deferLater(self._reactor, _SWEEP_SECONDS)

"""Taking over the data directory of an original replica, in place.

The original keeps ``aa/bb/NAME`` (see `layout`), ``_tmp/STAMP.TIME`` while a body comes
in, ``_replica`` with its name, and an SQLite index that knows stamps but neither sizes
nor digests.  The files stay where they are: each is read once, to know its digest, and
becomes a record and a row of ours.  An interrupted take-over goes on where it was.

Nothing is guessed and nothing is deleted.  A row without its file becomes one without
data, for a peer to mend.  A file in ``_tmp`` counts only when it must be the bytes of a
row: the one with its stamp, alone, whose own file is missing or older than the stamp.
All others are set aside; the original gave them to any blob of that stamp, whole or
not, and did not start at all when one had a strange name.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from attrs import asdict, define, field, frozen
from twisted.logger import Logger

from clinfra.blob import layout, names
from clinfra.blob.commit import Call, Committer, Job, Plan
from clinfra.blob.merge import merge
from clinfra.blob.records import BYTES, CLUSTERS, PEERS, Data, Expiry, Row, State
from clinfra.blob.stamps import LIMIT, seconds_of
from clinfra.blob.store_files import KeptFile
from clinfra.blob.store_volume import sync_directory
from clinfra.errors import InvalidRequest, StartupFailed

IDENTITY = "_replica"
TEMPORARY = "_tmp"
INDEX = "_index"
SET_ASIDE = "_set-aside"
DONE = "taken-over.json"

_PAGE = 500
_OTHER_DEPTHS = (1, 3, 4)
_SKEW_SECONDS = 300
_PROGRESS_SECONDS = 10.0
_READ_BYTES = 1 << 20

_Body = tuple[bytes, int, int]
"""SHA-256, CRC-32 and size."""


@define
class TakenOver:
    """What was found.

    Attributes:
        blobs: with their bytes.
        bytes: of them.
        deletes: of names without bytes.
        missing: rows whose file is not there, or cannot be read.
        refused: rows with names that could do harm.
        completed: files in ``_tmp`` that were the bytes of a row.
        set_aside: the others.
    """

    blobs: int = 0
    bytes: int = 0
    deletes: int = 0
    missing: int = 0
    refused: int = 0
    completed: int = 0
    set_aside: int = 0


@frozen
class _Found:
    """A row of the original's index."""

    number: int
    name: str
    modified: int | None
    expiry: Expiry


@define(eq=False)
class TakeOver:
    """Takes over one directory.

    Args:
        path: of the original's files.
        database: its index.
        replica: who we are.
        committer: loaded, and nobody else's.
        done: is made when everything is taken over.
    """

    log = Logger()

    path: Path
    database: Path
    replica: str
    committer: Committer
    done: Path
    taken: TakenOver = field(init=False, factory=TakenOver)
    _uploads: dict[int, list[Path]] = field(init=False, factory=dict)
    _told: float = field(init=False, default=0.0)

    def run(self) -> TakenOver | None:
        """Take over; None when that was done before.  Raises StartupFailed."""
        if self.done.exists():
            return None
        self._check_identity()
        self.log.info(
            "taking over {path}, the original's; every file is read once",
            path=str(self.path),
        )
        try:
            uri = f"{self.database.absolute().as_uri()}?mode=rw"
            with closing(sqlite3.connect(uri, uri=True)) as index:
                index.text_factory = bytes
                self._check_depth(index)
                self._take(index)
            for upload in self._all_uploads():
                self._set_aside(upload)
            self._finish()
        except (OSError, sqlite3.Error) as error:
            raise StartupFailed(
                f"cannot take over {self.path} with {self.database}: {error}"
            ) from error
        return self.taken

    def _check_identity(self) -> None:
        try:
            owner = (self.path / IDENTITY).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise StartupFailed(
                f"{self.path} does not say whose it is: {error}"
            ) from error
        if owner != self.replica:
            raise StartupFailed(
                f"{self.path} belongs to replica {owner}, not to {self.replica}"
            )

    def _check_depth(self, index: sqlite3.Connection) -> None:
        """Raise StartupFailed when its files are not as deep as ours will be.

        Else every blob would seem to be missing.
        """
        rows = index.execute(
            "SELECT name FROM blob WHERE modified IS NOT NULL LIMIT ?", (_PAGE,)
        )
        for (raw,) in rows:
            name = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else ""
            plain = layout.path_of(name)
            if "/" in name or (self.path / plain).exists():
                continue
            digest = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()
            for depth in _OTHER_DEPTHS:
                pairs = (digest[at : at + 2] for at in range(0, 2 * depth, 2))
                if self.path.joinpath(*pairs, name).is_file():
                    raise StartupFailed(
                        f"{self.path} was written with store.disk.path_depth {depth};"
                        " only 2, the default, can be taken over"
                    )

    # Rows

    def _take(self, index: sqlite3.Connection) -> None:
        unsent = dict(_unsent(index))
        for upload in self._all_uploads():
            text = upload.name.partition(".")[0]
            if text.isascii() and text.isdigit():
                self._uploads.setdefault(int(text), []).append(upload)
        for stamp in list(self._uploads):
            if stamp >= LIMIT or _rows_of(index, stamp) != 1:
                del self._uploads[stamp]
        with ThreadPoolExecutor(os.cpu_count()) as readers:
            for rows in self._pages(index):
                self._take_page(rows, unsent, readers)
                self._tell()

    def _pages(self, index: sqlite3.Connection) -> Iterator[list[_Found]]:
        """Yield the rows whose names are good, by their number."""
        after = -(1 << 63)
        while True:
            raw = index.execute(
                "SELECT rowid, name, modified, deleted, modified_deleted FROM blob"
                " WHERE rowid > ? ORDER BY rowid LIMIT ?",
                (after, _PAGE),
            ).fetchall()
            if not raw:
                return
            after = raw[-1][0]
            yield [found for found in map(self._checked, raw) if found is not None]

    def _checked(self, raw: Sequence[object]) -> _Found | None:
        number, name, modified, deleted, modified_deleted = raw
        try:
            if not isinstance(name, bytes):
                raise InvalidRequest("Name must be UTF-8 safe")
            text = name.decode("utf-8")
            names.check(text)
            names.check_harmless(text)
        except (UnicodeDecodeError, InvalidRequest) as error:
            self.taken.refused += 1
            self.log.error(
                "the original's blob {name} is left behind: {error}",
                name=repr(name),
                error=error,
            )
            return None
        stamp = _stamp(modified)
        expiry = Expiry(_stamp(modified_deleted) or stamp or 0, _whole(deleted) or 0)
        return _Found(_whole(number) or 0, text, stamp, expiry)

    def _take_page(
        self,
        rows: Sequence[_Found],
        unsent: Mapping[int, int],
        readers: ThreadPoolExecutor,
    ) -> None:
        known = self.committer.index.get_many([found.name for found in rows])
        new = [found for found in rows if not _is_known(found, known.get(found.name))]
        for found in new:
            if found.modified in self._uploads:
                self._complete(found, found.modified)
        bodies = list(readers.map(self._digests, new))
        jobs: list[Job | Call] = []
        for found, body in zip(new, bodies, strict=True):
            if found.modified is None:
                self.taken.deletes += 1
            elif body is None:
                self.taken.missing += 1
                self.log.error("the bytes of {name} are missing", name=found.name)
            else:
                self.taken.blobs += 1
                self.taken.bytes += body[2]
            jobs.append(_job(found, body, unsent.get(found.number, 0)))
        self.committer.run(jobs)
        for job in jobs:
            if job.error is not None:
                raise StartupFailed(f"cannot take over {self.path}: {job.error}")

    def _digests(self, found: _Found) -> _Body | None:
        """Read a file; None when it is not there.  Any thread."""
        if found.modified is None:
            return None
        sha256, crc32, size = hashlib.sha256(), 0, 0
        try:
            path = self.path / layout.path_of(found.name)
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with open(fd, "rb", buffering=0) as file:
                while piece := file.read(_READ_BYTES):
                    sha256.update(piece)
                    crc32 = zlib.crc32(piece, crc32)
                    size += len(piece)
        except OSError:
            return None
        return sha256.digest(), crc32, size

    def _tell(self) -> None:
        now = time.monotonic()
        if now - self._told > _PROGRESS_SECONDS:
            self._told = now
            self.log.info(
                "{blobs} blobs, {bytes} bytes taken over so far",
                blobs=self.taken.blobs,
                bytes=self.taken.bytes,
            )

    # Uploads that were under way

    def _all_uploads(self) -> list[Path]:
        directory = self.path / TEMPORARY
        return sorted(directory.iterdir()) if directory.is_dir() else []

    def _complete(self, found: _Found, stamp: int) -> None:
        """Give a row the bytes that wait for it, if these can be no others."""
        uploads = self._uploads.pop(stamp)
        if len(uploads) != 1 or not uploads[0].is_file() or uploads[0].is_symlink():
            return
        upload, path = uploads[0], self.path / layout.path_of(found.name)
        if path.exists():
            written = path.stat().st_mtime
            if written > seconds_of(stamp) - _SKEW_SECONDS or _begins(path, upload):
                return  # a repeat of what is there
            self._set_aside(path)
            self.taken.set_aside -= 1
        with upload.open("rb") as file:
            os.fsync(file.fileno())
        path.parent.mkdir(parents=True, exist_ok=True)
        upload.rename(path)
        for directory in (path.parent, path.parent.parent, self.path):
            sync_directory(directory)
        self.taken.completed += 1
        self.log.info("completed {name} with {upload}", name=found.name, upload=upload)

    def _set_aside(self, path: Path) -> None:
        aside = self.path / SET_ASIDE
        try:
            aside.mkdir(exist_ok=True)
            path.rename(aside / f"{path.name[:200]}.{time.time_ns()}")
        except OSError as error:
            self.log.error("cannot set aside {path}: {error}", path=path, error=error)
            return
        self.taken.set_aside += 1
        self.log.warn("set aside {path}", path=path)

    def _finish(self) -> None:
        self.committer.index.sync()
        new = self.done.with_suffix(".new")
        with new.open("w", encoding="utf-8") as file:
            json.dump({"path": str(self.path), **asdict(self.taken)}, file)
            file.flush()
            os.fsync(file.fileno())
        new.rename(self.done)
        sync_directory(self.done.parent)


def _unsent(index: sqlite3.Connection) -> Iterator[tuple[int, int]]:
    """Yield numbers of rows that somebody has not had yet, and who (see `Row`)."""
    tables = {name for (name,) in index.execute("SELECT name FROM sqlite_master")}
    fanouts: dict[int, int] = {}
    for table, who in (("replica_event", PEERS), ("cluster_event", CLUSTERS)):
        if table.encode() in tables:
            for (number,) in index.execute(f"SELECT blob FROM {table}"):
                if isinstance(number, int):
                    fanouts[number] = fanouts.get(number, 0) | who | BYTES
    yield from fanouts.items()


def _rows_of(index: sqlite3.Connection, stamp: int) -> int:
    if stamp >= LIMIT >> 1:
        return 0
    query = "SELECT count(*) FROM blob WHERE modified = ?"
    return int(index.execute(query, (stamp,)).fetchone()[0])


def _is_known(found: _Found, row: Row | None) -> bool:
    """Return whether a row was taken over before."""
    if row is None or row.expiry.modified_deleted < found.expiry.modified_deleted:
        return False
    if found.modified is None:
        return True
    return row.data is not None and row.data.modified >= found.modified


def _job(found: _Found, body: _Body | None, fanout: int) -> Job:
    data = None
    if found.modified is not None and body is not None:
        sha256, crc32, size = body
        data = Data(found.modified, sha256, size, crc32)

    def plan(row: Row | None) -> Plan | None:
        known = row.state if row is not None else None
        merged = merge(known, State(data, found.expiry))
        if not (merged.data_won or merged.expiry_won):
            return None
        kept = None
        if merged.data_won and data is not None:
            kept = KeptFile(data.sha256, data.crc32, data.size)
        return Plan(merged.state, kept, fanout=fanout)

    return Job(found.name, plan)


def _begins(path: Path, upload: Path) -> bool:
    """Return whether an upload is how a file begins, or all of it."""
    with path.open("rb") as whole, upload.open("rb") as part:
        while piece := part.read(_READ_BYTES):
            if whole.read(len(piece)) != piece:
                return False
    return True


def _whole(number: object) -> int | None:
    return number if isinstance(number, int) else None


def _stamp(number: object) -> int | None:
    return number if isinstance(number, int) and 0 <= number < LIMIT else None

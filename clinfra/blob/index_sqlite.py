"""The index in one SQLite file with a write-ahead log and one writer.

Commits are not synced one by one (``synchronous = NORMAL``): what a dying machine takes
from the end of the log, whole transactions in order, recovery reads again from the
store.  `sync` makes the log durable when that matters.

What a row is in SQL is in `sqlite_rows`; who only reads is in `sqlite_reading`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
from attrs import define, field
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.blob.generations import Generations
from clinfra.blob.index import Batch, IBlobIndex, IndexDamaged, VolumeMark
from clinfra.blob.records import Parked, Row
from clinfra.blob.sqlite_reading import SqliteReading
from clinfra.blob.sqlite_rows import (
    IS_DROPPED,
    LEAF_INDEX,
    NO_LEAF_INDEX,
    NOT_DROPPED,
    NOTE,
    PARK,
    PARKED,
    REPLACE,
    SCHEMA,
    SELECT,
    VERSION,
    bounds,
    columns_of,
)
from clinfra.blob.stamps import from_signed, to_signed
from clinfra.errors import StorageFull

_LOG_PAGES = 4096
"""Length of the log at which it is copied into the file: pages that change again and
again, as most do, are copied (and synced) once for many commits."""


@implementer(IBlobIndex)
@define(eq=False)
class SqliteIndex(SqliteReading):
    """Rows in an SQLite file at `path`.

    Args:
        by_leaf: rows can be found by leaf quickly, for comparing with other replicas;
            costs each write a page somewhere, which a replica alone can do without.
        generations: told of every change, for those who read in other processes.
    """

    log = Logger()

    by_leaf: bool = True
    generations: Generations | None = None
    _writer: sqlite3.Connection | None = field(init=False, default=None)
    _is_full: bool = field(init=False, default=False)

    # Opening and closing

    def open(self) -> None:
        """Open the file, or make it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        log = Path(f"{self.path}-wal")
        clean = not (log.exists() and log.stat().st_size)
        try:
            self._writer = self._connect()
            version = self._writer.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._create(self._writer)
            elif version != VERSION:
                raise IndexDamaged(f"{self.path} is of version {version}")
            self._writer.execute(LEAF_INDEX if self.by_leaf else NO_LEAF_INDEX)
            self._writer.executescript(PARKED)
            self._writer.execute(SELECT + "LIMIT 1").fetchone()
            self._dropped = frozenset()
            self._note_dropped(self.marks())
            self.last_seq()
            if not clean:
                # Whatever ended the last run may have hurt it: 0.6 s a million rows.
                (verdict,) = self._writer.execute("PRAGMA quick_check(1)").fetchone()
                if verdict != "ok":
                    raise IndexDamaged(f"{self.path}: {verdict}")
        except (sqlite3.DatabaseError, TypeError) as error:
            self.close()
            raise IndexDamaged(f"{self.path}: {error}") from error

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA cache_size = -16384")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        return connection

    def _create(self, writer: sqlite3.Connection) -> None:
        writer.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT")
        fd = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Close every connection."""
        super().close()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def clear(self) -> None:
        """Set the file aside and begin anew."""
        self.close()
        when = time.time_ns()
        for suffix in ("", "-wal", "-shm"):
            old = Path(f"{self.path}{suffix}")
            if old.exists():
                old.rename(f"{self.path}.aside.{when}{suffix}")
        self.open()

    # Writing: the writer thread

    @property
    def connection(self) -> sqlite3.Connection:
        """The one that writes."""
        if self._writer is None:
            raise RuntimeError("the index is closed")
        return self._writer

    def apply(self, batch: Batch, also: Callable[[], object] | None = None) -> None:
        """Apply changes in one transaction; `also` is called in it."""
        if self._is_full:
            # Once there is space again, it is for what the log holds already.
            self._copy_log()
        try:
            self._apply(batch, also)
        except StorageFull:
            self._is_full = True
            raise

    def _apply(self, batch: Batch, also: Callable[[], object] | None) -> None:
        writer = self.connection
        try:
            writer.execute("BEGIN IMMEDIATE")
            if also is not None:
                also()
            if batch.rows:
                writer.executemany(REPLACE, map(columns_of, batch.rows))
            seq = max((row.seq for row in batch.rows), default=0)
            if seq or batch.seq:
                writer.execute(
                    "UPDATE counter SET value = max(value, ?) WHERE name = 'seq'",
                    (max(seq, batch.seq),),
                )
            if batch.forget:
                writer.executemany(
                    "DELETE FROM blob WHERE name = ?",
                    ((name,) for name in batch.forget),
                )
            for number, mark in batch.marks.items():
                if mark is None:
                    writer.execute("DELETE FROM volume WHERE number = ?", (number,))
                else:
                    writer.execute(
                        "INSERT OR REPLACE INTO volume VALUES (?, ?, ?, ?, ?, ?, ?)",
                        (number, *attrs.astuple(mark)),
                    )
            for destination, cursor in batch.cursors.items():
                if cursor is None:
                    for table in ("cursor", "parked"):
                        writer.execute(
                            f"DELETE FROM {table} WHERE destination = ?", (destination,)
                        )
                else:
                    writer.execute(
                        "INSERT OR REPLACE INTO cursor VALUES (?, ?)",
                        (destination, cursor),
                    )
            self._park(writer, batch)
            writer.executemany("DELETE FROM note WHERE key = ?", zip(batch.notes))
            writer.executemany(NOTE, batch.notes.items())
            writer.execute("COMMIT")
        except BaseException as error:
            if writer.in_transaction:
                writer.execute("ROLLBACK")
            if (
                isinstance(error, sqlite3.OperationalError)
                and error.sqlite_errorcode == sqlite3.SQLITE_FULL
            ):
                raise StorageFull("Not enough space to note this") from error
            raise
        self._note_dropped(batch.marks)
        if self.generations is not None:
            self.generations.applied(batch, also is not None)

    def _note_dropped(self, marks: Mapping[int, VolumeMark | None]) -> None:
        new = {number for number, mark in marks.items() if mark and mark.dropped}
        if new or self._dropped & marks.keys():
            self._dropped = self._dropped - marks.keys() | new

    def _park(self, writer: sqlite3.Connection, batch: Batch) -> None:
        if batch.parked:
            writer.executemany(PARK, map(attrs.astuple, batch.parked))
        if batch.taken_up:
            writer.executemany(
                "DELETE FROM parked WHERE destination = ? AND name = ?", batch.taken_up
            )
        for destination, since in batch.due.items():
            writer.execute(
                "UPDATE parked SET until = 0 WHERE destination = ? AND since >= ?",
                (destination, since),
            )

    def sync(self) -> None:
        """Sync the log, and copy it into the file as far as readers let it."""
        if self._writer is None:
            return
        fd = os.open(f"{self.path}-wal", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        self._copy_log()

    def _copy_log(self) -> None:
        if self._writer is None:
            return
        try:
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            self._is_full = False
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_FULL:
                raise

    # Reading: any thread

    def last_seq(self) -> int:
        """Return the highest change sequence number ever applied."""
        found = self._reader().execute("SELECT value FROM counter WHERE name = 'seq'")
        return int(found.fetchone()[0])

    def changes(
        self, after: int, limit: int, fanout: int | None = None
    ) -> Sequence[Row]:
        """Return rows by change number."""
        which, bits = ("", ()) if fanout is None else ("AND fanout & ? ", (fanout,))
        where = f"WHERE seq > ? {which}ORDER BY seq LIMIT ?"
        return self._rows(where, after, *bits, limit)

    def count_changes(self, after: int) -> int:
        """Return how many rows have a higher change number."""
        asked = "SELECT count(*) FROM blob WHERE seq > ?"
        return int(self._reader().execute(asked, (after,)).fetchone()[0])

    def expired(self, before: int, after: tuple[int, str], limit: int) -> Sequence[Row]:
        """Return rows that ended before a time."""
        return self._rows(
            "WHERE deleted <> 0 AND deleted < ? AND (deleted, name) > (?, ?)"
            f" AND {NOT_DROPPED} ORDER BY deleted, name LIMIT ?",
            *(before, *after, limit),
        )

    def left_behind(self, since: int, limit: int) -> Sequence[Row]:
        """Return rows that point at dropped volumes."""
        return self._rows(
            f"INDEXED BY blob_deleted WHERE deleted <> 0 AND deleted >= ?"
            f" AND {IS_DROPPED} ORDER BY deleted, name LIMIT ?",
            *(since, limit),
        )

    def names_after(self, name: str, limit: int) -> Sequence[Row]:
        """Return rows in order of name."""
        return self._rows("WHERE name > ? ORDER BY name LIMIT ?", name, limit)

    def leaves(
        self, first: int, last: int, after: tuple[int, str], limit: int
    ) -> Sequence[Row]:
        """Return rows of leaves, by (leaf, name)."""
        return self._rows(
            "WHERE leaf BETWEEN ? AND ? AND (leaf, name) > (?, ?)"
            " ORDER BY leaf, name LIMIT ?",
            *(first, last, *after, limit),
        )

    def digests(self, first: int, last: int) -> Sequence[tuple[int, str, bytes]]:
        """Return (leaf, name, digest) of the rows of leaves."""
        return (
            self._reader()
            .execute(
                "SELECT leaf, name, digest FROM blob WHERE leaf BETWEEN ? AND ?",
                (first, last),
            )
            .fetchall()
        )

    def listing(self, start: int | None, stop: int | None, limit: int) -> Sequence[Row]:
        """Return rows with data by `modified`."""
        return self._rows(
            f"WHERE modified >= ? AND modified < ?{self._still_there()}"
            " ORDER BY modified LIMIT ?",
            *bounds(start, stop),
            limit,
        )

    def _still_there(self) -> str:
        """Return the condition on rows with data, while volumes are dropped."""
        return f" AND {NOT_DROPPED}" if self._dropped else ""

    def windows(
        self, start: int | None, stop: int | None, width: int, limit: int
    ) -> Sequence[tuple[int, int, int, int]]:
        """Return the checksum of each non-empty window."""
        reader = self._reader()
        low, high = bounds(start, stop)
        among = f"FROM blob WHERE modified >= ? AND modified < ?{self._still_there()}"
        found: list[tuple[int, int, int, int]] = []
        while len(found) < limit:
            # Jump to the next row: empty windows cost nothing.
            first = reader.execute(
                f"SELECT modified {among} ORDER BY modified LIMIT 1", (low, high)
            ).fetchone()
            if first is None:
                return found
            begin = from_signed(first[0]) // width * width
            end = begin + width
            low, after = max(low, to_signed(begin)), min(high, to_signed(end))
            count, average, average_deleted = reader.execute(
                "SELECT count(*), avg(modified + 9223372036854775807 + 1),"
                f" avg(modified_deleted + 9223372036854775807 + 1) {among}",
                (low, after),
            ).fetchone()
            found.append((begin, end, count, int(average + average_deleted) // 2))
            low = after
        return found

    def cursors(self) -> Mapping[str, int]:
        """Return how far each destination has our changes."""
        asked = "SELECT destination, seq FROM cursor"
        return dict(self._reader().execute(asked).fetchall())

    def parked(self, destination: str, until: float, limit: int) -> Sequence[Parked]:
        """Return what may be tried again."""
        found = self._reader().execute(
            "SELECT destination, name, reason, since, until FROM parked"
            " WHERE destination = ? AND until <= ? ORDER BY until, name LIMIT ?",
            (destination, until, limit),
        )
        return [Parked(*columns) for columns in found]

    def parking(self, destination: str) -> tuple[int, float | None]:
        """Return how many names are parked, and since when."""
        found = self._reader().execute(
            "SELECT count(*), min(since) FROM parked WHERE destination = ?",
            (destination,),
        )
        count, since = found.fetchone()
        return count, since

    def notes(self) -> Mapping[str, str]:
        """Return what else was to be remembered."""
        return dict(self._reader().execute("SELECT key, value FROM note").fetchall())

    def facts(self) -> Mapping[str, object]:
        """Return what status pages show."""
        reader = self._reader()

        def pragma(name: str) -> int:
            return int(reader.execute(f"PRAGMA {name}").fetchone()[0])

        page_size = pragma("page_size")
        return {
            "database": str(self.path),
            "page_size": page_size,
            "size": pragma("page_count") * page_size,
            "max_size": pragma("max_page_count") * page_size,
            "cache_size": abs(pragma("cache_size")) * 1024,
            "freelist_size": pragma("freelist_count") * page_size,
        }

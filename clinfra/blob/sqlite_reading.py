"""The index in SQLite, read: what the one who writes it and those who only read share.

Each thread that reads, in whatever process, has a read-only connection of its own, so
readers never wait for the writer, and a change is seen by all once it is committed.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Mapping
from pathlib import Path

from attrs import define, field
from zope.interface import implementer

from clinfra.blob.index import IndexDamaged, IRows, VolumeMark
from clinfra.blob.records import Row, without_data
from clinfra.blob.sqlite_rows import SELECT, VERSION, Columns, row_of

_AT_ONCE = 256
"""Names asked for in one query."""


def open_to_read(path: Path) -> sqlite3.Connection:
    """Return a connection that can only read; threads may use it in turn."""
    return sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=ro",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )


@implementer(IRows)
@define(eq=False)
class SqliteReading:
    """Rows in an SQLite file at `path`; any thread may ask for them."""

    path: Path
    _readers: list[sqlite3.Connection] = field(init=False, factory=list)
    _local: threading.local = field(init=False, factory=threading.local)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)
    _dropped: frozenset[int] = field(init=False, default=frozenset())

    def follow(self) -> None:
        """Learn what the process that writes has dropped.  Raises IndexDamaged."""
        version = self._reader().execute("PRAGMA user_version").fetchone()
        if version != (VERSION,):
            raise IndexDamaged(f"{self.path} is of version {version}")
        marks = self.marks()
        self._dropped = frozenset(each for each in marks if marks[each].dropped)

    def close(self) -> None:
        """Close the connections that read."""
        with self._lock:
            readers, self._readers = self._readers, []
            self._local = threading.local()
        for connection in readers:
            connection.close()

    def _reader(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = open_to_read(self.path)
            connection.execute("PRAGMA cache_size = -8192")
            self._local.connection = connection
            with self._lock:
                self._readers.append(connection)
        return connection

    def _rows(self, where: str, *arguments: object) -> list[Row]:
        return list(map(self._told, self._reader().execute(SELECT + where, arguments)))

    def _told(self, columns: Columns) -> Row:
        row = row_of(columns)
        if self._dropped and row.at is not None and row.at.volume in self._dropped:
            return without_data(row)
        return row

    def get(self, name: str) -> Row | None:
        """Return the row of a stored name."""
        found = self._reader().execute(SELECT + "WHERE name = ?", (name,)).fetchone()
        return None if found is None else self._told(found)

    def get_many(self, names: Collection[str]) -> Mapping[str, Row]:
        """Return the rows of some stored names, a few hundred in one query."""
        found: dict[str, Row] = {}
        left = list(names)
        while left:
            some, left = left[:_AT_ONCE], left[_AT_ONCE:]
            places = ", ".join("?" * len(some))
            for row in self._rows(f"WHERE name IN ({places})", *some):
                found[row.name] = row
        return found

    def marks(self) -> Mapping[int, VolumeMark]:
        """Return what is known of the volumes."""
        return {
            number: VolumeMark(indexed, live, ends, seq, bool(spread), bool(dropped))
            for number, indexed, live, ends, seq, spread, dropped in (
                self._reader().execute("SELECT * FROM volume")
            )
        }

"""An index on its way to another replica: a copy of the file, and what is taken of it.

The copy has the rows, and the volumes that go with them; what concerns one replica
alone (whom it has sent what, its notes) is not in it.  Rows get new change numbers
where they are taken, as any other change that comes from elsewhere.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path

from attrs import frozen

from clinfra.blob.index import VolumeMark
from clinfra.blob.records import Row
from clinfra.blob.sqlite_reading import open_to_read
from clinfra.blob.sqlite_rows import SELECT, VERSION, row_of

_GIVEN = (
    "name, modified, sha256, size, crc32, content_type, modified_deleted, deleted,"
    " volume, offset, head_bytes, length"
)
_SPAN = "first_volume, last_volume, leaf, digest"
_TAKEN = (
    "FROM clone.blob AS it WHERE name > ? AND name <= ?"
    " AND (volume IS NULL OR volume IN (SELECT number FROM clone.volume))"
)
_START = "iif(instr(name, '_'), substr(name, 1, instr(name, '_')), name)"
_KNOWN = "EXISTS (SELECT 1 FROM main.blob AS ours WHERE ours.name = it.name)"


@frozen
class Slice:
    """Rows that are to be taken.

    Attributes:
        size: bytes of their blobs.
        live: volume → bytes of records that they point at.
    """

    count: int
    size: int
    live: Mapping[int, int]


# Where it comes from


def freeze(path: Path) -> sqlite3.Connection:
    """Return a connection that sees an index as it is now, until it is closed."""
    connection = open_to_read(path)
    connection.execute("BEGIN")
    connection.execute("SELECT value FROM counter").fetchall()
    return connection


def last_of(index: sqlite3.Connection) -> int:
    """Return the last change number of an index."""
    (seq,) = index.execute("SELECT value FROM counter WHERE name = 'seq'").fetchone()
    return int(seq)


def has(index: sqlite3.Connection, count: int) -> bool:
    """Return whether an index has at least so many rows."""
    asked = "SELECT 1 FROM blob LIMIT 1 OFFSET ?"
    return index.execute(asked, (count - 1,)).fetchone() is not None


def copy(index: sqlite3.Connection, path: Path, volumes: Collection[int]) -> None:
    """Write a copy of an index, with the rows that these volumes hold."""
    target = sqlite3.connect(path, isolation_level=None)
    try:
        target.execute("PRAGMA synchronous = OFF")
        index.backup(target)
        target.execute("PRAGMA journal_mode = DELETE").fetchall()
        for table in ("cursor", "parked", "note"):
            target.execute(f"DELETE FROM {table}")
        known = {number for (number,) in target.execute("SELECT number FROM volume")}
        target.executemany(
            "DELETE FROM volume WHERE number = ?",
            ((number,) for number in known.difference(volumes)),
        )
    finally:
        target.close()


# Where it goes


def attach(writer: sqlite3.Connection, path: Path) -> None:
    """Have a copy at hand as `clone`.  Raises ValueError: it is none of ours."""
    if any(name == "clone" for _, name, _ in writer.execute("PRAGMA database_list")):
        return
    writer.execute("ATTACH ? AS clone", (str(path),))
    (version,) = writer.execute("PRAGMA clone.user_version").fetchone()
    if version != VERSION:
        detach(writer)
        raise ValueError(f"an index of version {version}")


def detach(writer: sqlite3.Connection) -> None:
    """Let go of a copy."""
    if any(name == "clone" for _, name, _ in writer.execute("PRAGMA database_list")):
        writer.execute("DETACH clone")


def marks(writer: sqlite3.Connection) -> Mapping[int, VolumeMark]:
    """Return what the copy says of its volumes."""
    found = writer.execute("SELECT * FROM clone.volume")
    return {
        number: VolumeMark(indexed, live, ends, seq, bool(spread), bool(dropped))
        for number, indexed, live, ends, seq, spread, dropped in found
    }


def end_of_slice(writer: sqlite3.Connection, after: str, rows: int) -> str | None:
    """Return the last name of the next rows; None when there are no more."""
    (last,) = writer.execute(
        "SELECT max(name) FROM (SELECT name FROM clone.blob WHERE name > ?"
        " ORDER BY name LIMIT ?)",
        (after, rows),
    ).fetchone()
    return None if last is None else str(last)


def starts(writer: sqlite3.Connection, after: str, last: str, whole: bool) -> list[str]:
    """Return how the names of a slice start, up to "_"; or the whole names."""
    start = "name" if whole else _START
    asked = f"SELECT DISTINCT {start} FROM clone.blob WHERE name > ? AND name <= ?"
    return [str(start) for (start,) in writer.execute(asked, (after, last))]


def remove(
    writer: sqlite3.Connection, after: str, last: str, start: str, whole: bool
) -> int:
    """Remove the rows of a slice that start like that; return how many."""
    is_so = f"{'name' if whole else _START} = ?"
    removed = f"DELETE FROM clone.blob WHERE name > ? AND name <= ? AND {is_so}"
    return writer.execute(removed, (after, last, start)).rowcount


def is_new(writer: sqlite3.Connection, after: str, last: str) -> bool:
    """Return whether no name between these is in the index."""
    asked = "SELECT 1 FROM main.blob WHERE name > ? AND name <= ? LIMIT 1"
    return writer.execute(asked, (after, last)).fetchone() is None


def known_in(writer: sqlite3.Connection, after: str, last: str) -> list[Row]:
    """Return the rows of a slice whose names are in the index, too."""
    selected = SELECT.replace("FROM blob ", f"{_TAKEN} AND {_KNOWN}")
    return [row_of(columns) for columns in writer.execute(selected, (after, last))]


def look(writer: sqlite3.Connection, after: str, last: str, new: bool) -> Slice:
    """Tell of the rows of a slice that are new; `new`: all of them are."""
    live: dict[int, int] = {}
    count = size = 0
    for volume, number, body_bytes, record_bytes in writer.execute(
        "SELECT volume, count(*), coalesce(sum(size), 0), sum(length)"
        f" {_taken(new)} GROUP BY volume",
        (after, last),
    ):
        count += number
        size += body_bytes
        if volume is not None:
            live[volume] = record_bytes
    return Slice(count, size, live)


def take(
    writer: sqlite3.Connection, after: str, last: str, new: bool, seq: int
) -> None:
    """Take the rows of a slice that are new, numbered above `seq`; in a transaction."""
    # A function that counts: numbering by a window is twice the work of all else.
    writer.create_function("next_seq", 0, partial(next, itertools.count(seq + 1)))
    writer.execute(
        f"INSERT INTO main.blob ({_GIVEN}, seq, fanout, {_SPAN})"
        f" SELECT {_GIVEN}, next_seq(), 0, {_SPAN} {_taken(new)} ORDER BY name",
        (after, last),
    )


def digests_above(writer: sqlite3.Connection, seq: int) -> list[tuple[int, str, bytes]]:
    """Return leaf, name and digest of the rows with higher numbers."""
    asked = "SELECT leaf, name, digest FROM main.blob WHERE seq > ?"
    return writer.execute(asked, (seq,)).fetchall()


def _taken(new: bool) -> str:
    """Return which rows of a slice are new: all of them, or those without a row."""
    return _TAKEN if new else f"{_TAKEN} AND NOT {_KNOWN}"

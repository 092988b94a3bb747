"""Rows as SQLite has them: the tables, and rows to columns and back.

Stamps are unsigned 64-bit numbers; columns hold them minus 2**63 (`stamps.to_signed`),
which keeps their order beyond 2038.

Pure.
"""

from __future__ import annotations

from clinfra.blob.records import Data, Expiry, Locator, Row, State
from clinfra.blob.stamps import from_signed, to_signed
from clinfra.blob.trees import digest_of, leaf_of

VERSION = 4

SCHEMA = """
CREATE TABLE blob (
    name TEXT PRIMARY KEY,
    modified INTEGER,
    sha256 BLOB,
    size INTEGER,
    crc32 INTEGER,
    content_type TEXT,
    modified_deleted INTEGER NOT NULL,
    deleted INTEGER NOT NULL,
    volume INTEGER,
    offset INTEGER,
    head_bytes INTEGER,
    length INTEGER,
    seq INTEGER NOT NULL,
    first_volume INTEGER,
    last_volume INTEGER,
    fanout INTEGER NOT NULL DEFAULT 0,
    leaf INTEGER NOT NULL,
    digest BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX blob_seq ON blob (seq);
CREATE INDEX blob_deleted ON blob (deleted, name, volume) WHERE deleted <> 0;
CREATE INDEX blob_modified ON blob (modified) WHERE modified IS NOT NULL;
CREATE TABLE volume (
    number INTEGER PRIMARY KEY,
    indexed INTEGER NOT NULL,
    live INTEGER NOT NULL,
    ends INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    spread INTEGER NOT NULL,
    dropped INTEGER NOT NULL
);
CREATE TABLE counter (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO counter VALUES ('seq', 0);
CREATE TABLE cursor (
    destination TEXT PRIMARY KEY, seq INTEGER NOT NULL
) WITHOUT ROWID;
"""

LEAF_INDEX = "CREATE INDEX IF NOT EXISTS blob_leaf ON blob (leaf, name, digest)"
NO_LEAF_INDEX = "DROP INDEX IF EXISTS blob_leaf"

PARKED = """
CREATE TABLE IF NOT EXISTS parked (
    destination TEXT NOT NULL,
    name TEXT NOT NULL,
    reason TEXT NOT NULL,
    since REAL NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (destination, name)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS parked_until ON parked (destination, until, since);
CREATE TABLE IF NOT EXISTS note (
    key TEXT PRIMARY KEY, value TEXT NOT NULL
) WITHOUT ROWID;
"""
PARK = (
    "INSERT INTO parked VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE"
    " SET reason = excluded.reason, until = excluded.until"
)

NOTE = "INSERT INTO note SELECT ?1, ?2 WHERE ?2 IS NOT NULL"

IS_DROPPED = "volume IN (SELECT number FROM volume WHERE dropped)"
NOT_DROPPED = f"(volume IS NULL OR NOT {IS_DROPPED})"

_COLUMNS = (
    "name, modified, sha256, size, crc32, content_type, modified_deleted, deleted,"
    " volume, offset, head_bytes, length, seq, first_volume, last_volume,"
    " fanout, digest"
)
SELECT = f"SELECT {_COLUMNS} FROM blob "
REPLACE = (
    f"INSERT OR REPLACE INTO blob ({_COLUMNS}, leaf) VALUES ({', '.join('?' * 18)})"
)

Columns = tuple[
    str,
    int | None,
    bytes,
    int,
    int,
    str,
    int,
    int,
    int,
    int,
    int,
    int,
    int,
    int | None,
    int,
    int,
    bytes,
]


def row_of(columns: Columns) -> Row:
    (
        name,
        modified,
        sha256,
        size,
        crc32,
        content_type,
        modified_deleted,
        deleted,
        volume,
        offset,
        head_bytes,
        length,
        seq,
        first_volume,
        last_volume,
        fanout,
        digest,
    ) = columns
    data = at = None
    if modified is not None:
        data = Data(from_signed(modified), sha256, size, crc32, content_type)
        at = Locator(volume, offset, head_bytes, length)
    return Row(
        name,
        State(data, Expiry(from_signed(modified_deleted), deleted)),
        at,
        seq,
        None if first_volume is None else (first_volume, last_volume),
        fanout,
        digest,
    )


def columns_of(row: Row) -> tuple[object, ...]:
    data, at, expiry = row.data, row.at, row.expiry
    return (
        row.name,
        *(
            (None,) * 5
            if data is None
            else (
                to_signed(data.modified),
                data.sha256,
                data.size,
                data.crc32,
                data.content_type,
            )
        ),
        to_signed(expiry.modified_deleted),
        expiry.deleted,
        *(
            (None,) * 4
            if at is None
            else (at.volume, at.offset, at.head_bytes, at.length)
        ),
        row.seq,
        *(row.volumes or (None, None)),
        row.fanout,
        row.digest or digest_of(row.name, row.state),
        leaf_of(row.name),
    )


def bounds(start: int | None, stop: int | None) -> tuple[int, int]:
    """Return stamps of a span as columns have them."""
    low = 0 if start is None else min(max(start, 0), (1 << 64) - 1)
    high = (1 << 64) - 1 if stop is None else min(max(stop, 0), (1 << 64) - 1)
    return to_signed(low), to_signed(high)

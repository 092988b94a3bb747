"""The index as a dict: for tests, and for trying things out.  Nothing survives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache

from attrs import define, evolve, field
from zope.interface import implementer

from clinfra.blob.index import Batch, IBlobIndex, VolumeMark
from clinfra.blob.records import Parked, Row, without_data
from clinfra.blob.trees import digest_of, leaf_of


@implementer(IBlobIndex)
@define(eq=False)
class MemoryIndex:
    """Rows in memory.  What was applied is still there after `close` and `open`."""

    _rows: dict[str, Row] = field(factory=dict)
    _marks: dict[int, VolumeMark] = field(factory=dict)
    _seq: int = 0
    _cursors: dict[str, int] = field(factory=dict)
    _parked: dict[tuple[str, str], Parked] = field(factory=dict)
    _notes: dict[str, str] = field(factory=dict)

    def open(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""

    def clear(self) -> None:
        """Forget everything."""
        self._rows.clear()
        self._marks.clear()
        self._cursors.clear()
        self._parked.clear()
        self._notes.clear()
        self._seq = 0

    def get(self, name: str) -> Row | None:
        """Return the row of a stored name."""
        row = self._rows.get(name)
        return None if row is None else self._told(row)

    def _told(self, row: Row) -> Row:
        return without_data(row) if self._is_dropped(row) else row

    def _is_dropped(self, row: Row) -> bool:
        mark = None if row.at is None else self._marks.get(row.at.volume)
        return mark is not None and mark.dropped

    def get_many(self, names: Collection[str]) -> Mapping[str, Row]:
        """Return the rows of some stored names."""
        return {
            name: self._told(self._rows[name]) for name in names if name in self._rows
        }

    def apply(self, batch: Batch) -> None:
        """Apply changes."""
        for row in batch.rows:
            digest = row.digest or digest_of(row.name, row.state)
            self._rows[row.name] = evolve(row, digest=digest)
            self._seq = max(self._seq, row.seq)
        self._seq = max(self._seq, batch.seq)
        for name in batch.forget:
            self._rows.pop(name, None)
        for number, mark in batch.marks.items():
            if mark is None:
                self._marks.pop(number, None)
            else:
                self._marks[number] = mark
        for destination, cursor in batch.cursors.items():
            if cursor is None:
                self._cursors.pop(destination, None)
                for key in [key for key in self._parked if key[0] == destination]:
                    del self._parked[key]
            else:
                self._cursors[destination] = cursor
        for new in batch.parked:
            old = self._parked.get((new.destination, new.name), new)
            self._parked[new.destination, new.name] = evolve(new, since=old.since)
        for key in batch.taken_up:
            self._parked.pop(key, None)
        for key, parked in self._parked.items():
            if parked.since >= batch.due.get(key[0], float("inf")):
                self._parked[key] = evolve(parked, until=0.0)
        for about, note in batch.notes.items():
            if note is None:
                self._notes.pop(about, None)
            else:
                self._notes[about] = note

    def sync(self) -> None:
        """Nothing to do."""

    def last_seq(self) -> int:
        """Return the highest change sequence number ever applied."""
        return self._seq

    def _sorted(
        self, wanted: Callable[[Row], bool], key: Callable[[Row], object], limit: int
    ) -> list[Row]:
        found = filter(wanted, list(self._rows.values()))
        rows = sorted(found, key=key)[:limit]  # type: ignore[arg-type]  # keys compare
        return list(map(self._told, rows))

    def changes(
        self, after: int, limit: int, fanout: int | None = None
    ) -> Sequence[Row]:
        """Return rows by change number."""

        def is_wanted(row: Row) -> bool:
            return row.seq > after and (fanout is None or row.fanout & fanout != 0)

        return self._sorted(is_wanted, lambda row: row.seq, limit)

    def count_changes(self, after: int) -> int:
        """Return how many rows have a higher change number."""
        return sum(row.seq > after for row in list(self._rows.values()))

    def expired(self, before: int, after: tuple[int, str], limit: int) -> Sequence[Row]:
        """Return rows that ended before a time."""

        def key(row: Row) -> tuple[int, str]:
            return row.expiry.deleted, row.name

        return self._sorted(
            lambda row: (
                row.expiry.deleted != 0
                and row.expiry.deleted < before
                and not self._is_dropped(row)
                and key(row) > after
            ),
            key,
            limit,
        )

    def left_behind(self, since: int, limit: int) -> Sequence[Row]:
        """Return rows that point at dropped volumes."""
        return self._sorted(
            lambda row: row.expiry.deleted >= since and self._is_dropped(row),
            lambda row: (row.expiry.deleted, row.name),
            limit,
        )

    def names_after(self, name: str, limit: int) -> Sequence[Row]:
        """Return rows in order of name."""
        return self._sorted(
            lambda row: row.name > name, lambda row: row.name.encode(), limit
        )

    def leaves(
        self, first: int, last: int, after: tuple[int, str], limit: int
    ) -> Sequence[Row]:
        """Return rows of leaves, by (leaf, name)."""

        def key(row: Row) -> tuple[int, bytes]:
            return _leaf_of(row.name), row.name.encode()

        above = after[0], after[1].encode()
        return self._sorted(
            lambda row: first <= _leaf_of(row.name) <= last and key(row) > above,
            key,
            limit,
        )

    def digests(self, first: int, last: int) -> Sequence[tuple[int, str, bytes]]:
        """Return (leaf, name, digest) of the rows of leaves."""
        return [
            (leaf, row.name, row.digest)
            for row in list(self._rows.values())
            if first <= (leaf := _leaf_of(row.name)) <= last
        ]

    def listing(self, start: int | None, stop: int | None, limit: int) -> Sequence[Row]:
        """Return rows with data by `modified`."""
        return self._sorted(
            lambda row: (
                row.data is not None
                and not self._is_dropped(row)
                and (start is None or row.data.modified >= start)
                and (stop is None or row.data.modified < stop)
            ),
            lambda row: row.data.modified if row.data is not None else 0,
            limit,
        )

    def windows(
        self, start: int | None, stop: int | None, width: int, limit: int
    ) -> Sequence[tuple[int, int, int, int]]:
        """Return the checksum of each non-empty window."""
        windows: dict[int, list[Row]] = {}
        for row in self.listing(start, stop, len(self._rows)):
            if row.data is not None:
                windows.setdefault(row.data.modified // width * width, []).append(row)
        return [
            (begin, begin + width, len(rows), _checksum(rows))
            for begin, rows in sorted(windows.items())[:limit]
        ]

    def marks(self) -> Mapping[int, VolumeMark]:
        """Return what is known of the volumes."""
        return dict(self._marks)

    def cursors(self) -> Mapping[str, int]:
        """Return how far each destination has our changes."""
        return dict(self._cursors)

    def parked(self, destination: str, until: float, limit: int) -> Sequence[Parked]:
        """Return what may be tried again."""
        found = [
            each
            for each in list(self._parked.values())
            if each.destination == destination and each.until <= until
        ]
        return sorted(found, key=lambda each: (each.until, each.name))[:limit]

    def parking(self, destination: str) -> tuple[int, float | None]:
        """Return how many names are parked, and since when."""
        since = [
            each.since
            for each in list(self._parked.values())
            if each.destination == destination
        ]
        return len(since), min(since, default=None)

    def notes(self) -> Mapping[str, str]:
        """Return what else was to be remembered."""
        return dict(self._notes)

    def facts(self) -> Mapping[str, object]:
        """Return what status pages show."""
        return {"database": "memory", "size": len(self._rows)}


_leaf_of = lru_cache(1 << 16)(leaf_of)


def _checksum(rows: Sequence[Row]) -> int:
    modified = [row.data.modified for row in rows if row.data is not None]
    deleted = [row.expiry.modified_deleted for row in rows]
    return int(sum(modified) / len(modified) + sum(deleted) / len(deleted)) // 2

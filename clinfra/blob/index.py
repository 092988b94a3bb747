"""The seam between a replica and its index: what is known of every name.

The index decides which record of a name counts.  It may lose the last of what was
applied when the *machine* dies (never when the process does): the store has records of
everything, durable before `apply`, and recovery reads them again from where the index
ends.  So a commit waits for the disk once, not twice.

A volume is *dropped* by its mark alone, however many rows point at it.  From then on
these are told as if their data had been purged: without data, and not at all where only
data or what is to be purged is asked for.  They are to be forgotten in time.

`apply` is called in the writer thread only; what reads may be called in any thread and
sees every change applied before.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from attrs import field, frozen
from zope.interface import Interface

from clinfra.blob.records import Parked, Row

NEVER = 1 << 62
"""When something ends that does not, unix seconds."""


@frozen
class VolumeMark:
    """What the index knows of a volume.

    Attributes:
        indexed: everything before this offset has been indexed, bytes.
        live: bytes of records that rows point at.
        ends: by then all rows that ever pointed at it have ended, unix seconds.
        seq: none of them has a higher change number.
        spread: bytes of their names may be in other volumes, too.
        dropped: it is deleted; rows that point at it are told without their data.
    """

    indexed: int
    live: int
    ends: int = 0
    seq: int = 0
    spread: bool = False
    dropped: bool = False

    def holding(self, rows: Sequence[Row]) -> VolumeMark:
        """Return the mark when these rows, too, point at the volume."""
        spans = {row.volumes or (0, 1) for row in rows}
        return VolumeMark(
            self.indexed,
            self.live,
            max(self.ends, max(row.expiry.deleted or NEVER for row in rows)),
            max(self.seq, max(row.seq for row in rows)),
            self.spread or any(first != last for first, last in spans),
            self.dropped,
        )


@frozen(eq=False)
class Batch:
    """Changes that are applied together or not at all.

    Attributes:
        rows: rows to insert or replace.
        forget: names to remove.
        marks: volume → mark; None removes the volume.
        seq: a change sequence number that was taken; those of the rows are known.
        cursors: destination → change number up to which it has everything of ours;
            None forgets the destination, and what was parked for it.
        parked: names to be put aside; of those that are already, `since` stays.
        taken_up: (destination, name) of those that are to be no more.
        due: destination → time since when what was parked is to be tried again now.
        notes: other things to be remembered, by name; None forgets one.
    """

    rows: Sequence[Row] = ()
    forget: Sequence[str] = ()
    marks: Mapping[int, VolumeMark | None] = field(factory=dict)
    seq: int = field(default=0, kw_only=True)
    cursors: Mapping[str, int | None] = field(factory=dict)
    parked: Sequence[Parked] = ()
    taken_up: Sequence[tuple[str, str]] = ()
    due: Mapping[str, float] = field(factory=dict)
    notes: Mapping[str, str | None] = field(factory=dict)


class IRows(Interface):
    """What those who only read need."""

    def get(name: str) -> Row | None:
        """Return the row of a stored name."""


class IBlobIndex(IRows):
    """Rows by name."""

    def open() -> None:
        """Make it ready.  Raises IndexDamaged when it cannot be trusted."""

    def close() -> None:
        """Release everything."""

    def clear() -> None:
        """Forget everything, to be rebuilt; the old is set aside if it can be."""

    def get_many(names: Collection[str]) -> Mapping[str, Row]:
        """Return the rows of some stored names, of those that have one."""

    def apply(batch: Batch) -> None:
        """Apply changes, all or none, in order.

        Raises errors.StorageFull or another exception, and then nothing has changed.
        """

    def sync() -> None:
        """Make everything applied so far durable: before records are deleted."""

    def last_seq() -> int:
        """Return the highest change sequence number ever applied."""

    def changes(after: int, limit: int, fanout: int | None = None) -> Sequence[Row]:
        """Return rows whose change number is above `after`, in that order.

        Args:
            fanout: only those that have one of these bits in theirs.
        """

    def count_changes(after: int) -> int:
        """Return how many rows have a change number above `after`."""

    def expired(before: int, after: tuple[int, str], limit: int) -> Sequence[Row]:
        """Return rows that ended before a time, by (deleted, name), above `after`."""

    def left_behind(since: int, limit: int) -> Sequence[Row]:
        """Return rows that point at dropped volumes, those that ended first first.

        Args:
            since: the first that ended then, unix seconds.
        """

    def names_after(name: str, limit: int) -> Sequence[Row]:
        """Return rows in order of name, above `name`."""

    def leaves(
        first: int, last: int, after: tuple[int, str], limit: int
    ) -> Sequence[Row]:
        """Return rows of leaves (see `trees`), by (leaf, name), above `after`."""

    def digests(first: int, last: int) -> Sequence[tuple[int, str, bytes]]:
        """Return (leaf, name, digest) of the rows of leaves, in any order."""

    def listing(start: int | None, stop: int | None, limit: int) -> Sequence[Row]:
        """Return rows with data by `modified`, start <= modified < stop."""

    def windows(
        start: int | None, stop: int | None, width: int, limit: int
    ) -> Sequence[tuple[int, int, int, int]]:
        """Return (start, stop, count, checksum) of each non-empty window of stamps.

        The checksum is the original's, computed as SQLite's AVG does.
        """

    def marks() -> Mapping[int, VolumeMark]:
        """Return what is known of the volumes."""

    def cursors() -> Mapping[str, int]:
        """Return how far each destination has our changes."""

    def parked(destination: str, until: float, limit: int) -> Sequence[Parked]:
        """Return what may be tried again at `until`, the first first."""

    def parking(destination: str) -> tuple[int, float | None]:
        """Return how many names are parked, and since when the first of them."""

    def notes() -> Mapping[str, str]:
        """Return what else was to be remembered."""

    def facts() -> Mapping[str, object]:
        """Return what status pages show."""


class IndexDamaged(Exception):
    """The index on disk cannot be trusted and has to be rebuilt."""

"""Making index and store agree when a data directory is opened.

Volumes are read from where the index ends: records found there were durable but not
yet indexed when the process died, and are merged in (their writers got no answer, so
both outcomes are true to what they were told).  A torn end is cut off.  With an empty
index the same reading rebuilds it whole: every record states both registers, so the
merge of all of them is what the index said.

Nothing that is found on disk stops a start.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf

from attrs import define, evolve, field
from twisted.logger import Logger

from clinfra.blob.forgotten import Forgotten, noted
from clinfra.blob.index import Batch, IBlobIndex, IndexDamaged, VolumeMark
from clinfra.blob.merge import merge
from clinfra.blob.records import EVERYWHERE, Locator, Row
from clinfra.blob.store import IBlobStore, VolumeFacts
from clinfra.blob.volume import CHANGES_CLASS, VOLUME_HEAD_BYTES, Damage, Found
from clinfra.errors import StorageFull

_BATCH = 1000


@define
class Summary:
    """What recovery did.

    Attributes:
        adopted: records merged into the index.
        torn_bytes: at the ends of volumes.
        damaged: stretches of bad bytes that were stepped over.
        rebuilt: the index was made anew.
        shortened: volumes that have lost their ends, and what is left, bytes.
    """

    adopted: int = 0
    torn_bytes: int = 0
    damaged: int = 0
    rebuilt: bool = False
    shortened: dict[int, int] = field(factory=dict)


@define(eq=False)
class Recovery:
    """One pass over index and store.  Both are opened by it.

    Args:
        tell: is told from time to time how many bytes were read, and of how many.
    """

    log = Logger()

    index: IBlobIndex
    store: IBlobStore
    tell: Callable[[int, int], None] = lambda done, total: None
    summary: Summary = field(init=False, factory=Summary)
    _rows: dict[str, Row | None] = field(init=False, factory=dict)
    _purges: dict[str, int] = field(init=False, factory=dict)
    _marks: dict[int, VolumeMark] = field(init=False, factory=dict)
    _volumes: Mapping[int, VolumeFacts] = field(init=False, factory=dict)
    _seq: int = field(init=False, default=0)
    _done: int = field(init=False, default=0)
    _total: int = field(init=False, default=0)
    _forgotten: Forgotten = field(init=False, factory=Forgotten)

    def run(self) -> Summary:
        """Open both and make them agree."""
        self.store.open()
        try:
            self.index.open()
        except IndexDamaged as error:
            self.log.error("the index is rebuilt: {error}", error=error)
            self.index.clear()
        self._marks = dict(self.index.marks())
        self._finish_drops()
        volumes = self._volumes = self.store.volumes()
        self._seq = self.index.last_seq()
        self._forgotten = noted(self.index.notes())
        # Rows may still point into a volume that is lost.
        self.store.reserve(max(self._marks, default=0))
        self.summary.rebuilt = bool(volumes) and not self._marks
        for number, mark in list(self._marks.items()):
            if number not in volumes:
                self._missing(number, mark)
        for number, facts in volumes.items():
            if facts.ttl_class == CHANGES_CLASS:
                self._learn_purges(number)
        left = (each.size - self._indexed(n) for n, each in volumes.items())
        self._total = sum(size for size in left if size > 0)
        for number, facts in sorted(volumes.items()):
            indexed = self._indexed(number)
            if facts.size > indexed or number not in self._marks:
                self._read(number, indexed, facts.size)
            elif facts.size < indexed:
                self.log.error(
                    "volume {number} is {missing} bytes shorter than it was",
                    number=number,
                    missing=indexed - facts.size,
                )
                self.summary.shortened[number] = facts.size
                self.store.seal(number)
        self._flush()
        summary = self.summary
        if summary.adopted or summary.damaged or summary.torn_bytes:
            self.log.info(
                "recovered {adopted} records; {torn} torn bytes, {damaged} damaged"
                " stretches",
                adopted=summary.adopted,
                torn=summary.torn_bytes,
                damaged=summary.damaged,
            )
        return summary

    def _indexed(self, number: int) -> int:
        return self._marks.get(number, VolumeMark(VOLUME_HEAD_BYTES, 0)).indexed

    def _learn_purges(self, number: int) -> None:
        """Note what was forgotten: its records may come in any order."""
        for found in self.store.scan(number, self._indexed(number)):
            if isinstance(found, Found) and found.record.is_purge:
                name, seq = found.record.name, found.record.seq
                self._purges[name] = max(self._purges.get(name, 0), seq)
                ended = found.record.state.expiry.modified_deleted
                self._forgotten = self._forgotten.joined(ended, inf)

    def _finish_drops(self) -> None:
        """Delete volumes that were dropped, and survived that."""
        for number in self.store.volumes().keys() & self._marks.keys():
            if self._marks[number].dropped:
                try:
                    self.store.remove(number)
                except OSError as error:
                    self.log.error(
                        "cannot delete volume {number}: {error}",
                        number=number,
                        error=error,
                    )

    def _missing(self, number: int, mark: VolumeMark) -> None:
        if mark.dropped:
            return
        if mark.live > 0:
            self.log.error(
                "volume {number} is gone, with {live} bytes of blobs",
                number=number,
                live=mark.live,
            )
            self.summary.shortened[number] = 0
        else:
            self.index.apply(Batch(marks={number: None}))
            del self._marks[number]

    def _read(self, number: int, start: int, size: int) -> None:
        known = number in self._marks
        mark = self._marks.setdefault(number, VolumeMark(start, 0))
        end = start
        for found in self.store.scan(number, start):
            if isinstance(found, Damage):
                self._damage(number, found)
                continue
            if not found.record.is_void:
                self._adopt(found)
            end = found.at.offset + found.at.length
            mark = self._marks[number]
            self._marks[number] = evolve(mark, indexed=end)
            if len(self._rows) >= _BATCH:
                self._flush()
                self.tell(self._done + end - start, self._total)
        self._done += size - start
        if end < size:
            if known:
                self.store.truncate(number, end)
            else:
                # Nobody can tell a torn end from rot here: leave it as it is.
                end = size
        self._marks[number] = evolve(self._marks[number], indexed=end)

    def _damage(self, number: int, damage: Damage) -> None:
        if damage.at_end:
            self.summary.torn_bytes += damage.length
            self.log.warn(
                "volume {number}: {length} torn bytes at the end are ignored",
                number=number,
                length=damage.length,
            )
        else:
            self.summary.damaged += 1
            self.log.error(
                "volume {number}: {length} bad bytes at {offset} are stepped over",
                number=number,
                length=damage.length,
                offset=damage.offset,
            )

    def _adopt(self, found: Found) -> None:
        """Merge one record into the index."""
        record = found.record
        name = record.name
        row = self._rows[name] if name in self._rows else self.index.get(name)
        state, has_body = record.state, record.has_body
        purged = self._purges.get(name, -1)
        if row is not None and row.seq <= purged:
            self._count_live(row.at, -1)
            row = self._rows[name] = None
        self._seq = max(self._seq, record.seq)
        if record.seq <= purged:
            return
        merged = merge(row.state if row is not None else None, state)
        at = row.at if row is not None else None
        if has_body and (
            merged.data_won
            or (state.data == merged.state.data and not self._is_there(at))
        ):
            self._count_live(at, -1)
            at = found.at
            self._count_live(at, 1)
        self._seq += 1
        here = found.at.volume, found.at.volume
        row = self._rows[record.name] = Row(
            record.name,
            merged.state,
            at,
            self._seq,
            _span(
                row.volumes if row is not None else None,
                record.volumes,
                here if record.has_body else None,
            )
            or here,
            # Whether anybody had it, nobody knows.
            EVERYWHERE | (row.fanout if row is not None else 0),
        )
        if at is not None and at.volume in self._marks:
            self._marks[at.volume] = self._marks[at.volume].holding([row])
        self.summary.adopted += 1

    def _is_there(self, at: Locator | None) -> bool:
        return at is not None and at.volume in self._volumes

    def _count_live(self, at: Locator | None, sign: int) -> None:
        if at is not None and at.volume in self._marks:
            mark = self._marks[at.volume]
            self._marks[at.volume] = evolve(mark, live=mark.live + sign * at.length)

    def _flush(self) -> None:
        rows = [row for row in self._rows.values() if row is not None]
        forget = [name for name, row in self._rows.items() if row is None]
        marks = dict(self._marks)
        notes = self._forgotten.notes() if self._purges else {}
        try:
            self.index.apply(Batch(rows, forget, marks, seq=self._seq, notes=notes))
        except StorageFull:
            if rows or forget:
                raise
            self.log.warn("no space to note what was read: the next start reads it")
        self._rows.clear()


def _span(*spans: tuple[int, int] | None) -> tuple[int, int] | None:
    known = [span for span in spans if span is not None]
    if not known:
        return None
    return min(first for first, _ in known), max(last for _, last in known)

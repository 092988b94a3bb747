"""Making sure that originals have heard what has ended, before that is forgotten.

With originals no trees are compared, and who owed one of them a delete may have lost
its disk.  It would go on serving the blob; and when everybody else has forgotten the
delete, a read of the name would find the blob there and bring it back.  So whatever
ends here is asked for at each original that keeps such names, and one that has heard
nothing of it, or an earlier word, is told.

What was gone through once is not gone through again: after `Told` there are only rows
that have changed since, or have ended since.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.logger import Logger

from clinfra.blob.commit import Call
from clinfra.blob.index import Batch
from clinfra.blob.parameters import MIN_TIME
from clinfra.blob.peers import PeerFailed, Peers, fits_original
from clinfra.blob.records import Row
from clinfra.blob.replica import Replica
from clinfra.blob.topology import Topology
from clinfra.blob.workers import Workers
from clinfra.errors import InvalidRequest, NotFound

BATCH = 100

AT_A_TIME = 8
"""Blobs asked for at the same time."""

MOST_REFUSED = 1000
"""An original that will not hear of more blobs than this is not well."""

_NOTE = "told:"
"""With a replica's name: where the index notes `Told`."""


@frozen
class Told:
    """What an original has heard of: what ended by `until`, by changes up to `seq`.

    Attributes:
        until: unix seconds.
        refused: names that it will not hear of.
    """

    seq: int
    until: int
    refused: frozenset[str] = frozenset()

    def has(self, row: Row) -> bool:
        """Return whether it has heard of a row's end; of any name's, for ""."""
        refused = row.name in self.refused if row.name else bool(self.refused)
        return row.seq <= self.seq and row.expiry.passed(self.until) and not refused


@define(eq=False)
class Telling:
    """Tells originals."""

    log = Logger()

    _topology: Topology
    _replica: Replica
    _workers: Workers
    _peers: Peers
    _told: dict[str, Told] = field(init=False, factory=dict)

    def has_told(self, source: str, row: Row) -> bool:
        """Return whether it is an original, and has heard of a row's end."""
        told = self._told.get(source)
        return (
            told is not None and self._peers.is_ours(source) is False and told.has(row)
        )

    async def tell(self, source: str, now: float) -> None:
        """Tell an original what has ended, and it may not know.

        Raises errors.Trouble: it has not heard of all.
        """
        index, run = self._replica.index, self._workers.run
        # Whatever is committed from here on is left to the next time.
        seq, end = await run(index.last_seq), int(now)
        noted = told = self._told.get(source) or await self._load(source, seq)
        again = [
            row
            for row in (await run(index.get_many, told.refused)).values()
            if row.expiry.passed(told.until)
        ]
        told = await self._tell_all(source, evolve(told, refused=frozenset()), again)
        after = told.seq
        while rows := await run(index.changes, after, BATCH):
            after = rows[-1].seq
            late = [row for row in rows if row.expiry.passed(told.until)]
            told = await self._tell_all(source, told, late)
        told = self._told[source] = evolve(told, seq=max(seq, told.seq))
        place = told.until, ""
        while rows := await run(index.expired, end, place, BATCH):
            told = await self._tell_all(source, told, rows)
            place = rows[-1].expiry.deleted, rows[-1].name
            # Others that ended then may be in the next batch.
            told = evolve(told, until=max(told.until, place[0] - 1))
            self._told[source] = told
        told = self._told[source] = evolve(told, until=max(told.until, end - 1))
        if told != noted:
            note = {_NOTE + source: json.dumps(_json(told))}
            await self._replica.commit(Call(partial(index.apply, Batch(notes=note))))

    async def _load(self, source: str, seq: int) -> Told:
        """Return what was noted; of one that is new, that it has heard of nothing."""
        notes = await self._workers.run(self._replica.index.notes)
        try:
            noted: Any = json.loads(notes[_NOTE + source])
            refused = frozenset(str(name) for name in noted["refused"])
            return Told(int(noted["seq"]), int(noted["until"]), refused)
        except (KeyError, TypeError, ValueError):
            # All that has ended, whatever its number, has ended since.
            return Told(seq, MIN_TIME)

    async def _tell_all(self, source: str, told: Told, rows: Sequence[Row]) -> Told:
        """Tell of some rows; return what it has heard of, as to what it refuses."""
        refused = set(told.refused)
        for at in range(0, len(rows), AT_A_TIME):
            some = rows[at : at + AT_A_TIME]
            telling = [Deferred.fromCoroutine(self._tell(source, row)) for row in some]
            try:
                heard = await gatherResults(telling, consumeErrors=True)
            except FirstError as error:
                error.subFailure.raiseException()
            for row, has in zip(some, heard, strict=True):
                (refused.discard if has else refused.add)(row.name)
        if len(refused) > MOST_REFUSED:
            raise PeerFailed(source, 0, "it does not hear of what has ended")
        return evolve(told, refused=frozenset(refused))

    async def _tell(self, source: str, row: Row) -> bool:
        """Tell of one row if need be; return False when it will not hear of it."""
        if not fits_original(row.name) or not self._keeps(source, row.name):
            return True
        try:
            info = await self._peers.info(source, row.name)
            heard = info.modified_deleted, info.deleted
            if heard < (row.expiry.modified_deleted, row.expiry.deleted):
                await self._peers.delete(source, row.name, row.expiry, "replica")
                self.log.info(
                    "{source} had not heard that {name} has ended, and has now",
                    source=source,
                    name=row.name,
                )
        except NotFound:
            # Not even a trace of it.
            return True
        except PeerFailed as trouble:
            if not trouble.status:
                raise
            self.log.warn(
                "{source} does not hear that {name} has ended: {error}",
                source=source,
                name=row.name,
                error=trouble.sentence,
            )
            return False
        return True

    def _keeps(self, source: str, stored: str) -> bool:
        """Return whether a replica keeps a name."""
        try:
            buckets = self._topology.place(stored, encoded=True).buckets
        except InvalidRequest:
            return False
        clusters = self._topology.clusters
        return any(
            cluster < len(clusters)
            and bucket < len(clusters[cluster])
            and source in clusters[cluster][bucket].replicas
            for cluster, bucket in buckets.items()
        )


def _json(told: Told) -> dict[str, Any]:
    return {"seq": told.seq, "until": told.until, "refused": sorted(told.refused)}

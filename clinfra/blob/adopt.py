"""Becoming what a peer is: its volumes and index, taken over as files (see `clone`).

First all files are fetched, into a directory of their own (see `fetch`).  Then, in the
writer thread, the volumes are moved to ours, and the rows copied from the peer's index
into ours, some at a time.  A name that has a row here by then is merged as ever; one
that does not belong here is left out.

Note [Disjoint numbers]: a record is good only in the volume and at the place it was
written for, and a purge outdoes all records of its name with lower change numbers.  So
a replica that begins empty counts volumes and changes from a number made of the time
when it began: higher than all that any replica which began earlier has come to.
Volumes of a peer keep their numbers, and what is in them is older than all of ours.  A
peer that has higher numbers all the same is streamed.

Note [Crashes]: fetched files that were not taken over are removed at the next start.
Before a volume is moved its mark is durable, so recovery does not read it; as long as
nothing points at it that mark says so, and recovery forgets it if the file has not been
moved.  The note tells how far the rows are, in the transaction of the rows themselves.
So the next start goes on, without the peer.  Until it is over no volume is dropped or
tidied away (see `busy`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from clinfra.blob import sqlite_clone
from clinfra.blob.clone import CLONE, INDEX, Offer, file_in, offer_in
from clinfra.blob.commit import Call, Committer, Job, Plan
from clinfra.blob.destinations import destinations
from clinfra.blob.fetch import Fetch
from clinfra.blob.index import Batch
from clinfra.blob.index_sqlite import SqliteIndex
from clinfra.blob.merge import merge
from clinfra.blob.peers import MAX_ANSWER_BYTES, PeerFailed, Peers
from clinfra.blob.reading import SMALL_BYTES
from clinfra.blob.records import Row, State
from clinfra.blob.replica import Replica
from clinfra.blob.store import ISpool
from clinfra.blob.store_volume import VolumeStore
from clinfra.blob.topology import Topology
from clinfra.blob.volume import VOLUME_HEAD_BYTES, unpack_volume_head
from clinfra.blob.workers import Workers
from clinfra.errors import InvalidRequest, OriginFailed

NOTE = "clone"
"""Where the index notes where numbers began, and what is being taken over."""

COUNTS_A_SECOND = 20
"""Bits: numbers given in a second, at most."""

ROWS = 4000
"""Taken over at a time, in about 20 ms."""


@frozen
class _Taken:
    """What was just taken over.

    Attributes:
        known: names that had rows already, and were merged.
        left_out: how names begin that do not belong here, why, and how many they are.
    """

    count: int
    size: int
    known: list[str]
    left_out: list[tuple[str, str, int]]


def _nobody(*told: object) -> None:
    """Nobody wants to hear."""


@define(eq=False)
class Adoption:
    """Takes over what a peer has.

    Args:
        path: a directory of ours, on the disk of the volumes.

    Attributes:
        busy: volumes are there that rows do not point at yet.
        heard: called whenever something came from a peer, with its name, and how many
            blobs and bytes of them were taken over.
        adopted: called when it is over.
        left_out: called with what was left out: a name, why, and how many are like it.
    """

    log = Logger()

    _path: Path
    _index: SqliteIndex
    _store: VolumeStore
    _topology: Topology
    _replica: Replica
    _committer: Committer
    _workers: Workers
    _peers: Peers
    busy: bool = field(init=False, default=False)
    heard: Callable[[str, int, int], object] = field(init=False, default=_nobody)
    adopted: Callable[[], object] = field(init=False, default=lambda: None)
    left_out: Callable[[str, str, int], object] = field(init=False, default=_nobody)
    _fetch: Fetch = field(init=False)
    _noted: dict[str, Any] = field(init=False, factory=dict)

    @_fetch.default
    def _make_fetch(self) -> Fetch:
        own = str(self._topology.replica)
        fetch = Fetch(self._path, own, self._workers, self._peers)
        fetch.heard = lambda peer: self.heard(peer, 0, 0)
        return fetch

    # Lifetime

    def begin(self) -> None:
        """This replica is empty: see Note [Disjoint numbers]."""
        began = int(self._committer.now()) << COUNTS_A_SECOND
        cursors = {each.key: began for each in destinations(self._topology)}
        self._noted = {"began": began}
        notes = {NOTE: json.dumps(self._noted)}
        self._index.apply(Batch(seq=began, cursors=cursors, notes=notes))
        self._committer.load()
        self.open()

    def open(self) -> None:
        """Find out where an earlier run was; remove what it left."""
        noted = self._index.notes().get(NOTE)
        self._noted = json.loads(noted) if noted is not None else {}
        self._store.reserve(self._noted.get("began", 0))
        self.busy = "peer" in self._noted
        if not self.busy:
            shutil.rmtree(self._path, ignore_errors=True)

    # What a peer has

    async def take(self, peer: str, note: Callable[[str, int], object]) -> bool:
        """Become what a peer is; return whether that was possible.

        Args:
            note: called in the writer thread with the peer, and the number up to which
                everything of it is here.

        Raises errors.Trouble, OSError.
        """
        if self.busy or "began" not in self._noted or "over" in self._noted:
            return False
        offer = await self._ask(peer)
        if offer is None:
            await self._fetch.forget()
            return False
        self.log.info(
            "this replica becomes what {peer} is: {bytes} bytes, as files",
            peer=peer,
            bytes=sum(offer.volumes.values()) + offer.index,
        )
        try:
            needed = self._fetch.missing_bytes(peer, offer) + 4 * offer.index
            self._replica.check_space(needed)
            await self._fetch.get(peer, offer)
        finally:
            over = Deferred.fromCoroutine(self._is_over(peer, offer))
            over.addErrback(lambda failure: None)
        self.log.info("all files of {peer} are here", peer=peer)
        await self._replica.commit(Call(partial(self._begin_with, peer, offer)))
        await self.go_on(note)
        return True

    def forget(self) -> Deferred[None]:
        """Remove what came of a peer's files; nothing more of them is wanted."""
        return self._fetch.forget()

    async def _ask(self, peer: str) -> Offer | None:
        """Return what a peer offers; None when it is to be streamed."""
        target = f"/{CLONE}?for={self._topology.replica}".encode()
        response = await self._peers.call(peer, b"GET", target)
        async with response:
            if response.head.status != 200:
                return None
            raw = await response.read_all(16 * MAX_ANSWER_BYTES)
        try:
            offer = offer_in(raw)
        except ValueError as error:
            raise PeerFailed(peer, 200, str(error)) from error
        began = self._noted["began"]
        if max(offer.seq, *offer.volumes, 0) >= began:
            self.log.warn("{peer} has higher numbers: it is streamed", peer=peer)
            return None
        return offer

    async def _is_over(self, peer: str, offer: Offer) -> None:
        """Tell a peer that it may forget its offer."""
        target = f"/{CLONE}?for={self._topology.replica}&id={offer.id}&over=1"
        response = await self._peers.call(peer, b"GET", target.encode())
        response.abort()

    # Taking it over

    async def go_on(self, note: Callable[[str, int], object]) -> None:
        """Take over what was fetched, from where an earlier run was; see `take`."""
        if not self.busy:
            return
        end = partial(self._end, note)
        try:
            await self._take_all()
        except (OriginFailed, sqlite3.Error, FileNotFoundError, LookupError) as error:
            self.log.error(
                "what {peer} is cannot be taken over: {error}",
                peer=self._noted["peer"],
                error=error,
            )
            end = partial(self._end, lambda peer, seq: None)
        else:
            self.log.info("what was fetched is taken over")
        await self._replica.commit(Call(end))
        await self._fetch.forget()
        self.adopted()

    async def _take_all(self) -> None:
        await self._replica.commit(Call(self._place))
        while True:
            call = Call(self._take_some)
            await self._replica.commit(call)
            taken = cast(_Taken | None, call.result)
            if taken is None:
                return
            # Who asks from now on must not be answered by a read begun before.
            self._replica.volumes_dropped(())
            for name in taken.known:
                self._replica.hot.drop(name)
            for name, why, count in taken.left_out:
                self.left_out(name, why, count)
            self.heard(self._noted["peer"], taken.count, taken.size)

    # The writer thread

    def _begin_with(self, peer: str, offer: Offer) -> None:
        """All files are there."""
        noted = {**self._noted, "peer": peer, "seq": offer.seq, "after": ""}
        self._note(noted)
        self.busy = True

    def _note(self, noted: Mapping[str, Any]) -> None:
        self._index.apply(Batch(notes={NOTE: json.dumps(noted)}))
        self._noted = dict(noted)

    def _place(self) -> None:
        """Move the volumes to ours."""
        self._attach()
        there = self._store.volumes()
        marks = {
            number: evolve(mark, live=0, seq=self._committer.seq)
            for number, mark in sqlite_clone.marks(self._index.connection).items()
            if number not in there
        }
        heads = []
        for number, mark in marks.items():
            path = file_in(self._path, str(number))
            with path.open("rb") as file:
                head = unpack_volume_head(file.read(VOLUME_HEAD_BYTES))
            if head is None or head.number != number:
                raise OriginFailed(f"Volume {number} is none")
            heads.append((head, path))
            marks[number] = evolve(mark, indexed=path.stat().st_size)
        self._index.apply(Batch(marks=marks))
        self._index.sync()
        self._committer.marks.update(marks)
        self._store.adopt(heads)

    def _attach(self) -> None:
        try:
            sqlite_clone.attach(self._index.connection, file_in(self._path, INDEX))
        except (sqlite3.DatabaseError, ValueError) as error:
            raise OriginFailed(f"The index that came is no good: {error}") from error

    def _take_some(self) -> _Taken | None:
        """Take the next rows; None: there are no more."""
        writer, committer = self._index.connection, self._committer
        after = self._noted["after"]
        last = sqlite_clone.end_of_slice(writer, after, ROWS)
        if last is None:
            return None
        left_out = self._leave_out(after, last)
        new = sqlite_clone.is_new(writer, after, last)
        known = [] if new else sqlite_clone.known_in(writer, after, last)
        jobs = [self._job(row) for row in known]
        committer.run(jobs)
        for job in jobs:
            if job.error is not None:
                raise job.error
        noted, seq = {**self._noted, "after": last}, committer.seq
        some = sqlite_clone.look(writer, after, last, new)
        marks = {
            number: evolve(mark, live=mark.live + live, seq=seq + some.count)
            for number, live in some.live.items()
            if (mark := committer.marks.get(number)) is not None
        }
        notes = {NOTE: json.dumps(noted)}
        self._index.apply(
            Batch(marks=marks, seq=seq + some.count, notes=notes),
            partial(sqlite_clone.take, writer, after, last, new, seq),
        )
        committer.marks.update(marks)
        committer.count_from(seq + some.count)
        forest = committer.forest
        if forest is not None and forest.grown_to:
            forest.add(sqlite_clone.digests_above(writer, seq))
        self._noted = noted
        names = [row.name for row in known]
        return _Taken(some.count + len(names), some.size, names, left_out)

    def _leave_out(self, after: str, last: str) -> list[tuple[str, str, int]]:
        """Remove what does not belong here from the next rows of the copy."""
        left_out = []
        writer, encoded = self._index.connection, self._topology.encode_name
        for start in sqlite_clone.starts(writer, after, last, whole=not encoded):
            try:
                place = self._topology.place(start, encoded=True)
                why = "" if self._topology.is_here(place) else "not of this bucket"
            except InvalidRequest as refusal:
                why = refusal.sentence
            if why:
                count = sqlite_clone.remove(writer, after, last, start, not encoded)
                left_out.append((start, why, count))
        return left_out

    def _job(self, row: Row) -> Job:
        """Return what merges a row into the one that is here."""
        ours = self._index.get(row.name)
        merged = merge(ours.state if ours is not None else None, row.state)
        body = self._body_of(row) if merged.data_won else None
        # What is damaged there comes from somebody else.
        state = row.state if body is not None else State(None, row.expiry)
        cleanup = None if body is None or isinstance(body, bytes) else body.discard

        def plan(found: Row | None) -> Plan | None:
            merged = merge(found.state if found is not None else None, state)
            if merged.data_won:
                return Plan(merged.state, body)
            return Plan(merged.state) if merged.expiry_won else None

        return Job(row.name, plan, alone=cleanup is not None, cleanup=cleanup)

    def _body_of(self, row: Row) -> bytes | ISpool | None:
        """Return the bytes of a row, from a volume that was moved here; None: bad."""
        data, at = row.data, row.at
        if data is None or at is None:
            return None
        if data.size <= SMALL_BYTES:
            body = self._store.read(at, 0, data.size)
            return body if hashlib.sha256(body).digest() == data.sha256 else None
        spool = self._store.spool(row.name, data.content_type)
        for offset in range(0, data.size, SMALL_BYTES):
            length = min(SMALL_BYTES, data.size - offset)
            spool.write(self._store.read(at, offset, length))
        if spool.sha256 == data.sha256:
            return spool
        spool.discard()
        return None

    def _end(self, note: Callable[[str, int], object]) -> None:
        """Everything is here: the peer's stream goes on after it."""
        note(self._noted["peer"], self._noted["seq"])
        self._note({"began": self._noted["began"], "over": True})
        sqlite_clone.detach(self._index.connection)
        # What was fetched is removed now.
        self._index.sync()
        self.busy = False

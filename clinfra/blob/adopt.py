"""Becoming what a peer is: its volumes and index, taken over as files (see `clone`).

First all files are fetched, into a directory of their own, and made durable.  Then, in
the writer thread, the volumes are moved to ours, and the rows copied from the peer's
index into ours, some at a time.  A name that has a row here by then is merged as ever.

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
import os
import shutil
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from attrs import define, evolve, field, frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

from clinfra.blob import sqlite_clone
from clinfra.blob.clone import CLONE, CRC, INDEX, PIECE_BYTES, Offer, file_in, offer_in
from clinfra.blob.commit import Call, Committer, Job, Plan
from clinfra.blob.destinations import destinations
from clinfra.blob.index import Batch
from clinfra.blob.index_sqlite import SqliteIndex
from clinfra.blob.merge import merge
from clinfra.blob.peers import MAX_ANSWER_BYTES, PeerFailed, Peers
from clinfra.blob.records import Row, State
from clinfra.blob.replica import SMALL_BYTES, Replica
from clinfra.blob.spool_file import write_all
from clinfra.blob.store import ISpool
from clinfra.blob.store_volume import VolumeStore, sync_directory
from clinfra.blob.topology import Topology
from clinfra.blob.volume import VOLUME_HEAD_BYTES, unpack_volume_head
from clinfra.blob.workers import Workers
from clinfra.errors import OriginFailed, StorageFull
from clinfra.web.responses import OriginResponse

NOTE = "clone"
"""Where the index notes where numbers began, and what is being taken over."""

COUNTS_A_SECOND = 20
"""Bits: numbers given in a second, at most."""

LANES = 3
"""Pieces of files on their way at a time."""

ROWS = 1000
"""Taken over at a time."""


@frozen
class _Taken:
    """What was just taken over; `known` of it had rows already, and was merged."""

    count: int
    size: int
    known: list[str]


def _nobody(peer: str, blobs: int, size: int) -> None:
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
    _noted: dict[str, Any] = field(init=False, factory=dict)

    # Lifetime

    def begin(self) -> None:
        """This replica is empty: see Note [Disjoint numbers]."""
        began = int(self._committer.now()) << COUNTS_A_SECOND
        cursors = {each.key: began for each in destinations(self._topology)}
        self._noted = {"began": began}
        notes = {NOTE: json.dumps(self._noted)}
        self._index.apply(Batch(seq=began, cursors=cursors, notes=notes))
        self._committer.load()

    def open(self) -> None:
        """Find out where an earlier run was."""
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
            return False
        self.log.info(
            "this replica becomes what {peer} is: {bytes} bytes, as files",
            peer=peer,
            bytes=sum(offer.volumes.values()) + offer.index,
        )
        try:
            await self._fetch(peer, offer)
        except BaseException:
            self._workers.run(partial(shutil.rmtree, self._path, ignore_errors=True))
            raise
        finally:
            over = Deferred.fromCoroutine(self._is_over(peer, offer))
            over.addErrback(lambda failure: None)
        self.log.info("all files of {peer} are here", peer=peer)
        await self._replica.commit(Call(partial(self._begin_with, peer, offer)))
        await self.go_on(note)
        return True

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

    async def _fetch(self, peer: str, offer: Offer) -> None:
        """Get all files, whole and durable."""
        self._replica.check_space(sum(offer.volumes.values()) + 4 * offer.index)
        await self._workers.run(self._make_directory)
        pieces = _pieces(offer)
        lanes = [
            Deferred.fromCoroutine(self._fetch_some(peer, offer, pieces))
            for _ in range(LANES)
        ]
        # Nobody writes any more when this fails.
        for success, result in await DeferredList(lanes, consumeErrors=True):
            if not success:
                cast(Failure, result).raiseException()
        await self._workers.run(self._sync_directory)

    async def _fetch_some(
        self, peer: str, offer: Offer, pieces: Iterator[tuple[str, int, int]]
    ) -> None:
        """Get pieces until there are no more, or one is not to be had."""
        try:
            for name, offset, length in pieces:
                target = (
                    f"/{CLONE}?for={self._topology.replica}&id={offer.id}"
                    f"&file={name}&offset={offset}&length={length}"
                )
                piece, crc = await self._piece(peer, target.encode(), length)
                self.heard(peer, 0, 0)
                path = file_in(self._path, name)
                await self._workers.run(_keep, path, piece, length, crc, offset)
        except BaseException:
            for _ in pieces:
                pass
            raise

    async def _piece(
        self, peer: str, target: bytes, most: int
    ) -> tuple[list[bytes], int]:
        """Return a piece of a file, and what its CRC-32 has to be."""
        response: OriginResponse = await self._peers.call(peer, b"GET", target)
        pieces: list[bytes] = []
        async with response:
            told = response.head.get(CRC.lower())
            if response.head.status != 200 or told is None or not told.isdigit():
                raise PeerFailed(peer, response.head.status, "it has no such piece")
            while len(piece := await response.read()):
                pieces.append(piece)
                most -= len(piece)
                if most < 0:
                    raise PeerFailed(peer, 200, "a piece is longer than asked for")
        return pieces, int(told)

    async def _is_over(self, peer: str, offer: Offer) -> None:
        """Tell a peer that it may forget its offer."""
        target = f"/{CLONE}?for={self._topology.replica}&id={offer.id}&over=1"
        response = await self._peers.call(peer, b"GET", target.encode())
        response.abort()

    def _make_directory(self) -> None:
        shutil.rmtree(self._path, ignore_errors=True)
        self._path.mkdir(parents=True)

    def _sync_directory(self) -> None:
        sync_directory(self._path)
        sync_directory(self._path.parent)

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
        await self._workers.run(partial(shutil.rmtree, self._path, ignore_errors=True))
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
        known = sqlite_clone.known_in(writer, after, last)
        jobs = [self._job(row) for row in known]
        committer.run(jobs)
        for job in jobs:
            if job.error is not None:
                raise job.error
        noted, seq = {**self._noted, "after": last}, committer.seq
        some = sqlite_clone.look(writer, after, last)
        marks = {
            number: evolve(mark, live=mark.live + live, seq=seq + some.count)
            for number, live in some.live.items()
            if (mark := committer.marks.get(number)) is not None
        }
        notes = {NOTE: json.dumps(noted)}
        self._index.apply(
            Batch(marks=marks, seq=seq + some.count, notes=notes),
            partial(sqlite_clone.take, writer, after, last, seq),
        )
        committer.marks.update(marks)
        committer.count_from(seq + some.count)
        forest = committer.forest
        if forest is not None and forest.grown_to:
            for name, digest in sqlite_clone.digests_above(writer, seq):
                forest.replace(name, b"", digest)
        self._noted = noted
        names = [row.name for row in known]
        return _Taken(some.count + len(names), some.size, names)

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


def _pieces(offer: Offer) -> Iterator[tuple[str, int, int]]:
    """Yield the pieces of all files: name, offset, length."""
    files = {INDEX: offer.index}
    files.update((f"{number}", size) for number, size in offer.volumes.items())
    for name, size in files.items():
        for offset in range(0, size, PIECE_BYTES):
            yield name, offset, min(PIECE_BYTES, size - offset)


def _keep(path: Path, pieces: list[bytes], wanted: int, crc: int, offset: int) -> None:
    """Write a piece of a file, durably.  A reader thread."""
    found = 0
    for piece in pieces:
        found = zlib.crc32(piece, found)
    if found != crc or sum(map(len, pieces)) != wanted:
        raise OriginFailed("A piece of a file was damaged on the way")
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        write_all(fd, pieces, offset)
        os.fdatasync(fd)
    except OSError as error:
        raise StorageFull("Not enough space to keep what came") from error
    finally:
        os.close(fd)

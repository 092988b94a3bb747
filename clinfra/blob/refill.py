"""Filling a replica that has lost everything, from the stream of a peer (see `stream`).

Where both keep volumes, what a peer has is first taken over as it is (see `adopt`).
One peer is asked for all it has, then for what has changed meanwhile, until nothing
comes any more.  When it dies another one is asked.  What comes is checked and committed
in large blocks, the next of which comes in meanwhile.  Clients and change feeds go on
as ever: the merge rule decides.

A replica is filling from its first start on an empty directory, through restarts, until
it has everything a peer of its bucket has that is not itself filling; or, in a new
bucket, everything that all of them have.  Originals cannot stream: from them comes what
they send, or what a sync brings.

Peers that cannot be reached are asked again and again.  But after a while a replica
that has all there is on the others is relied on without them, as one that was not wiped
is; and after a long while so is one whose peer broke off.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger

from clinfra.blob import names
from clinfra.blob.adopt import Adoption
from clinfra.blob.commit import Call, Committer, Job, Plan
from clinfra.blob.destinations import peers_of
from clinfra.blob.index import Batch
from clinfra.blob.merge import merge
from clinfra.blob.peers import FILLING, PeerFailed, Peers
from clinfra.blob.records import BYTES, Row, State
from clinfra.blob.replica import Replica, Write
from clinfra.blob.standing import Standing
from clinfra.blob.store import ISpool
from clinfra.blob.stream import STREAM, Streamed, parse_checked
from clinfra.blob.topology import Topology
from clinfra.blob.volume import Record
from clinfra.blob.workers import Workers
from clinfra.errors import InvalidRequest, OriginFailed, StorageFull, Trouble
from clinfra.web.responses import OriginResponse

BLOCK_BYTES = 16 << 20
"""Committed at a time, about."""

PIECE_BYTES = 1 << 20
"""Of a large body, written at a time."""

FIRST_SECONDS = 0.05
RETRY_SECONDS = 2.0
"""Between rounds, at most, when no peer could tell everything."""

AWAY_SECONDS = 5.0
"""How long it is unsure what peers have that cannot be reached."""

LOST_SECONDS = 600.0
"""The same of a peer that broke off."""

NOTE = "filling"
"""Where the index notes how far each peer's stream was taken; there while filling."""


@define(eq=False)
class Refill:
    """Fills this replica.

    Attributes:
        standing: what this replica may be relied on for.
        blobs, size: how much came, in this run.
        left_out: records that were damaged, or do not belong here.
        adopted: called when what a peer is was taken over, bytes unseen.
        filled: called in the writer thread when this replica had lost something.
    """

    log = Logger()

    _topology: Topology
    _replica: Replica
    _committer: Committer
    _workers: Workers
    _peers: Peers
    _reactor: Any
    _adoption: Adoption | None = None
    standing: Standing = field(init=False, factory=Standing)
    blobs: int = field(init=False, default=0)
    size: int = field(init=False, default=0)
    left_out: int = field(init=False, default=0)
    adopted: Callable[[], object] = field(init=False, default=lambda: None)
    filled: Callable[[], object] = field(init=False, default=lambda: None)
    _source: str = field(init=False, default="")
    _began: float = field(init=False, default=0.0)
    _seconds: float = field(init=False, default=0.0)
    _positions: dict[str, int] = field(init=False, factory=dict)
    _taken: set[str] = field(init=False, factory=set)
    _heard_at: float = field(init=False, default=0.0)
    _doubting: IDelayedCall | None = field(init=False, default=None)
    _running: Deferred[None] | None = field(init=False, default=None)

    # Lifetime

    def open(self) -> None:
        """See whether this replica has to be filled."""
        index = self._committer.index
        noted = index.notes().get(NOTE)
        new = index.last_seq() == 0 and not self._committer.store.volumes()
        if self._adoption is not None:
            self._adoption.open()
        if not peers_of(self._topology) or (noted is None and not new):
            return
        self._positions = _positions(noted)
        if self._adoption is not None:
            if noted is None:
                self._adoption.begin()
            self._adoption.heard, self._adoption.adopted = self._hear, self.adopted
            self._adoption.left_out = self._leave_out
        self.standing.begins_empty()
        index.apply(Batch(notes={NOTE: json.dumps(self._positions)}))

    @property
    def busy(self) -> bool:
        """Volumes are being taken over: none is to be removed."""
        return self._adoption is not None and self._adoption.busy

    def start(self) -> None:
        """Begin, or go on, if this replica has to be filled."""
        if self.standing.filling and self._running is None:
            self._heard_at = self._reactor.seconds()
            self._doubt(AWAY_SECONDS)
            self._running = Deferred.fromCoroutine(self._run())
            self._running.addErrback(self._over)

    def stop(self) -> None:
        """Take no more for now."""
        self._end_doubt()
        running, self._running = self._running, None
        if running is not None:
            running.cancel()

    def _over(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self.log.failure("filling broke down", failure=failure)

    def report(self) -> Mapping[str, Any]:
        """Return what status pages show."""
        seconds = self._seconds
        if self._source:
            seconds = self._reactor.seconds() - self._began
        return {
            "filling": self.standing.filling,
            "unsure": self.standing.unsure,
            "source": self._source,
            "blobs": self.blobs,
            "bytes": self.size,
            "left_out": self.left_out,
            "seconds": round(seconds, 1),
            "bytes_per_second": int(self.size / seconds) if seconds > 0 else 0,
        }

    # Whom to ask

    async def _run(self) -> None:
        self._began = self._reactor.seconds()
        pause = FIRST_SECONDS
        await deferLater(self._reactor, pause)
        while not await self._round():
            pause = min(2 * pause, RETRY_SECONDS)
            await deferLater(self._reactor, pause)
        self._source = ""
        self._seconds = self._reactor.seconds() - self._began
        await self._replica.commit(Call(self._filled))
        if self._adoption is not None:
            await self._adoption.forget()
        self._end_doubt()
        self.standing.filled()
        self.log.info(
            "filled with {blobs} blobs, {bytes} bytes, in {seconds:.1f} s;"
            " {left_out} left out",
            blobs=self.blobs,
            bytes=self.size,
            seconds=self._seconds,
            left_out=self.left_out,
        )

    def _filled(self) -> None:
        """Note that nothing is missing any more.  The writer thread."""
        if self.blobs or any(self._positions.values()):
            self.filled()
        self._committer.index.apply(Batch(notes={NOTE: None}))

    async def _round(self) -> bool:
        """Ask the peers in turn; return whether there is nothing more to be had."""
        peers, taken = peers_of(self._topology), self._taken
        if self._adoption is not None:
            try:
                await self._adoption.go_on(self._note)
            except (Trouble, OSError) as trouble:
                self.log.error("cannot go on taking over: {trouble}", trouble=trouble)
                return False
        for peer in self._peers.order((name, 1) for name in peers):
            try:
                await self._peers.learn(peer)
                if not self._peers.is_ours(peer):
                    taken.add(peer)
                elif await self._take_all(peer):
                    return True
                else:
                    taken.add(peer)
            except (Trouble, OSError) as trouble:
                self.log.info(
                    "cannot be filled from {peer}: {trouble}",
                    peer=peer,
                    trouble=trouble,
                )
        return taken.issuperset(peers)

    async def _take_all(self, peer: str) -> bool:
        """Take all a peer has; return whether that is everything there is."""
        if self._adoption is not None and not any(self._positions.values()):
            await self._adoption.take(peer, self._note)
        while True:
            before = self.blobs
            whole = await self._take(peer)
            if self.blobs == before:
                # It was asked once more after the last change: now it knows.
                return whole

    def _hear(self, peer: str, blobs: int, size: int) -> None:
        """Some of what a peer is came."""
        self._heard_at, self._source = self._reactor.seconds(), peer
        self.blobs += blobs
        self.size += size

    # What to think of peers that cannot be asked

    def _doubt(self, seconds: float) -> None:
        self._doubting = self._reactor.callLater(seconds, self._look)

    def _end_doubt(self) -> None:
        if self._doubting is not None and self._doubting.active():
            self._doubting.cancel()
        self._doubting = None

    def _look(self) -> None:
        """Rely on what is here, if nobody is known to have more, or is lost."""
        begun = {self._source, *self._positions} - self._taken - {""}
        patience = LOST_SECONDS if begun else AWAY_SECONDS
        left = self._heard_at + patience - self._reactor.seconds()
        if left > 0:
            self._doubt(max(left, FIRST_SECONDS))
            return
        self.log.warn(
            "without {away} this replica is not filled, but relied on",
            away=", ".join(sorted({*peers_of(self._topology)} - self._taken)),
        )
        self.standing.relied_on()

    # One answer

    async def _take(self, peer: str) -> bool:
        """Take a peer's stream from where it was; return whether the peer is whole.

        Raises errors.OriginFailed when it is cut short, errors.StorageFull.
        """
        self._replica.check_space(PIECE_BYTES)
        after = self._positions.get(peer, 0)
        target = f"/{STREAM}?after={after}&for={self._topology.replica}"
        response = await self._peers.call(peer, b"GET", target.encode())
        async with response:
            if response.head.status != 200:
                raise PeerFailed(peer, response.head.status, "it does not stream")
            if self._source != peer:
                self._source = peer
                self.log.info(
                    "this replica is filled from {peer}, after change {after}",
                    peer=peer,
                    after=after,
                )
            await self._take_blocks(peer, response)
        return FILLING[0].lower() not in response.head.index

    async def _take_blocks(self, peer: str, response: OriginResponse) -> None:
        """Take the records of an answer; one block comes while another is kept."""
        rest = b""
        keeping: Deferred[None] | None = None
        try:
            while True:
                raw, complete = await _block(rest, response)
                parsed, bad = await self._workers.run(parse_checked, raw)
                rest = raw[parsed.used :]
                for name in bad:
                    self._leave_out(name, "it is damaged")
                if keeping is not None:
                    await keeping
                keeping = self._keep(peer, parsed.records)
                if parsed.large is not None:
                    await keeping
                    rest = await self._take_large(parsed.large, rest, response)
                if parsed.end is not None:
                    await keeping
                    await self._replica.commit(
                        Call(partial(self._note, peer, parsed.end))
                    )
                    return
                if complete and parsed.large is None:
                    raise OriginFailed(f"{peer}: its stream was cut short")
        finally:
            if keeping is not None:
                keeping.addErrback(lambda failure: None)

    def _keep(self, peer: str, records: Sequence[Streamed]) -> Deferred[None]:
        """Commit records; where the stream then is, is noted with them."""
        self._replica.check_space(sum(len(record.body or b"") for record in records))
        jobs = []
        for record in records:
            if self._is_welcome(record.name, record.state):
                plan = partial(_plan, record.state, record.body)
                jobs.append(Job(record.name, plan))
        if not records:
            return succeed(None)

        def commit() -> None:
            self._committer.run(jobs)
            self._note(peer, records[-1].seq)

        return self._replica.commit(Call(commit)).addCallback(self._kept, jobs)

    def _kept(self, result: object, jobs: Sequence[Job]) -> None:
        self._heard_at = self._reactor.seconds()
        for job in jobs:
            self._replica.hot.drop(job.name)
            body_bytes = 0
            if job.error is None and job.after is not None:
                body_bytes = job.after.data.size if job.after.data is not None else 0
            elif job.error is not None:
                if isinstance(job.error, StorageFull):
                    raise job.error
                self._leave_out(job.name, str(job.error))
            self.blobs += 1
            self.size += body_bytes

    def _is_welcome(self, name: str, state: State) -> bool:
        modified = state.data.modified if state.data is not None else None
        ended = state.expiry.modified_deleted
        try:
            names.check_harmless(name)
            self._replica.check_stamps(Write(modified=modified, modified_deleted=ended))
            if self._topology.is_here(self._topology.place(name, encoded=True)):
                return True
            why = "it does not belong here"
        except InvalidRequest as refusal:
            why = refusal.sentence
        self._leave_out(name, why)
        return False

    def _leave_out(self, name: str, why: str, count: int = 1) -> None:
        self.left_out += count
        self.log.error(
            "{name} is left out: {why} ({count})", name=name, why=why, count=count
        )

    def _note(self, peer: str, position: int) -> None:
        """Note how far a peer's stream was taken.  The writer thread."""
        self._positions[peer] = position
        self._committer.index.apply(Batch(notes={NOTE: json.dumps(self._positions)}))

    async def _take_large(
        self, record: Record, rest: bytes, response: OriginResponse
    ) -> bytes:
        """Take a record with a large body; return what came after it."""
        data = record.state.data
        if data is None:
            raise InvalidRequest("This is no record")
        left = data.size
        self._replica.check_space(left)
        spool = self._replica.store.spool(record.name, data.content_type)
        try:
            while left:
                piece = rest
                if not piece:
                    piece, complete = await _block(b"", response, PIECE_BYTES)
                    if complete and not piece:
                        raise OriginFailed("A stream was cut short")
                piece, rest = piece[:left], piece[left:]
                await self._workers.run(spool.write, piece)
                left -= len(piece)
            await self._workers.run(spool.sync)
        except BaseException:
            self._workers.run(spool.discard)
            raise
        if spool.sha256 != data.sha256:
            self._workers.run(spool.discard)
            self._leave_out(record.name, "it is damaged")
        elif not self._is_welcome(record.name, record.state):
            self._workers.run(spool.discard)
        else:
            plan = partial(_plan, record.state, spool)
            job = Job(record.name, plan, alone=True, cleanup=spool.discard)
            await self._replica.commit(job)
            self._kept(None, [job])
        return rest


async def _block(
    rest: bytes, response: OriginResponse, most: int = BLOCK_BYTES
) -> tuple[bytes, bool]:
    """Return what was left and what comes, and whether that was the end."""
    pieces = [rest]
    held = len(rest)
    while held < most:
        piece = await response.read()
        if not piece:
            return b"".join(pieces), True
        pieces.append(piece)
        held += len(piece)
    return b"".join(pieces), False


def _plan(state: State, body: bytes | ISpool | None, row: Row | None) -> Plan | None:
    """Merge what a peer has; it sees to the others itself."""
    merged = merge(row.state if row is not None else None, state)
    if merged.data_won:
        return Plan(merged.state, body, fanout=BYTES)
    return Plan(merged.state) if merged.expiry_won else None


def _positions(noted: str | None) -> dict[str, int]:
    """Return how far each peer's stream was taken, as noted."""
    try:
        told = json.loads(noted or "{}")
        return {str(peer): int(position) for peer, position in told.items()}
    except (ValueError, TypeError, AttributeError):
        return {}

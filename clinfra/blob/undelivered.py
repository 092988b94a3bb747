"""Reading blobs of which a server keeps changes that no keeper has yet (`handoff`).

What is served is what the merge of all changes that can be found makes of the blob:
those kept here, and what its keepers say; or, when no keeper can be asked, what the
other servers of the cluster keep.
"""

from __future__ import annotations

import hashlib
from typing import Any

from attrs import define, frozen
from twisted.internet.defer import Deferred, TimeoutError, gatherResults

from clinfra.blob.answers import answer_parts
from clinfra.blob.handoff import HANDOFF, Handoff
from clinfra.blob.handoff_files import Kept
from clinfra.blob.info import NOT_FOUND, from_json, info_of
from clinfra.blob.merge import merge
from clinfra.blob.peers import HOP, MAX_ANSWER_BYTES, PeerFailed
from clinfra.blob.reading import SMALL_BYTES
from clinfra.blob.records import Data, Expiry, Row, State
from clinfra.blob.router import Gone, Router
from clinfra.blob.topology import Placement
from clinfra.errors import NotFound, OriginFailed, Overloaded, StorageDamaged
from clinfra.interfaces import BlobInfo
from clinfra.web.exchange import FileBody, IExchange, Response
from clinfra.web.ranges import Range
from clinfra.web.responses import OriginResponse

PATIENCE_SECONDS = 1.0
"""How long the keepers, and then the other servers, may take to say what they know."""

MAX_ASKED = 32
"""Other servers that are asked."""

MAX_READS = 64
"""Most reads at a time for which others are asked; more are told to come back."""

HERE, KEEPERS = "", None


@frozen
class Winner:
    """What is known of a blob, and who has the bytes that count.

    Attributes:
        at: HERE, KEEPERS, or the server that keeps them for others.
    """

    state: State
    at: str | None

    def joined(self, state: State, at: str | None) -> Winner:
        """Return what it is with what another knows."""
        merged = merge(self.state, state)
        return Winner(merged.state, at if merged.data_won else self.at)


@define(eq=False)
class Undelivered:
    """Finds out what such a blob is, and reads what is kept here."""

    _router: Router
    handoff: Handoff
    _reads: int = 0

    async def find(self, placement: Placement) -> Winner | None:
        """Return what a blob is; None: ask its keepers, nothing is kept here.

        Raises errors.NotFound: it is deleted, or never was.
        """
        state = self.handoff.state(placement.stored)
        if state is None:
            return None
        winner = Winner(state, HERE)
        try:
            told = await self._soon(self._ask_keepers(placement))
        except NotFound:
            return winner
        except (Overloaded, OriginFailed, TimeoutError):
            return await self._find_kept(placement, winner)
        return winner.joined(told, KEEPERS)

    async def find_kept(self, placement: Placement) -> Winner | None:
        """Return what other servers keep of a blob whose keepers are all away."""
        return await self._find_kept(placement, None)

    async def _ask_keepers(self, placement: Placement) -> State:
        peers, stored = self._router.peers, placement.stored

        async def ask(peer: str) -> OriginResponse:
            target = peers.path(peer, stored) + b"?response=info"
            return await peers.call(peer, b"GET", target, (HOP,))

        try:
            found = await self._router.read(placement, ask)
        except Gone as gone:
            return State(None, Expiry(gone.modified_deleted, 1))
        return await _state_in(found.peer, found.response)

    async def _find_kept(
        self, placement: Placement, winner: Winner | None
    ) -> Winner | None:
        if self._reads >= MAX_READS:
            return winner
        servers = self._others()
        self._reads += 1
        try:
            found = await gatherResults(
                [Deferred.fromCoroutine(self._ask(s, placement)) for s in servers]
            )
        finally:
            self._reads -= 1
        for server, state in zip(servers, found, strict=True):
            if state is not None:
                winner = (
                    winner.joined(state, server) if winner else Winner(state, server)
                )
        return winner

    def _others(self) -> list[str]:
        """Return the servers that may have taken changes for others."""
        peers = self._router.peers
        return [
            server
            for server in self._router.everybody()
            if peers.is_up(server) and peers.is_ours(server) is not False
        ][:MAX_ASKED]

    async def _ask(self, server: str, placement: Placement) -> State | None:
        peers = self._router.peers
        target = peers.path(server, placement.stored) + b"?response=info"

        async def ask() -> State:
            response = await peers.call(server, b"GET", target, (HOP, HANDOFF))
            return await _state_in(server, response)

        try:
            return await self._soon(ask())
        except (NotFound, OriginFailed, TimeoutError):
            return None

    def _soon(self, work: Any) -> Deferred[State]:
        waiting: Deferred[State] = Deferred.fromCoroutine(work)
        return waiting.addTimeout(PATIENCE_SECONDS, self._router.clock)

    # What is kept here

    async def answer(
        self, exchange: IExchange, placement: Placement, state: State, now: float
    ) -> Response:
        """Answer a GET or HEAD with bytes that are kept here.  Raises NotFound."""
        row = Row(placement.stored, state, None)
        kept = self._kept(placement, state)

        async def part(wanted: Range) -> FileBody | bytes:
            if kept.size <= SMALL_BYTES:
                body = await self.body(placement, state)
                return body[wanted.start : wanted.stop]
            try:
                return await self.handoff.files.part(kept, wanted.start, wanted.length)
            except OSError as error:
                raise Overloaded("The blob is being delivered just now") from error

        return await answer_parts(exchange, row, part, now, 0)

    async def body(self, placement: Placement, state: State) -> bytes:
        """Return bytes that are kept here, whole.  Raises NotFound, StorageDamaged."""
        kept = self._kept(placement, state)
        try:
            replay = await self.handoff.files.replay(kept)
        except OSError as error:
            raise Overloaded("The blob is being delivered just now") from error
        if replay is None:
            raise NotFound(NOT_FOUND)
        try:
            source = replay.body()
            if not isinstance(source, bytes):
                pieces = []
                while piece := await source.read():
                    pieces.append(piece)
                source = b"".join(pieces)
        finally:
            replay.close()
        if hashlib.sha256(source).digest() != kept.sha256:
            raise StorageDamaged("The blob's bytes are damaged")
        return source

    def _kept(self, placement: Placement, state: State) -> Kept:
        data, stored = state.data, placement.stored
        kept = self.handoff.holder(stored, data) if data is not None else None
        if kept is None:
            raise NotFound(NOT_FOUND)
        return kept

    def info(self, placement: Placement, state: State) -> BlobInfo:
        """Return what is told of such a blob."""
        return info_of(Row(placement.stored, state, None), placement.buckets)


async def _state_in(peer: str, response: OriginResponse) -> State:
    """Return the state in an info JSON.  Raises NotFound, PeerFailed."""
    async with response:
        status = response.head.status
        if status == 404:
            raise NotFound(NOT_FOUND)
        try:
            if status != 200:
                raise ValueError(f"status {status}")
            info = from_json(await response.read_all(MAX_ANSWER_BYTES))
            sha256 = bytes.fromhex(info.sha256 or "")
        except ValueError as error:
            raise PeerFailed(peer, status, "its answer makes no sense") from error
    expiry = Expiry(info.modified_deleted, info.deleted)
    if info.modified is None:
        return State(None, expiry)
    data = Data(info.modified, sha256, info.size or 0, 0, info.content_type)
    return State(data, expiry)

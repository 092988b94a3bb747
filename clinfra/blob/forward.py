"""Requests for names that live elsewhere, passed on to where they do.

What travels is the same question: ranges, conditions and the wish for copies go along,
the answer comes back as it was given.  A body is taken in whole before it is sent, so
that every try sends all of it: no replica ever sees one that another has half eaten.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing

from attrs import define, evolve, frozen

from clinfra.blob import parameters
from clinfra.blob.digests import Announced
from clinfra.blob.errand import Errand, info_in
from clinfra.blob.handoff import HANDOFF
from clinfra.blob.info import NOT_FOUND, from_json, to_json
from clinfra.blob.peers import HOP, MAX_ANSWER_BYTES, PeerFailed
from clinfra.blob.records import State
from clinfra.blob.replay import Replay, ReplayIntake
from clinfra.blob.replica import Write
from clinfra.blob.resume import Rest, pieces
from clinfra.blob.router import Found, Router
from clinfra.blob.topology import Placement
from clinfra.blob.undelivered import HERE, Undelivered, Winner
from clinfra.errors import NotFound, OriginFailed, Overloaded
from clinfra.interfaces import BlobInfo
from clinfra.web.exchange import IExchange, Response
from clinfra.web.headers import HOP_BY_HOP
from clinfra.web.heads import Field, Fields, RequestHead, ResponseHead
from clinfra.web.responses import OriginResponse

_ASKED = frozenset(
    (
        b"range",
        b"if-range",
        b"if-match",
        b"if-none-match",
        b"if-modified-since",
        b"if-unmodified-since",
    )
)
"""Fields of a request that go along with it."""

_DEPENDS = frozenset((b"if-match", b"if-none-match", b"if-unmodified-since"))

_WISHES = ("copies", "clusters", "require")
"""Parameters that are for whoever keeps the blob."""

_OURS = HOP_BY_HOP | {b"content-length", b"server", b"date"}
_JSON: Fields = ((b"Content-Type", b"application/json"),)
_NOT_THAT = "not what was asked for"
_NOSNIFF: Field = (b"X-Content-Type-Options", b"nosniff")


@define(eq=False)
class Forwarder:
    """Passes requests on to the replicas that keep the names.

    Args:
        default_ttl_seconds: of blobs put without one; None for ever.
        undelivered: what nobody could take, and how to read it.
        now: returns unix seconds.
    """

    router: Router
    default_ttl_seconds: int | None
    intake: ReplayIntake
    undelivered: Undelivered
    now: Callable[[], float]

    # Reads

    async def get(
        self,
        exchange: IExchange,
        placement: Placement,
        response: str,
        *,
        missing: bool = False,
    ) -> Response:
        """Answer a GET or HEAD with what is answered elsewhere, or kept for others.

        Args:
            response: "data" or "info".
            missing: it should be here, and is not.
        """
        winner = await self.undelivered.find(placement)
        if winner is None:
            fields = _passed_on(exchange.head, _ASKED)
            head_only = exchange.head.method == b"HEAD"
            asked = _Asked(placement, response, fields, head_only, missing)
            try:
                return await self._pass_back(asked)
            except Overloaded:
                winner = await self.undelivered.find_kept(placement)
                if winner is None:
                    raise
        return await self._answer(exchange, placement, response, winner)

    async def get_kept(
        self, exchange: IExchange, placement: Placement, response: str
    ) -> Response:
        """Answer another server with what is kept here.  Raises errors.NotFound."""
        state = self.undelivered.handoff.state(placement.stored)
        if state is None:
            raise NotFound(NOT_FOUND)
        if response == "info":
            info = self.undelivered.info(placement, state)
            return Response(200, _JSON, to_json(info))
        return await self.undelivered.answer(exchange, placement, state, self.now())

    async def _answer(
        self, exchange: IExchange, placement: Placement, response: str, winner: Winner
    ) -> Response:
        """Answer with what a blob is when not all of it is where it belongs."""
        state, here = winner.state, self.undelivered
        if response == "info" and state.data is not None:
            return Response(200, _JSON, to_json(here.info(placement, state)))
        self._check_served(placement, state)
        if winner.at == HERE:
            return await here.answer(exchange, placement, state, self.now())
        head_only = exchange.head.method == b"HEAD"
        fields = _passed_on(exchange.head, _ASKED)
        asked = _Asked(placement, response, fields, head_only, False, winner.at)
        return await self._pass_back(asked)

    async def _pass_back(self, asked: _Asked) -> Response:
        """Return an answer from elsewhere as ours, its body as it comes."""
        found = await self._find(asked)
        response = found.response
        head = response.head
        fields = _returned(head)
        if b"x-content-type-options" not in head.index:
            fields += (_NOSNIFF,)
        if asked.head_only or head.status == 304:
            response.abort()
            return Response(head.status, fields, _nothing(), length=head.content_length)
        return Response(
            head.status, fields, self._body(found, asked), length=head.content_length
        )

    def _body(self, found: Found, asked: _Asked) -> AsyncGenerator[bytes, None]:
        def resume(rest: Rest, spared: frozenset[str]) -> Awaitable[Found]:
            return self._find(
                evolve(asked, fields=rest.fields, rest=rest, spared=spared)
            )

        return pieces(found, self.router.peers.health.failed, resume)

    def _check_served(self, placement: Placement, state: State) -> None:
        """Raise NotFound for what has ended, Overloaded for want of bytes."""
        if state.expiry.passed(self.now()):
            raise NotFound(NOT_FOUND)
        if state.data is None:
            raise Overloaded(f"No replica that keeps {placement.stored} can be reached")

    async def fetch(
        self, placement: Placement, max_bytes: int, *, missing: bool = False
    ) -> bytes:
        """Return a small blob whole.  Raises errors.NotFound."""
        asked = _Asked(placement, "data", missing=missing)
        winner = await self.undelivered.find(placement)
        if winner is None:
            try:
                return await self._fetch(asked, max_bytes)
            except Overloaded:
                winner = await self.undelivered.find_kept(placement)
                if winner is None:
                    raise
        self._check_served(placement, winner.state)
        if winner.at == HERE:
            return await self.undelivered.body(placement, winner.state)
        return await self._fetch(evolve(asked, at=winner.at), max_bytes)

    async def _fetch(self, asked: _Asked, max_bytes: int) -> bytes:
        found = await self._find(asked)
        if found.response.head.status != 200:
            found.response.abort()
            raise PeerFailed(found.peer, found.response.head.status, _NOT_THAT)
        taken: list[bytes] = []
        left = max_bytes
        async with aclosing(self._body(found, asked)) as body:
            async for piece in body:
                taken.append(piece)
                left -= len(piece)
                if left < 0:
                    said = f"the blob is over {max_bytes} bytes"
                    raise PeerFailed(found.peer, 200, said)
        return b"".join(taken)

    async def info(self, placement: Placement, *, missing: bool = False) -> BlobInfo:
        """Return what is known of a blob.  Raises errors.NotFound."""
        winner = await self.undelivered.find(placement)
        if winner is None:
            try:
                asked = _Asked(placement, "info", missing=missing)
                found = await self._find(asked)
                return info_in(found, await _whole(found, MAX_ANSWER_BYTES))
            except Overloaded:
                winner = await self.undelivered.find_kept(placement)
                if winner is None:
                    raise
        if winner.state.data is None:
            raise NotFound(NOT_FOUND)
        return self.undelivered.info(placement, winner.state)

    async def _find(self, asked: _Asked) -> Found:
        peers = self.router.peers

        async def ask(peer: str) -> OriginResponse:
            if peer in asked.spared:
                raise PeerFailed(peer, 0, "it broke off before")
            # Originals know no HEAD.
            method = b"HEAD" if asked.head_only and peers.is_ours(peer) else b"GET"
            target = peers.path(peer, asked.placement.stored) + b"?response="
            target += asked.response.encode()
            kept = (HANDOFF,) if asked.at is not None else ()
            fields = (HOP, *kept, *asked.fields)
            response = await peers.call(peer, method, target, fields)
            if asked.rest not in (None, Rest.told(response.head)):
                response.abort()
                raise PeerFailed(peer, response.head.status, "it has other bytes")
            return response

        if asked.at is not None:
            return Found(asked.at, await ask(asked.at))
        if asked.missing:
            return await self.router.rescue(asked.placement, ask)
        return await self.router.read(asked.placement, ask)

    # Changes

    async def put(
        self,
        exchange: IExchange,
        placement: Placement,
        write: Write,
        announced: Announced,
        replicate: str,
    ) -> Response:
        """Answer a PUT with what the replica that took it says."""
        settled = self._settle(placement, write, self.default_ttl_seconds)
        body = await self.intake.take(exchange, announced)
        try:
            return await self._change(
                exchange, b"PUT", placement, write, settled, replicate, body
            )
        finally:
            body.close()

    async def delete(
        self, exchange: IExchange, placement: Placement, write: Write, replicate: str
    ) -> Response:
        """Answer a DELETE with what the replica that took it says."""
        settled = self._settle(placement, write, 0)
        return await self._change(
            exchange, b"DELETE", placement, write, settled, replicate, None
        )

    async def keep(self, placement: Placement, body: bytes, write: Write) -> BlobInfo:
        """Put a small blob for this process itself."""
        settled = self._settle(placement, write, self.default_ttl_seconds)
        replay = Replay.of(body)
        return await self._for_us(b"PUT", placement, write, settled, replay)

    async def expire(self, placement: Placement, write: Write) -> BlobInfo:
        """Set when a blob ends, at once by default, for this process itself."""
        settled = self._settle(placement, write, 0)
        return await self._for_us(b"DELETE", placement, write, settled, None)

    async def _for_us(
        self,
        method: bytes,
        placement: Placement,
        write: Write,
        settled: Write,
        body: Replay | None,
    ) -> BlobInfo:
        errand = Errand(self.router, method, placement, "all", body)
        answered = await self._run(errand, write, settled)
        if answered.status != 200:
            raise OriginFailed(answered.body[:200].decode("utf-8", "replace").strip())
        return from_json(answered.body)

    async def _change(
        self,
        exchange: IExchange,
        method: bytes,
        placement: Placement,
        write: Write,
        settled: Write,
        replicate: str,
        body: Replay | None,
    ) -> Response:
        head = exchange.head
        errand = Errand(
            self.router,
            method,
            placement,
            replicate,
            body,
            fields=_passed_on(head, _DEPENDS),
            wishes=_wishes(head),
        )
        answered = await self._run(errand, write, settled)
        return Response(answered.status, answered.fields, answered.body)

    async def _run(self, errand: Errand, write: Write, settled: Write) -> _Answered:
        """Have a change carried out; keep it for later when nobody can."""
        try:
            found, answer = await errand.run(write, settled)
        except Overloaded:
            handoff = self.undelivered.handoff
            if not handoff.takes(errand):
                raise
            info = await handoff.keep(errand, settled)
            copies = b"0/%d" % len(self.router.nearest(errand.placement))
            fields = (*_JSON, (b"X-Clblob-Copies", copies), HANDOFF)
            return _Answered(200, fields, to_json(info))
        head = found.response.head
        return _Answered(head.status, _returned(head), answer)

    def _settle(self, placement: Placement, write: Write, ttl: int | None) -> Write:
        """Choose a change's stamps and end: it comes after those that are kept here."""
        settled = self.router.settle(write, ttl)
        state = self.undelivered.handoff.state(placement.stored)
        if state is None:
            return settled
        data, expiry = state.data, state.expiry
        modified = data.modified if data is not None else 0
        stamp = self.router.stamps.next(modified, expiry.modified_deleted)
        return evolve(
            settled,
            modified=write.modified or stamp,
            modified_deleted=write.modified_deleted or write.modified or stamp,
        )


@frozen
class _Asked:
    """What is asked for.

    Attributes:
        missing: it should be here, and is not.
        at: the server that keeps it for others; None asks those it belongs to.
        rest: take no other bytes than these.
        spared: who is not to be asked.
    """

    placement: Placement
    response: str
    fields: Fields = ()
    head_only: bool = False
    missing: bool = False
    at: str | None = None
    rest: Rest | None = None
    spared: frozenset[str] = frozenset()


@frozen
class _Answered:
    """An answer read whole."""

    status: int
    fields: Fields
    body: bytes


def is_forwarded(head: RequestHead) -> bool:
    """Return whether a request was passed on to us, so that we pass it on no more."""
    return HOP[0].lower() in head.index


async def _nothing() -> AsyncIterator[bytes]:
    """Be the body of an answer that has none, and yet a length."""
    nothing: tuple[bytes, ...] = ()
    for piece in nothing:
        yield piece


def _returned(head: ResponseHead) -> Fields:
    return tuple(pair for pair in head.fields if pair[0].lower() not in _OURS)


def _passed_on(head: RequestHead, names: Iterable[bytes]) -> Fields:
    if not any(name in head.index for name in names):
        return ()
    return tuple(pair for pair in head.fields if pair[0].lower() in names)


def _wishes(head: RequestHead) -> bytes:
    """Return the parameters of a request that are for whoever keeps the blob."""
    given = parameters.split(head.query)
    pieces = [
        key if given[key] is None else f"{key}={given[key]}"
        for key in _WISHES
        if key in given
    ]
    return "".join(f"&{piece}" for piece in pieces).encode("ascii", "replace")


async def _whole(found: Found, max_bytes: int) -> bytes:
    async with found.response as response:
        if response.head.status != 200:
            raise PeerFailed(found.peer, response.head.status, _NOT_THAT)
        return await response.read_all(max_bytes)

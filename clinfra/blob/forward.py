"""Requests for names that live elsewhere, passed on to where they do.

What travels is the same question: ranges, conditions and the wish for copies go along,
the answer comes back as it was given.  A body is taken in whole before it is sent, so
that every try sends all of it: no replica ever sees one that another has half eaten.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

from attrs import define, evolve

from clinfra.blob import parameters
from clinfra.blob.digests import Announced, digest_value
from clinfra.blob.info import from_json
from clinfra.blob.peers import (
    HOP,
    MAX_ANSWER_BYTES,
    PeerFailed,
    change_target,
)
from clinfra.blob.replay import Replay, ReplayIntake
from clinfra.blob.replica import Write
from clinfra.blob.router import Found, Router
from clinfra.blob.topology import Placement
from clinfra.errors import (
    OriginFailed,
    Overloaded,
)
from clinfra.interfaces import BlobInfo
from clinfra.web.exchange import IBody, IExchange, Response
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
_NOSNIFF: Field = (b"X-Content-Type-Options", b"nosniff")


@define(eq=False)
class Forwarder:
    """Passes requests on to the replicas that keep the names.

    Args:
        default_ttl_seconds: of blobs put without one; None for ever.
    """

    router: Router
    default_ttl_seconds: int | None
    intake: ReplayIntake

    # Reads

    async def get(
        self,
        exchange: IExchange,
        placement: Placement,
        response: str,
        *,
        missing: bool = False,
    ) -> Response:
        """Answer a GET or HEAD with what is answered elsewhere.

        Args:
            response: "data" or "info".
            missing: it should be here, and is not.
        """
        fields = _passed_on(exchange.head, _ASKED)
        head_only = exchange.head.method == b"HEAD"
        found = await self._find(placement, response, fields, head_only, missing)
        return passed_back(found, head_only)

    async def fetch(
        self, placement: Placement, max_bytes: int, *, missing: bool = False
    ) -> bytes:
        """Return a small blob whole.  Raises errors.NotFound."""
        found = await self._find(placement, "data", (), False, missing)
        return await _whole(found, max_bytes)

    async def info(self, placement: Placement, *, missing: bool = False) -> BlobInfo:
        """Return what is known of a blob.  Raises errors.NotFound."""
        found = await self._find(placement, "info", (), False, missing)
        return _info_in(found, await _whole(found, MAX_ANSWER_BYTES))

    async def _find(
        self,
        placement: Placement,
        response: str,
        fields: Fields,
        head_only: bool,
        missing: bool,
    ) -> Found:
        peers = self.router.peers

        async def ask(peer: str) -> OriginResponse:
            # Originals know no HEAD.
            method = b"HEAD" if head_only and peers.is_ours(peer) else b"GET"
            target = peers.path(peer, placement.stored) + b"?response="
            return await peers.call(
                peer, method, target + response.encode(), (HOP, *fields)
            )

        if missing:
            return await self.router.rescue(placement, ask)
        return await self.router.read(placement, ask)

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
        settled = self.router.settle(write, self.default_ttl_seconds)
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
        settled = self.router.settle(write, 0)
        return await self._change(
            exchange, b"DELETE", placement, write, settled, replicate, None
        )

    async def keep(self, placement: Placement, body: bytes, write: Write) -> BlobInfo:
        """Put a small blob for this process itself."""
        settled = self.router.settle(write, self.default_ttl_seconds)
        replay = Replay.of(body)
        return await self._for_us(b"PUT", placement, write, settled, replay)

    async def expire(self, placement: Placement, write: Write) -> BlobInfo:
        """Set when a blob ends, at once by default, for this process itself."""
        settled = self.router.settle(write, 0)
        return await self._for_us(b"DELETE", placement, write, settled, None)

    async def _for_us(
        self,
        method: bytes,
        placement: Placement,
        write: Write,
        settled: Write,
        body: Replay | None,
    ) -> BlobInfo:
        sending = _Sending(self.router, method, placement, "all", body)
        found, answer = await sending.run(write, settled)
        if found.response.head.status != 200:
            sentence = answer[:200].decode("utf-8", "replace").strip()
            raise OriginFailed(f"{found.peer}: {sentence}")
        return _info_in(found, answer)

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
        sending = _Sending(
            self.router,
            method,
            placement,
            replicate,
            body,
            fields=_passed_on(head, _DEPENDS),
            wishes=_wishes(head),
        )
        found, answer = await sending.run(write, settled)
        answered = found.response.head
        return Response(answered.status, _returned(answered), answer)


@define(eq=False)
class _Sending:
    """One change on its way to the replica that is to take it."""

    _router: Router
    _method: bytes
    _placement: Placement
    _replicate: str
    _body: Replay | None
    _fields: Fields = ()
    _wishes: bytes = b""

    async def run(self, write: Write, settled: Write) -> tuple[Found, bytes]:
        """Send the change; return the answer, read whole.

        What our clock says may be behind what is there: then a change whose client left
        the stamp to us is sent once more, with a later one, and is the last after all.
        """
        found, answer = await self._send(settled)
        if found.response.head.status != 200:
            return found, answer
        info = _info_in(found, answer)
        if self._method == b"PUT":
            if write.modified or not _is_after(info.modified, settled.modified):
                return found, answer
            stamp = self._router.stamps.next(info.modified or 0, info.modified_deleted)
            later = evolve(settled, modified=stamp)
            if not write.modified_deleted:
                later = evolve(later, modified_deleted=stamp)
        else:
            if write.modified_deleted or not _is_after(
                info.modified_deleted, settled.modified_deleted
            ):
                return found, answer
            stamp = self._router.stamps.next(info.modified_deleted)
            later = evolve(settled, modified_deleted=stamp)
        return await self._send(later)

    async def _send(self, settled: Write) -> tuple[Found, bytes]:
        found = await self._router.write(
            self._placement,
            lambda peer: self._ask(peer, settled),
            hurry=self._body is None or self._body.is_small,
            once=bool(self._fields),
        )
        async with found.response as response:
            try:
                return found, await response.read_all(MAX_ANSWER_BYTES)
            except OriginFailed as trouble:
                raise Overloaded(
                    f"{found.peer} did not say whether it kept the blob"
                ) from trouble

    async def _ask(self, peer: str, settled: Write) -> OriginResponse:
        peers = self._router.peers
        put = self._method == b"PUT"
        target = change_target(
            peers.path(peer, self._placement.stored),
            modified=settled.modified if put else None,
            deleted=settled.deleted,
            modified_deleted=settled.modified_deleted,
            replicate=self._replicate if self._replicate != "all" else None,
            encoded=True if put else None,
        )
        fields = (HOP, *self._fields)
        body: bytes | IBody | None = None
        if self._body is not None:
            body = self._body.body()
            fields += ((b"Content-Digest", digest_value(self._body.sha256)),)
            if settled.content_type:
                fields += ((b"Content-Type", settled.content_type.encode("latin-1")),)
        return await peers.call(peer, self._method, target + self._wishes, fields, body)


def is_forwarded(head: RequestHead) -> bool:
    """Return whether a request was passed on to us, so that we pass it on no more."""
    return HOP[0].lower() in head.index


def passed_back(found: Found, head_only: bool) -> Response:
    """Return an answer from elsewhere as ours, its body as it comes."""
    response = found.response
    head = response.head
    fields = _returned(head)
    if b"x-content-type-options" not in head.index:
        fields += (_NOSNIFF,)
    if head_only or head.status == 304:
        response.abort()
        return Response(head.status, fields, _nothing(), length=head.content_length)
    return Response(
        head.status, fields, response.__aiter__(), length=head.content_length
    )


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
            raise PeerFailed(found.peer, response.head.status, "not what was asked for")
        return await response.read_all(max_bytes)


def _is_after(found: int | None, ours: int | None) -> bool:
    return found is not None and ours is not None and found > ours


def _info_in(found: Found, answer: bytes) -> BlobInfo:
    try:
        return from_json(answer)
    except ValueError as error:
        raise PeerFailed(found.peer, 200, "its answer makes no sense") from error

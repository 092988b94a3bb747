"""Requests for names that live elsewhere, passed on to where they do.

What travels is the same question: ranges, conditions and the wish for copies go along,
the answer comes back as it was given.  A body is taken in whole before it is sent (in
memory up to 1 MiB, else in an unnamed file), so that every try sends all of it: no
replica ever sees a body that another has half eaten.
"""

from __future__ import annotations

import errno
import hashlib
from base64 import b64encode
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path

from attrs import define, evolve, field
from zope.interface import implementer

from clinfra.blob import parameters
from clinfra.blob.digests import Announced
from clinfra.blob.info import from_json
from clinfra.blob.peers import (
    HOP,
    MAX_ANSWER_BYTES,
    PeerFailed,
    change_target,
)
from clinfra.blob.replica import SMALL_BYTES, Write
from clinfra.blob.router import Found, Router
from clinfra.blob.topology import Placement
from clinfra.errors import (
    ClientGone,
    OriginFailed,
    Overloaded,
    StorageFull,
    TooLarge,
)
from clinfra.interfaces import BlobInfo
from clinfra.web.exchange import IBody, IExchange, Response
from clinfra.web.headers import HOP_BY_HOP
from clinfra.web.heads import Field, Fields, RequestHead, ResponseHead
from clinfra.web.responses import OriginResponse
from clinfra.web.streams import Spooled, Threads, read_piece, spool

PIECE_BYTES = 1 << 18

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

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@define(eq=False)
class Forwarder:
    """Passes requests on to the replicas that keep the names.

    Args:
        default_ttl_seconds: of blobs put without one; None for ever.
        directory: where large bodies are kept meanwhile.
        memory_bytes: bodies held in memory at a time; the others go to disk.
    """

    router: Router
    default_ttl_seconds: int | None
    max_blob_bytes: int
    directory: Path
    memory_bytes: int = 64 << 20
    _held_bytes: int = field(init=False, default=0)

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
        held = 0
        body: bytes | Spooled = b""
        try:
            body = await self._take(exchange, announced)
            if isinstance(body, bytes):
                held = len(body)
                self._held_bytes += held
            return await self._change(
                exchange, b"PUT", placement, write, settled, replicate, body
            )
        finally:
            self._held_bytes -= held
            if isinstance(body, Spooled):
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
        return await self._for_us(b"PUT", placement, write, settled, body)

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
        body: bytes | None,
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
        body: bytes | Spooled | None,
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
            threads=exchange.threads,
        )
        found, answer = await sending.run(write, settled)
        answered = found.response.head
        return Response(answered.status, _returned(answered), answer)

    async def _take(self, exchange: IExchange, announced: Announced) -> bytes | Spooled:
        """Take a body in whole.

        Raises errors.TooLarge, errors.StorageFull, and InvalidRequest when it is not
        what was announced.
        """
        body = exchange.body
        pieces: list[bytes] = []
        size = 0
        if (body.length or 0) <= SMALL_BYTES:
            try:
                while piece := await body.read():
                    pieces.append(piece)
                    size += len(piece)
                    self._held_bytes += len(piece)
                    if size > self.max_blob_bytes:
                        raise self._too_large()
                    if size > SMALL_BYTES or self._held_bytes > self.memory_bytes:
                        break
                else:
                    whole = pieces[0] if len(pieces) == 1 else b"".join(pieces)
                    announced.update(whole)
                    announced.check(hashlib.sha256(whole).digest())
                    return whole
            finally:
                self._held_bytes -= size
        try:
            spooled = await spool(
                _Watched(pieces, body, announced),
                self.directory,
                self.max_blob_bytes,
                digest=True,
                threads=exchange.threads,
            )
        except TooLarge:
            raise self._too_large() from None
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise StorageFull("Not enough space to keep this blob") from error
            raise
        try:
            announced.check(spooled.sha256 or b"")
        except BaseException:
            spooled.close()
            raise
        return spooled

    def _too_large(self) -> TooLarge:
        return TooLarge(f"A blob cannot be larger than {self.max_blob_bytes} bytes")


@define(eq=False)
class _Sending:
    """One change on its way to the replica that is to take it."""

    _router: Router
    _method: bytes
    _placement: Placement
    _replicate: str
    _body: bytes | Spooled | None
    _fields: Fields = ()
    _wishes: bytes = b""
    _threads: Threads | None = None
    _over: bool = field(init=False, default=False)

    async def run(self, write: Write, settled: Write) -> tuple[Found, bytes]:
        """Send the change; return the answer, read whole.

        Nothing reads the body any more when this is over, whatever came of it.
        """
        try:
            return await self._run(write, settled)
        finally:
            self._over = True

    async def _run(self, write: Write, settled: Write) -> tuple[Found, bytes]:
        """Send the change, twice if need be.

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
            hurry=not isinstance(self._body, Spooled),
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
        if isinstance(self._body, Spooled):
            body = _SpooledBody(self._body, self._threads, lambda: self._over)
            sha256 = self._body.sha256 or b""
        elif self._body is not None:
            body = self._body
            sha256 = hashlib.sha256(body).digest()
        if body is not None:
            digest = b"sha-256=:" + b64encode(sha256) + b":"
            fields += ((b"Content-Digest", digest),)
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


@implementer(IBody)
class _Watched:
    """A body of which some has been read already, hashed on its way."""

    def __init__(self, pieces: Iterable[bytes], body: IBody, announced: Announced):
        self.length = body.length
        self._pieces = deque(pieces)
        self._body = body
        self._announced = announced

    async def read(self) -> bytes:
        piece = self._pieces.popleft() if self._pieces else await self._body.read()
        self._announced.update(piece)
        return piece


@implementer(IBody)
class _SpooledBody:
    """A body in an unnamed file, from its beginning, until the file is closed."""

    def __init__(
        self, spooled: Spooled, threads: Threads | None, over: Callable[[], bool]
    ) -> None:
        self.length = spooled.length
        self._over = over
        self._spooled = spooled
        self._threads = threads
        self._offset = 0

    async def read(self) -> bytes:
        wanted = min(PIECE_BYTES, self.length - self._offset)
        if not wanted:
            return b""
        if self._over():
            raise ClientGone
        piece = await read_piece(self._spooled.fd, self._offset, wanted, self._threads)
        self._offset += wanted
        return piece

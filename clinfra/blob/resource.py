"""The HTTP contract of the blob store.

========== ======================================= ============================
request    query parameters                        answer
========== ======================================= ============================
PUT /NAME  ttl, deleted, modified,                 200 and the info JSON, as it
           modified_deleted, replicate, encoded    is after merging
GET, HEAD  response = data (default) or info       200 and the bytes, or info
DELETE     ttl (0), deleted, modified_deleted,     200 and the info JSON
           replicate
OPTIONS                                            204 and Allow
/_COMMAND  see `admin`
========== ======================================= ============================

PUT stores the request's Content-Type (a form's type is a client's default and means
nothing; then the name's extension decides) and refuses a body that does not match its
Content-Digest, Repr-Digest or Content-MD5.  Preconditions (If-Match, If-None-Match,
If-Unmodified-Since) hold for PUT and DELETE too, and are judged once more at the moment
of commit.  GET knows ranges, conditions and If-Range; a deleted or expired blob is 404
at once, while its info is there until it is purged.
"""

from __future__ import annotations

from attrs import define, evolve

from clinfra.blob import names, parameters
from clinfra.blob.admin import Admin
from clinfra.blob.ahead import HeadStart
from clinfra.blob.answers import answer_read, check_precondition, is_conditional
from clinfra.blob.batch import REPLICATE, Receiver
from clinfra.blob.between import TREE, Between
from clinfra.blob.clone import CLONE, Cloner
from clinfra.blob.concern import Wish, parse_wish
from clinfra.blob.digests import Announced
from clinfra.blob.forward import Forwarder, is_forwarded
from clinfra.blob.handoff import HANDOFF
from clinfra.blob.hot import Hot
from clinfra.blob.info import NOT_FOUND, info_of, to_json
from clinfra.blob.intake import Intake
from clinfra.blob.lane import BlobLane
from clinfra.blob.local import LocalBlobs
from clinfra.blob.parameters import Parameters
from clinfra.blob.peers import FILLING, HELLO, KNOWN_GONE
from clinfra.blob.records import Row
from clinfra.blob.replica import Check, Write
from clinfra.blob.routed import RoutedBlobs
from clinfra.blob.status import Counters
from clinfra.blob.stream import STREAM, Streamer
from clinfra.blob.topology import Placement
from clinfra.errors import (
    Forbidden,
    InvalidRequest,
    MethodNotAllowed,
    Misdirected,
    NotFound,
    StorageDamaged,
    TooLarge,
    Trouble,
)
from clinfra.web.exchange import IExchange, Response
from clinfra.web.foreign import refuse_foreign
from clinfra.web.headers import parse_media_type
from clinfra.web.heads import Field, RequestHead
from clinfra.web.resource import Resource

METHODS = ("GET", "HEAD", "PUT", "DELETE", "OPTIONS")

MAX_TYPE_BYTES = 255

_FORMS = (b"application/x-www-form-urlencoded", b"multipart/form-data")


@define(eq=False)
class RouterHandler:
    """Answers requests for blobs that live elsewhere, and admin requests."""

    _blobs: RoutedBlobs
    _counters: Counters
    _admin: Admin
    _between: Between | None = None
    _receiver: Receiver | None = None
    _streamer: Streamer | None = None
    _cloner: Cloner | None = None

    async def respond(self, exchange: IExchange) -> Response:
        """Answer any request to the blob store."""
        head = exchange.head
        method = head.method.decode("latin-1").upper()
        if head.target == b"*":
            return self._options(method)
        name = names.from_path(head.path)
        if name in (CLONE, REPLICATE, STREAM, TREE):
            return await self._replica_asks(exchange, name)
        if name.startswith("_"):
            if (hello := head.get(HELLO.lower())) is not None:
                self._blobs.forwarder.router.peers.heard(hello)
            return await self._admin.respond(exchange, name)
        given = parameters.parse(method, head.query)
        if method in ("GET", "HEAD"):
            with self._counters.during("get"):
                placement = self._blobs.place(name, encoded=True, writing=False)
                return await self._get(exchange, placement, given)
        if method == "PUT":
            with self._counters.during("put"):
                encoded = given.encoded
                placement = self._blobs.place(name, encoded=encoded, writing=True)
                return await self._put(exchange, placement, given)
        if method == "DELETE":
            with self._counters.during("delete"):
                placement = self._blobs.place(name, encoded=True, writing=True)
                return await self._delete(exchange, placement, given)
        return self._options(method)

    async def _replica_asks(self, exchange: IExchange, name: str) -> Response:
        """Answer what only other replicas ask."""
        if exchange.head.get(b"via") is not None:
            # Through a proxy anybody would seem to be on this machine.
            raise Forbidden("This is not answered through a proxy")
        refuse_foreign(exchange)
        if name == REPLICATE and self._receiver is not None:
            return await self._receiver.respond(exchange)
        if name == STREAM and self._streamer is not None:
            return await self._streamer.respond(exchange)
        if name == CLONE and self._cloner is not None:
            return await self._cloner.respond(exchange)
        if name == TREE and self._between is not None:
            return await self._between.respond(exchange)
        raise NotFound(NOT_FOUND)

    def _options(self, method: str) -> Response:
        if method != "OPTIONS":
            raise MethodNotAllowed(METHODS)
        return Response(204, ((b"Allow", ", ".join(METHODS).encode()),))

    async def _get(
        self, exchange: IExchange, placement: Placement, given: Parameters
    ) -> Response:
        if HANDOFF[0].lower() in exchange.head.index:
            kept = self._blobs.forwarder.get_kept
            return await kept(exchange, placement, given.response)
        forwarder = self._forwarder(exchange, placement)
        return await forwarder.get(exchange, placement, given.response)

    async def _put(
        self, exchange: IExchange, placement: Placement, given: Parameters
    ) -> Response:
        forwarder = self._forwarder(exchange, placement)
        write, announced = self._asked(exchange.head, given)
        return await forwarder.put(
            exchange, placement, write, announced, given.replicate
        )

    async def _delete(
        self, exchange: IExchange, placement: Placement, given: Parameters
    ) -> Response:
        forwarder = self._forwarder(exchange, placement)
        write = _ending(given)
        return await forwarder.delete(exchange, placement, write, given.replicate)

    def _forwarder(self, exchange: IExchange, placement: Placement) -> Forwarder:
        """Return who passes a request on.  Raises Misdirected: it was, to us."""
        if is_forwarded(exchange.head):
            raise Misdirected(f"{placement.stored} is not kept here")
        return self._blobs.forwarder

    def _asked(self, head: RequestHead, given: Parameters) -> tuple[Write, Announced]:
        """Return what a PUT asks for; refuse what can be refused without the body."""
        blobs = self._blobs
        if b"content-range" in head.index:
            raise InvalidRequest("A blob can only be put whole, not by Content-Range")
        ttl = given.ttl
        if ttl is None and given.deleted is None:
            ttl = blobs.default_ttl_seconds
        write = Write(
            ttl_seconds=ttl,
            modified=given.modified,
            deleted=given.deleted,
            modified_deleted=given.modified_deleted,
            content_type=_content_type(head),
            fanout=given.fanout,
        )
        if (head.content_length or 0) > blobs.max_blob_bytes:
            raise TooLarge(f"A blob cannot be larger than {blobs.max_blob_bytes} bytes")
        return write, Announced.in_head(head)


@define(eq=False, kw_only=True)
class BlobHandler(RouterHandler):
    """Answers requests for the blobs of this replica too."""

    _blobs: LocalBlobs
    _intake: Intake
    _lane: BlobLane

    async def _get(
        self, exchange: IExchange, placement: Placement, given: Parameters
    ) -> Response:
        blobs = self._blobs
        if not blobs.is_here(placement):
            return await super()._get(exchange, placement, given)
        trouble: Trouble
        try:
            hot = await blobs.replica.find(placement.stored)
            row = hot.row if hot is not None else None
            if row is not None and blobs.fence.holds(row):
                return await self._ask_others(exchange, placement, given.response)
            told = given.response == "info" and row is not None and row.data is not None
            if row is not None and blobs.is_gone(row) and not told:
                return _gone(exchange, row)
            if hot is not None and hot.row.data is not None:
                return await self._answer(exchange, placement, hot, given.response)
        except StorageDamaged as damaged:
            trouble = damaged
        else:
            trouble = NotFound(NOT_FOUND)
        return await self._rescue(exchange, placement, given.response, trouble)

    async def _ask_others(
        self, exchange: IExchange, placement: Placement, response: str
    ) -> Response:
        """Answer as others do: what is here may be deleted (see `rejoin`)."""
        if is_forwarded(exchange.head):
            self._blobs.fence.check()
        return await self._blobs.forwarder.get(exchange, placement, response)

    async def _answer(
        self, exchange: IExchange, placement: Placement, hot: Hot, response: str
    ) -> Response:
        """Answer with what is here."""
        blobs = self._blobs
        if response == "info":
            return _info(hot.row, placement)
        self._lane.remember(exchange.head.target, hot)
        return await answer_read(
            blobs.replica, exchange, hot, blobs.now(), blobs.max_age_seconds
        )

    async def _rescue(
        self, exchange: IExchange, placement: Placement, response: str, trouble: Trouble
    ) -> Response:
        """Answer from elsewhere what should be here, and bring it back."""
        blobs = self._blobs
        if not blobs.forwarder.router.has_others(placement):
            raise trouble
        damaged = isinstance(trouble, StorageDamaged)
        if is_forwarded(exchange.head):
            if damaged:
                blobs.healer.heal_soon(placement)
            if blobs.standing.unsure:
                return _not_found(FILLING)
            raise NotFound(NOT_FOUND)
        missing = not blobs.standing.unsure
        try:
            answer = await blobs.forwarder.get(
                exchange, placement, response, missing=missing
            )
        except NotFound:
            raise trouble from None
        if damaged or answer.status in (200, 206):
            blobs.healer.heal_soon(placement)
        return answer

    async def _put(
        self, exchange: IExchange, placement: Placement, given: Parameters
    ) -> Response:
        blobs, head = self._blobs, exchange.head
        if not blobs.is_here(placement):
            return await super()._put(exchange, placement, given)
        # Everything that can be refused is refused before the body is asked for.
        write, announced = self._asked(head, given)
        wish = parse_wish(head.query)
        blobs.replica.check_stamps(write)
        with blobs.replica.room_for(head.content_length):
            check = await self._precondition(head, placement.stored)
            if (since := head.get(HANDOFF[0].lower())) is not None:
                check = blobs.late(write, _since(since))
            body = await self._intake.take(
                exchange.body, placement.stored, write.content_type, announced
            )
            ahead = blobs.concern.ahead(given.fanout, wish)
            row = await blobs.replica.put(
                placement.stored,
                body,
                write,
                announced=announced,
                check=check,
                ahead=ahead,
            )
        return await self._kept(row, placement, given, wish, ahead)

    async def _delete(
        self, exchange: IExchange, placement: Placement, given: Parameters
    ) -> Response:
        blobs, head = self._blobs, exchange.head
        if not blobs.is_here(placement):
            return await super()._delete(exchange, placement, given)
        wish = parse_wish(head.query)
        check = await self._precondition(head, placement.stored)
        row = await blobs.replica.expire(placement.stored, _ending(given), check=check)
        return await self._kept(row, placement, given, wish)

    async def _kept(
        self,
        row: Row,
        placement: Placement,
        given: Parameters,
        wish: Wish,
        ahead: HeadStart | None = None,
    ) -> Response:
        """Answer a change when it has the copies it should, or cannot get them."""
        reached = await self._blobs.concern.reach(row, given.fanout, wish, ahead)
        if reached is None:
            return _info(row, placement)
        if wish.required and not reached.enough:
            fields = ((b"Content-Type", b"text/plain"), (b"Retry-After", b"1"))
            said = b"The blob is kept, but not in as many copies as required\n"
            return Response(503, (*fields, *reached.fields()), said)
        response = _info(row, placement)
        return evolve(response, fields=(*response.fields, *reached.fields()))

    async def _precondition(self, head: RequestHead, stored: str) -> Check | None:
        """Judge a change's precondition now; return how to judge it at its commit."""
        if not is_conditional(head):
            return None
        now = self._blobs.now

        def check(row: Row | None) -> None:
            check_precondition(head, row, now())

        hot = await self._blobs.replica.find(stored)
        check(hot.row if hot is not None else None)
        return check


def _ending(given: Parameters) -> Write:
    """Return what a DELETE asks for."""
    return Write(
        ttl_seconds=given.ttl,
        deleted=given.deleted,
        modified_deleted=given.modified_deleted,
        fanout=given.fanout,
    )


def _since(told: bytes) -> float:
    """Return since when a change was kept, unix seconds.  Raises InvalidRequest."""
    if not told.isdigit():
        raise InvalidRequest("It does not tell since when it was kept")
    return float(told)


def _gone(exchange: IExchange, row: Row) -> Response:
    """Answer for a blob that has ended; others of us are told that this is certain."""
    if not is_forwarded(exchange.head):
        raise NotFound(NOT_FOUND)
    return _not_found((KNOWN_GONE, b"%d" % row.expiry.modified_deleted))


def _not_found(how: Field) -> Response:
    """Answer another replica of ours that a blob is not here, and how sure that is."""
    fields = ((b"Content-Type", b"text/plain; charset=utf-8"), how)
    return Response(404, fields, NOT_FOUND.encode() + b"\n")


def _info(row: Row, placement: Placement) -> Response:
    body = to_json(info_of(row, placement.buckets))
    return Response(200, ((b"Content-Type", b"application/json"),), body)


def _content_type(head: RequestHead) -> str:
    """Return the content type to store, "" when the name is to tell."""
    value = head.get(b"content-type")
    if value is None:
        return ""
    parsed = parse_media_type(value)
    if parsed is None or len(value) > MAX_TYPE_BYTES or not value.isascii():
        raise InvalidRequest("Invalid Content-Type")
    return "" if parsed[0] in _FORMS else value.decode("ascii")


class BlobResource(Resource):
    """The blob store as a `twisted.web` resource, for any Site."""

    def __init__(self, handler: RouterHandler) -> None:
        super().__init__()
        self._handler = handler

    async def respond(self, exchange: IExchange) -> Response:
        """Answer a request."""
        return await self._handler.respond(exchange)

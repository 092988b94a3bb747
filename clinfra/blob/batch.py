"""Many small changes in one request, between replicas of our own kind.

``POST /_replicate?replicate=replica|cluster``.  The body is records, one after the
other, each as in a volume (see `volume`) without padding: data with its bytes, or a
change.  The answer is one byte for each: `KEPT`, `REFUSED` (for good), `LATER`, or
`FULL`: there is no space for its bytes (changes without any are always taken).  Every
record is merged and durable, together with the others, before the answer.

Only replicas of the cluster file may ask.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from http import HTTPStatus
from itertools import chain
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, TimeoutError, fail
from twisted.python.failure import Failure

from clinfra.blob import names, parameters, volume
from clinfra.blob.digests import Announced
from clinfra.blob.peers import PeerFailed, PeerRefused, Peers
from clinfra.blob.records import BYTES, PEERS, Row, State
from clinfra.blob.replica import Replica, Write
from clinfra.blob.topology import Topology
from clinfra.errors import (
    Forbidden,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    StorageFull,
    TooLarge,
    Trouble,
)
from clinfra.web.exchange import IExchange, Response

REPLICATE = "_replicate"

KEPT, REFUSED, LATER, FULL = 0, 1, 2, 3

MAX_RECORDS = 256
BATCH_BYTES = 1 << 20
"""A request is sent when it has this much, or nothing more waits."""

MAX_RECORD_BYTES = 1 << 16
"""Larger blobs travel alone."""

MAX_REQUEST_BYTES = 4 << 20

REQUESTS = 2
"""Under way to one replica."""

REQUEST_SECONDS = 30.0
"""How long one may take."""

CLASSIC_SECONDS = 60.0
"""How long a replica that refused a batch is spared."""

_FULL_STATUS = HTTPStatus.INSUFFICIENT_STORAGE
"""What `FULL` is as the status of an answer."""

_STOPPING = "this server is stopping"


@frozen
class Arrived:
    """One record of a request."""

    name: str
    state: State
    body: bytes | None


def pack(row: Row, body: bytes | None) -> tuple[bytes, bytes]:
    """Return a record as it travels: what comes before its body, and that."""
    head = volume.pack_record_head(row.name, row.state, None, has_body=body is not None)
    return head, body or b""


def unpack(raw: bytes) -> Iterator[Arrived]:
    """Yield the records of a request.  Raises InvalidRequest."""
    at = 0
    while at < len(raw):
        head = raw[at : at + volume.RECORD_HEAD_BYTES + 4096]
        record = volume.unpack_record_head(head)
        if record is None:
            raise InvalidRequest("This is no record")
        begin = at + record.head_bytes
        at = begin + record.body_bytes
        if at > len(raw):
            raise InvalidRequest("The last record is cut short")
        body = raw[begin:at] if record.has_body else None
        yield Arrived(record.name, record.state, body)


@define(eq=False)
class Receiver:
    """Takes batches."""

    _topology: Topology
    _replica: Replica
    _peers: Peers

    async def respond(self, exchange: IExchange) -> Response:
        """Answer a request for `REPLICATE`."""
        if not self._peers.may_ask(exchange.client_ip):
            raise Forbidden("This is answered to replicas of this cluster only")
        if exchange.head.method != b"POST":
            raise MethodNotAllowed(("POST",))
        onward = parameters.split(exchange.head.query).get("replicate") == "cluster"
        pieces: list[bytes] = []
        size = 0
        while piece := await exchange.body.read():
            size += len(piece)
            if size > MAX_REQUEST_BYTES:
                raise TooLarge("These are too many records")
            pieces.append(piece)
        records = list(unpack(b"".join(pieces)))
        fanout = PEERS if onward else 0
        keeping = [
            Deferred.fromCoroutine(self._keep(record, fanout)) for record in records
        ]
        said = [await each for each in keeping]
        return Response(
            200, ((b"Content-Type", b"application/octet-stream"),), bytes(said)
        )

    async def _keep(self, record: Arrived, fanout: int) -> int:
        expiry, data = record.state.expiry, record.state.data
        write = Write(
            modified=data.modified if data is not None else None,
            deleted=expiry.deleted,
            modified_deleted=expiry.modified_deleted,
            content_type=data.content_type if data is not None else "",
            fanout=fanout,
        )
        try:
            names.check_harmless(record.name)
            placement = self._topology.place(record.name, encoded=True)
            self._topology.check_writable(placement)
            if not self._topology.is_here(placement):
                raise NotFound("This does not belong here")
            if record.body is None or data is None:
                await self._replica.expire(record.name, write)
            else:
                announced = Announced({"sha256": data.sha256})
                with self._replica.room_for(len(record.body)):
                    await self._replica.put(
                        record.name, record.body, write, announced=announced
                    )
        except (InvalidRequest, NotFound):
            return REFUSED
        except StorageFull:
            return FULL
        except (Trouble, OSError):
            return LATER
        return KEPT


@frozen(eq=False)
class _Waiting:
    """A record on its way, and who waits for it."""

    packed: tuple[bytes, bytes]
    done: Deferred[None]


@define(eq=False)
class _Line:
    """What is to go to one replica."""

    waiting: deque[_Waiting] = field(factory=deque)
    under_way: int = 0
    soon: Any = None


@define(eq=False)
class Batches:
    """Sends small changes together.

    Args:
        clock: Twisted's IReactorTime.
    """

    _peers: Peers
    _clock: Any
    _lines: dict[tuple[str, str], _Line] = field(init=False, factory=dict)
    _classic_until: dict[str, float] = field(init=False, factory=dict)
    _stopped: bool = field(init=False, default=False)

    def takes(self, peer: str, row: Row) -> bool:
        """Return whether a row can go in a batch to a replica."""
        if row.data is not None and (
            not row.fanout & BYTES or row.data.size > MAX_RECORD_BYTES
        ):
            return False
        if self._classic_until.get(peer, 0.0) > self._clock.seconds():
            return False
        return self._peers.is_ours(peer) is True

    def send(
        self, peer: str, replicate: str, row: Row, body: bytes | None
    ) -> Deferred[None]:
        """Send a row with the next batch; fires when it is durable there.

        Fails with peers.PeerRefused and peers.PeerFailed.
        """
        if self._stopped:
            return fail(PeerFailed(peer, 0, _STOPPING))
        line = self._lines.setdefault((peer, replicate), _Line())
        waiting = _Waiting(pack(row, body), Deferred())
        line.waiting.append(waiting)
        if line.soon is None:
            # On a later turn, when all that is ready has come.
            line.soon = self._clock.callLater(0, self._begin, peer, replicate, line)
        return waiting.done

    def stop(self) -> None:
        """Begin no further request; who waits hears that there was no answer."""
        self._stopped = True
        for (peer, _), line in self._lines.items():
            if line.soon is not None:
                line.soon.cancel()
                line.soon = None
            while line.waiting:
                waiting = line.waiting.popleft()
                _tell(waiting, PeerFailed(peer, 0, _STOPPING))

    def _begin(self, peer: str, replicate: str, line: _Line) -> None:
        line.soon = None
        while line.waiting and line.under_way < REQUESTS:
            batch: list[_Waiting] = []
            size = 0
            while line.waiting and len(batch) < MAX_RECORDS and size < BATCH_BYTES:
                batch.append(line.waiting.popleft())
                size += sum(map(len, batch[-1].packed))
            line.under_way += 1
            sending = Deferred.fromCoroutine(self._send(peer, replicate, batch))
            sending.addTimeout(REQUEST_SECONDS, self._clock)
            sending.addErrback(_failed, peer, batch)
            sending.addBoth(self._over, peer, replicate, line)

    def _over(self, result: object, peer: str, replicate: str, line: _Line) -> None:
        line.under_way -= 1
        if line.soon is None and line.waiting:
            line.soon = self._clock.callLater(0, self._begin, peer, replicate, line)

    async def _send(self, peer: str, replicate: str, batch: list[_Waiting]) -> None:
        response = await self._peers.call(
            peer,
            b"POST",
            f"/{REPLICATE}?replicate={replicate}".encode("ascii"),
            (),
            b"".join(chain.from_iterable(waiting.packed for waiting in batch)),
        )
        async with response:
            said = await response.read_all(1 << 16)
        status = response.head.status
        if status != 200 or len(said) != len(batch):
            if 400 <= status < 500:
                self._classic_until[peer] = self._clock.seconds() + CLASSIC_SECONDS
                self._peers.forget_kind(peer)
            raise PeerFailed(peer, status, "it did not take a batch")
        for waiting, code in zip(batch, said, strict=True):
            if code == KEPT:
                _tell(waiting, None)
            elif code == REFUSED:
                _tell(waiting, PeerRefused(peer, 400, "it refuses this record"))
            elif code == FULL:
                _tell(waiting, PeerFailed(peer, _FULL_STATUS, "its disk is full"))
            else:
                _tell(waiting, PeerFailed(peer, 503, "it cannot keep this record now"))


def _tell(waiting: _Waiting, error: Exception | None) -> None:
    if waiting.done.called:
        return
    if error is None:
        waiting.done.callback(None)
    else:
        waiting.done.errback(Failure(error))


def _failed(failure: Failure, peer: str, batch: list[_Waiting]) -> None:
    error = failure.value
    if isinstance(error, TimeoutError):
        error = PeerFailed(peer, 0, "it does not answer to a batch")
    elif not isinstance(error, PeerFailed):
        error = PeerFailed(peer, 0, str(error))
    for waiting in batch:
        _tell(waiting, error)

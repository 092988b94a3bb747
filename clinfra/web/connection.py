"""One connection to an origin: sends one request at a time, reads its response.

`peer` makes these and decides who uses them; nothing else does.  Every connection has
a deadline that the pool looks at now and then, so that time-outs cost nothing per
request: they come at the earliest after the configured time, and two sweeps later at
most.
"""

from __future__ import annotations

from collections.abc import Coroutine
from math import inf
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IPushProducer, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from clinfra.errors import OriginFailed, OriginTimeout
from clinfra.web.chunked import BadChunk, ChunkedDecoder
from clinfra.web.exchange import IBody
from clinfra.web.heads import BadHead, ResponseHead, is_spoilt, parse_response_head
from clinfra.web.transport import Wire, read_at_a_time

if TYPE_CHECKING:
    from clinfra.web.peer import Peer
    from clinfra.web.pool import OriginRequest

_BEGINNING = b"HTTP/1."
_MOST_HEADS = 512
_MOST_INTERIMS = 16
"""Answers before the answer, for each request on a connection."""

_LONGEST_REMEMBERED_HEAD = 2048
_CLOSING_SECONDS = 1.0
"""How long an origin may take to agree that a connection is over (TLS)."""


class HeadMemo:
    """Parses response heads, and remembers them: equal bytes give the same object."""

    def __init__(self) -> None:
        self._heads: dict[bytes, ResponseHead] = {}

    def parse(self, raw: bytes) -> ResponseHead:
        """Return the parsed head.  Raises heads.BadHead."""
        head = self._heads.get(raw)
        if head is None:
            head = parse_response_head(raw)
            if len(raw) <= _LONGEST_REMEMBERED_HEAD:
                if len(self._heads) >= _MOST_HEADS:
                    self._heads.clear()
                self._heads[raw] = head
        return head


@implementer(IPushProducer)
class OriginConnection(Protocol):
    """One connection; as an IPushProducer it produces the request's body.

    Attributes:
        deadline: reactor seconds after which `timed_out` is called.
        served: requests answered on it so far.
        closing: it is over; the origin has yet to agree.
    """

    _wire: Wire

    def __init__(self, peer: Peer, request: OriginRequest) -> None:
        self.deadline = inf
        self.served = 0
        self.closing = False
        self._peer = peer
        self._memo = peer.pool.memo
        self._request: OriginRequest | None = request
        # Of the response under way.
        self._silent = True
        self._pending = b""
        self._head: ResponseHead | None = None
        self._decoder: ChunkedDecoder | None = None
        self._left: int | None = 0
        self._reads_more = False
        # Of the body of the request, when it is sent as it comes.
        self._upload: Deferred[None] | None = None
        self._blocked = False
        self._room: Deferred[None] | None = None
        self._read_wait = peer.pool.read_wait
        self._switched = False
        self._interims = 0

    # What the pool asks.

    def begin(self, request: OriginRequest) -> None:
        """Send a request; its receiver hears of the response."""
        self._request = request
        request.connection = self
        self._silent = True
        self._head = None
        if request.paused:
            self.set_paused(True)
        else:
            self._expect_progress()
        if request.rest is None:
            request.sent = True
            self._wire.write(request.opening)
        else:
            self._blocked = False
            self._wire.registerProducer(self, True)
            self._start_upload(self._send_body(request, request.rest))

    def set_paused(self, paused: bool) -> None:
        """Stop or go on reading; no time-out runs while the receiver wants a rest."""
        if paused:
            self._wire.pauseProducing()
            self.deadline = inf
        else:
            self._wire.resumeProducing()
            self._expect_progress()

    def read_at_a_time(self, most_bytes: int) -> None:
        """Read so much of this response at a time, at most."""
        self._reads_more = True
        read_at_a_time(self.transport, most_bytes)

    def _expect_progress(self) -> None:
        """It is the origin's turn from now on."""
        pool, request = self._peer.pool, self._request
        wait = pool.response_wait if self._head is None else self._read_wait
        sent = request is not None and (request.rest is None or request.body_complete)
        if self._head is None and request is not None and sent:
            wait += request.patience
        self.deadline = pool.now + wait

    def close(self) -> None:
        """Close in order, nothing being under way; a reset would alarm the origin."""
        self._peer.connection_unusable(self)
        self.deadline = self._peer.pool.now + _CLOSING_SECONDS
        self.closing = True
        self._wire.loseConnection()

    def drop(self) -> None:
        """Close at once, whatever is under way; nobody is told."""
        self._detach()
        self._peer.connection_unusable(self)
        self._wire.abortConnection()

    def fail(self, reason: Exception) -> None:
        """Close at once; the receiver of what is under way hears `reason`."""
        request = self._request
        self.drop()
        if request is not None:
            request.failed(reason)

    def timed_out(self) -> None:
        """The deadline has passed."""
        request = self._request
        if request is None and not self.closing:
            self.close()
        elif request is None:
            self.drop()
        elif self._head is not None:
            self.fail(OriginTimeout("The server behind us stopped in its answer."))
        else:
            self.fail(
                OriginTimeout(
                    "The server behind us did not answer in time.", request.replayable
                )
            )

    # What the transport tells.

    def connectionMade(self) -> None:
        self._wire = cast(Wire, self.transport)
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            set_no_delay(True)
        request, self._request = self._request, None
        if request is not None:
            self._peer.connected(request, self)

    def dataReceived(self, data: bytes) -> None:
        request = self._request
        if request is None:
            # Nothing was asked: whatever this is, it must not answer the next request.
            self.drop()
            return
        self._silent = False
        try:
            if self._head is None:
                rest = self._take_head(request, data)
                if rest is None or self._request is not request:
                    return
                data = rest
            self._take_body(request, data)
        except BadHead as bad:
            if self.served and request.can_begin_again:
                # As likely as not it belongs to the answer before.
                self.drop()
                request.begin_again()
                return
            self.fail(OriginFailed(f"The answer from behind is bad: {bad.sentence}"))
        except BadChunk as bad:
            self.fail(OriginFailed(f"The answer from behind is bad: {bad.sentence}"))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._peer.connection_lost(self)
        try:
            self._tell_lost(reason)
        finally:
            self._peer.next()

    def _tell_lost(self, reason: Failure) -> None:
        request = self._request
        self._detach()
        if request is None:
            return
        if self._head is not None:
            until_close = self._decoder is None and self._left is None
            if until_close and reason.check(ConnectionDone):
                request.finished()
            else:
                request.failed(OriginFailed("The server behind us cut its answer."))
        elif self._silent and self.served and request.can_begin_again:
            request.begin_again()
        else:
            trouble = OriginFailed(
                "The server behind us closed the connection.", request.replayable
            )
            trouble.__cause__ = reason.value  # e.g. a certificate that is not trusted
            request.failed(trouble)

    # Reading the response.

    def _take_head(self, request: OriginRequest, data: bytes) -> bytes | None:
        """Read the head; return what follows it, None when it is not complete."""
        if self._pending:
            data = self._pending + data
            self._pending = b""
        while True:
            end = data.find(b"\r\n\r\n") + 4
            longest = self._peer.pool.settings.head_bytes
            if end > longest or (end == 3 and len(data) >= longest):
                raise BadHead(502, "The head is too long.")
            if end == 3:
                begun = _BEGINNING.startswith(data[: len(_BEGINNING)])
                if not begun or is_spoilt(data):
                    raise BadHead(502, "This is not an HTTP/1.1 response.")
                self._pending = data
                return None
            head = self._memo.parse(data[:end])
            data = data[end:]
            if head.status >= 200:
                break
            if head.status == 101:
                if getattr(request.receiver, "may_switch", False):
                    break
                raise BadHead(502, "It switches protocols unasked.")
            self._interims += 1
            if self._interims > _MOST_INTERIMS * (self.served + 1):
                raise BadHead(502, "It promises an answer without end.")
            hear = getattr(request.receiver, "interim_received", None)
            if hear is not None and head.status != 100:
                hear(head)
                if self._request is not request:
                    return None
        self._head = head
        self._decoder = None
        if head.status == 101:
            self._left = None
        elif request.method == b"HEAD":
            self._left = 0
        else:
            self._left = head.content_length
            if head.chunked:
                self._decoder = ChunkedDecoder()
        request.receiver.response_started(head)
        return data

    def _take_body(self, request: OriginRequest, data: bytes) -> None:
        receiver = request.receiver
        left = self._left
        if (self._upload is None or self._switched) and not request.paused:
            self.deadline = self._peer.pool.now + self._read_wait
        if left is not None:
            left -= len(data)
            if left > 0:
                self._left = left
                if data:
                    receiver.body_received(data)
                return
            rest = b""
            if left < 0:
                data, rest = data[:left], data[left:]
            self._left = 0
            if data:
                receiver.body_received(data)
            if self._request is request:
                self._complete(request, rest)
        elif self._decoder is not None:
            pieces, rest = self._decoder.feed(data)
            for piece in pieces:
                receiver.body_received(piece)
                if self._request is not request:
                    return
            if self._decoder.finished:
                self._complete(request, rest)
        elif data:
            receiver.body_received(data)

    def _complete(self, request: OriginRequest, rest: bytes) -> None:
        """The response is whole: free the connection, then say so."""
        head = self._head
        uploading = self._upload is not None
        if request.paused:
            self._wire.resumeProducing()
        self._detach()
        self.served += 1
        if uploading:
            self._wire.abortConnection()
        elif rest or head is None or not head.keep_alive:
            self.close()
        else:
            self._peer.connection_free(self)
        request.finished()

    def _detach(self) -> None:
        """Have no request any more."""
        upload, self._upload = self._upload, None
        request, self._request = self._request, None
        self._pending = b""
        self.deadline = inf
        if self._reads_more:
            self._reads_more = False
            read_at_a_time(self.transport)
        if request is not None:
            request.connection = None
        if upload is not None:
            self._room = None
            self._wire.unregisterProducer()
            upload.cancel()

    # After a 101: both sides send what they like.

    def send_on(self, body: IBody, silence_seconds: float) -> None:
        """The origin has switched protocols: send on what the client sends.

        Until it closes, what the origin sends is the body of its answer.

        Args:
            silence_seconds: when nobody says anything for so long, that is the end.
        """
        self._switched = True
        self._read_wait = silence_seconds
        self._expect_progress()
        self._blocked = False
        self._wire.registerProducer(self, True)
        self._start_upload(self._send_as_it_is(body))

    async def _send_as_it_is(self, body: IBody) -> None:
        while data := await body.read():
            self._wire.write(data)
            self._expect_progress()
            if self._blocked:
                self._room = Deferred()
                await self._room
        if ISSLTransport.providedBy(self._wire):
            self._wire.loseConnection()
        else:
            self._wire.loseWriteConnection()

    # Sending the body of the request as it comes.

    def _start_upload(self, sending: Coroutine[Any, Any, None]) -> None:
        upload = Deferred.fromCoroutine(sending)
        self._upload = upload
        upload.addCallbacks(
            self._uploaded,
            self._upload_failed,
            callbackArgs=(upload,),
            errbackArgs=(upload,),
        )

    async def _send_body(self, request: OriginRequest, body: IBody) -> None:
        if request.opening:
            request.sent = True
            self._wire.write(request.opening)
        while not request.body_complete:
            # Whoever sends us the body has time-outs of its own.
            self.deadline = inf
            data = request.take_piece(await body.read())
            request.sent = True
            self._wire.write(data)
            if not request.paused:
                self._expect_progress()
            if self._blocked:
                self._room = Deferred()
                await self._room

    def _uploaded(self, result: None, upload: Deferred[None]) -> None:
        if self._upload is upload:
            self._upload = None
            self._wire.unregisterProducer()

    def _upload_failed(self, failure: Failure, upload: Deferred[None]) -> None:
        if self._upload is upload:
            # Perhaps still inside `Pool.start`, from where nobody is called back.
            self._peer.pool.reactor.callLater(0, self._give_up, failure, upload)

    def _give_up(self, failure: Failure, upload: Deferred[None]) -> None:
        if self._upload is upload:
            self.fail(cast(Exception, failure.value))

    def pauseProducing(self) -> None:
        """The origin takes no more for now."""
        self._blocked = True

    def resumeProducing(self) -> None:
        """The origin takes bytes again."""
        self._blocked = False
        room, self._room = self._room, None
        if room is not None:
            room.callback(None)

    def stopProducing(self) -> None:
        """The connection is lost; `connectionLost` follows."""

"""The pipeline's own client: one try at an origin, and the way of its answer.

An origin is not held by a slow client: what the client does not take yet waits here, in
memory and then on disk, as far as the pool's settings and the room allow.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from clinfra.errors import ClientGone
from clinfra.proxy.encoding import Coder
from clinfra.proxy.forward import PooledProxyClient
from clinfra.proxy.hygiene import interim_fields
from clinfra.proxy.rule_hits import RuleHits
from clinfra.web.backlog import Backlog
from clinfra.web.exchange import IExchange, IOwnExchange
from clinfra.web.heads import BadHead, Fields, ResponseHead

log = Logger()


def hint(exchange: IExchange, head: ResponseHead) -> None:
    """Pass an interim answer on, where that is possible."""
    if IOwnExchange.providedBy(exchange):
        exchange.hint(head.status, interim_fields(head))


class Relay(PooledProxyClient):
    """One try of the pipeline's forwarder at an origin; the stream of its answer.

    Its father is the exchange, and it leaves out the stock seams' per-field work: the
    forwarder is handed the head as a whole.

    Args:
        forwarder: has head_received(relay, head) and no_answer(relay, reason).
        request: the proxy.message.Request.
        member: the origins.Member that is tried.

    Attributes:
        counted: the hits of the rules that changed the request until it was sent.
        bytes_in: of the body of the answer, as far as it has come.
    """

    def __init__(self, forwarder: Any, request: Any, member: Any) -> None:
        self.forwarder = forwarder
        self.request = request
        self.member = member
        self.father: IExchange | None = None
        self._pieces: list[bytes] = []
        self._taps: list[Any] = []
        self._complete = False
        self._delivering = False
        self._paused = False
        self._over = False
        self._backlog: Backlog | None = None
        self._coder: Coder | None = None
        self.switched = False
        self.counted: tuple[RuleHits, ...] = request.counted
        self.bytes_in = 0

    @property
    def bytes_out(self) -> int:
        """Bytes of the request's body that were taken for the origin so far."""
        if self.switched:
            return int(self.request.exchange.bytes_in)
        return 0 if self.origin_request is None else self.origin_request.taken

    @property
    def may_switch(self) -> bool:
        """The origin may answer 101."""
        return bool(self.request.upgrade)

    def response_started(self, head: ResponseHead) -> None:
        """The head is in."""
        if head.status == 101:
            named = head.get(b"upgrade") or b""
            if named.lower() != self.request.upgrade.lower():
                raise BadHead(502, "It switches to what was not asked for.")
        self.answer_started = True
        self.forwarder.head_received(self, head)

    def interim_received(self, head: ResponseHead) -> None:
        """The origin says something before it answers."""
        hint(self.request.exchange, head)

    def switch(self, exchange: IOwnExchange, fields: Fields) -> None:
        """The origin has answered 101: so do we, and join the client with it."""
        sent = exchange.switch(fields)
        self.switched = True
        request = self.origin_request
        if request is not None and request.connection is not None:
            seconds = self.forwarder.tunnel_seconds(self)
            request.connection.send_on(sent, seconds)

    def deliver(self, exchange: IExchange | None) -> None:
        """Begin to hand the body on: to the exchange, if any, and to the taps."""
        self._taps = self.request.reply.taps
        self._coder = self.request.reply.coder
        if self._over:
            if exchange is not None:
                exchange.abort()
            self._end_taps(False)
            return
        if exchange is None and not self._taps:
            self.abort()
            return
        self.father = exchange
        self._delivering = True
        held, self._paused = self._paused, False
        pieces, self._pieces = self._pieces, []
        for piece in pieces:
            if not self._over:
                self._take(piece)
        if self._complete:
            self.response_finished()
            return
        if held:
            self._resume()
        if exchange is not None and not exchange.finished:
            exchange.registerProducer(self, True)

    def go_on(self, exchange: IExchange) -> None:
        """Take over an answer that is being delivered to `exchange`."""
        self.answer_started = self._delivering = True
        self.father = exchange
        exchange.registerProducer(self, True)

    @property
    def plain(self) -> bool:
        """The answer goes to the client as it comes, and to nobody else."""
        return self.father is not None and not self._taps and self._coder is None

    def discard(self) -> None:
        """The answer has no body, and another is given in its place."""
        self._delivering = True
        self._taps = []

    def hold(self) -> None:
        """The answer cannot be delivered yet: take no more for now."""
        if not self._delivering and not self._complete and not self._over:
            self.pauseProducing()

    def body_received(self, data: bytes) -> None:
        """A piece of the body is in."""
        if self._over:
            return
        self.bytes_in += len(data)
        if self._delivering:
            self._take(data)
        else:
            self._pieces.append(data)

    def _take(self, data: bytes) -> None:
        if self._coder is None:
            self._hand_on(data)
        elif coded := self._coder.add(data):
            self._hand_on(coded)

    def _hand_on(self, data: bytes) -> None:
        for tap in self._taps:
            tap.data(data)
        if self._backlog is not None:
            self._backlog.put(data)
        elif self.father is not None:
            self.father.write(data)

    def response_finished(self) -> None:
        """The body is complete."""
        self._complete = True
        if not self._delivering or self._over:
            return
        coder, self._coder = self._coder, None
        if coder is not None:
            self._hand_on(coder.end())
        if self._backlog is not None:
            # The origin is free; the client gets the rest in its own time.
            self._end_taps(True)
            return
        self._over = True
        father = self.father
        if father is not None and not father.finished:
            father.unregisterProducer()
            father.finish()
        self._end_taps(True)
        self._let_go()

    def response_failed(self, reason: Exception) -> None:
        """There is no answer, or it was cut short: cut the client's too."""
        if self._over:
            return
        self._over = True
        if not self.answer_started:
            self.forwarder.no_answer(self, reason)
            return
        self._cut_short(reason)
        self._end_taps(False)
        self._let_go()

    def tap_gave_up(self) -> None:
        """A tap wants no more: nor do we, when there is no client either."""
        if self._delivering and self.father is None:
            self.abort()

    def abort(self) -> None:
        """Nobody wants the rest."""
        if not self._over:
            self._over = True
            if self.origin_request is not None:
                self.origin_request.abort()
        if not self._delivering:
            reply = self.request.reply
            if reply is not None and reply.stream is self:
                self._taps = reply.taps
        self._end_taps(False)

    def client_gone(self) -> None:
        """Stop, unless others wait for what this request fetches."""
        if self._over:
            return
        self.father = None
        flight = self.request.flight
        if flight is None or not flight.waiters:
            self.abort()
        elif self._paused:
            self._resume()

    def pauseProducing(self) -> None:
        """The client takes no more for now: keep it, or have the origin wait."""
        if self._backlog is not None:
            return
        if self.father is not None and self._delivering and not self.switched:
            room = self.forwarder.backlog_bytes(self)
            if room:
                file = self.forwarder.spool.file()
                self._backlog = Backlog(file, room, self._backlog_full)
                Deferred.fromCoroutine(self._work_off(self._backlog, self.father))
                return
        self._pause()

    def _pause(self) -> None:
        self._paused = True
        if self.origin_request is not None and not self._complete:
            self.origin_request.pauseProducing()

    def resumeProducing(self) -> None:
        """The client takes more."""
        if self._backlog is not None:
            return
        self._resume()

    def _resume(self) -> None:
        self._paused = False
        if self.origin_request is not None and not self._complete:
            self.origin_request.resumeProducing()

    def _backlog_full(self, full: bool) -> None:
        if full:
            self._pause()
        else:
            self._resume()

    async def _work_off(self, backlog: Backlog, father: IExchange) -> None:
        """Send what waits as the client takes it, until nothing does."""
        try:
            await father.drained()
            while data := await backlog.take():
                father.write(data)
                await father.drained()
        except ClientGone:
            return
        except Exception:
            log.failure("What was kept of an answer cannot be read.")
            if not father.finished:
                father.abort()
            return
        finally:
            backlog.close()
            self._backlog = None
        if self._complete and not self._over:
            self.response_finished()

    def stopProducing(self) -> None:
        """The client is gone; the pipeline says what that means."""

    def _cut_short(self, reason: Exception) -> None:
        father = self.father
        if father is not None and not father.finished:
            father.unregisterProducer()
            if self.switched:
                father.finish()
            else:
                father.abort()
        if self.switched:
            log.debug("A tunnel ends: {reason}", reason=str(reason))
            return
        self.member.failed(str(reason))
        log.warn(
            "{origin} cut its answer short: {reason}",
            origin=self.member.name,
            reason=str(reason),
        )

    def _let_go(self) -> None:
        """It is over and was delivered: cycles of objects cost the collector."""
        if self._delivering:
            del self.request
            self.father = self.origin_request = None

    def _end_taps(self, complete: bool) -> None:
        taps = self._taps[:]
        self._taps.clear()
        for tap in taps:
            tap.end(complete)

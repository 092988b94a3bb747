"""Answers sent slowly: so many bytes a second, whatever the client could take.

Stands between whoever streams a body and the exchange, as a consumer to the one and a
push producer to the other.  Not more than a few pieces are kept.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from clinfra.proxy.message import Reply

_TICK_SECONDS = 0.1
_ENOUGH_BYTES = 65536
"""With more waiting, whoever streams is paused."""


def pace(reply: Reply, bytes_per_second: float, reactor: IReactorTime) -> None:
    """Have the body of an answer sent slowly."""
    if reply.stream is None:
        if not reply.body:
            return
        reply.length = len(reply.body)
    reply.stream = PacedStream(reply.stream, reply.body, bytes_per_second, reactor)


class PacedStream:
    """The stream of an answer that is sent slowly.

    Args:
        stream: of the answer as it was; None when `body` is all of it.
    """

    def __init__(
        self, stream: Any, body: bytes, bytes_per_second: float, reactor: IReactorTime
    ) -> None:
        self._stream = stream
        self._body = body
        self._rate = bytes_per_second
        self._sent_at = reactor.seconds() - _TICK_SECONDS
        self._reactor = reactor
        self._exchange: Any = None
        self._waiting = bytearray()
        self._producer: Any = None
        self._held = False
        self._blocked = False
        self._ended = False
        self._timer: IDelayedCall | None = None

    # What the pipeline asks of a stream.

    def deliver(self, exchange: Any) -> None:
        """Begin to send; without an exchange, only to whoever else listens."""
        if exchange is None:
            if self._stream is not None:
                self._stream.deliver(None)
            return
        self._exchange = exchange
        exchange.registerProducer(self, True)
        exchange.on_done(lambda whole: self._over())
        if self._stream is not None:
            self._stream.deliver(self)
        else:
            self.write(self._body)
            self.finish()

    def abort(self) -> None:
        """Send no more; cut the client's connection if it waits for more."""
        if self._exchange is not None:
            exchange, self._exchange = self._exchange, None
            self._over()
            if not exchange.finished:
                exchange.unregisterProducer()
                exchange.abort()
        elif self._stream is not None:
            self._stream.abort()

    def discard(self) -> None:
        """Another answer is given in its place."""
        if self._stream is not None:
            self._stream.discard()

    # What the stream that is slowed down asks of an exchange.

    @property
    def finished(self) -> bool:
        """Nothing more is wanted."""
        return self._exchange is None or self._exchange.finished

    def write(self, data: bytes) -> None:
        """Add to the body."""
        if self.finished:
            return
        self._waiting += data
        if len(self._waiting) > _ENOUGH_BYTES and not self._held:
            self._held = True
            if self._producer is not None:
                self._producer.pauseProducing()
        if self._timer is None and not self._blocked:
            self._send()

    def finish(self) -> None:
        """The body is complete."""
        self._ended = True
        if not self._waiting:
            self._finish()

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Pause and resume whoever streams."""
        self._producer = producer
        if self._held:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:
        """There is no more."""
        self._producer = None

    # What the exchange asks of a producer.

    def pauseProducing(self) -> None:
        """The client does not even take what it gets."""
        self._blocked = True

    def resumeProducing(self) -> None:
        """The client takes more."""
        self._blocked = False
        if self._timer is None:
            self._send()

    def stopProducing(self) -> None:
        """The client is gone."""
        self._over()

    def _send(self) -> None:
        self._timer = None
        if self.finished or self._blocked:
            return
        if not self._waiting:
            if self._ended:
                self._finish()
            return
        now = self._reactor.seconds()
        most = max(1, int(self._rate * min(1.0, now - self._sent_at)))
        self._sent_at = now
        piece = bytes(self._waiting[:most])
        del self._waiting[:most]
        self._timer = self._reactor.callLater(_TICK_SECONDS, self._send)
        self._exchange.write(piece)
        if self._held and len(self._waiting) < _ENOUGH_BYTES // 2:
            self._held = False
            if self._producer is not None:
                self._producer.resumeProducing()

    def _finish(self) -> None:
        exchange, self._exchange = self._exchange, None
        self._over()
        if exchange is not None and not exchange.finished:
            exchange.unregisterProducer()
            exchange.finish()

    def _over(self) -> None:
        self._waiting.clear()
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

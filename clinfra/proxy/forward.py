"""Twisted's reverse proxy classes, over pooled HTTP/1.1 connections.

The seams are those of `twisted.web.proxy`: a resource makes a factory, the factory a
client, and the client tells its `father` what comes through handleStatus, handleHeader,
handleResponsePart and handleResponseEnd.  Different are: connections are kept open and
used again (`web.pool`), bodies stream both ways with back-pressure, a cut answer is cut
for the client too, and time-outs hold.

`twisted.web.proxy` imports the reactor, so this module is only to be imported when one
is installed: `service` does so when it makes the proxy.
"""

from __future__ import annotations

import warnings
from collections.abc import MutableMapping
from typing import Any, cast

from twisted.internet.interfaces import IConnector
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from clinfra.errors import OriginFailed, OriginTimeout, Trouble
from clinfra.web.exchange import IExchange, ISwitchable
from clinfra.web.headers import HOP_BY_HOP, end_to_end
from clinfra.web.heads import BadHead, Fields, ResponseHead
from clinfra.web.pool import Origin, OriginRequest, Pool, make_request_head
from clinfra.web.resource import trouble_response

with warnings.catch_warnings():
    # It stands on http.HTTPClient, which is deprecated for everybody else.
    warnings.simplefilter("ignore", DeprecationWarning)
    from twisted.web.proxy import (
        ProxyClient,
        ProxyClientFactory,
        ReverseProxyResource,
    )

log = Logger()

_PIECE_BYTES = 65536


class PooledProxyClient(ProxyClient):
    """A ProxyClient that hears of its response from a `web.pool.Pool`.

    Args:
        father: a twisted.web Request, which gets the response.
    """

    origin_request: OriginRequest | None = None
    answer_started = False

    def __init__(
        self,
        command: bytes,
        rest: bytes,
        version: bytes,
        headers: MutableMapping[bytes, bytes],
        data: Any,
        father: Any,
    ) -> None:
        self.command = command
        self.rest = rest
        self.headers = headers
        self.data = data
        self.father = father

    def response_started(self, head: ResponseHead) -> None:
        """The head is in: hand it on by the stock seams."""
        self.answer_started = True
        self.handleStatus(b"HTTP/1.1", b"%d" % head.status, head.reason)
        for name, value in end_to_end(head.fields, head.index):
            self.handleHeader(name, value)
        self.handleEndHeaders()

    def handleEndHeaders(self) -> None:
        """All fields are handed on."""
        if self.origin_request is not None:
            self.father.registerProducer(self.origin_request, True)

    def body_received(self, data: bytes) -> None:
        """A piece of the body is in."""
        self.handleResponsePart(data)

    def response_finished(self) -> None:
        """The response is complete."""
        self.father.unregisterProducer()
        self.handleResponseEnd()

    def handleResponseEnd(self) -> None:
        """Finish the father; the connection stays open for others."""
        if not self._finished:
            self._finished = True
            self.father.finish()

    def response_failed(self, reason: Exception) -> None:
        """There is no response, or it was cut short."""
        if self._finished:
            return
        self._finished = True
        if self.answer_started:
            self.father.unregisterProducer()
            self.father.loseConnection()
            return
        trouble = reason if isinstance(reason, Trouble) else OriginFailed(str(reason))
        response = trouble_response(trouble)
        self.father.setResponseCode(response.status)
        for name, value in response.fields:
            self.father.responseHeaders.addRawHeader(name, value)
        self.father.write(cast(bytes, response.body))
        self.father.finish()


class PooledProxyClientFactory(ProxyClientFactory):
    """Makes clients, and sends their requests through a pool."""

    protocol = PooledProxyClient

    def send(self, pool: Pool, origin: Origin) -> PooledProxyClient:
        """Send the request; what comes back goes to the father."""
        client = cast(PooledProxyClient, self.buildProtocol(None))
        fields: Fields = tuple(
            (name, value)
            for name, value in self.headers.items()
            if name.lower() not in HOP_BY_HOP
        )
        head = make_request_head(origin, self.command, self.rest, fields, self.data)
        try:
            client.origin_request = pool.start(
                origin, self.command, head, self.data, client
            )
        except Trouble as trouble:
            client.response_failed(trouble)
            return client
        self.father.notifyFinish().addErrback(self._client_gone, client)
        return client

    def clientConnectionFailed(self, connector: IConnector, reason: Failure) -> None:
        """Answer 502 or 504 (Twisted's own says 501)."""
        client = cast(PooledProxyClient, self.buildProtocol(None))
        client.response_failed(OriginTimeout("The origin does not answer."))

    def _client_gone(self, reason: Failure, client: PooledProxyClient) -> None:
        client._finished = True
        if client.origin_request is not None:
            client.origin_request.abort()


class PooledReverseProxyResource(ReverseProxyResource):
    """A ReverseProxyResource on pooled HTTP/1.1 connections, for any Site.

    Args:
        host, port, path: as Twisted's.
        pool: where connections are kept; children share it.
    """

    proxyClientFactoryClass = PooledProxyClientFactory

    def __init__(
        self, host: str, port: int, path: bytes, reactor: Any, pool: Pool | None = None
    ) -> None:
        super().__init__(host, port, path, reactor)
        self.pool = pool if pool is not None else Pool(reactor)

    def getChild(self, path: bytes, request: Request) -> PooledReverseProxyResource:
        """Return a resource of the same kind for one more path segment."""
        child = super().getChild(path, request)
        return type(self)(self.host, self.port, child.path, self.reactor, self.pool)

    def render(self, request: Request) -> int:
        """Send the request on; answer later."""
        host = self.host if self.port == 80 else f"{self.host}:{self.port}"
        request.requestHeaders.setRawHeaders(b"host", [host.encode("ascii")])
        _, mark, query = request.uri.partition(b"?")
        headers = {
            name.lower(): b", ".join(values)
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        for option in headers.get(b"connection", b"").split(b","):
            if option.strip().lower() not in (b"host", b"content-length"):
                headers.pop(option.strip().lower(), None)
        length = int(headers.get(b"content-length") or 0)
        chunked = b"transfer-encoding" in headers
        factory = self.proxyClientFactoryClass(
            request.method,
            self.path + mark + query,
            request.clientproto,
            headers,
            SpooledBody(request) if length or chunked else None,
            request,
        )
        factory.send(self.pool, Origin(self.host, self.port))
        return NOT_DONE_YET


class SpooledBody:
    """The buffered body of a twisted.web Request as an IBody."""

    def __init__(self, request: Request) -> None:
        content = request.content
        assert content is not None, "only complete requests are rendered"
        self._content = content
        self._content.seek(0, 2)
        self.length = self._content.tell()
        self._content.seek(0)

    async def read(self) -> bytes:
        """Return the next piece, b"" at the end."""
        return cast(bytes, self._content.read(_PIECE_BYTES))


class Relay(PooledProxyClient):
    """One try of the pipeline's forwarder at an origin; the stream of its answer.

    Its father is the exchange, and it leaves out the stock seams' per-field work: the
    forwarder is handed the head as a whole.

    Args:
        forwarder: has head_received(relay, head) and no_answer(relay, reason).
        request: the proxy.message.Request.
        member: the origins.Member that is tried.
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
        self.switched = False

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

    def switch(self, exchange: ISwitchable, fields: Fields) -> None:
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
            self.body_received(piece)
        if self._complete:
            self.response_finished()
            return
        if exchange is not None and not exchange.finished:
            exchange.registerProducer(self, True)
        if held:
            self.resumeProducing()

    @property
    def plain(self) -> bool:
        """The answer goes to the client as it comes, and to nobody else."""
        return self.father is not None and not self._taps

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
        if not self._delivering:
            self._pieces.append(data)
            return
        for tap in self._taps:
            tap.data(data)
        if self.father is not None:
            self.father.write(data)

    def response_finished(self) -> None:
        """The body is complete."""
        self._complete = True
        if not self._delivering or self._over:
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
            self.resumeProducing()

    def pauseProducing(self) -> None:
        """The client takes no more for now."""
        self._paused = True
        if self.origin_request is not None and not self._complete:
            self.origin_request.pauseProducing()

    def resumeProducing(self) -> None:
        """The client takes more."""
        self._paused = False
        if self.origin_request is not None and not self._complete:
            self.origin_request.resumeProducing()

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

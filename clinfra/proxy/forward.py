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
from clinfra.web.headers import HOP_BY_HOP, end_to_end
from clinfra.web.heads import Fields, ResponseHead
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

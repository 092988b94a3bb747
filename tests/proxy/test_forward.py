"""Twisted's reverse proxy classes over pooled connections, mounted as resources."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import ClientFactory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.proxy import ProxyClient, ProxyClientFactory, ReverseProxyResource
from twisted.web.resource import Resource

from clinfra.proxy.forward import (
    PooledProxyClient,
    PooledProxyClientFactory,
    PooledReverseProxyResource,
)
from clinfra.web.pool import Origin, Pool
from clinfra.web.site import Site
from tests.web.clients import Client
from tests.web.origins import Dial, Line


class ResourceTests(SynchronousTestCase):
    """A PooledReverseProxyResource below another resource of a Site."""

    kind: type[PooledReverseProxyResource] = PooledReverseProxyResource

    def setUp(self) -> None:
        self.clock = Clock()
        self.dials: list[Dial] = []
        root = Resource()
        pool = Pool(self.clock, connect=self.connect)
        root.putChild(b"old", self.kind("origin.example", 81, b"/base", None, pool))
        self.site = Site(root, reactor=self.clock)

    def connect(self, origin: Origin, factory: ClientFactory, timeout: float) -> Dial:
        """Keep the attempt for the test."""
        self.assertEqual(Origin("origin.example", 81), origin)
        self.dials.append(Dial(self.clock, factory, timeout))
        return self.dials[-1]

    def ask(self, raw: bytes) -> Client:
        """Send a request."""
        client = Client(self.site, self.clock)
        client.send(raw)
        return client

    def turn(self) -> None:
        """Let the reactor turn."""
        for _ in range(5):
            self.clock.advance(0)

    def accepted(self, raw: bytes) -> tuple[Client, Line]:
        """Send a request and let its connection succeed."""
        client = self.ask(raw)
        line = self.dials.pop().accept()
        self.turn()
        return client, line

    def test_is_one(self) -> None:
        """They are subclasses, for whoever asks."""
        self.assertTrue(issubclass(PooledProxyClient, ProxyClient))
        self.assertTrue(issubclass(PooledProxyClientFactory, ProxyClientFactory))
        self.assertTrue(issubclass(PooledReverseProxyResource, ReverseProxyResource))

    def test_get(self) -> None:
        """A request goes on by HTTP/1.1 with its path below the base."""
        client, line = self.accepted(
            b"GET /old/a%20b/c?d=e HTTP/1.1\r\nHost: me\r\nConnection: X-Hop\r\n"
            b"X-Hop: 1\r\nX-End: 2\r\n\r\n"
        )
        sent = line.take()
        self.assertTrue(sent.startswith(b"GET /base/a%20b/c?d=e HTTP/1.1\r\n"), sent)
        self.assertIn(b"host: origin.example:81\r\n", sent)
        self.assertIn(b"x-end: 2\r\n", sent)
        self.assertNotIn(b"x-hop", sent.lower())
        line.send(b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok")
        self.turn()

        (answer,) = client.answers()
        self.assertEqual((201, b"ok"), (answer.status, answer.body))
        self.assertEqual("b", answer.fields["X-A"])

    def test_connections_are_used_again(self) -> None:
        """A second request goes over the same connection."""
        raw = b"GET /old HTTP/1.1\r\nHost: me\r\n\r\n"
        _, line = self.accepted(raw)
        line.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        line.take()
        self.ask(raw)
        self.turn()

        self.assertEqual([], self.dials)
        self.assertIn(b"GET /base HTTP/1.1", line.take())

    def test_upload(self) -> None:
        """A body goes on whole."""
        _, line = self.accepted(
            b"PUT /old/x HTTP/1.1\r\nHost: me\r\nContent-Length: 3\r\n\r\nabc"
        )
        self.turn()

        self.assertTrue(line.take().endswith(b"Content-Length: 3\r\n\r\nabc"))

    def test_refused(self) -> None:
        """An origin that refuses is 502, in a sentence."""
        client = self.ask(b"GET /old HTTP/1.1\r\nHost: me\r\n\r\n")
        while self.dials:
            self.dials.pop().refuse(ConnectionRefusedError())
            self.turn()

        self.assertEqual(502, client.answers()[0].status)

    def test_cut(self) -> None:
        """An answer that is cut is cut for the client."""
        client, line = self.accepted(b"GET /old HTTP/1.1\r\nHost: me\r\n\r\n")
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        line.hang_up()
        self.turn()

        self.assertTrue(client.received.endswith(b"half"))
        self.assertTrue(client.closed)

    def test_client_gone(self) -> None:
        """When the client leaves, so do we."""
        client, line = self.accepted(b"GET /old HTTP/1.1\r\nHost: me\r\n\r\n")
        client.hang_up()
        self.turn()

        self.assertTrue(line.lost)


class Upper(PooledProxyClient):
    """Shouts; written against Twisted's seams."""

    def handleHeader(self, key: bytes, value: bytes) -> None:
        super().handleHeader(key, value.upper())

    def handleResponsePart(self, buffer: bytes) -> None:
        super().handleResponsePart(buffer.upper())


class UpperFactory(PooledProxyClientFactory):
    """Makes them."""

    protocol = Upper

    def __init__(
        self,
        command: bytes,
        rest: bytes,
        version: bytes,
        headers: MutableMapping[bytes, bytes],
        data: Any,
        father: Any,
    ) -> None:
        super().__init__(command, rest, version, headers, data, father)
        headers[b"x-seen"] = b"1"


class UpperResource(PooledReverseProxyResource):
    """Uses them."""

    proxyClientFactoryClass = UpperFactory


class SeamTests(ResourceTests):
    """What was written for twisted.web.proxy's seams goes on working."""

    kind = UpperResource

    def test_get(self) -> None:
        """Overridden handlers see fields and pieces; factories see the headers."""
        client, line = self.accepted(b"GET /old HTTP/1.1\r\nHost: me\r\n\r\n")
        self.assertIn(b"x-seen: 1\r\n", line.take())
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok")
        self.turn()

        (answer,) = client.answers()
        self.assertEqual(("B", b"OK"), (answer.fields["X-A"], answer.body))

    def test_cut(self) -> None:
        """What was changed on its way is cut all the same."""
        client, line = self.accepted(b"GET /old HTTP/1.1\r\nHost: me\r\n\r\n")
        line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")
        line.hang_up()
        self.turn()

        self.assertTrue(client.received.endswith(b"HALF"))

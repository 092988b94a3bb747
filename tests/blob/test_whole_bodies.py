"""No body that did not arrive whole is ever kept, however it came (WIRE 4, fault 1)."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.protocol import ClientFactory, Protocol

from clinfra.blob.digests import digest_value
from clinfra.blob.peers import HOP
from clinfra.web.pool import Origin
from tests.blob.test_router import LARGE, RouterCase
from tests.sim.cluster import CLIENT, Host

SMALL = b"0123456789" * 100


class Raw(Protocol):
    """Sends what a broken client or a dying server sends, then nothing more."""

    def __init__(self, sent: bytes) -> None:
        self._sent = sent
        self.got = b""

    def connectionMade(self) -> None:
        """Send it."""
        assert self.transport is not None
        self.transport.write(self._sent)

    def dataReceived(self, data: bytes) -> None:
        """Keep the answer."""
        self.got += data


class WholeBodyTests(RouterCase):
    """Of a body that is cut short nothing remains, on any server."""

    def send(self, host: Host, raw: bytes) -> bytes:
        """Send bytes, hang up after a while; return what was answered."""
        protocol = Raw(raw)
        factory = ClientFactory()
        factory.buildProtocol = lambda addr: protocol  # type: ignore[method-assign]  # made before
        connect: Any = self.cluster.network.connector(CLIENT)
        connect(Origin(host.ip, 80), factory, 5.0)
        self.cluster.run(1)
        if protocol.transport is not None:
            protocol.transport.loseConnection()
        self.cluster.run(1)
        return protocol.got

    def check_nothing(self) -> None:
        """Nothing is kept, delivered, or waiting to be."""
        self.cluster.run(20)
        for host in self.cluster.hosts.values():
            self.assertEqual({}, host.rows(), host.name)
            assert host.service is not None
            self.assertEqual(0, host.service.report()["handoff"]["waiting"])

    def targets(self) -> list[tuple[Host, str]]:
        """Return a keeper of a name, one that passes it on, and its path."""
        (name,) = self.elsewhere()
        stored = self.stored(name)
        path = f"/{stored}?encoded=1"
        return [(self.first, path), (self.keepers(stored)[0], path)]

    def stored(self, name: str) -> str:
        """Return the stored name of a plain name."""
        assert self.first.service is not None
        return self.successResultOf(
            Deferred.fromCoroutine(self.first.service.blobs.encode(name))
        )

    def test_cut_short(self) -> None:
        """A body shorter than its Content-Length, or a chunked one without an end."""
        for host, path in self.targets():
            for body in (SMALL, LARGE):
                for cut in (0, 1, len(body) // 2, len(body) - 1):
                    for fields in ("", f"{HOP[0].decode()}: 1\r\n"):
                        head = f"PUT {path} HTTP/1.1\r\nHost: x\r\n{fields}"
                        length = f"Content-Length: {len(body)}\r\n\r\n"
                        got = self.send(host, (head + length).encode() + body[:cut])
                        self.assertNotIn(b" 200 ", got)
                head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked"
                chunk = b"\r\n\r\n%x\r\n%b\r\n" % (len(body), body)
                self.assertNotIn(b" 200 ", self.send(host, head.encode() + chunk))
        self.check_nothing()

    def test_not_what_was_announced(self) -> None:
        """A forwarded body carries its digest: one that lost bytes is refused."""
        digest = digest_value(sha256(LARGE).digest()).decode()
        for host, path in self.targets():
            for body in (b"", SMALL, LARGE[:-1], LARGE + b"x"):
                head = f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Digest: {digest}\r\n"
                length = f"Content-Length: {len(body)}\r\n\r\n"
                got = self.send(host, (head + length).encode() + body)
                self.assertIn(b" 400 ", got[:20])
        self.check_nothing()

    def test_forwarder_dies(self) -> None:
        """Who passes a body on and dies in the middle leaves nothing or all of it."""
        (name,) = self.elsewhere()
        for after in (0.0, 0.01, 0.02, 0.03, 0.05, 0.1):
            self.cluster.ask(self.first, "PUT", f"/{name}{after}", LARGE)
            self.cluster.run(after)
            self.cluster.crash(self.first)
            self.cluster.run(20)
            for host in self.cluster.hosts.values():
                for row in host.rows().values():
                    assert row.data is not None
                    self.assertEqual(len(LARGE), row.data.size)
                    self.assertEqual(sha256(LARGE).digest(), row.data.sha256)
            self.cluster.start(self.first)
            self.cluster.run(5)

    def test_keepers_die_one_after_the_other(self) -> None:
        """Two hops, each broken in the middle: what is answered 200 is whole."""
        (name,) = self.elsewhere()
        stored = self.stored(name)
        whole = 0
        for after in (0.005, 0.01, 0.02, 0.03, 0.04, 0.06):
            asking = self.cluster.ask(self.first, "PUT", f"/{name}", LARGE)
            self.cluster.run(after)
            for host in self.keepers(stored):
                self.cluster.crash(host)
                self.cluster.run(0.01)
            answer = self.cluster.finish(asking, 120)
            for host in self.keepers(stored):
                self.cluster.start(host)
            self.cluster.run(30)
            if answer.status == 200:
                whole += 1
                got = self.ask(self.first, "GET", f"/{stored}")
                self.assertEqual((200, LARGE), (got.status, got.body))
        self.assertTrue(whole)

"""Fetching from elsewhere: to checked addresses only, and within bounds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ConnectionDone, ConnectionRefusedError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from clinfra.errors import Forbidden, NotFound, OriginFailed, OriginTimeout, Trouble
from clinfra.image.elsewhere import Hosts, Url, parse_url
from clinfra.image.fetching import Fetcher
from clinfra.web.streams import Spooled
from tests.image.support import new_directory

GOOD = "93.184.216.34"


class Wire(StringTransport):
    """A connection; the other end can be cut."""

    protocol: Any = None
    lost = False

    def loseConnection(self) -> None:
        self.lost = True
        super().loseConnection()

    def abortConnection(self) -> None:
        self.lost = True
        super().abortConnection()


@implementer(IStreamClientEndpoint)
@define(eq=False)
class Server:
    """Elsewhere: it answers each connection with the next of its answers."""

    answers: list[bytes]
    connected: list[tuple[str, str]] = field(factory=list)
    wires: list[Wire] = field(factory=list)
    refuses: bool = False

    def at(self, url: Url, address: str) -> Server:
        self.connected.append((url.text, address))
        return self

    def connect(self, factory: IProtocolFactory) -> Deferred[Any]:
        if self.refuses:
            failed: Deferred[Any] = Deferred()
            failed.errback(ConnectionRefusedError())
            return failed
        protocol: Any = factory.buildProtocol(None)  # type: ignore[arg-type]  # not looked at
        wire = Wire()
        wire.protocol = protocol
        self.wires.append(wire)
        protocol.makeConnection(wire)
        return succeed(protocol)

    def go_on(self) -> None:
        """Answer the last request."""
        self.wires[-1].protocol.dataReceived(self.answers.pop(0))


def answer(body: bytes = b"picture", status: int = 200, *fields: str) -> bytes:
    lines = (f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *fields)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def redirect(location: str) -> bytes:
    return answer(b"", 302, f"Location: {location}")


class FetcherTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.names: dict[str, list[Sequence[str]]] = {"example.com": [[GOOD]] * 99}
        self.asked: list[str] = []

    async def resolve(self, host: str) -> Sequence[str]:
        self.asked.append(host)
        return self.names[host].pop(0)

    def begin(self, url: str, *answers: bytes) -> Deferred[Spooled]:
        self.server = Server(list(answers))
        fetcher = Fetcher(
            self.clock,
            Hosts.of(["example.com", "127.0.0.1", "[::ffff:10.0.0.1]", "other.net"]),
            new_directory(self),
            1000,
            10.0,
            resolve=self.resolve,
            connect=self.server.at,
        )
        done = Deferred.fromCoroutine(fetcher.fetch(parse_url(url)))
        while self.server.answers and self.server.wires:
            self.server.go_on()
        return done

    def fetch(self, url: str, *answers: bytes) -> bytes:
        spooled = self.successResultOf(self.begin(url, *answers))
        self.addCleanup(spooled.close)
        return os.pread(spooled.fd, 10000, 0)

    def refused(self, kind: type[Trouble], url: str, *answers: bytes) -> str:
        before = len(os.listdir("/proc/self/fd"))
        failure = self.failureResultOf(self.begin(url, *answers), kind)
        self.assertEqual(before, len(os.listdir("/proc/self/fd")))
        self.assertEqual([], self.clock.getDelayedCalls())
        return str(failure.value.sentence)

    def test_fetch(self) -> None:
        """A picture comes into a file, from the address that was checked."""
        self.assertEqual(b"picture", self.fetch("http://example.com/a?b", answer()))
        self.assertEqual([("http://example.com/a?b", GOOD)], self.server.connected)
        sent = self.server.wires[0].value()
        self.assertTrue(sent.startswith(b"GET /a?b HTTP/1.1\r\n"))
        self.assertIn(b"Host: example.com\r\n", sent)
        self.assertEqual(["example.com"], self.asked)

    def test_private(self) -> None:
        """Names that stand for anything private are refused before connecting."""
        for addresses in (
            ["127.0.0.1"],
            [GOOD, "10.0.0.1"],
            ["::ffff:10.0.0.1"],
            ["fd00::1"],
            ["169.254.169.254"],
            [],
        ):
            self.names["example.com"] = [addresses]
            words = self.refused(Forbidden, "http://example.com/")
            self.assertIn("not on the public Internet", words)
            self.assertEqual([], self.server.connected)
        for url in ("http://127.0.0.1/", "http://[::ffff:10.0.0.1]/"):
            self.refused(Forbidden, url)
            self.assertEqual([], self.server.connected)

    def test_rebinding(self) -> None:
        """A name is asked for once, and what it stands for later does not matter."""
        self.names["example.com"] = [[GOOD], ["127.0.0.1"]]
        self.fetch("http://example.com/", answer())
        self.assertEqual([GOOD], [address for _, address in self.server.connected])
        # A redirect to the same name is a new connection, and checked anew.
        self.names["example.com"] = [[GOOD], ["127.0.0.1"]]
        self.refused(Forbidden, "http://example.com/", redirect("/again"))
        self.assertEqual(1, len(self.server.connected))

    def test_redirects(self) -> None:
        """Redirects are followed three times, each checked like the first."""
        steps = [redirect(f"/{number}") for number in range(3)]
        self.assertEqual(
            b"picture", self.fetch("http://example.com/", *steps, answer())
        )
        self.assertEqual("http://example.com/2", self.server.connected[-1][0])
        self.refused(OriginFailed, "http://example.com/", *steps, redirect("/3"))
        for location in (
            "http://127.0.0.1/",
            "http://127.0.0.1:8081/x",
            "http://[::ffff:10.0.0.1]/",
            "http://unlisted.net/",
        ):
            self.refused(Forbidden, "http://example.com/", redirect(location))
            self.assertEqual(1, len(self.server.connected))
        self.names["other.net"] = [["10.1.2.3"]]
        self.refused(Forbidden, "http://example.com/", redirect("//other.net/"))
        for location in (
            "",
            "file:///etc/passwd",
            "http://a b/",
            "http://u@other.net/",
        ):
            self.names["example.com"] = [[GOOD]] * 9
            steps = [redirect(location)] * 4
            self.refused(OriginFailed, "http://example.com/", *steps)

    def test_bounds(self) -> None:
        """What is too large is cut off, announced or not."""
        words = self.refused(OriginFailed, "http://example.com/", answer(bytes(1001)))
        self.assertIn("too large", words)
        chunked = (
            b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n" + bytes(1001)
        )
        self.refused(OriginFailed, "http://example.com/", chunked)
        self.assertTrue(self.server.wires[0].lost)
        self.assertEqual(
            bytes(1000), self.fetch("http://example.com/", answer(bytes(1000)))
        )

    def test_time(self) -> None:
        """All of it has one time-out."""
        done = self.begin("http://example.com/")
        self.clock.advance(9)
        self.server.answers.append(answer(bytes(100))[:-50])
        self.server.go_on()
        self.assertNoResult(done)
        self.clock.advance(2)
        self.failureResultOf(done, OriginTimeout)
        self.assertTrue(self.server.wires[0].lost)

    def test_answers(self) -> None:
        """Only pictures, whole and plain."""
        for text in (
            answer(b"<html>", 200, "Content-Type: text/html"),
            answer(b"x", 200, "Content-Encoding: gzip"),
            answer(b"x", 500),
            answer(b"x", 206),
            b"nonsense\r\n\r\n",
        ):
            self.refused(OriginFailed, "http://example.com/", text)
        self.refused(NotFound, "http://example.com/", answer(b"", 404))
        for kind in ("image/jpeg", "application/octet-stream", "IMAGE/X"):
            self.fetch(
                "http://example.com/", answer(b"x", 200, f"Content-Type: {kind}")
            )

    def test_broken(self) -> None:
        """Half a picture is none, and neither is no connection."""
        done = self.begin("http://example.com/", answer(bytes(100))[:-50])
        self.server.wires[0].protocol.connectionLost(Failure(ConnectionDone()))
        self.failureResultOf(done, OriginFailed)
        self.server.refuses = True
        fetcher = Fetcher(
            self.clock,
            Hosts.of(["example.com"]),
            new_directory(self),
            1000,
            10.0,
            resolve=self.resolve,
            connect=self.server.at,
        )
        work = Deferred.fromCoroutine(fetcher.fetch(parse_url("http://example.com/")))
        self.failureResultOf(work, OriginFailed)

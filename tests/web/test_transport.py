"""Eager transports: one exam for them and for Twisted's own, on real sockets."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from clinfra.web.transport import (
    EagerServer,
    EagerUNIXServer,
    backlog,
    make_eager,
    read_at_a_time,
)


class Turns(Clock):
    """A reactor that turns when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def addWriter(self, writer: Any) -> None:
        self.writers.add(writer)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)

    def removeWriter(self, writer: Any) -> None:
        self.writers.discard(writer)

    def turn(self) -> None:
        """Do one turn: what can be read, what can be written, what is due."""
        self.advance(0)
        if not (self.readers or self.writers):
            return
        readable, writable, _ = select.select(self.readers, self.writers, [], 0)
        for ready, act in ((readable, "doRead"), (writable, "doWrite")):
            for transport in ready:
                if transport in self.readers | self.writers:
                    why = getattr(transport, act)()
                    if why is not None:
                        half = act == "doRead" and isinstance(
                            transport.protocol, HalfClosing
                        )
                        self.removeReader(transport)
                        if half:
                            transport.readConnectionLost(Failure(why))
                        else:
                            self.removeWriter(transport)
                            transport.connectionLost(Failure(why))


class Recorder(Protocol):
    """Keeps what happens to it."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.on_data: Callable[[bytes], None] = lambda data: None
        self.inside = False

    def dataReceived(self, data: bytes) -> None:
        self.events.append("data")
        self.inside = True
        self.on_data(data)
        self.inside = False

    def connectionLost(self, reason: Failure = None) -> None:  # type: ignore[assignment] # as Twisted has it
        assert not self.inside, "told of its end while it was writing"
        self.events.append("lost")


@implementer(IHalfCloseableProtocol)
class HalfClosing(Recorder):
    """Is told of half-closed connections."""

    def readConnectionLost(self) -> None:
        self.events.append("read lost")

    def writeConnectionLost(self) -> None:
        self.events.append("write lost")


class Producer:
    """A push producer that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def pauseProducing(self) -> None:
        self.events.append("pause")

    def resumeProducing(self) -> None:
        self.events.append("resume")

    def stopProducing(self) -> None:
        self.events.append("stop")


class TransportContract:
    """What every stream transport promises; mixed into a test case."""

    kind: Any

    def connect(self: Any, protocol: Recorder | None = None) -> None:
        """Set up a transport, and the socket at its other end."""
        self.protocol = protocol or Recorder()
        ours, self.peer = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.peer.setblocking(False)
        self.reactor = Turns()
        self.transport = self.kind(
            ours, self.protocol, ("peer", 1), None, 0, self.reactor
        )
        self.protocol.makeConnection(self.transport)
        self.addCleanup(self.tear_down)

    def tear_down(self: Any) -> None:
        self.peer.close()
        for _ in range(5):
            self.reactor.turn()
        if hasattr(self.transport, "socket"):
            self.transport.connectionLost(Failure(CONNECTION_DONE))

    def read(self: Any) -> bytes | None:
        """Return what the peer can read now; None at the end."""
        try:
            data: bytes = self.peer.recv(1 << 20)
        except BlockingIOError:
            return b""
        return data or None

    def read_all(self: Any, length: int) -> bytes:
        """Turn the reactor until the peer has read so much."""
        data = b""
        for _ in range(20000):
            data += self.read() or b""
            if len(data) >= length:
                return data
            self.reactor.turn()
        raise AssertionError(f"only {len(data)} of {length} bytes came")

    def test_small(self: Any) -> None:
        """What is written arrives."""
        self.connect()
        self.transport.write(b"abc")
        self.transport.writeSequence([b"d", b"", b"ef"])

        self.assertEqual(b"abcdef", self.read_all(6))
        self.assertEqual(0, backlog(self.transport))

    def test_order(self: Any) -> None:
        """More than the kernel takes arrives in order, however it is written."""
        self.connect()
        pieces = [bytes([n]) * (n * 997) for n in range(1, 80)]
        data = b""
        for number, piece in enumerate(pieces):
            self.transport.write(piece)
            if number % 7 == 0:
                data += self.read() or b""
                self.reactor.turn()
        data += self.read_all(sum(map(len, pieces)) - len(data))

        self.assertEqual(b"".join(pieces), data)

    def test_lose_connection(self: Any) -> None:
        """Everything written before is sent."""
        self.connect()
        self.transport.write(b"a" * 500_000)
        self.transport.loseConnection()
        self.assertEqual(b"a" * 500_000, self.read_all(500_000))
        for _ in range(3):
            self.reactor.turn()

        self.assertIs(None, self.read())
        self.assertEqual(["lost"], self.protocol.events)

    def test_half_close(self: Any) -> None:
        """The sending side can be shut down alone."""
        self.connect(HalfClosing())
        self.transport.write(b"a" * 100_000)
        self.transport.loseWriteConnection()
        self.assertEqual(b"a" * 100_000, self.read_all(100_000))
        self.reactor.turn()
        self.assertIs(None, self.read())
        self.transport.write(b"b")
        self.peer.send(b"still heard")
        self.reactor.turn()
        self.peer.shutdown(socket.SHUT_WR)
        self.reactor.turn()

        self.assertEqual(["write lost", "data", "read lost"], self.protocol.events)
        self.transport.loseConnection()
        self.reactor.turn()
        self.assertEqual("lost", self.protocol.events[-1])

    def test_producer(self: Any) -> None:
        """A producer is paused when much waits, resumed when nothing does."""
        self.connect()
        producer = Producer()
        self.transport.registerProducer(producer, True)
        self.transport.write(b"a" * 300_000)
        self.assertEqual(["pause"], producer.events)
        self.assertGreater(backlog(self.transport), 65536)
        self.read_all(300_000)
        self.reactor.turn()

        self.assertEqual(["pause", "resume"], producer.events)
        self.transport.unregisterProducer()

    def test_write_to_the_dead(self: Any) -> None:
        """A peer that has gone is noticed on a later turn, not inside write."""
        self.connect()

        def write_much(data: bytes) -> None:
            self.peer.close()
            for _ in range(10):
                self.transport.write(b"a" * 10_000)

        self.protocol.on_data = write_much
        self.peer.send(b"x")
        for _ in range(5):
            self.reactor.turn()

        self.assertEqual(["data", "lost"], self.protocol.events)
        self.transport.write(b"a")

    def test_abort(self: Any) -> None:
        """An aborted connection sends no more."""
        self.connect()
        self.transport.write(b"a" * 300_000)
        self.transport.abortConnection()
        self.transport.write(b"b")
        self.reactor.turn()

        self.assertEqual(["lost"], self.protocol.events)

    def test_close_while_writing(self: Any) -> None:
        """A write after the end is nothing."""
        self.connect()
        self.transport.loseConnection()
        self.reactor.turn()
        self.reactor.turn()
        self.transport.write(b"a")
        self.transport.writeSequence([b"a"])

        self.assertEqual(["lost"], self.protocol.events)


class StockTests(TransportContract, SynchronousTestCase):
    """Twisted's own."""

    kind = tcp.Server


class EagerTests(TransportContract, SynchronousTestCase):
    """Ours for TCP."""

    kind: Any = EagerServer

    def test_read_at_a_time(self) -> None:
        """So much is read at once as was asked for, or as usual."""
        self.connect()
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        lengths: list[int] = []
        self.protocol.on_data = lambda data: lengths.append(len(data))
        for asked, most in ((0, 65536), (100_000, 100_000), (0, 65536)):
            read_at_a_time(self.transport, asked)
            self.peer.sendall(bytes(150_000))
            lengths.clear()
            while sum(lengths) < 150_000:
                self.reactor.turn()
            self.assertEqual(most, max(lengths))

    def test_at_once(self) -> None:
        """A small write is on the wire before the reactor turns."""
        self.connect()
        self.transport.write(b"abc")

        self.assertEqual(b"abc", self.read())

    def send_file(self, offset: int, length: int) -> int:
        """Send a piece of the file as `streams.send_file` does; count the calls."""
        calls = 0
        while length:
            sent = self.transport.sendFile(self.file, offset, min(length, 65536))
            offset += sent
            length -= sent
            calls += 1
            self.data += self.read() or b""
            self.reactor.turn()
        return calls

    def open_file(self) -> bytes:
        path = self.mktemp()
        data = os.urandom(400_000)
        with open(path, "wb") as file:
            file.write(data)
        self.file = os.open(path, os.O_RDONLY)
        self.addCleanup(os.close, self.file)
        self.data = b""
        return data

    def test_send_file(self) -> None:
        """A piece of a file arrives after what was written before it."""
        self.connect()
        producer = Producer()
        self.transport.registerProducer(producer, True)
        data = self.open_file()
        self.transport.write(b"h" * 100_000)
        self.send_file(1000, 300_000)
        self.data += self.read_all(400_000 - len(self.data))

        self.assertEqual(b"h" * 100_000 + data[1000:301_000], self.data)
        self.assertEqual({"pause", "resume"}, set(producer.events))
        self.transport.unregisterProducer()

    def test_past_the_end(self) -> None:
        """A file that ends too early says so."""
        self.connect()
        self.open_file()

        with self.assertRaises(EOFError):
            self.transport.sendFile(self.file, 400_000, 1)

    def test_send_file_to_the_dead(self) -> None:
        """A peer that has gone is noticed by the reactor."""
        self.connect()
        self.open_file()
        self.peer.close()
        self.assertEqual(0, self.transport.sendFile(self.file, 0, 1000))
        self.reactor.turn()

        self.assertEqual(["lost"], self.protocol.events)
        self.assertEqual(0, self.transport.sendFile(self.file, 0, 1000))


class EagerUNIXTests(EagerTests):
    """Ours for UNIX sockets."""

    kind = EagerUNIXServer


class MakeEagerTests(SynchronousTestCase):
    """Which ports are made eager."""

    def test_kinds(self) -> None:
        """Plain TCP and UNIX ports; others are left alone."""
        reactor: Any = Turns()
        tcp_port = tcp.Port(0, None, reactor=reactor)  # type: ignore[arg-type] # no factory
        unix_port = unix.Port(b"x", None, reactor=reactor)  # type: ignore[arg-type] # ditto
        other: Any = object()
        for port in (tcp_port, unix_port, other):
            make_eager(port)

        self.assertIs(EagerServer, tcp_port.transport)
        self.assertIs(EagerUNIXServer, unix_port.transport)

    def test_reset(self) -> None:
        """A reset while bytes wait ends the connection once, without a trace."""
        listener = socket.create_server(("127.0.0.1", 0))
        peer = socket.create_connection(listener.getsockname())
        ours, address = listener.accept()
        listener.close()
        reactor: Any = Turns()
        protocol = Recorder()
        transport = EagerServer(ours, protocol, address, None, 0, reactor)  # type: ignore[arg-type] # no port
        protocol.makeConnection(transport)
        transport.write(b"a" * 10_000_000)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        for _ in range(5):
            reactor.turn()

        self.assertEqual(["lost"], protocol.events)

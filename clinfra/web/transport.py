"""Sockets that write at once.

Twisted keeps what is written until the reactor's next turn, which costs two system
calls and a turn for each answer.  The transports here try `send` at once when nothing
is waiting, and leave the rest to Twisted's own buffer: order, back-pressure and the
reporting of lost connections stay exactly Twisted's.  Only plain TCP and UNIX stream
sockets have them; TLS is used as Twisted has it.

`BLOCKING` errors and broken connections are treated alike here: the bytes are left to
the buffer, and the reactor finds out on its next turn, so that no protocol is told of
its end while it is still inside `write`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from fcntl import ioctl
from socket import AF_UNIX, IPPROTO_TCP, TCP_INFO, socket, socketpair
from struct import Struct
from termios import TIOCOUTQ
from typing import Any, Protocol

from attrs import frozen
from twisted.internet import tcp, unix
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IListeningPort, IReactorFDSet
from twisted.internet.protocol import ClientFactory
from twisted.python.failure import Failure

TCP_CLOSE = 7
TCP_CLOSE_WAIT = 8
"""States that Linux tells: reset, and shut down by the peer."""

_INT = Struct("i")
_NOTHING = bytes(_INT.size)


class Wire(Protocol):
    """What the HTTP protocols need of a transport (TCP, UNIX, TLS, or a fake)."""

    disconnecting: bool

    def write(self, data: bytes, /) -> None: ...
    def writeSequence(self, pieces: Iterable[bytes], /) -> None: ...
    def loseConnection(self) -> None: ...
    def abortConnection(self) -> None: ...
    def loseWriteConnection(self) -> None: ...
    def registerProducer(self, producer: object, streaming: bool, /) -> None: ...
    def unregisterProducer(self) -> None: ...
    def pauseProducing(self) -> None: ...
    def resumeProducing(self) -> None: ...
    def getPeer(self) -> object: ...
    def getHost(self) -> object: ...


class Eager(tcp.Connection):
    """Mixed in before a stream transport of `tcp` or `unix`."""

    def write(self, data: bytes) -> None:
        """Send what the kernel takes now; the rest is buffered as ever."""
        if (
            self._tempDataLen
            or self.dataBuffer
            or self.TLS
            or not self.connected
            or self.disconnecting
            or self._writeDisconnecting
            or self._writeDisconnected
        ):
            super().write(data)
            return
        try:
            sent = self.socket.send(data)
        except OSError:
            super().write(data)
            return
        if sent != len(data):
            super().write(data[sent:])

    def writeSequence(self, iovec: Iterable[bytes]) -> None:
        """Write the pieces as one."""
        self.write(b"".join(iovec))

    def sendFile(self, fd: int, offset: int, count: int) -> int:
        """Send up to `count` bytes of an open file, without copying them here.

        Whatever could not be sent, the registered streaming producer is paused and
        resumed on a later turn, when the socket takes bytes again: it is the caller's
        part to register one and to come back.  That also gives other connections
        their turn when this one takes everything.

        Returns:
            How many bytes were taken; 0 when something else waits to be sent, when the
            kernel is full, or when the connection is broken (the reactor will say so).

        Raises:
            EOFError: the file ends before `offset`.
        """
        if not self.connected or self.disconnecting:
            return 0
        sent = 0
        if not (self.dataBuffer or self._tempDataLen):
            try:
                sent = os.sendfile(self.socket.fileno(), fd, offset, count)
            except OSError:
                sent = 0
            else:
                if not sent:
                    raise EOFError
        if self.producer is not None and not self.producerPaused:
            self.producerPaused = True
            self.producer.pauseProducing()  # type: ignore[attr-defined] # streaming
        self.startWriting()
        return sent


class EagerServer(Eager, tcp.Server):
    """An accepted TCP connection."""


class EagerUNIXServer(Eager, unix.Server):
    """An accepted UNIX connection."""


class EagerClient(Eager, tcp.Client):
    """A TCP connection made by us."""


class EagerUNIXClient(Eager, unix.Client):
    """A UNIX connection made by us."""


class EagerConnector(tcp.Connector):
    """Like `reactor.connectTCP`'s connector."""

    def _makeTransport(self) -> EagerClient:
        return EagerClient(self.host, self.port, self.bindAddress, self, self.reactor)


class EagerUNIXConnector(unix.Connector):
    """Like `reactor.connectUNIX`'s connector."""

    def _makeTransport(self) -> EagerUNIXClient:  # type: ignore[override] # as unix does
        return EagerUNIXClient(self.address, self, self.reactor, self.checkPID)


def make_eager(port: IListeningPort) -> None:
    """Make the connections this port accepts from now on write at once.

    A port of another kind (a test's, a wrapper's) is left as it is.
    """
    if isinstance(port, unix.Port):
        port.transport = EagerUNIXServer
    elif isinstance(port, tcp.Port):
        port.transport = EagerServer


def connect_tcp(
    reactor: IReactorFDSet,
    host: str,
    port: int,
    factory: ClientFactory[Any],
    timeout_seconds: float,
) -> EagerConnector:
    """Do what `reactor.connectTCP` does, for a transport that writes at once."""
    connector = EagerConnector(host, port, factory, timeout_seconds, None, reactor)
    connector.connect()
    return connector


def connect_unix(
    reactor: IReactorFDSet,
    path: str,
    factory: ClientFactory[Any],
    timeout_seconds: float,
) -> EagerUNIXConnector:
    """Do what `reactor.connectUNIX` does, for a transport that writes at once."""
    connector = EagerUNIXConnector(path, factory, timeout_seconds, reactor, False)
    connector.connect()
    return connector


def read_at_a_time(transport: object, most_bytes: int = 0) -> None:
    """Have a connection read so much at a time at most; 0 is as usual.

    TLS goes on as it does.
    """
    if isinstance(transport, Eager):
        transport.bufferSize = most_bytes or Eager.bufferSize


def is_movable(transport: object) -> bool:
    """Tell whether a connection is a plain socket, which another process could have."""
    return isinstance(transport, Eager) and not transport.TLS


def unsent(transport: Eager) -> bool:
    """Tell whether something waits in our buffer."""
    return bool(transport.dataBuffer or transport._tempDataLen)


def take_away(transport: Eager) -> int:
    """Return the descriptor of a connection; the transport, and its protocol, lose it.

    What Twisted shuts down afterwards is another socket, whose end nobody has.
    """
    descriptor = os.dup(transport.socket.fileno())
    transport.stopReading()
    transport.stopWriting()
    ours, theirs = socketpair()
    with ours, theirs:
        os.dup2(ours.fileno(), transport.socket.fileno(), inheritable=False)
    transport.connectionLost(Failure(ConnectionDone()))
    return descriptor


@frozen
class _Only:
    """A factory of one protocol."""

    protocol: object

    def buildProtocol(self, address: object) -> object:
        """Return it."""
        return self.protocol


def adopt(reactor: Any, descriptor: int, protocol: object) -> Eager | None:
    """Go on with a connection of another process; None when it is over.

    The descriptor is duplicated.
    """
    with socket(fileno=os.dup(descriptor)) as probe:
        family = probe.family
    factory: Any = _Only(protocol)
    adopted: Any = None
    with suppress(OSError):
        if family == AF_UNIX:
            make = EagerUNIXServer._fromConnectedSocket
            adopted = make(descriptor, factory, reactor)
        else:
            adopted = EagerServer._fromConnectedSocket(
                descriptor, family, factory, reactor
            )
    return adopted if isinstance(adopted, Eager) else None


def peer_state(transport: object) -> int:
    """Return the state of a TCP connection (`TCP_CLOSE_WAIT` ...); 0 of no such one.

    It tells that a peer has left although nothing is read from it for now.
    """
    layer: Any = transport
    while layer is not None and not isinstance(layer, tcp.Connection):
        layer = getattr(layer, "transport", None)
    if layer is None or not layer.connected or layer.socket.family == AF_UNIX:
        return 0
    with suppress(OSError):
        return int(layer.socket.getsockopt(IPPROTO_TCP, TCP_INFO, 1)[0])
    return 0


def backlog(transport: object) -> int | None:
    """Return how many bytes wait to be taken by a client; None when it cannot be told.

    Counts Twisted's buffer and the kernel's: what is not acknowledged yet.
    Used to see whether a slow client takes anything at all.  Under TLS it is the socket
    below that counts.
    """
    layer: Any = transport
    while not hasattr(layer, "dataBuffer"):
        layer = getattr(layer, "transport", None)
        if layer is None:
            return None
    waiting: int = len(layer.dataBuffer) - layer.offset + layer._tempDataLen
    if isinstance(layer, tcp.Connection) and layer.connected:
        with suppress(OSError):
            (in_kernel,) = _INT.unpack(ioctl(layer.socket, TIOCOUTQ, _NOTHING))
            waiting += in_kernel
    return waiting

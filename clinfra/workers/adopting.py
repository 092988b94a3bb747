"""Listening on sockets that somebody else has bound.

An endpoint string (`tcp:`, `ssl:`, `unix:`, `haproxy:` ...) says how connections are
to be treated; here it is listened at on a descriptor that is handed in, not on one that
the endpoint would bind.  Several processes may listen on the same one.
"""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.internet import tcp, unix
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from twisted.protocols.tls import TLSMemoryBIOFactory


class _TCPPort(tcp.Port):
    """Takes one connection at a time, so that others that listen have their share."""

    def doRead(self) -> None:
        """Accept a connection."""
        self.numberAccepts = 1
        super().doRead()


class _UNIXPort(unix.Port):
    """The same for UNIX sockets."""

    def doRead(self) -> None:
        """Accept a connection."""
        self.numberAccepts = 1
        super().doRead()


def listen_on(
    reactor: Any, descriptor: int, factory: IProtocolFactory
) -> IListeningPort:
    """Accept connections of a socket that is bound already.

    Args:
        descriptor: of the socket; it is duplicated.
    """
    with socket.socket(fileno=os.dup(descriptor)) as probe:
        probe.setblocking(False)
        family = probe.family
    port: tcp.Port
    if family == socket.AF_UNIX:
        port = _UNIXPort._fromListeningDescriptor(reactor, descriptor, factory)
    else:
        port = _TCPPort._fromListeningDescriptor(reactor, descriptor, family, factory)
    port.startListening()
    return port


class AdoptingReactor:
    """A reactor whose endpoints listen on a given descriptor."""

    def __init__(self, reactor: Any, descriptor: int) -> None:
        self._reactor = reactor
        self._descriptor = descriptor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(
        self, port: int, factory: Any, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Listen, whatever port and interface are named."""
        return listen_on(self._reactor, self._descriptor, factory)

    def listenUNIX(
        self,
        address: str,
        factory: Any,
        backlog: int = 50,
        mode: int = 0o666,
        wantPID: bool = False,
    ) -> IListeningPort:
        """Listen, whatever path is named."""
        return listen_on(self._reactor, self._descriptor, factory)

    def listenSSL(
        self,
        port: int,
        factory: Any,
        contextFactory: Any,
        backlog: int = 50,
        interface: str = "",
    ) -> IListeningPort:
        """Listen for TLS, whatever port and interface are named."""
        secured = TLSMemoryBIOFactory(contextFactory, False, factory)
        return listen_on(self._reactor, self._descriptor, secured)

    def adoptStreamPort(
        self, fileDescriptor: int, addressFamily: int, factory: Any
    ) -> IListeningPort:
        """Listen, whatever descriptor systemd would have passed."""
        return listen_on(self._reactor, self._descriptor, factory)

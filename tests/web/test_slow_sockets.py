"""Slow readers of files on real sockets, in made-up time."""

from __future__ import annotations

import os
import socket
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import Limits, Seconds
from clinfra.web.exchange import FileBody, IExchange, Response
from clinfra.web.transport import EagerServer, backlog
from tests.web.clients import get, make_site
from tests.web.test_transport import Turns

LENGTH = 20_000_000


class SlowFileTests(SynchronousTestCase):
    """What the kernel holds for a slow client counts as well as what we hold."""

    def setUp(self) -> None:
        path = self.mktemp()
        with open(path, "wb") as file:
            file.truncate(LENGTH)

        async def respond(exchange: IExchange) -> Response:
            exchange.on_done(self.done.append)
            fd = os.open(path, os.O_RDONLY)
            return Response(200, (), FileBody(fd, 0, LENGTH, lambda: os.close(fd)))

        self.done: list[bool] = []
        self.reactor: Any = Turns()
        self.site, _ = make_site(
            respond, clock=self.reactor, limits=Limits(write_timeout=Seconds(20))
        )
        listener = socket.create_server(("127.0.0.1", 0))
        self.peer = socket.socket()
        self.peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        self.peer.connect(listener.getsockname())
        ours, address = listener.accept()
        listener.close()
        self.addCleanup(self.peer.close)
        channel: Any = self.site.buildProtocol(None)
        kind: Any = EagerServer  # no port, and a reactor of our own
        self.transport = kind(ours, channel, address, None, 0, self.reactor)
        channel.makeConnection(self.transport)
        self.peer.sendall(get())
        self.wait(1)

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.reactor.advance(1)
            for _ in range(3):
                self.reactor.turn()

    def end(self) -> None:
        self.peer.close()
        self.wait(3)
        self.assertEqual({}, self.site.channels)

    def test_slow(self) -> None:
        """Whoever takes a little now and then is served on, for as long as it takes."""
        for _ in range(30):
            self.assertGreater(len(self.peer.recv(100_000)), 0)
            self.wait(15)

        self.assertEqual([], self.done)
        self.assertGreater(backlog(self.transport) or 0, 0)
        self.end()
        self.assertEqual([False], self.done)

    def test_stuck(self) -> None:
        """Whoever takes nothing is cut when the time-out is over, and not before."""
        self.wait(17)
        self.assertEqual([], self.done)
        self.wait(8)

        self.assertEqual([False], self.done)
        self.end()

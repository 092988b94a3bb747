"""WebSockets through a proxy that is a process of its own, by a library of others."""

from __future__ import annotations

import os
import signal
import socket
import socketserver
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.extensions import Extension, PerMessageDeflate
from wsproto.frame_protocol import CloseReason

from tests.support import ClinfraProcess

PATIENCE_SECONDS = 20


class Talk:
    """One end of a WebSocket.

    Attributes:
        pongs: how many came.
    """

    def __init__(self, connected: socket.socket, kind: ConnectionType) -> None:
        connected.settimeout(PATIENCE_SECONDS)
        self._socket = connected
        self._connection = WSConnection(kind)
        self._events: list[Event] = []
        self.pongs = 0

    def send(self, event: Event) -> None:
        """Send an event."""
        self._socket.sendall(self._connection.send(event))

    def next(self) -> Event:
        """Return what comes next; pings are answered on the way."""
        while not self._events:
            data = self._socket.recv(65536)
            self._connection.receive_data(data or None)
            self._events += self._connection.events()
        event = self._events.pop(0)
        if isinstance(event, Ping):
            self.send(event.response())
            return self.next()
        if isinstance(event, Pong):
            self.pongs += 1
            return self.next()
        return event

    def message(self) -> str | bytes:
        """Return the next message, put together."""
        parts: list[str | bytes] = []
        while True:
            event = self.next()
            assert isinstance(event, Message), event
            parts.append(event.data)
            if event.message_finished:
                return type(parts[0])().join(parts)  # type: ignore[arg-type] # all alike


class Echoes(socketserver.BaseRequestHandler):
    """Says everything back, in capitals when it is text; refuses /forbidden."""

    def handle(self) -> None:
        talk = Talk(self.request, ConnectionType.SERVER)
        request = talk.next()
        assert isinstance(request, Request)
        if request.target == "/forbidden":
            talk.send(RejectConnection(status_code=403, has_body=False))
            return
        extensions: list[Extension] = [PerMessageDeflate()]
        talk.send(AcceptConnection(subprotocol="chat", extensions=extensions))
        while True:
            event = talk.next()
            if isinstance(event, CloseConnection):
                if event.code != CloseReason.ABNORMAL_CLOSURE:
                    talk.send(event.response())
                return
            assert isinstance(event, Message)
            if isinstance(event, TextMessage):
                finished = event.message_finished
                talk.send(TextMessage(event.data.upper(), message_finished=finished))
            else:
                talk.send(event)


@pytest.fixture
def echo() -> Iterator[int]:
    """Run a WebSocket server; give its port."""
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echoes)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def clinfra(echo: int) -> Iterator[ClinfraProcess]:
    """Run a proxy before it."""
    configuration = {
        "proxy": {
            "pools": {"o": {"members": [f"127.0.0.1:{echo}"], "tunnel_timeout": 3}},
            "routes": [{"pool": "o", "prefix": "/"}],
        },
        "admin": {},
    }
    with ClinfraProcess(configuration) as process:
        yield process


Connect = Callable[..., Talk]
"""Makes clients that have asked for a WebSocket."""


@pytest.fixture
def connect(clinfra: ClinfraProcess) -> Iterator[Connect]:
    """Make clients, and hang up for them in the end."""
    with ExitStack() as stack:

        def connect(target: str = "/chat") -> Talk:
            address = ("127.0.0.1", clinfra.ports["proxy"])
            connected = stack.enter_context(socket.create_connection(address))
            talk = Talk(connected, ConnectionType.CLIENT)
            talk.send(handshake(target))
            return talk

        yield connect


def handshake(target: str) -> Request:
    """Return what a client begins with."""
    return Request(
        host="example.com",
        target=target,
        subprotocols=["chat"],
        extensions=[PerMessageDeflate()],
    )


def greeted(connect: Connect) -> Talk:
    """Return a client whose WebSocket is open."""
    talk = connect()
    accepted = talk.next()
    assert isinstance(accepted, AcceptConnection)
    assert accepted.subprotocol == "chat"
    assert [type(each) for each in accepted.extensions] == [PerMessageDeflate]
    return talk


def test_a_conversation(connect: Connect) -> None:
    """Messages of all kinds and sizes go both ways; both sides say goodbye."""
    talk = greeted(connect)
    for text in ("hello", "", "x" * 70_000):
        talk.send(TextMessage(text))
        assert talk.message() == text.upper()
    data = os.urandom(300_000)
    talk.send(BytesMessage(data))
    assert talk.message() == data
    talk.send(Ping(b"there?"))
    talk.send(TextMessage("one", message_finished=False))
    talk.send(TextMessage("two"))
    assert talk.message() == "ONETWO"
    assert talk.pongs == 1
    talk.send(CloseConnection(code=1000, reason="enough"))
    closed = talk.next()
    assert isinstance(closed, CloseConnection) and closed.code == 1000


def test_refused(connect: Connect) -> None:
    """An origin's no is an ordinary answer."""
    rejected = connect("/forbidden").next()
    assert isinstance(rejected, RejectConnection) and rejected.status_code == 403


def test_many_at_once_while_others_flood(connect: Connect) -> None:
    """A flood on one connection does not hold the others up, nor is any of it lost."""
    talks = [greeted(connect) for _ in range(20)]
    flooding = greeted(connect)
    piece = os.urandom(64 * 1024)
    count = 200

    def flood() -> None:
        for _ in range(count):
            flooding.send(BytesMessage(piece))

    def listen() -> int:
        return sum(flooding.message() == piece for _ in range(count))

    with ThreadPoolExecutor(2) as pool:
        flooded, heard = pool.submit(flood), pool.submit(listen)
        for turn in range(10):
            for talk in talks:
                talk.send(TextMessage(f"turn {turn}"))
            assert {talk.message() for talk in talks} == {f"TURN {turn}"}
        flooded.result(PATIENCE_SECONDS)
        assert heard.result(PATIENCE_SECONDS) == count


def test_silence_ends_it(connect: Connect) -> None:
    """After tunnel_timeout without a word both sides are let go."""
    talk = greeted(connect)
    ended = talk.next()
    assert isinstance(ended, CloseConnection) and ended.code == 1006


def test_stopping_ends_it(clinfra: ClinfraProcess, connect: Connect) -> None:
    """A proxy that stops does not wait for conversations for ever."""
    talk = greeted(connect)
    clinfra.running.signal(signal.SIGTERM)
    ended = talk.next()
    assert isinstance(ended, CloseConnection)
    clinfra.running.wait()

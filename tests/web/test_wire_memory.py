"""What connections cost a real server, in memory."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import frozen

from tests.web.wire_server import BIG

CONNECTIONS = 2000
GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n"


@frozen
class Server:
    """A server in a process of its own."""

    port: int
    pid: int

    def connect(self, **options: int) -> socket.socket:
        """Connect; with `rcvbuf`, a client that holds little."""
        connection = socket.socket()
        if "rcvbuf" in options:
            connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVBUF, options["rcvbuf"]
            )
        connection.settimeout(20)
        connection.connect(("127.0.0.1", self.port))
        return connection

    def resident_bytes(self) -> int:
        """Return the memory it has now."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    def peak_bytes(self) -> int:
        """Return the most memory it ever had."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmHWM")


@pytest.fixture(params=["eager", "stock"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """Run a server, with our transports and with Twisted's."""
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(BIG)  # sparse: no disk is used
    with subprocess.Popen(
        [sys.executable, "-m", "tests.web.wire_server", str(big), request.param],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield Server(int(process.stdout.readline()), process.pid)
        finally:
            process.kill()


def read_answer(connection: socket.socket) -> bytes:
    """Read one small answer."""
    data = connection.recv(65536)
    assert data.startswith(b"HTTP/1.1 2"), data
    return data


def test_idle_connections(server: Server) -> None:
    """Two thousand idle keep-alive connections cost less than 60 KB each."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (most, most))
    with server.connect() as warming:
        warming.sendall(GET % b"/")
        read_answer(warming)
    before = server.resident_bytes()
    connections = []
    try:
        for _ in range(CONNECTIONS):
            connection = server.connect()
            connections.append(connection)
            connection.sendall(GET % b"/")
        for connection in connections:
            read_answer(connection)
        each = (server.resident_bytes() - before) / CONNECTIONS
        print(f"{each / 1000:.1f} KB per idle connection")
        assert each < 20_000
        # They are all still good for another request.
        for connection in connections[::100]:
            connection.sendall(GET % b"/")
            read_answer(connection)
    finally:
        for connection in connections:
            connection.close()


def test_large_upload(server: Server) -> None:
    """An upload of 1 GB passes through less than 100 MB."""
    block = bytes(1 << 20)
    with server.connect() as connection:
        connection.sendall(
            b"PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % BIG
        )
        for _ in range(BIG // len(block)):
            connection.sendall(block)
        assert read_answer(connection).endswith(b"\r\n\r\n%d" % BIG)
    print(f"peak {server.peak_bytes() / 1e6:.0f} MB")
    assert server.peak_bytes() < 100_000_000


def test_large_download(server: Server) -> None:
    """So does an answer of 1 GB."""
    buffer = bytearray(1 << 20)
    with server.connect() as connection:
        connection.sendall(GET % b"/big")
        received = 0
        head = b""
        while received < BIG:
            count = connection.recv_into(buffer)
            assert count, "cut short"
            if not head.endswith(b"\r\n\r\n"):
                head, end, _ = bytes(buffer[:count]).partition(b"\r\n\r\n")
                head += end
                count -= len(head)
            received += count
        connection.sendall(GET % b"/")
        assert read_answer(connection).endswith(b"small")
    assert received == BIG
    print(f"peak {server.peak_bytes() / 1e6:.0f} MB")
    assert server.peak_bytes() < 100_000_000


def test_slow_readers(server: Server) -> None:
    """Twenty clients that do not read their large answers cost their buffers only."""
    with server.connect() as warming:
        warming.sendall(GET % b"/at-once")
        warming.recv(100)
    time.sleep(0.2)
    before = server.resident_bytes()
    slow = [server.connect(rcvbuf=4096) for _ in range(20)]
    try:
        for connection in slow:
            connection.sendall(GET % b"/big")
        time.sleep(1.0)
        with server.connect() as other:
            other.sendall(GET % b"/")
            assert read_answer(other).endswith(b"small")
        each = (server.resident_bytes() - before) / len(slow)
        print(f"{each / 1000:.0f} KB per slow reader")
        assert each < 600_000
    finally:
        for connection in slow:
            connection.close()


def test_refused_upload(server: Server) -> None:
    """A refusal before the body can be read although the client goes on sending."""
    with server.connect() as connection:
        connection.sendall(
            b"PUT /refuse HTTP/1.1\r\nHost: h\r\nContent-Length: 50000000\r\n\r\n"
        )
        sent = 0
        try:
            while sent < 50_000_000:
                sent += connection.send(bytes(65536))
                if sent > 800_000:
                    break
        except OSError:
            pass
        data = b""
        while not data.endswith(b"Not here.\n"):
            piece = connection.recv(65536)
            assert piece, data
            data += piece
        assert data.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        assert b"\r\nConnection: close\r\n" in data

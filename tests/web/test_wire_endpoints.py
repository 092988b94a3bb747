"""Other endpoints than plain TCP: UNIX sockets, and the PROXY protocol."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.web.wire_server import BIG

GET = b"GET %b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@contextmanager
def serve(tmp_path: Path, endpoint: str) -> Iterator[int]:
    """Run a server at an endpoint; gives its port."""
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(BIG)
    with subprocess.Popen(
        [sys.executable, "-m", "tests.web.wire_server", str(big), "at", endpoint],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def exchange(connection: socket.socket, request: bytes) -> bytes:
    """Send a request, read to the end; return the body."""
    connection.settimeout(20)
    connection.sendall(request)
    pieces = []
    while piece := connection.recv(1 << 20):
        pieces.append(piece)
    return b"".join(pieces).partition(b"\r\n\r\n")[2]


def test_unix(tmp_path: Path) -> None:
    """A UNIX socket has no addresses, and everything else."""
    path = str(tmp_path / "socket")
    with serve(tmp_path, f"unix:{path}"):
        for request, body in (
            (GET % b"/who", b" 0 False"),
            (GET % b"/at-once", b"a" * (8 << 20)),
        ):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(path)
                assert exchange(connection, request) == body


def test_proxy_protocol(tmp_path: Path) -> None:
    """Behind a load balancer that says who asks, that is who asks."""
    with serve(tmp_path, "haproxy:tcp:0:interface=127.0.0.1") as port:
        header = b"PROXY TCP4 192.0.2.9 192.0.2.1 5555 443\r\n"
        for pieces in ([header + GET % b"/who"], [header, GET % b"/who"]):
            with socket.create_connection(("127.0.0.1", port)) as connection:
                for piece in pieces[:-1]:
                    connection.sendall(piece)
                assert exchange(connection, pieces[-1]) == b"192.0.2.9 443 False"
        with socket.create_connection(("127.0.0.1", port)) as connection:
            body = exchange(connection, header + GET % b"/at-once")
            assert body == b"a" * (8 << 20)

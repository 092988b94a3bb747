"""`clinfra blob …` as typed: processes, pipes and a terminal."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ClinfraProcess, lasting_ports

CLINFRA = str(Path(sys.executable).with_name("clinfra"))


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Return the URL of a running blob store."""
    with ClinfraProcess({"blob": {}}) as clinfra:
        yield f"http://127.0.0.1:{clinfra.ports['blob']}"


def typed(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a command to its end."""
    return subprocess.run(
        [CLINFRA, "blob", *arguments],
        input=stdin,
        capture_output=True,
        timeout=100,
        check=False,
    )


def test_there_and_back(server: str) -> None:
    """What goes in by a pipe comes out by a pipe, and the stored name is printed."""
    body = os.urandom(3 << 20)
    put = typed("put", "-", "--name", "x", "--server", server, stdin=body)
    assert (put.returncode, put.stdout, put.stderr) == (0, b"000_x\n", b"")

    get = typed("get", "000_x", "--server", server)
    assert (get.returncode, get.stderr) == (0, b"")
    assert get.stdout == body


def test_exit_statuses(server: str) -> None:
    """1 refused, 2 bad usage, 3 not found, 4 not reached; one line says why."""
    (port,) = lasting_ports(1)
    for status, arguments in (
        (1, ("delete", "plain", "--server", server)),
        (1, ("info", "000_x", "--server", "ftp://x")),
        (2, ("put",)),
        (3, ("get", "000_none", "--server", server)),
        (4, ("info", "000_x", "--server", f"http://127.0.0.1:{port}")),
    ):
        done = typed(*arguments)
        assert done.returncode == status, (arguments, done)
        assert done.stdout == b""
        assert done.stderr.strip()
        assert b"Traceback" not in done.stderr


def test_json(server: str) -> None:
    """With --json every line is JSON."""
    done = typed("status", "--json", "--server", server)

    assert json.loads(done.stdout)["replica"] == "blob"


def test_progress_on_a_terminal(tmp_path: Path) -> None:
    """A slow transfer shows a bar on a terminal; interrupted, it leaves nothing."""
    with socket.create_server(("127.0.0.1", 0)) as slow:
        port = slow.getsockname()[1]
        ours, theirs = pty.openpty()
        child = subprocess.Popen(
            [
                *(CLINFRA, "blob", "get", "000_x", "-o", str(tmp_path / "x")),
                *("--server", f"http://127.0.0.1:{port}"),
            ],
            stderr=theirs,
        )
        connections: list[socket.socket] = []
        seen = b""
        try:
            deadline = time.monotonic() + 60
            slow.settimeout(60)
            while not connections:
                connection, _ = slow.accept()
                if b"/000_x" in connection.recv(65536):
                    connections.append(connection)
                else:
                    connection.close()
            connections[0].sendall(
                b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
            )
            os.set_blocking(ours, False)
            while b" %" not in seen and time.monotonic() < deadline:
                connections[0].sendall(bytes(1000))
                time.sleep(0.1)
                try:
                    seen += os.read(ours, 4096)
                except BlockingIOError:
                    pass
            child.send_signal(signal.SIGINT)
            status = child.wait(timeout=60)
        finally:
            child.kill()
            child.wait()
            for connection in connections:
                connection.close()
            os.close(ours)
            os.close(theirs)

    assert b"000_x  [" in seen
    assert status == 130
    assert list(tmp_path.iterdir()) == []

"""Signals, as terminals, operators and systemd send them."""

from __future__ import annotations

import os
import pty
import signal
import socket
import stat
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support import ClinfraProcess, accepts, wait_until
from tests.wire.photographs import write_photograph

KEEP_NOTHING = "import os, sys; {}; os.execv(sys.argv[1], sys.argv[1:])"


def under(code: str, clinfra: ClinfraProcess) -> None:
    """Have clinfra started by a Python that does `code` first."""
    clinfra.command[:0] = [sys.executable, "-c", KEEP_NOTHING.format(code)]


def test_the_whole_group_is_told_to_stop(tmp_path: Path) -> None:
    """An upload in flight is rendered although workers get SIGTERM as well.

    systemd sends it to every process of a unit, a terminal's Ctrl-C likewise.
    """
    photo = tmp_path / "photo.jpg"
    write_photograph(photo, orientation=1)
    data = photo.read_bytes()
    with ClinfraProcess({"blob": {}, "image": {}}) as clinfra:
        url = clinfra.url("image", "/a.jpg")
        with urllib.request.urlopen(
            urllib.request.Request(url, data=data, method="PUT"), timeout=60
        ) as answer:
            assert answer.status == 200  # now there are workers
        port = clinfra.ports["image"]
        head = f"PUT /b HTTP/1.1\r\nHost: h\r\nContent-Length: {len(data)}\r\n\r\n"
        with socket.create_connection(("127.0.0.1", port), timeout=60) as slow:
            slow.sendall(head.encode() + data[:10])
            with urllib.request.urlopen(
                urllib.request.Request(url, data=data, method="PUT"), timeout=60
            ) as answer:
                assert answer.status == 200  # and the slow one is being served
            for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
                os.killpg(clinfra.pid, number)
            wait_until(lambda: not accepts(port), "it stops listening")

            slow.sendall(data[10:])

            answer_bytes = slow.makefile("rb").read()
        assert answer_bytes.startswith(b"HTTP/1.1 200 "), answer_bytes
        assert clinfra.running.wait() == 0
        assert "ended with status" not in clinfra.running.output
        assert "Traceback" not in clinfra.running.output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping_is_not_hurried(number: signal.Signals) -> None:
    """Signals that come while it stops change nothing: in order, status 0."""
    with ClinfraProcess({"blob": {}}) as clinfra:
        port = clinfra.ports["blob"]
        with socket.create_connection(("127.0.0.1", port), timeout=60) as slow:
            slow.sendall(b"PUT /s HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\na")
            with socket.create_connection(("127.0.0.1", port), timeout=60) as other:
                other.sendall(b"GET /000_x HTTP/1.1\r\nHost: h\r\n\r\n")
                assert other.recv(12) == b"HTTP/1.1 404"
            clinfra.running.signal(number)
            wait_until(lambda: not accepts(port), "it stops listening")
            for again in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                clinfra.running.signal(again)

            slow.sendall(b"b")

            assert slow.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
        assert clinfra.running.wait() == 0
        assert clinfra.running.output.count("stopping") == 1
        assert "Traceback" not in clinfra.running.output


def test_hanging_up_without_a_terminal() -> None:
    """SIGHUP is answered in the log, and the service goes on."""
    with ClinfraProcess({"admin": {}}) as clinfra:
        clinfra.running.signal(signal.SIGHUP)

        clinfra.running.wait_for("SIGHUP changes nothing")

        assert accepts(clinfra.ports["admin"])
        assert clinfra.running.terminate() == 0


def test_hanging_up_the_terminal() -> None:
    """When the terminal it was started in is closed, clinfra stops in order."""
    ours, theirs = pty.openpty()
    clinfra = ClinfraProcess({"admin": {}})
    take = "os.dup2(os.open({!r}, os.O_RDWR), 0)"
    under(take.format(os.ttyname(theirs)), clinfra)  # a session's first is its own
    with clinfra:
        os.close(theirs)
        os.close(ours)

        assert clinfra.running.wait() == 0
        assert "stopped" in clinfra.running.output


def test_nohup() -> None:
    """SIGHUP that was ignored when it started stays ignored."""
    clinfra = ClinfraProcess({"admin": {}})
    under("import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)", clinfra)
    with clinfra:
        clinfra.running.signal(signal.SIGHUP)
        assert clinfra.running.terminate() == 0
        assert "SIGHUP" not in clinfra.running.output


@pytest.mark.parametrize("output", ["/dev/full", "closed"])
def test_nobody_listens_to_what_it_says(output: str) -> None:
    """A full disk behind standard output, or none at all: it serves, and stops."""
    clinfra = ClinfraProcess({"admin": {}})
    under(
        "os.close(1)"
        if output == "closed"
        else f"os.dup2(os.open({output!r}, os.O_WRONLY), 1)",
        clinfra,
    )
    try:
        child = clinfra.start(wait=False)
        ready = clinfra.url("admin", "/health/ready")

        def is_ready() -> bool:
            try:
                with urllib.request.urlopen(ready, timeout=5) as answer:
                    return bool(answer.status == 200)
            except OSError:
                assert child.process.poll() is None, child.output
                return False

        wait_until(is_ready, "it is ready")
        assert child.terminate() == 0
        assert "Traceback" not in child.output
    finally:
        clinfra.close()


def test_private_files() -> None:
    """What is kept can be read by our user alone, whatever the umask."""
    old = os.umask(0)
    try:
        with ClinfraProcess() as clinfra:
            paths = [clinfra.data_dir, *clinfra.data_dir.iterdir()]
            modes = {str(each): stat.S_IMODE(each.stat().st_mode) for each in paths}
            clinfra.running.terminate()
    finally:
        os.umask(old)
    assert len(modes) > 2
    assert set(modes.values()) == {0o700}, modes

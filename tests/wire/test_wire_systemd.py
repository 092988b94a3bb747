"""Started by systemd, as far as that can be had without it."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from tests.support import ROOT, ClinfraProcess, wait_until

UNITS = sorted([*ROOT.glob("etc/*.service"), *ROOT.glob("etc/*.socket")])

_ACTIVATE = """
import os, socket, sys
listening = socket.create_server(("127.0.0.1", {port}), backlog=100)
os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="proxy", LISTEN_PID=str(os.getpid()))
os.environ.update(NOTIFY_SOCKET={notify!r}, WATCHDOG_USEC="600000")
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_activated(workers: int, tmp_path: Path) -> None:
    """It serves the socket it is handed by name, and tells of its life."""
    proxy = {"listen": ["systemd:domain=INET:name=proxy"], "workers": workers}
    notify = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(notify)
        systemd.settimeout(20)
        clinfra = ClinfraProcess({"stop_timeout": 2, "proxy": proxy, "admin": {}})
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        code = _ACTIVATE.format(port=port, notify=notify)
        clinfra.command[:0] = [sys.executable, "-c", code]
        with clinfra:

            def hears(wanted: str) -> str:
                """Wait for a notice that begins so; feeding the watchdog is none."""
                while True:
                    notice = systemd.recv(4096).decode()
                    if notice.startswith(wanted):
                        return notice
                    assert notice == "WATCHDOG=1", notice

            assert "serving proxy, admin" in hears("READY=1")
            assert hears("WATCHDOG=1")
            url = f"http://127.0.0.1:{port}/"
            with urllib.request.urlopen(url, timeout=60) as answer:
                assert answer.status == 200
            clinfra.running.signal(signal.SIGHUP)
            hears("RELOADING=1")
            hears("READY=1")
            with urllib.request.urlopen(url, timeout=60) as answer:
                assert answer.status == 200
            clinfra.running.signal(signal.SIGTERM)
            hears("STOPPING=1")
            assert clinfra.running.wait() == 0


def test_units(tmp_path: Path) -> None:
    """systemd finds nothing wrong with the units."""
    program = shutil.which("systemd-analyze")
    assert program, "systemd-analyze is not installed (make test installs it as root)"
    twistd = str(Path(sys.executable).with_name("twistd"))
    for unit in UNITS:
        text = unit.read_text().replace("/opt/clinfra/bin/twistd", twistd)
        (tmp_path / unit.name).write_text(text)
    units = [str(tmp_path / unit.name) for unit in UNITS]
    done = subprocess.run(
        [program, "verify", "--man=no", *units],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    ours = [line for line in done.stderr.splitlines() if "clinfra" in line]
    assert (ours, done.returncode) == ([], 0), done.stderr


def test_named_sockets_are_held(tmp_path: Path) -> None:
    """A listener's name that systemd passes no socket for is a plain error."""
    proxy = {"listen": ["systemd:domain=INET:name=proxy"]}
    clinfra = ClinfraProcess({"proxy": proxy})
    try:
        child = clinfra.start(wait=False)
        assert child.wait() == 1
        wait_until(lambda: "systemd passed no such socket" in child.output, "it says")
    finally:
        clinfra.close()

"""The log of real processes, sent to syslog."""

from __future__ import annotations

import socket
import tempfile
import urllib.request
from pathlib import Path

from tests.support import ClinfraProcess


def test_all_processes_log_there() -> None:
    """What the main process and its workers log is heard, and written nowhere else."""
    with (
        tempfile.TemporaryDirectory(prefix="clinfra-test-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener,
    ):
        path = Path(directory) / "log"
        listener.bind(str(path))
        listener.settimeout(20)
        logging = {"syslog": str(path), "syslog_facility": "local1"}
        tables = {"logging": logging, "proxy": {"workers": 1}, "admin": {}}
        with ClinfraProcess(tables) as clinfra:
            for url in (clinfra.url("proxy", "/"), clinfra.url("admin", "/status")):
                with urllib.request.urlopen(url, timeout=60) as answer:
                    answer.read()
            heard: set[str] = set()
            while len(heard) < 2:
                message = listener.recv(9999).decode()
                assert message.startswith("<142>")
                for word in ("proxy", "admin"):
                    if f"Z {word} 127.0.0.1 GET " in message:
                        heard.add(word)

            assert " GET " not in clinfra.running.output

"""Several processes behind one port: reloaded and killed under load, never noticed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import pytest

from tests.support import ClinfraProcess, wait_until
from tests.wire.photographs import write_photograph

_CLIENTS = 6


class Load:
    """Clients that ask for one page, over and over, on connections they keep.

    As browsers do, they repeat a request on a new connection when the old one was
    closed before anything was answered; nothing else is forgiven.
    """

    def __init__(self, port: int, path: str, *, again: bool) -> None:
        self.answers: Counter[int] = Counter()
        self.failures: list[str] = []
        self.repeated = 0
        self._port = port
        self._path = path
        self._again = again
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(_CLIENTS)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=20)
        while not self._over.is_set():
            try:
                self._ask(connection)
            except (OSError, HTTPException) as error:
                connection.close()
                if not self._again:
                    self.failures.append(repr(error))
                    continue
                self.repeated += 1
                try:
                    self._ask(connection)
                except (OSError, HTTPException) as error:
                    self.failures.append(repr(error))
        connection.close()

    def _ask(self, connection: HTTPConnection) -> None:
        connection.request("GET", self._path)
        answer = connection.getresponse()
        answer.read()
        self.answers[answer.status] += 1

    def end(self) -> None:
        """Have no more sent."""
        self._over.set()
        for thread in self._threads:
            thread.join()


def told(clinfra: ClinfraProcess, product: str = "proxy") -> dict[str, Any]:
    """Return what /status says of a product."""
    with urllib.request.urlopen(clinfra.url("admin", "/status"), timeout=20) as answer:
        report: dict[str, Any] = json.load(answer)["products"][product]
    return report


def workers(clinfra: ClinfraProcess, product: str = "proxy") -> list[int]:
    """Return the process ids of the workers of a product."""
    children = Path(f"/proc/{clinfra.pid}/task/{clinfra.pid}/children").read_text()
    found = []
    for pid in map(int, children.split()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"clinfra.workers" in words and product.encode() in words:
                found.append(pid)
    return found


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_reloads_under_load() -> None:
    """No request fails and no descriptor stays open however often it is reloaded."""
    tables = {"stop_timeout": 5, "proxy": {"workers": 2}, "admin": {}}
    with ClinfraProcess(tables) as clinfra:
        before = descriptors(clinfra.pid)
        load = Load(clinfra.ports["proxy"], "/", again=False)
        try:
            for turn in range(1, 5):
                first = set(workers(clinfra))
                number = signal.SIGHUP if turn % 2 else signal.SIGUSR2
                clinfra.running.signal(number)
                wait_until(
                    lambda turn=turn: (  # type: ignore[misc] # bound here
                        clinfra.running.output.count("new workers serve") >= turn
                    ),
                    "new workers serve",
                )
                wait_until(
                    lambda first=first: not first & set(workers(clinfra)),  # type: ignore[misc] # bound here
                    "the old ones are gone",
                )
        finally:
            load.end()
        assert load.failures == []
        assert set(load.answers) == {200}
        assert load.answers[200] > 100
        assert len(workers(clinfra)) == 2
        assert descriptors(clinfra.pid) <= before + 1
        assert clinfra.running.terminate() == 0
        assert "Traceback" not in clinfra.running.output


def test_workers_killed_under_load() -> None:
    """Killed workers are replaced; a client that asks again never waits in vain."""
    tables = {"stop_timeout": 2, "proxy": {"workers": 2}, "admin": {}, "blob": {}}
    with ClinfraProcess(tables) as clinfra:
        load = Load(clinfra.ports["proxy"], "/", again=True)
        out = clinfra.url("admin", "/maintenance/blob")
        with urllib.request.urlopen(urllib.request.Request(out, method="PUT")):
            pass
        try:
            for _ in range(3):
                victim = workers(clinfra)[0]
                os.kill(victim, signal.SIGKILL)
                wait_until(
                    lambda victim=victim: (  # type: ignore[misc] # bound here
                        victim not in workers(clinfra)
                        and told(clinfra)["crew"]["ready"] == 2
                    ),
                    "its successor is ready",
                )
        finally:
            load.end()
        assert load.failures == []
        assert set(load.answers) == {200}
        assert told(clinfra)["crew"]["falls"] == 3
        # What operators asked of the fallen holds for their successors.
        for _ in range(8):
            with pytest.raises(urllib.error.HTTPError, match="503"):
                urllib.request.urlopen(clinfra.url("proxy", "/blob/x"), timeout=20)
        assert "was killed by SIGKILL" in clinfra.running.output


def test_changes_on_reload() -> None:
    """What the new configuration says holds afterwards, new and other ports too."""
    tables = {"stop_timeout": 1, "proxy": {"workers": 1}, "admin": {}}
    with ClinfraProcess(tables) as clinfra:
        port = clinfra.ports["proxy"]
        socket_path = clinfra.directory / "proxy.sock"
        text = clinfra.config_file.read_text()
        text = text.replace('"workers" = 1', '"workers" = 2, "modules" = []')
        text = text.replace(
            f'["tcp:{port}:interface=127.0.0.1"]', f'["unix:{socket_path}"]'
        )
        clinfra.config_file.write_text(text)
        clinfra.running.signal(signal.SIGHUP)
        clinfra.running.wait_for("new workers serve proxy")
        assert socket_path.is_socket()
        wait_until(lambda: len(workers(clinfra)) == 2, "there are two")
        with pytest.raises(OSError):
            HTTPConnection("127.0.0.1", port, timeout=5).connect()


def test_wrong_configuration_on_reload() -> None:
    """The old one stays in force, and the log says what is wrong with the new one."""
    tables = {"proxy": {"workers": 1}, "admin": {}}
    with ClinfraProcess(tables) as clinfra:
        before = workers(clinfra)
        text = clinfra.config_file.read_text()
        clinfra.config_file.write_text(text.replace('"workers" = 1', '"workers" = -1'))
        clinfra.running.signal(signal.SIGHUP)
        clinfra.running.wait_for("the old configuration stays in force")
        assert "proxy.workers: -1 is less than 0" in clinfra.running.output
        assert workers(clinfra) == before
        with urllib.request.urlopen(clinfra.url("proxy"), timeout=20) as answer:
            assert answer.status == 200


def test_the_main_process_is_killed() -> None:
    """Workers do not outlive it."""
    with ClinfraProcess({"proxy": {"workers": 2}, "admin": {}}) as clinfra:
        left = workers(clinfra)
        os.kill(clinfra.pid, signal.SIGKILL)
        clinfra.running.process.wait()
        deadline = time.monotonic() + 20
        while any(Path(f"/proc/{pid}/cmdline").exists() for pid in left):
            states = [Path(f"/proc/{pid}/stat") for pid in left]
            if all(not s.exists() or " Z " in s.read_text() for s in states):
                break
            assert time.monotonic() < deadline, "they outlive it"
            time.sleep(0.05)


def test_everything_through_workers(tmp_path: Path) -> None:
    """Proxy, image and blob work together across processes; a purge reaches all."""
    photo = tmp_path / "photo.jpg"
    write_photograph(photo, orientation=1)
    tables: dict[str, Any] = {
        "blob": {},
        "image": {"front_workers": 2, "workers": 2},
        "proxy": {"workers": 2},
        "admin": {},
    }
    with ClinfraProcess(tables) as clinfra:
        put = urllib.request.Request(
            clinfra.url("proxy", "/image/"), data=photo.read_bytes(), method="PUT"
        )
        with urllib.request.urlopen(put, timeout=30) as answer:
            name = answer.read().decode()
        page = clinfra.url("proxy", f"/image/{name}/300x300")
        for _ in range(8):
            with urllib.request.urlopen(page, timeout=30) as answer:
                assert answer.headers["Content-Type"] == "image/jpeg"
        purge = urllib.request.Request(
            clinfra.url("admin", "/purge"), data=page.encode(), method="POST"
        )
        with urllib.request.urlopen(purge, timeout=20) as answer:
            assert answer.read() == b"1/1 pages purged\n"
        with urllib.request.urlopen(page, timeout=30) as answer:
            assert "hit" not in answer.headers["Cache-Status"]
        assert len(workers(clinfra, "image")) == 2
        assert clinfra.running.terminate() == 0

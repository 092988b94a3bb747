"""Workers under load: reloaded and killed, while clients count what goes wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from http.client import BadStatusLine, HTTPConnection, HTTPException, RemoteDisconnected
from pathlib import Path
from typing import Any

from attrs import frozen

from tests.support import ClinfraProcess, wait_until

_CLIENTS = 6

_GROWTH_KB = 1500
"""What the main process may grow by after it has warmed up: its heap has holes.

In `make soak` 400 workers come and go meanwhile: 4 kB kept of each would show.
"""


class Load:
    """Clients that ask for one page, over and over, on connections they keep.

    As browsers do, they repeat a request on a new connection when the old one was
    closed before anything was answered; nothing else is forgiven.

    Args:
        again: whether even that is; it can be changed on the way.
    """

    def __init__(self, port: int, path: str, *, again: bool) -> None:
        self.answers: Counter[int] = Counter()
        self.failures: list[str] = []
        self.repeated = 0
        self.again = again
        self._port = port
        self._path = path
        self._over = threading.Event()
        self._turns = [0] * _CLIENTS
        self._threads = [
            threading.Thread(target=self._run, args=(number,))
            for number in range(_CLIENTS)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        connection = HTTPConnection("127.0.0.1", self._port, timeout=20)
        while not self._over.is_set():
            try:
                if not self._ask(connection):
                    connection.close()
                    if not self.again:
                        self.failures.append("closed before the answer")
                        continue
                    self.repeated += 1
                    if not self._ask(connection):
                        self.failures.append("closed twice before the answer")
            except (OSError, HTTPException) as error:
                connection.close()
                self.failures.append(repr(error))
            self._turns[number] += 1
        connection.close()

    def _ask(self, connection: HTTPConnection) -> bool:
        """Ask once; False when the connection was closed before anything came."""
        try:
            connection.request("GET", self._path)
            answer = connection.getresponse()
        except (RemoteDisconnected, ConnectionResetError, BrokenPipeError):
            return False
        except BadStatusLine as error:
            raise AssertionError("an answer was cut in its first line") from error
        answer.read()
        self.answers[answer.status] += 1
        return True

    def settle(self) -> None:
        """Return when every client has been answered on the connection it has now."""
        before = list(self._turns)
        wait_until(
            lambda: all(
                now > then + 1 for now, then in zip(self._turns, before, strict=True)
            ),
            "every client was answered",
            timeout_seconds=60,
        )

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
    found = []
    for pid in children(clinfra):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if b"clinfra.workers" in words and product.encode() in words:
                found.append(pid)
    return found


def children(clinfra: ClinfraProcess) -> list[int]:
    """Return the process ids of all children, oldest first.

    The kernel's own list of them may lack some while others end.
    """
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended
            parent = path.read_text().rpartition(")")[2].split()[1]
            if int(parent) == clinfra.pid:
                found.append(int(path.parent.name))
    return sorted(found)


def descriptors(pid: int) -> int:
    """Return how many a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_kb(pid: int) -> int:
    """Return the memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("it is gone")


def reload(
    clinfra: ClinfraProcess, number: int = signal.SIGHUP, product: str = "proxy"
) -> None:
    """Have all workers of a product replaced; return when the old ones are gone."""
    first = set(workers(clinfra, product))
    before = clinfra.running.output.count("new workers serve")
    clinfra.running.signal(number)
    wait_until(
        lambda: clinfra.running.output.count("new workers serve") > before,
        "new workers serve",
        timeout_seconds=60,
    )
    wait_until(
        lambda: not first & set(workers(clinfra, product)),
        "the old ones are gone",
        timeout_seconds=60,
    )


def kill_one(clinfra: ClinfraProcess, product: str = "proxy") -> None:
    """Kill a worker; return when its successor is ready."""
    falls = told(clinfra, product)["crew"]["falls"]
    os.kill(workers(clinfra, product)[0], signal.SIGKILL)

    def replaced() -> bool:
        # The main process knows of its end later than the kernel.
        crew = told(clinfra, product)["crew"]
        return bool(crew["falls"] > falls and crew["ready"] == crew["wanted"])

    wait_until(replaced, "its successor is ready", timeout_seconds=60)


@frozen
class Went:
    """What a soak came to."""

    answers: int
    repeated: int
    descriptors: tuple[int, int]
    resident_kb: tuple[int, int]


def soak(
    reloads: int, kills: int, pause_seconds: float, say: Callable[[str], object]
) -> Went:
    """Reload and kill under load.  Raises AssertionError when anybody notices.

    Args:
        pause_seconds: after each.
        say: hears how far it is.
    """
    warm = max(1, reloads // 10)
    tables: dict[str, Any] = {"stop_timeout": 5, "proxy": {"workers": 2}, "admin": {}}
    tables["logging"] = {"access": False}  # what it says is read again and again
    with ClinfraProcess(tables) as clinfra:
        before = (0, 0)
        load = Load(clinfra.ports["proxy"], "/", again=False)
        try:
            killed = 0
            for turn in range(1, reloads + 1):
                reload(clinfra, signal.SIGHUP if turn % 2 else signal.SIGUSR2)
                time.sleep(pause_seconds)
                while killed < turn * kills // reloads:
                    killed += 1
                    load.again = True
                    kill_one(clinfra)
                    load.settle()
                    time.sleep(pause_seconds)
                    load.again = False
                if turn == warm:
                    before = _held_at_rest(clinfra)
                if turn % 20 == 0 or load.failures:
                    figures = f"{turn} reloads, {killed} kills, {load.answers}"
                    say(f"{figures}, {load.repeated} repeated, {_held(clinfra)}")
                assert not load.failures, load.failures
        finally:
            load.end()
        after = _held_at_rest(clinfra)
        assert load.failures == []
        assert set(load.answers) == {200}
        assert told(clinfra)["crew"]["falls"] == kills
        assert len(children(clinfra)) == len(workers(clinfra)) == 2
        assert after[0] <= before[0], f"descriptors: {before[0]}, then {after[0]}"
        assert after[1] <= before[1] + _GROWTH_KB, f"kB: {before[1]}, then {after[1]}"
        assert clinfra.running.terminate() == 0
        assert "Traceback" not in clinfra.running.output
        return Went(
            load.answers[200],
            load.repeated,
            (before[0], after[0]),
            (before[1], after[1]),
        )


def _held(clinfra: ClinfraProcess) -> tuple[int, int]:
    """Return descriptors and memory (kB) of the main process."""
    return descriptors(clinfra.pid), resident_kb(clinfra.pid)


def _held_at_rest(clinfra: ClinfraProcess) -> tuple[int, int]:
    """Return the same when no worker and no client comes or goes."""
    wait_until(lambda: told(clinfra)["crew"]["finishing"] == 0, "all old ones are gone")
    time.sleep(1)  # until the connection that asked is gone, too
    return _held(clinfra)

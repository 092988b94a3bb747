"""Child processes that listen: started pinned to a core, watched, always reaped."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from attrs import define, field, frozen

from benchmarks.figures import BenchmarkFailed

_START_SECONDS = 30.0
_STOP_SECONDS = 15.0
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
REPOSITORY = Path(__file__).resolve().parent.parent


@frozen
class Cores:
    """Which core runs what; the origin shares the load generator's."""

    server: int
    load: int

    @property
    def both(self) -> str:
        """The two, as taskset takes them."""
        return f"{self.server},{self.load}"

    @classmethod
    def choose(cls) -> Cores:
        """Return the first two cores this process may use."""
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            raise BenchmarkFailed("two cores are needed: one serves, one makes load")
        return cls(server=allowed[0], load=allowed[1])


def pinned(core: int | str, argv: Sequence[str]) -> list[str]:
    """Return `argv` on one core, and ended when this process dies in any way.

    Args:
        core: or several, with commas between.
    """
    return ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *argv]


def free_port() -> int:
    """Return a TCP port of the loopback interface that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@define(eq=False)
class Server:
    """A running child process and the port it answers on."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def cpu_seconds(self) -> float:
        """Return the CPU time of the process and all below it, kernel time included."""
        parents: dict[int, int] = {}
        seconds: dict[int, float] = {}
        for directory in Path("/proc").iterdir():
            if not directory.name.isdigit():
                continue
            try:
                stat = (directory / "stat").read_text()
            except OSError:
                continue  # it ended while we looked
            # The command name may hold spaces and brackets; nothing after it does.
            fields = stat.rpartition(")")[2].split()
            pid = int(directory.name)
            parents[pid] = int(fields[1])
            seconds[pid] = sum(map(int, fields[11:15])) / _TICKS_PER_SECOND
        tree = {self.process.pid}
        while grown := {p for p, up in parents.items() if up in tree} - tree:
            tree |= grown
        return sum(seconds.get(pid, 0.0) for pid in tree)

    def wait_until_listening(self) -> None:
        """Return once the port accepts connections.  Raises BenchmarkFailed."""
        give_up = time.monotonic() + _START_SECONDS
        while time.monotonic() < give_up:
            if self.process.poll() is not None:
                raise BenchmarkFailed(
                    f"{self.name} ended with status {self.process.returncode}: "
                    f"{self.last_words()}"
                )
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise BenchmarkFailed(
            f"{self.name} did not listen within {_START_SECONDS:g} s: "
            f"{self.last_words()}"
        )

    def last_words(self) -> str:
        """Return the end of what it printed, in one line."""
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return " | ".join(lines[-3:])[-400:] or "it printed nothing"

    def stop(self) -> None:
        """End the process politely, then surely, and reap it."""
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


@define(eq=False)
class Stage:
    """Where the servers of one comparison live; leaving it ends them all.

    Attributes:
        directory: for their configurations, logs and data; on a real disk.
    """

    directory: Path
    cores: Cores
    _cleanup: ExitStack = field(factory=ExitStack, init=False)

    def __enter__(self) -> Stage:
        self.directory.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    def remove_now(self, directory: Path) -> None:
        """Delete what an earlier run left there; only for directories of few files."""
        shutil.rmtree(directory, ignore_errors=True)

    def remove_at_end(self, directory: Path) -> None:
        """Delete a directory once the servers started later are stopped."""
        self._cleanup.callback(self.remove_now, directory)

    def start(
        self,
        name: str,
        argv: Sequence[str],
        port: int,
        *,
        on_load_core: bool = False,
        on_both_cores: bool = False,
    ) -> Server:
        """Start a server and wait until it listens.  Raises BenchmarkFailed."""
        core: int | str = self.cores.load if on_load_core else self.cores.server
        if on_both_cores:
            core = self.cores.both
        log = self.directory / f"{name.replace(' ', '-')}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                pinned(core, argv),
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        server = Server(name, port, process, log)
        self._cleanup.callback(server.stop)
        server.wait_until_listening()
        return server


@define(eq=False)
class Lazily:
    """A server started at first use; a failure to start is remembered, not retried."""

    _start: Callable[[], Server]
    _server: Server | None = field(default=None, init=False)
    _failure: BenchmarkFailed | None = field(default=None, init=False)

    def __call__(self) -> Server:
        if self._failure is not None:
            raise self._failure
        if self._server is None:
            try:
                self._server = self._start()
            except BenchmarkFailed as failure:
                self._failure = failure
                raise
        return self._server

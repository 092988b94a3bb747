"""Real child processes for tests over real sockets: clinfra itself, memcached, ....

Everything started here is ended and waited for, whatever happens to the test.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""

PRODUCTS = ("proxy", "blob", "image", "admin")


WITHOUT_PRIVILEGE = (
    "setpriv",
    "--bounding-set=-net_bind_service,-dac_override,-dac_read_search",
    "--inh-caps=-net_bind_service,-dac_override,-dac_read_search",
    "--",
) * (os.getuid() == 0)
"""What to put before a command so that permissions hold for it, also for root's.

It stays the same user: the checkout may be root's alone.
"""


def lasting_ports(count: int) -> range:
    """Return adjacent free TCP ports of 127.0.0.1 that nobody else is given.

    They are below those the kernel takes for outgoing connections (32768 and up), so
    what listened there can be killed and find its port free again.  Each process that
    runs tests of the suite has a range of its own to take them from.
    """
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = 20_000 // processes
    begin = 12_000 + process * share
    while True:
        first = random.randrange(begin, begin + share - count)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                each = stack.enter_context(socket.socket())
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                each.bind(("127.0.0.1", port))
            return range(first, first + count)


def wait_until(
    condition: Callable[[], bool], what: str, *, timeout_seconds: float = 60
) -> None:
    """Poll until `condition` holds; AssertionError naming `what` when it never does."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_seconds} s: {what}")
        time.sleep(0.02)


def accepts(port: int) -> bool:
    """Say whether something accepts connections on 127.0.0.1:port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def toml(value: Any) -> str:
    """Return a value as TOML; tables are written inline."""
    if isinstance(value, Mapping):
        items = (f"{json.dumps(k)} = {toml(v)}" for k, v in value.items())
        return "{" + ", ".join(items) + "}"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


class Child:
    """A child process in a process group of its own; always reaped.

    Its output goes to an unnamed file, so that it never waits for the test.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.command = list(command)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        self.process = subprocess.Popen(
            self.command,
            cwd=cwd,
            env=None if env is None else {**os.environ, **env},
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def output(self) -> str:
        """Everything it has written so far."""
        size = os.fstat(self._file.fileno()).st_size
        return os.pread(self._file.fileno(), size, 0).decode("utf-8", "replace")

    def wait_for(self, text: str, *, timeout_seconds: float = 60) -> None:
        """Wait until it has written `text`."""
        deadline = time.monotonic() + timeout_seconds
        while text not in self.output:
            ended = self.process.poll() is not None
            if text in self.output:
                return
            if ended or time.monotonic() > deadline:
                raise AssertionError(f"never wrote {text!r}; wrote:\n{self.output}")
            time.sleep(0.02)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self, *, timeout_seconds: float = 60) -> int:
        """Return the exit status."""
        return self.process.wait(timeout_seconds)

    def terminate(self, *, timeout_seconds: float = 60) -> int:
        """End it politely; return the exit status."""
        self.signal(signal.SIGTERM)
        return self.wait(timeout_seconds=timeout_seconds)

    def kill(self) -> None:
        """End it and its children at once (SIGKILL), and reap it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        self.kill()
        self._file.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class ClinfraProcess:
    """clinfra under twistd, in a temporary directory, on free ports.

    Args:
        config: tables as in a configuration file; each section named gets a free
            port of 127.0.0.1 unless it says `listen`.  Default: every section.
        data_dir: kept afterwards when given, else temporary.
        reactor: name of the reactor.
        arguments: further ones for `twistd clinfra`.

    `restart()` starts it again with the same files and ports.
    """

    def __init__(
        self,
        config: Mapping[str, Any] | None = None,
        *,
        data_dir: Path | None = None,
        reactor: str = "clinfra",
        arguments: Sequence[str] = (),
    ) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="clinfra-test-"))
        self.data_dir = data_dir or self.directory / "data"
        tables: dict[str, Any] = (
            {name: {} for name in PRODUCTS} if config is None else dict(config)
        )
        self.ports: dict[str, int] = {}
        names = [name for name in PRODUCTS if name in tables]
        for name, port in zip(names, lasting_ports(len(names)), strict=True):
            section = dict(tables[name])
            if "listen" not in section:
                section["listen"] = [f"tcp:{port}:interface=127.0.0.1"]
                self.ports[name] = port
            tables[name] = section
        self.config_file = self.directory / "clinfra.toml"
        self.config_file.write_text(
            "".join(f"{key} = {toml(value)}\n" for key, value in tables.items()),
            encoding="utf-8",
        )
        self.command = [
            str(Path(sys.executable).with_name("twistd")),
            *("-n", "--pidfile=", f"--reactor={reactor}", "clinfra"),
            *("--config", str(self.config_file), "--data-dir", str(self.data_dir)),
            *arguments,
        ]
        self.child: Child | None = None

    def start(self, *, wait: bool = True) -> Child:
        """Start it; by default wait until it says that it is ready."""
        self.child = Child(
            self.command, cwd=self.directory, env={"PYTHONUNBUFFERED": "1"}
        )
        if wait:
            self.child.wait_for("clinfra is ready")
        return self.child

    def restart(self) -> Child:
        """Start it again after it ended or was killed."""
        if self.child is not None:
            self.child.close()
        return self.start()

    @property
    def running(self) -> Child:
        assert self.child is not None, "not started"
        return self.child

    @property
    def pid(self) -> int:
        return self.running.pid

    def url(self, product: str, path: str = "/") -> str:
        """Return the URL of a path of a product."""
        return f"http://127.0.0.1:{self.ports[product]}{path}"

    def close(self) -> None:
        if self.child is not None:
            self.child.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> ClinfraProcess:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if value is not None and self.child is not None:
            print(f"--- clinfra wrote:\n{self.child.output}")
        self.close()


class MemcachedChild(Child):
    """A memcached and its port."""

    def __init__(self, command: Sequence[str], *, port: int) -> None:
        super().__init__(command)
        self.port = port


@contextlib.contextmanager
def memcached(
    *, megabytes: int = 64, port: int | None = None
) -> Iterator[MemcachedChild]:
    """Run a memcached on a free port of 127.0.0.1; `child.port` names it."""
    binary = shutil.which("memcached")
    assert binary, "memcached is not installed (make test installs it as root)"
    number = port or lasting_ports(1)[0]
    user = ("-u", "nobody") if os.getuid() == 0 else ()
    command = [binary, "-l", "127.0.0.1", "-p", str(number), "-m", str(megabytes)]
    child = MemcachedChild([*command, *user], port=number)
    with child:
        wait_until(lambda: accepts(number), "memcached accepts connections")
        yield child

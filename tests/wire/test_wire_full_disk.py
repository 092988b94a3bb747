"""A disk that really is full: a small tmpfs, in a mount namespace of its own."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.support import ClinfraProcess, wait_until

MOUNT = 'mount -t tmpfs -o size=16m tmpfs "$0" && "$@"; "$@"'
"""Runs a command on a tmpfs, twice: the disk outlives the first process."""

CONNECTIONS = 8


def body_of(name: str) -> bytes:
    """Return the body of a name: up to 64 KB, a few of 1.5 MB."""
    seed = hashlib.sha256(name.encode()).digest()
    length = 1_500_000 if seed[4] < 4 else int.from_bytes(seed[:2])
    return (seed * (length // 32 + 1))[:length]


class SmallDisk(ClinfraProcess):
    """A blob store on 16 MB."""

    def __init__(self, **blob: object) -> None:
        self.disk = Path(tempfile.mkdtemp(prefix="clinfra-disk-"))
        super().__init__({"blob": blob}, data_dir=self.disk / "data")
        unshare = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT]
        self.command = [*unshare, str(self.disk), *self.command]

    def twistd(self) -> int:
        """Return the process that is to be killed."""
        pid = self.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        (child,) = map(int, children)
        return child

    def request(
        self, method: str, target: str, body: bytes | None = None
    ) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["blob"])
        try:
            connection.request(method, target, body)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.disk, ignore_errors=True)


@pytest.fixture(params=["volume", "files"])
def store(request: pytest.FixtureRequest) -> str:
    """Every store there is."""
    return str(request.param)


@pytest.fixture
def unreserved(store: str) -> Iterator[SmallDisk]:
    """A store that uses its disk to the last byte."""
    process = SmallDisk(store=store, min_free_bytes=0)
    with process:
        yield process


@pytest.fixture
def reserved(store: str) -> Iterator[SmallDisk]:
    """A store that keeps some of its disk free."""
    process = SmallDisk(store=store, min_free_bytes=6 << 20)
    with process:
        yield process


def fill(process: SmallDisk) -> tuple[set[str], dict[str, int]]:
    """PUT from many connections until it is full.

    Returns:
        the names that are there, and the others with the status they were refused with.
    """
    kept: set[str] = set()
    refused: dict[str, int] = {}
    lock = threading.Lock()
    names = itertools.count()

    def work() -> None:
        while len(refused) < 40:
            with lock:
                name = f"f{next(names)}"
            status, _ = process.request("PUT", f"/{name}", body_of(name))
            with lock:
                if status == 200:
                    kept.add(name)
                else:
                    refused[name] = status

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(refused) >= 40
    return kept, refused


def check(process: SmallDisk, kept: set[str], refused: Iterable[str]) -> None:
    """Check that all that was answered is there, and nothing is cut or mixed."""
    for name in (*kept, *refused):
        status, body = process.request("GET", f"/000_{name}")
        if status == 404:
            assert name not in kept, name
        else:
            assert status == 200, (name, status, body)
            assert body == body_of(name), name


def test_full(unreserved: SmallDisk) -> None:
    """What does not fit is refused with 507; what was answered outlives kill -9."""
    kept, refused = fill(unreserved)
    assert set(refused.values()) == {507}
    assert len(kept) > 50
    check(unreserved, kept, refused)

    os.kill(unreserved.twistd(), signal.SIGKILL)
    wait_until(
        lambda: unreserved.running.output.count("clinfra is ready") == 2,
        "a second start on the full disk",
    )
    check(unreserved, kept, refused)
    os.kill(unreserved.twistd(), signal.SIGTERM)
    unreserved.running.wait()


def test_reserve(reserved: SmallDisk) -> None:
    """With some space kept free, deletes work when PUTs do not."""
    kept, refused = fill(reserved)
    assert set(refused.values()) == {507}
    for name in kept:
        status, _ = reserved.request("DELETE", f"/000_{name}")
        assert status == 200, name
        assert reserved.request("GET", f"/000_{name}")[0] == 404

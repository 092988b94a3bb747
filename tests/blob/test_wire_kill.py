"""kill -9 in the middle of two thousand PUTs loses nothing that was answered."""

from __future__ import annotations

import hashlib
import http.client
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from clinfra.blob.rebuild import rebuild_index
from tests.support import ClinfraProcess

PUTS = 2000
CONNECTIONS = 40
KILL_AFTER = 1100
"""Answers after which the process is killed: it is in the middle then."""


def body_of(name: str) -> bytes:
    """Return the body of a name: of any length up to 40 KB, a few of 3 MB."""
    seed = hashlib.sha256(name.encode()).digest()
    length = int.from_bytes(seed[:4]) % 40_000
    if seed[4] < 2:
        length = 3_000_000
    return (seed * (length // 32 + 1))[:length]


@pytest.fixture(params=["volume", "files"])
def clinfra(request: pytest.FixtureRequest) -> Iterator[ClinfraProcess]:
    """A blob store in a process of its own, its data kept until the end."""
    directory = Path(tempfile.mkdtemp(prefix="clinfra-kill-"))
    process = ClinfraProcess({"blob": {"store": request.param}}, data_dir=directory)
    try:
        process.start()
        yield process
    finally:
        process.close()
        shutil.rmtree(directory, ignore_errors=True)


def put_until_killed(process: ClinfraProcess) -> dict[str, str]:
    """PUT from many connections, kill in the middle; return what was answered.

    Returns:
        stored name → SHA-256 as answered.
    """
    port = process.ports["blob"]
    answered: dict[str, str] = {}
    lock = threading.Lock()
    enough = threading.Event()
    names = iter(range(PUTS))

    def work() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        while True:
            with lock:
                number = next(names, None)
            if number is None:
                break
            name = f"k{number}"
            try:
                connection.request("PUT", f"/{name}", body_of(name))
                response = connection.getresponse()
                response.read()
            except OSError:
                break
            except http.client.HTTPException:
                break
            assert response.status == 200, response.status
            with lock:
                answered[f"000_{name}"] = hashlib.sha256(body_of(name)).hexdigest()
                if len(answered) >= KILL_AFTER:
                    enough.set()
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    assert enough.wait(60), process.running.output
    process.running.signal(signal.SIGKILL)
    for thread in threads:
        thread.join(30)
    process.running.wait()
    assert KILL_AFTER <= len(answered) < PUTS
    return answered


def check(process: ClinfraProcess, answered: Mapping[str, str]) -> None:
    """Check that everything answered is there, and all that is there is whole."""
    connection = http.client.HTTPConnection("127.0.0.1", process.ports["blob"])
    lost = []
    extra = 0
    for number in range(PUTS):
        stored = f"000_k{number}"
        connection.request("GET", f"/{stored}")
        response = connection.getresponse()
        body = response.read()
        if response.status == 404:
            if stored in answered:
                lost.append(stored)
            continue
        assert response.status == 200, (stored, response.status, body[:100])
        assert body == body_of(f"k{number}"), stored
        extra += stored not in answered
    connection.close()
    assert lost == []
    # At most what was under way when the process died.
    assert extra <= CONNECTIONS


def test_kill_during_puts(clinfra: ClinfraProcess) -> None:
    """Every answered blob is byte-identical after kill -9, and after a lost index."""
    answered = put_until_killed(clinfra)
    clinfra.restart()
    check(clinfra, answered)
    clinfra.running.signal(signal.SIGKILL)
    clinfra.running.wait()
    for path in (clinfra.data_dir / "blob").glob("index.sqlite*"):
        path.unlink()
    summary = rebuild_index(clinfra.data_dir)
    assert summary.summary.adopted >= len(answered)
    assert summary.summary.damaged == 0
    clinfra.restart()
    check(clinfra, answered)
    assert clinfra.running.terminate() == 0

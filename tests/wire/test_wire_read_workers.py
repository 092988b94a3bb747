"""Processes that read beside the one that writes: nobody can tell who answered."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support import ClinfraProcess, wait_until
from tests.wire.crews import children, kill_one, told, workers
from tests.wire.trial import Client, Name, Trial

READERS = "readers"
_KILLS = 5
_CHANGES_BETWEEN = 500


@contextmanager
def running(**blob: Any) -> Iterator[ClinfraProcess]:
    """Run a blob store with two readers."""
    tables: dict[str, Any] = {
        "stop_timeout": 5,
        "blob": {"read_workers": 2, **blob},
        "admin": {},
        "logging": {"access": False},
    }
    with ClinfraProcess(tables) as clinfra:
        yield clinfra
        assert "Traceback" not in clinfra.running.output


def test_nobody_reads_what_was_before() -> None:
    """What is acknowledged is what everybody reads, whichever process they ask.

    While blobs are put, replaced and deleted thousands of times, purged and moved, and
    readers are killed; each kill costs no more than what that reader was at.
    """
    moving = {"volume_bytes": 1 << 20, "purge_interval": 1, "expiration_delay": 1}
    with running(**moving) as clinfra:
        names = [Name(f"/trial{number}") for number in range(40)]
        trial = Trial(clinfra.ports["blob"], names)
        connections = 4 * 5 + 4
        with trial.running():
            for turn in range(1, _KILLS + 1):
                wait_until(
                    lambda turn=turn: (  # type: ignore[misc] # bound here
                        trial.changes >= turn * _CHANGES_BETWEEN or bool(trial.wrong)
                    ),
                    "blobs are changed",
                    timeout_seconds=240,
                )
                kill_one(clinfra, READERS)
        assert trial.wrong == []
        assert trial.reads > 2 * _KILLS * _CHANGES_BETWEEN
        assert trial.cut <= _KILLS * connections
        report = told(clinfra, READERS)
        assert report["crew"]["falls"] == _KILLS
        assert report["events"]["get"]["total"] > 100
        first = clinfra.data_dir / "blob" / "volumes" / f"{1:016x}.volume"
        wait_until(lambda: not first.exists(), "volumes are compacted")
        wait_until(lambda: not deleted_files(clinfra), "deleted volumes are let go")
        assert len(children(clinfra)) == 2
        assert clinfra.running.terminate() == 0


def deleted_files(clinfra: ClinfraProcess) -> list[str]:
    """Return the deleted volumes whose space readers still hold."""
    found = []
    for pid in workers(clinfra, READERS):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # it was closed
                target = os.readlink(descriptor)
                if ".volume" in target and target.endswith("(deleted)"):
                    found.append(target)
    return found


def sockets(pid: int) -> int:
    """Return how many sockets a process has open."""
    count = 0
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed
            count += os.readlink(link).startswith("socket:")
    return count


def test_the_same_answers() -> None:
    """Ranges, conditions, infos, what is over or wrong: the same, whoever answers."""
    asked: list[tuple[str, str, dict[str, str], int]] = [
        ("GET", "/000_a.txt", {}, 200),
        ("HEAD", "/000_a.txt", {}, 200),
        ("GET", "/000_a.txt", {"Range": "bytes=5-9"}, 206),
        ("GET", "/000_a.txt", {"Range": "bytes=5-9,20-"}, 206),
        ("GET", "/000_a.txt", {"Range": "bytes=99999-"}, 416),
        ("GET", "/000_a.txt", {"If-None-Match": "*"}, 304),
        ("GET", "/000_a.txt", {"If-Match": '"other"'}, 412),
        ("GET", "/000_big", {}, 200),
        ("HEAD", "/000_big", {}, 200),
        ("GET", "/000_big", {"Range": "bytes=1000000-1999999"}, 206),
        ("GET", "/000_a.txt?response=info", {}, 200),
        ("GET", "/000_unknown", {}, 404),
        ("GET", "/000_gone", {}, 404),
        ("GET", "/notaname", {}, 400),
        ("GET", "/000_a.txt?response=nonsense", {}, 400),
        ("GET", "/_status", {}, 200),
        ("OPTIONS", "/000_a.txt", {}, 204),
        ("PATCH", "/000_a.txt", {}, 405),
    ]
    with running() as clinfra:
        port = clinfra.ports["blob"]
        with closing(Client(port)) as client:
            client.ask("PUT", "/a.txt", b"0123456789" * 200)
            client.ask("PUT", "/big", os.urandom(2 << 20))
            client.ask("PUT", "/gone", b"soon")
            client.ask("DELETE", "/000_gone")
        seen: dict[int, list[Any]] = {}
        for turn in range(12):
            with closing(Client(port)) as client:
                for number, (method, path, fields, status) in enumerate(asked):
                    answer, body = client.ask(method, path, None, **fields)
                    assert answer.status == status, (turn, asked[number], body[:99])
                    if path == "/_status" or "20-" in fields.get("Range", ""):
                        continue  # each has its own boundary
                    headers = dict(answer.getheaders())
                    del headers["Date"]
                    got = [headers, body]
                    assert seen.setdefault(number, got) == got, (turn, asked[number])
        # What readers have answered counts as the store's.
        wait_until(
            lambda: told(clinfra, "blob")["events"]["get"]["total"] >= 12 * 13,
            "all reads are counted",
        )
        report = told(clinfra, READERS)
        assert report["events"]["get"]["total"] > 0
        assert report["moved"] > 0


def test_what_has_ended() -> None:
    """A blob that has ended is nowhere any more, whoever has it in memory."""
    with running() as clinfra:
        port = clinfra.ports["blob"]
        with closing(Client(port)) as client:
            client.ask("PUT", "/ends?ttl=2", b"soon over")
            wait_until(
                lambda: client.ask("GET", "/000_ends")[0].status == 404, "it has ended"
            )
        for _ in range(12):
            with closing(Client(port)) as client:
                assert client.ask("GET", "/000_ends")[0].status == 404


def test_readers_are_replaced() -> None:
    """SIGHUP and SIGUSR2 replace them while blobs are read and written.

    No connection is closed before it has its answer, not even an idle one.
    """
    with running() as clinfra:
        trial = Trial(clinfra.ports["blob"], [Name(f"/n{n}") for n in range(8)], 2)
        before_all = sockets(clinfra.pid)
        with trial.running(2):
            for turn, number in enumerate((signal.SIGHUP, signal.SIGUSR2), 1):
                first = set(workers(clinfra, READERS))
                before = trial.reads
                clinfra.running.signal(number)
                wait_until(
                    lambda turn=turn: (  # type: ignore[misc] # bound here
                        clinfra.running.output.count("new workers serve") >= turn
                    ),
                    "new ones serve",
                    timeout_seconds=60,
                )
                wait_until(
                    lambda first=first: (  # type: ignore[misc] # bound here
                        not first & set(workers(clinfra, READERS))
                    ),
                    "the old ones are gone",
                    timeout_seconds=60,
                )
                wait_until(
                    lambda before=before: trial.reads > before + 100,  # type: ignore[misc] # bound here
                    "blobs are read",
                    timeout_seconds=60,
                )
        assert trial.wrong == []
        assert trial.cut == 0
        assert len(workers(clinfra, READERS)) == 2
        wait_until(lambda: sockets(clinfra.pid) <= before_all, "nothing is left open")


def test_pipelined_across_processes() -> None:
    """Requests sent ahead are answered in order, whoever answers which."""
    ahead = (
        b"GET /000_p HTTP/1.1\r\nHost: x\r\n\r\n"
        b"GET /000_none HTTP/1.1\r\nHost: x\r\n\r\n"
        b"PUT /p HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nsecond"
        b"GET /000_p HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    with running() as clinfra, closing(Client(clinfra.ports["blob"])) as client:
        for _ in range(9):
            client.ask("PUT", "/p", b"first")
            address = ("127.0.0.1", clinfra.ports["blob"])
            with socket.create_connection(address, 20) as line:
                line.sendall(ahead)
                said = b""
                while piece := line.recv(65536):
                    said += piece
            answers = said.split(b"HTTP/1.1 ")[1:]
            assert [each[:3] for each in answers] == [b"200", b"404", b"200", b"200"]
            assert answers[0].endswith(b"\r\n\r\nfirst")
            assert answers[3].endswith(b"\r\n\r\nsecond")


def test_large_bodies_go_to_who_writes() -> None:
    """A PUT is taken whole, whoever has accepted its connection; so is a 100-continue.

    What was read of it when it moves is not lost.
    """
    body = os.urandom(3 << 20)
    with running() as clinfra:
        port = clinfra.ports["blob"]
        for turn in range(9):
            with closing(Client(port)) as client:
                fields = {"Expect": "100-continue"} if turn % 2 else {}
                answer, said = client.ask("PUT", f"/large{turn}", body, **fields)
                assert answer.status == 200, said
                assert json.loads(said)["size"] == len(body)
                assert client.ask("GET", f"/000_large{turn}")[1] == body


def test_main_process_killed() -> None:
    """Readers end with the process that writes; the next one starts with its own."""
    with running() as clinfra:
        port = clinfra.ports["blob"]
        with closing(Client(port)) as client:
            client.ask("PUT", "/kept", b"kept")
        orphans = workers(clinfra, READERS)
        clinfra.running.signal(signal.SIGKILL)
        wait_until(
            lambda: not any(is_alive(pid) for pid in orphans), "readers are gone"
        )
        clinfra.restart()
        assert len(workers(clinfra, READERS)) == 2
        for _ in range(9):
            with closing(Client(port)) as client:
                assert client.ask("GET", "/000_kept")[1] == b"kept"


def is_alive(pid: int) -> bool:
    """Tell whether a process runs still; who ended and was not waited for does not."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        )
    except (FileNotFoundError, ProcessLookupError):
        return False

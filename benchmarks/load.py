"""The load: wrk for measuring, and a small client for checking and filling."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

from attrs import frozen

from benchmarks.figures import BenchmarkFailed, Sample
from benchmarks.servers import Server, pinned

_SCRIPT = Path(__file__).with_name("load.lua")
_PATIENCE_SECONDS = 30.0
_FILLING_CONNECTIONS = 16


def drive(
    server: Server,
    target: str,
    *,
    core: int | str,
    connections: int,
    seconds: float,
    script: Sequence[str] = (),
    field: str = "",
) -> Sample:
    """Run wrk against a server; every answer must be a good one.

    Args:
        target: path asked for.
        script: words for load.lua when requests are not all alike.
        field: a further one of the requests' heads.
    """
    url = f"http://127.0.0.1:{server.port}{target}"
    argv = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
    argv += ["-H", field] if field else []
    argv += ["--timeout", "10s", "-s", str(_SCRIPT), url, "--", *script]
    cpu_before, load_before = server.cpu_seconds(), _load_seconds()
    try:
        run = subprocess.run(
            pinned(core, argv),
            capture_output=True,
            text=True,
            timeout=seconds + _PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as stuck:
        raise BenchmarkFailed(f"wrk hung on {server.name}") from stuck
    cpu_seconds = server.cpu_seconds() - cpu_before
    load_seconds = _load_seconds() - load_before
    lines = [line for line in run.stdout.splitlines() if line.startswith("figures ")]
    if run.returncode or not lines:
        raise BenchmarkFailed(f"wrk failed on {server.name}: {run.stderr.strip()}")
    figures: dict[str, int] = json.loads(lines[0].removeprefix("figures "))
    for trouble in ("refused", "broken", "late"):
        if figures[trouble]:
            raise BenchmarkFailed(
                f"{figures[trouble]} of {figures['requests']} requests were {trouble}: "
                f"{server.last_words()}"
            )
    if not figures["requests"] or cpu_seconds <= 0:
        raise BenchmarkFailed(f"{server.name} answered nothing")
    return Sample(
        rate=figures["requests"] / figures["microseconds"] * 1e6,
        per_core=figures["requests"] / cpu_seconds,
        p50_ms=figures["p50_us"] / 1000,
        p99_ms=figures["p99_us"] / 1000,
        load_cores=load_seconds / figures["microseconds"] * 1e6,
    )


def _load_seconds() -> float:
    """Return the CPU time of all load there was; servers run on, and do not count."""
    used = getrusage(RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@frozen
class Answer:
    """One response, whole."""

    status: int
    fields: Mapping[str, str]
    body: bytes


def ask(server: Server, method: str, path: str, body: bytes | None = None) -> Answer:
    """Send one request on a connection of its own.  Raises BenchmarkFailed."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=_PATIENCE_SECONDS)
    try:
        return _ask(connection, method, path, body)
    except (OSError, HTTPException) as error:
        raise BenchmarkFailed(
            f"{server.name} did not answer {method} {path}: {error!r}"
        ) from error
    finally:
        connection.close()


def expect(server: Server, path: str, body: bytes) -> Answer:
    """GET `path`; the answer must be a 200 with exactly this body."""
    answer = ask(server, "GET", path)
    if answer.status != 200 or answer.body != body:
        raise BenchmarkFailed(
            f"{server.name} answered GET {path} with {answer.status} and "
            f"{len(answer.body)} bytes instead of {len(body)}: "
            f"{answer.body[:80].decode(errors='replace')!r}"
        )
    return answer


def get_all(server: Server, paths: Sequence[str]) -> list[bytes | None]:
    """GET every path; None for each that this replica itself has not got."""
    connection = HTTPConnection("127.0.0.1", server.port, timeout=_PATIENCE_SECONDS)
    bodies: list[bytes | None] = []
    try:
        for path in paths:
            connection.request("GET", path, headers={"X-Clblob-Hop": "1"})
            response = connection.getresponse()
            body = response.read()
            bodies.append(body if response.status == 200 else None)
    except (OSError, HTTPException) as error:
        raise BenchmarkFailed(f"reading {server.name} failed: {error!r}") from error
    finally:
        connection.close()
    return bodies


def put_all(server: Server, count: int, blob: Callable[[int], bytes]) -> list[bytes]:
    """PUT `/fill-N` for every N below `count`; return the bodies of the answers."""
    share = -(-count // _FILLING_CONNECTIONS)

    def fill(first: int) -> list[bytes]:
        connection = HTTPConnection("127.0.0.1", server.port, timeout=_PATIENCE_SECONDS)
        answers = []
        for number in range(first, min(first + share, count)):
            answer = _ask(connection, "PUT", f"/fill-{number}", blob(number))
            if answer.status not in (200, 201, 204):
                raise BenchmarkFailed(
                    f"{server.name} answered a PUT with {answer.status}: "
                    f"{answer.body[:80].decode(errors='replace')!r}"
                )
            answers.append(answer.body)
        connection.close()
        return answers

    with ThreadPoolExecutor(_FILLING_CONNECTIONS) as pool:
        try:
            shares = list(pool.map(fill, range(0, count, share)))
        except (OSError, HTTPException) as error:
            raise BenchmarkFailed(f"filling {server.name} failed: {error!r}") from error
    return [answer for answers in shares for answer in answers]


def _ask(
    connection: HTTPConnection, method: str, path: str, body: bytes | None
) -> Answer:
    connection.request(method, path, body)
    response = connection.getresponse()
    fields = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, fields, response.read())

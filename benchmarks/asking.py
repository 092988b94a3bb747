"""A load of requests that are all different, from a few connections at once.

Servers that take milliseconds for an answer need no faster client than this one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException

from attrs import define, field, frozen

from benchmarks.figures import BenchmarkFailed, Sample
from benchmarks.servers import Server

_PATIENCE_SECONDS = 30.0


@frozen
class Request:
    """One request, whole."""

    method: str
    target: str
    body: bytes | None = None


@define(eq=False)
class Numbers:
    """Numbers from 0 on, until it is time to stop: then up to a multiple of `step`."""

    _until: float
    _step: int
    _next: int = field(init=False, default=0)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def take(self) -> int | None:
        """Return the next one; None when there are no more."""
        with self._lock:
            if self._next % self._step == 0 and time.perf_counter() >= self._until:
                return None
            self._next += 1
            return self._next - 1


def drive(
    server: Server,
    request: Callable[[int], Request],
    *,
    core: int,
    connections: int,
    seconds: float,
    step: int = 1,
) -> Sample:
    """Send requests for so many seconds; every answer must be a 200.

    Args:
        request: returns the one of a number.
        core: the client's.
        step: requests are sent in whole rounds of so many.
    """
    began = time.perf_counter()
    cpu_before = server.cpu_seconds()
    numbers = Numbers(began + seconds, step)

    def work(_: int) -> list[float]:
        os.sched_setaffinity(0, {core})  # of this thread
        return _send_all(server, request, numbers)

    with ThreadPoolExecutor(connections) as pool:
        try:
            latencies = sorted(
                each for share in pool.map(work, range(connections)) for each in share
            )
        except (OSError, HTTPException) as error:
            raise BenchmarkFailed(f"{server.name} broke off: {error!r}") from error
    wall_seconds = time.perf_counter() - began
    cpu_seconds = server.cpu_seconds() - cpu_before
    if not latencies or cpu_seconds <= 0:
        raise BenchmarkFailed(f"{server.name} answered nothing")
    return Sample(
        rate=len(latencies) / wall_seconds,
        per_core=len(latencies) / cpu_seconds,
        p50_ms=quantile(latencies, 0.5) * 1000,
        p99_ms=quantile(latencies, 0.99) * 1000,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """Return the value that so great a share of the sorted values is not above."""
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def _send_all(
    server: Server, request: Callable[[int], Request], numbers: Numbers
) -> list[float]:
    """Return how many seconds each answer took."""
    latencies = []
    connection = HTTPConnection("127.0.0.1", server.port, timeout=_PATIENCE_SECONDS)
    try:
        while (number := numbers.take()) is not None:
            asked = request(number)
            began = time.perf_counter()
            connection.request(asked.method, asked.target, asked.body)
            response = connection.getresponse()
            body = response.read()
            latencies.append(time.perf_counter() - began)
            if response.status != 200:
                raise BenchmarkFailed(
                    f"{server.name} answered {asked.method} {asked.target[:80]} with "
                    f"{response.status}: {body[:80].decode(errors='replace')!r}"
                )
    finally:
        connection.close()
    return latencies

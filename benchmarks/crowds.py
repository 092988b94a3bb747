"""Many clients at once: those that only stay connected, and those that want one thing.

Bars: 10 000 idle keep-alive clients ≤ 600 MB; 1 000 clients that ask two processes for
something that no cache has make one request to the origin.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Iterator
from contextlib import AsyncExitStack

from attrs import define, field

from benchmarks import peers
from benchmarks.figures import BenchmarkFailed, Reading
from benchmarks.rounds import Plan
from benchmarks.servers import Server, Stage, free_port

_IDLE_CLIENTS = 10_000
_CROWD = 1_000
_SPARE_DESCRIPTORS = 1_000
_AT_ONCE = 200
_PATIENCE_SECONDS = 60.0
_SLOW_ORIGIN_SECONDS = 0.5


def run(stage: Stage, plan: Plan) -> Iterator[Reading]:
    """Yield both figures."""
    del plan  # a crowd comes once
    _allow_descriptors(_IDLE_CLIENTS + _SPARE_DESCRIPTORS)
    idle = "memory with 10 000 idle keep-alive clients"
    yield _reading(idle, "MB", _idle_megabytes(stage), at_most=600)
    crowd = "requests to the origin for 1 000 clients of two processes"
    yield _reading(crowd, "requests", _asked_by_crowd(stage), at_most=1)


def _reading(
    title: str, unit: str, figure: Awaitable[float], *, at_most: float
) -> Reading:
    async def bounded() -> float:
        return await asyncio.wait_for(figure, _PATIENCE_SECONDS)

    try:
        value = asyncio.run(bounded())
    except (BenchmarkFailed, OSError, EOFError, TimeoutError) as error:
        return Reading(title, unit, (), at_most=at_most, trouble=repr(error))
    return Reading(title, unit, (value,), at_most=at_most)


async def _idle_megabytes(stage: Stage) -> float:
    origin = peers.origin(stage)
    server = peers.clinfra_crowded(stage, origin.port, connections=_IDLE_CLIENTS + 10)
    async with AsyncExitStack() as clients:
        for _ in range(0, _IDLE_CLIENTS, _AT_ONCE):
            await asyncio.gather(
                *(_asked_once(clients, server, "/hot/1k") for _ in range(_AT_ONCE))
            )
        return _resident_bytes(server) / 1e6


async def _asked_by_crowd(stage: Stage) -> float:
    origin = _SlowOrigin(free_port())
    store = peers.memcached(stage, "of the crowd")
    async with await asyncio.start_server(
        origin.answer, "127.0.0.1", origin.port, backlog=_CROWD
    ):
        fronts = [
            peers.clinfra_crowded(stage, origin.port, memcached=store.port, name=name)
            for name in ("first", "second")
        ]
        async with AsyncExitStack() as clients:
            for number, front in enumerate(fronts):
                # By its answer, they are connected to memcached.
                await _asked_once(clients, front, f"/first-{number}")
            before = origin.asked
            await asyncio.gather(
                *(
                    _asked_once(clients, fronts[number % 2], "/anything")
                    for number in range(_CROWD)
                )
            )
    return float(origin.asked - before)


@define(eq=False)
class _SlowOrigin:
    """Counts what it is asked for, and takes its time."""

    port: int
    asked: int = field(default=0, init=False)

    async def answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        await asyncio.sleep(_SLOW_ORIGIN_SECONDS)
        writer.write(
            b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: 2\r\n"
            b"Connection: close\r\n\r\nok"
        )
        await writer.drain()
        writer.close()


async def _asked_once(clients: AsyncExitStack, server: Server, path: str) -> None:
    """Ask for a path once, and stay connected until the stack is left."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    clients.callback(writer.close)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise BenchmarkFailed(f"{server.name} answered {head[:60]!r}")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    await reader.readexactly(int(length))


def _resident_bytes(server: Server) -> int:
    with open(f"/proc/{server.process.pid}/status") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    raise BenchmarkFailed(f"{server.name} has no memory to measure")


def _allow_descriptors(count: int) -> None:
    """Raise this process's limit, which the servers inherit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        if hard != resource.RLIM_INFINITY and hard < count:
            raise BenchmarkFailed(f"{count} open files are needed, {hard} allowed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))

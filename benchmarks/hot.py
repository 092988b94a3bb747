"""Hot cache hits of 1 KB and 20 KB at 64 keep-alive connections.

Bars: ≥ 1.0 x Varnish, ≥ 3 x a plain twisted.web Resource that has the bytes at hand,
≥ 1.0 x nginx's proxy_cache with 1 KB; the 99th percentile is not above theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from attrs import evolve

from benchmarks import load, peers
from benchmarks.figures import Bar, BenchmarkFailed, Measure, Row, Sample
from benchmarks.rounds import Contender, Plan, compare
from benchmarks.servers import Lazily, Server, Stage

CONNECTIONS = 64
_CHECKS = 5


def run(stage: Stage, plan: Plan) -> Iterator[Row]:
    """Yield a row per size."""
    origin = peers.origin(stage)
    servers = {
        "clinfra proxy": Lazily(partial(peers.clinfra_proxy, stage, origin.port)),
        "Varnish": Lazily(partial(peers.varnish, stage, origin.port)),
        "nginx proxy_cache": Lazily(partial(peers.nginx_front, stage, origin.port)),
        "plain Resource": Lazily(partial(peers.plain_site, stage, origin.port)),
    }
    theirs = [Bar("Varnish", 1.0), Bar("nginx proxy_cache", 1.0)]
    for size in ("1k", "20k"):
        bars = [*theirs[: 2 if size == "1k" else 1], Bar("plain Resource", 3.0)]
        path = f"/hot/{size}"
        contenders = [
            Contender(
                name,
                partial(check_hit, server, origin, path, peers.BODIES[size]),
                partial(measure, server, path, stage.cores.load),
            )
            for name, server in servers.items()
        ]
        title = f"hot cache hit, {size.upper()}B, {CONNECTIONS} connections"
        row = compare(title, contenders, plan, measure=Measure.PER_CORE, bars=bars)
        yield row
        yield evolve(row, measure=Measure.P99, bars=tuple(theirs))


def measure(server: Lazily, path: str, core: int, seconds: float) -> Sample:
    """Ask for one path for so many seconds."""
    return load.drive(
        server(), path, core=core, connections=CONNECTIONS, seconds=seconds
    )


def check_hit(server: Lazily, origin: Server, path: str, body: bytes) -> None:
    """The answer is right, and comes from the cache from the second time on."""
    load.expect(server(), path, body)
    if _asked_of_origin(server(), origin, path, body) > 0:
        raise BenchmarkFailed(f"{server().name} does not cache {path}")


def check_pass(server: Lazily, origin: Server, path: str, body: bytes) -> None:
    """The answer is right, and comes from the origin every time."""
    if _asked_of_origin(server(), origin, path, body) < _CHECKS:
        raise BenchmarkFailed(f"{server().name} answers {path} without the origin")


def _asked_of_origin(server: Server, origin: Server, path: str, body: bytes) -> int:
    """Ask a few times; return how often the origin was asked for that."""
    before = peers.answered_by(origin)
    for _ in range(_CHECKS):
        load.expect(server, path, body)
    return peers.answered_by(origin) - before - 1

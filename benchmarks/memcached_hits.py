"""Hits that only memcached holds: 1 KB and 20 KB, a thousand keys.

Both fronts talk to a memcached of their own on the load generator's core.  clinfra
runs without its hot tier; nginx finds the bodies under the request's target, where
somebody else has put them.

Bar: ≥ 0.8 x nginx with its memcached module.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import load, peers
from benchmarks.figures import Bar, BenchmarkFailed, Measure, Row, Sample
from benchmarks.rounds import Contender, Plan, compare
from benchmarks.rules import drive_paths
from benchmarks.servers import Lazily, Server, Stage

_KEYS = 1_000
_CHECKS = 5


def run(stage: Stage, plan: Plan) -> Iterator[Row]:
    """Yield a row per size."""
    origin = peers.origin(stage)
    stores = {name: peers.memcached(stage, name) for name in ("clinfra's", "nginx's")}
    servers = {
        "clinfra proxy": Lazily(
            partial(
                peers.clinfra_over_memcached,
                stage,
                origin.port,
                stores["clinfra's"].port,
            )
        ),
        "nginx memcached_pass": Lazily(
            partial(peers.nginx_memcached, stage, stores["nginx's"].port)
        ),
    }
    for size in ("1k", "20k"):
        body = peers.BODIES[size]
        targets = [f"/hot/{size}?{number}" for number in range(_KEYS)]
        paths = stage.directory / f"memcached-{size}.txt"
        paths.write_text("\n".join(targets) + "\n")
        _fill(stores["nginx's"], targets, body)
        contenders = [
            Contender(
                name,
                partial(_check, server, store, targets, body),
                partial(_measure, server, paths, stage.cores.load),
            )
            for (name, server), store in zip(
                servers.items(), stores.values(), strict=True
            )
        ]
        yield compare(
            f"hit that only memcached holds, {size.upper()}B",
            contenders,
            plan,
            measure=Measure.PER_CORE,
            bars=[Bar("nginx memcached_pass", 0.8)],
        )


def _measure(server: Lazily, paths: Path, core: int, seconds: float) -> Sample:
    return drive_paths(server(), paths, core=core, seconds=seconds)


def _check(server: Lazily, store: Server, targets: list[str], body: bytes) -> None:
    """Every target is answered rightly, and a hit comes from memcached each time."""
    for target in targets:
        load.expect(server(), target, body)
    before = _hits(store)
    for target in targets[:_CHECKS]:
        load.expect(server(), target, body)
    if _hits(store) - before < _CHECKS:
        raise BenchmarkFailed(f"{server().name} answers without memcached")


def _fill(store: Server, targets: list[str], body: bytes) -> None:
    with socket.create_connection(("127.0.0.1", store.port), 10) as connection:
        answers = connection.makefile("rb")
        for target in targets:
            head = f"set {target} 0 0 {len(body)}\r\n".encode()
            connection.sendall(head + body + b"\r\n")
            if answers.readline() != b"STORED\r\n":
                raise BenchmarkFailed("memcached did not store a body")


def _hits(store: Server) -> int:
    with socket.create_connection(("127.0.0.1", store.port), 10) as connection:
        connection.sendall(b"stats\r\n")
        for line in connection.makefile("rb"):
            if line.startswith(b"STAT get_hits "):
                return int(line.split()[2])
    raise BenchmarkFailed("memcached told no statistics")

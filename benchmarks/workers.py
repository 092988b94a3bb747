"""What a second worker process is worth on two cores.

The load is made on the same two cores, so the requests are ones that cost the proxy
much and the load generator little: hits of many paths, 50 rules and the access log.

Bar: two workers ≥ 1.7 x one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import load, peers
from benchmarks.figures import Bar, Measure, Row, Sample
from benchmarks.rounds import Contender, Plan, compare
from benchmarks.rules import drive_paths, write_paths
from benchmarks.servers import Lazily, Stage

_PATHS = 20_000
_RULES = 50


def run(stage: Stage, plan: Plan) -> Iterator[Row]:
    """Yield the one row."""
    origin = peers.origin(stage)
    paths = write_paths(stage, "/hot/1k", _PATHS)
    contenders = []
    for name, count in (("two workers", 2), ("one worker", 1)):
        start = partial(peers.clinfra_ruled, stage, origin.port, _RULES, workers=count)
        server = Lazily(start)
        contenders.append(
            Contender(
                name,
                partial(_check, server),
                partial(_measure, server, paths, stage.cores.both),
            )
        )
    yield compare(
        f"hot cache hit of {_PATHS} paths, {_RULES} rules, on two cores",
        contenders,
        plan,
        measure=Measure.RATE,
        bars=[Bar("one worker", 1.7)],
    )


def _check(server: Lazily) -> None:
    load.expect(server(), "/hot/1k", peers.BODIES["1k"])


def _measure(server: Lazily, paths: Path, cores: str, seconds: float) -> Sample:
    return drive_paths(server(), paths, core=cores, seconds=seconds)

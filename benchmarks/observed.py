"""What it costs to be watched: the access log and the counts for /metrics.

Bars: hits from memory with both are answered ≥ 0.85 x as fast as with neither, and
/metrics takes < 20 ms of the server with 1 000 series.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks import load, peers
from benchmarks.figures import Bar, BenchmarkFailed, Measure, Reading, Row
from benchmarks.hot import CONNECTIONS, check_hit, measure
from benchmarks.rounds import Contender, Plan, compare
from benchmarks.servers import Lazily, Stage

_MEMBERS = 150
"""Of a pool; each has six series."""

_SERIES = 1000
_SCRAPES = 50


def run(stage: Stage, plan: Plan) -> Iterator[Row | Reading]:
    """Yield the row and the reading."""
    origin = peers.origin(stage)
    contenders = []
    for name, observed in (("log and metrics", True), ("neither", False)):
        start = partial(peers.clinfra_observed, stage, origin.port, observed=observed)
        server = Lazily(start)
        contenders.append(
            Contender(
                name,
                partial(check_hit, server, origin, "/hot/1k", peers.BODIES["1k"]),
                partial(measure, server, "/hot/1k", stage.cores.load),
            )
        )
    yield compare(
        f"hot cache hit, 1KB, {CONNECTIONS} connections, watched",
        contenders,
        plan,
        measure=Measure.PER_CORE,
        bars=[Bar("neither", 0.85)],
    )
    yield _scraping(stage)


def _scraping(stage: Stage) -> Reading:
    """Return what a scrape costs the server, in CPU time."""
    title = f"/metrics with {_SERIES} series"
    try:
        server = peers.clinfra_with_series(stage, _MEMBERS)
        load.ask(server, "GET", "/metrics")
        before = server.cpu_seconds()
        for _ in range(_SCRAPES):
            answer = load.ask(server, "GET", "/metrics")
        # The system's clock of CPU time ticks too slowly to time one alone.
        spent = 1000 * (server.cpu_seconds() - before) / _SCRAPES
        lines = answer.body.decode().splitlines()
        series = sum(not line.startswith("#") for line in lines)
        if series < _SERIES:
            raise BenchmarkFailed(f"there are only {series} series")
    except BenchmarkFailed as failure:
        return Reading(title, "ms", (), at_most=20, trouble=str(failure))
    return Reading(title, "ms", (spent,), at_most=20)

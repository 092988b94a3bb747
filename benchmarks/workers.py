"""What a second worker process is worth on two cores.

The requests are ones that cost the proxy much and the load generator little: their
heads are so long that what they led to is not remembered, so that each is parsed, asked
of 50 rules and written to the access log.

The load is made on the same two cores.  One worker has one of them, and the load
generator the other; two workers have what it leaves them.  That is allowed for: what
they answer in the time they could have had is told for all the time of both cores.
When a core stands idle, or the main process has it, that counts against them.

Bar: two workers ≥ 1.7 x one.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import attrs

from benchmarks import load, peers
from benchmarks.figures import Bar, Measure, Row, Sample
from benchmarks.hot import CONNECTIONS
from benchmarks.rounds import Contender, Plan, compare
from benchmarks.servers import Lazily, Stage

_RULES = 50
_CORES = 2
_PATH = "/hot/1k"
_COOKIE = f"Cookie: history={'0123456789' * 250}"
"""Longer than any head that is remembered."""


def run(stage: Stage, plan: Plan) -> Iterator[Row]:
    """Yield the one row."""
    origin = peers.origin(stage)
    contenders = []
    for name, count in (("two workers", 2), ("one worker", 1)):
        start = partial(peers.clinfra_ruled, stage, origin.port, _RULES, workers=count)
        server = Lazily(start)
        measure = partial(_measure, server, count, stage.cores.both)
        contenders.append(Contender(name, partial(_check, server), measure))
    row = compare(
        f"hot cache hit, long heads, {_RULES} rules, on two cores",
        contenders,
        plan,
        measure=Measure.RATE,
        bars=[Bar("one worker", 1.7)],
    )
    yield attrs.evolve(row, note=_note(row))


def _check(server: Lazily) -> None:
    load.expect(server(), _PATH, peers.BODIES["1k"])


def _measure(server: Lazily, workers: int, cores: str, seconds: float) -> Sample:
    sample = load.drive(
        server(),
        _PATH,
        core=cores,
        connections=CONNECTIONS,
        seconds=seconds,
        field=_COOKIE,
    )
    return allowing(sample, workers)


def allowing(sample: Sample, processes: int) -> Sample:
    """Allow for what the load generator took of the cores of one or two processes."""
    taken = max(0.0, sample.load_cores - (_CORES - processes))
    return attrs.evolve(sample, rate=sample.rate * processes / (processes - taken))


def _note(row: Row) -> str:
    """Tell what was allowed for."""
    if any(result.trouble for result in row.results):
        return ""
    two, one = (result.typical() for result in row.results)
    return (
        f"the load generator took {two.load_cores:.2f} of the cores beside two workers,"
        f" {one.load_cores:.2f} beside one; by CPU time alone:"
        f" {2 * two.per_core / one.per_core:.2f} x"
    )

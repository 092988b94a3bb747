"""What a process that reads is worth beside the one that keeps the blobs, on two cores.

The load generator is allowed for as it is with workers (see `workers`).

Bar: GET of 16 KB with a reader ≥ 1.5 x without.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks import load, peers
from benchmarks.figures import Bar, Measure, Row, Sample
from benchmarks.rounds import Contender, Plan, compare
from benchmarks.rules import drive_paths
from benchmarks.servers import Lazily, Stage
from benchmarks.workers import allowing

_BLOBS = 2_000
_BLOB_BYTES = 16384


def run(stage: Stage, plan: Plan) -> Iterator[Row]:
    """Yield the one row."""
    contenders = []
    for name, count in (("with a reader", 1), ("without", 0)):
        server = Lazily(partial(peers.clinfra_blob, stage, read_workers=count))
        paths = stage.directory / f"read-{count}.txt"
        fill = partial(_fill, server, paths)
        measure = partial(_measure, server, paths, 1 + count, stage.cores.both)
        contenders.append(Contender(name, fill, measure))
    yield compare(
        f"blob GET, 16KB, {_BLOBS} blobs, on two cores",
        contenders,
        plan,
        measure=Measure.RATE,
        bars=[Bar("without", 1.5)],
    )


def _fill(server: Lazily, paths: Path) -> None:
    answers = load.put_all(server(), _BLOBS, lambda number: bytes(_BLOB_BYTES))
    names = [json.loads(answer)["name"] for answer in answers]
    paths.write_text("".join(f"/{name}\n" for name in names))
    load.expect(server(), f"/{names[0]}", bytes(_BLOB_BYTES))


def _measure(
    server: Lazily, paths: Path, processes: int, cores: str, seconds: float
) -> Sample:
    return allowing(
        drive_paths(server(), paths, core=cores, seconds=seconds), processes
    )

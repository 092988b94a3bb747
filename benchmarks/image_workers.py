"""The image service under a full load.

Bars:

* two workers on two cores make ≥ 1.9 x as many renditions of originals as one on one,
  by the clock: that is only true on a machine with nothing else to do, so the load of
  the machine is told beside it, and what two would make in the CPU time that they take
  if both cores were theirs alone;
* while two workers are busy with uploads and renditions, the reactor of the serving
  process is less than 10 ms late in 99 of 100 cases.  That is measured inside of it,
  see `watched`: both how long it was computing something else, and the whole delay by
  the clock, in which others who use the machine have a part.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import attrs

from benchmarks import asking, image_http, image_peers, photographs, watched
from benchmarks.asking import Request
from benchmarks.figures import Bar, BenchmarkFailed, Measure, Reading, Row, Sample
from benchmarks.rounds import Plan, compare
from benchmarks.servers import Lazily, Server, Stage
from benchmarks.watched import Delay

_MOST_DELAY_MS = 10.0
_MARGIN_SECONDS = 0.5
_UPLOAD = "/?sizes=50x50c,300x300,600x450&save=false"


def run(stage: Stage, plan: Plan) -> Iterator[Row | Reading]:
    """Yield the row of two workers, then the delay."""
    pictures = photographs.large(image_peers.root(stage))
    yield _scaling(stage, plan, pictures)
    yield from _delay(stage, plan, pictures)


# Two workers.


def _scaling(stage: Stage, plan: Plan, pictures: Path) -> Row:
    contenders = []
    for workers, name in ((2, "two workers on two cores"), (1, "one on one")):
        start = partial(
            image_peers.clinfra,
            stage,
            f"workers-{workers}",
            workers=workers,
            both_cores=workers == 2,
            more=image_http.NO_MEZZANINE,
        )
        server = Lazily(start)
        asked = image_http.Asked(
            name, server, partial(image_http.on_demand, pictures, server)
        )
        contenders.append(asked.contender(stage))
    row = compare(
        "image, 600x450 on demand of 12 MP, two workers",
        contenders,
        plan,
        measure=Measure.RATE,
        bars=[Bar("one on one", 1.9)],
    )
    if any(result.trouble for result in row.results):
        return row
    two, one = (result.typical().per_core for result in row.results)
    note = f"by the CPU time that renditions took: {2 * two / one:.2f} x"
    return attrs.evolve(row, note=f"{note}; {_load_average()}")


def _load_average() -> str:
    one, five, _ = os.getloadavg()
    return (
        f"load average afterwards: {one:.1f} in 1 minute, {five:.1f} in 5; the "
        "benchmark itself makes less than 2"
    )


# The delay.


def _delay(stage: Stage, plan: Plan, pictures: Path) -> Iterator[Reading]:
    titles = (
        "image, p99 of the reactor's delay, full load, computing",
        "image, p99 of the reactor's delay, full load, by the clock",
    )
    figures = stage.directory / "delays.txt"
    try:
        server = image_peers.clinfra(
            stage, "busy", workers=2, both_cores=True, watch=figures
        )
        rates, delays = _delays(stage, server, plan, pictures, figures)
    except BenchmarkFailed as failure:
        for title in titles:
            trouble = str(failure)
            yield Reading(title, "ms", (), at_most=_MOST_DELAY_MS, trouble=trouble)
        return
    kinds = (
        [[each.busy for each in turn] for turn in delays],
        [[each.wall for each in turn] for turn in delays],
    )
    done = " and ".join(f"{rate:.0f}" for rate in rates)
    notes = (
        f"{done} uploads and renditions a second",
        _load_average(),
    )
    for title, turns, note in zip(titles, kinds, notes, strict=True):
        p99s = tuple(1000 * asking.quantile(sorted(turn), 0.99) for turn in turns)
        every = sorted(each for turn in turns for each in turn)
        half, most = 1000 * asking.quantile(every, 0.5), 1000 * every[-1]
        note = f"p50 {half:.2f} ms, longest {most:.1f} ms; {note}"
        yield Reading(title, "ms", p99s, at_most=_MOST_DELAY_MS, note=note)


def _delays(
    stage: Stage, server: Server, plan: Plan, pictures: Path, figures: Path
) -> tuple[list[float], list[list[Delay]]]:
    """Return how many uploads and renditions there were a second, and the delays."""
    body = min(pictures.iterdir()).read_bytes()
    on_demand = image_http.on_demand(pictures, lambda: server)
    heights = itertools.count(450)
    loads: list[Callable[[int], Request]] = [
        lambda number: Request("PUT", _UPLOAD, body),
        lambda number: on_demand(number, next(heights)),
    ]

    def drive(request: Callable[[int], Request]) -> Sample:
        core, seconds = stage.cores.load, plan.seconds + 2 * _MARGIN_SECONDS
        return asking.drive(server, request, core=core, connections=3, seconds=seconds)

    turns, rates = [], []
    with ThreadPoolExecutor(len(loads)) as pool:
        for _ in range(plan.rounds):
            start = time.monotonic() + _MARGIN_SECONDS
            rates = [sample.rate for sample in pool.map(drive, loads)]
            turn = [
                each
                for each in watched.read(figures)
                if start <= each.at < start + plan.seconds
            ]
            if not turn:
                raise BenchmarkFailed("the reactor was not watched")
            turns.append(turn)
    return rates, turns

"""Hot hits of a proxy that has rules to obey.

Fifty rules and the access log beside Varnish with the same (its log is written by
varnishncsa, which counts), and a thousand rules beside ten: what a rule costs.  Once
for the one page that everybody wants, and once for so many that what heads led to is
mostly forgotten before they come again, so that the rules are asked.

Bars: ≥ 1.0 x Varnish; with 1 000 rules ≥ 0.5 x the rate with 10.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from benchmarks import load, peers
from benchmarks.figures import Bar, Measure, Row, Sample
from benchmarks.hot import CONNECTIONS, check_hit
from benchmarks.rounds import Contender, Plan, compare
from benchmarks.servers import Lazily, Server, Stage

_PATHS = 20_000
_FILLING_SECONDS = 8


def run(stage: Stage, plan: Plan) -> Iterator[Row]:
    """Yield two rows against Varnish, and one against ourselves."""
    origin = peers.origin(stage)
    ours = {
        rules: Lazily(partial(peers.clinfra_ruled, stage, origin.port, rules))
        for rules in (50, 1000, 10)
    }
    varnish = Lazily(partial(peers.varnish_ruled, stage, origin.port, 50))
    both = {"clinfra proxy": ours[50], "Varnish, varnishncsa": varnish}
    bar = Bar("Varnish, varnishncsa", 1.0)
    for paths in (1, _PATHS):
        title = f"hot cache hit, paths: {paths}, 50 rules, access log"
        yield _row(stage, plan, origin, title, both, paths, bar)
    rules = {"1 000 rules": ours[1000], "10 rules": ours[10]}
    title = f"hot cache hit, paths: {_PATHS}, what rules cost"
    yield _row(stage, plan, origin, title, rules, _PATHS, Bar("10 rules", 0.5))


def _row(
    stage: Stage,
    plan: Plan,
    origin: Server,
    title: str,
    servers: Mapping[str, Lazily],
    count: int,
    bar: Bar,
) -> Row:
    paths = write_paths(stage, "/hot/1k", count)
    core = stage.cores.load

    def check(server: Lazily) -> None:
        """Have it cache every path."""
        check_hit(server, origin, "/hot/1k", peers.BODIES["1k"])
        if count > 1:
            drive_paths(server(), paths, core=core, seconds=_FILLING_SECONDS)

    def measure(server: Lazily, seconds: float) -> Sample:
        return drive_paths(server(), paths, core=core, seconds=seconds)

    contenders = [
        Contender(name, partial(check, server), partial(measure, server))
        for name, server in servers.items()
    ]
    return compare(title, contenders, plan, measure=Measure.PER_CORE, bars=[bar])


def write_paths(stage: Stage, path: str, count: int) -> Path:
    """Write a file with so many paths of the same page, to be asked for at random."""
    file = stage.directory / f"paths{path.replace('/', '-')}-{count}.txt"
    file.write_text("".join(f"{path}?{number}\n" for number in range(count)))
    return file


def drive_paths(
    server: Server, paths: Path, *, core: int | str, seconds: float
) -> Sample:
    """Ask for the paths of a file at random."""
    return load.drive(
        server,
        "/",
        core=core,
        connections=CONNECTIONS,
        seconds=seconds,
        script=["paths", str(paths)],
    )

"""Hot hits of a proxy that has rules to obey.

Fifty rules and the access log beside Varnish with the same (its log is written by
varnishncsa, which counts), and a thousand rules beside ten: what a rule costs.  Every
request is for another of many paths, so that no answer is remembered by its head alone.

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

_PATHS = 5_000


def run(stage: Stage, plan: Plan) -> Iterator[Row]:
    """Yield a row against Varnish, and one against ourselves."""
    origin = peers.origin(stage)
    paths = stage.directory / "paths.txt"
    paths.write_text("".join(f"/hot/1k?{number}\n" for number in range(_PATHS)))

    def ours(rules: int) -> Lazily:
        return Lazily(partial(peers.clinfra_ruled, stage, origin.port, rules))

    def row(title: str, servers: Mapping[str, Lazily], bar: Bar) -> Row:
        contenders = [
            Contender(
                name,
                partial(check_hit, server, origin, "/hot/1k", peers.BODIES["1k"]),
                partial(_measure, server, paths, stage.cores.load),
            )
            for name, server in servers.items()
        ]
        return compare(title, contenders, plan, measure=Measure.PER_CORE, bars=[bar])

    varnish = Lazily(partial(peers.varnish_ruled, stage, origin.port, 50))
    yield row(
        f"hot cache hit of {_PATHS} paths, 50 rules, access log",
        {"clinfra proxy": ours(50), "Varnish, varnishncsa": varnish},
        Bar("Varnish, varnishncsa", 1.0),
    )
    yield row(
        f"hot cache hit of {_PATHS} paths, what rules cost",
        {"1 000 rules": ours(1000), "10 rules": ours(10)},
        Bar("10 rules", 0.5),
    )


def _measure(server: Lazily, paths: Path, core: int, seconds: float) -> Sample:
    return drive_paths(server(), paths, core=core, seconds=seconds)


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

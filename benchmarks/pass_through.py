"""Pass-through of an uncacheable 1 KB answer at 64 keep-alive connections.

The origin is nginx on the load generator's core.  Bars: ≥ 2 x Varnish's pass,
≥ 0.5 x nginx's, ≥ 5 x an unmodified ReverseProxyResource.  They are for the one page
that everybody wants; a second row has so many that hardly any head comes twice soon.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from attrs import evolve

from benchmarks import peers
from benchmarks.figures import Bar, Measure, Row, Sample
from benchmarks.hot import CONNECTIONS, check_pass, measure
from benchmarks.rounds import Contender, Plan, compare
from benchmarks.rules import drive_paths, write_paths
from benchmarks.servers import Lazily, Stage

_PATH = "/pass/1k"
_PATHS = 50_000


def run(stage: Stage, plan: Plan) -> Iterator[Row]:
    """Yield the two rows."""
    origin = peers.origin(stage)
    servers = {
        "clinfra proxy": Lazily(partial(peers.clinfra_proxy, stage, origin.port)),
        "Varnish pass": Lazily(partial(peers.varnish, stage, origin.port)),
        "nginx proxy_pass": Lazily(partial(peers.nginx_front, stage, origin.port)),
        "ReverseProxyResource": Lazily(partial(peers.plain_site, stage, origin.port)),
    }
    contenders = [
        Contender(
            name,
            partial(check_pass, server, origin, _PATH, peers.BODIES["1k"]),
            partial(measure, server, _PATH, stage.cores.load),
        )
        for name, server in servers.items()
    ]
    yield compare(
        f"pass-through, 1KB, {CONNECTIONS} connections",
        contenders,
        plan,
        measure=Measure.PER_CORE,
        bars=[
            Bar("Varnish pass", 2.0),
            Bar("nginx proxy_pass", 0.5),
            Bar("ReverseProxyResource", 5.0),
        ],
    )
    paths = write_paths(stage, _PATH, _PATHS)

    def measure_many(server: Lazily, seconds: float) -> Sample:
        return drive_paths(server(), paths, core=stage.cores.load, seconds=seconds)

    yield compare(
        f"pass-through of {_PATHS} paths, 1KB, {CONNECTIONS} connections",
        [
            evolve(each, measure=partial(measure_many, servers[each.name]))
            for each in contenders
        ],
        plan,
        measure=Measure.PER_CORE,
    )

"""Pass-through of an uncacheable 1 KB answer at 64 keep-alive connections.

The origin is nginx on the load generator's core.  Bars: ≥ 2 x Varnish's pass,
≥ 0.5 x nginx's, ≥ 5 x an unmodified ReverseProxyResource.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from benchmarks import peers
from benchmarks.figures import Bar, Measure, Row
from benchmarks.hot import CONNECTIONS, check_pass, measure
from benchmarks.rounds import Contender, Plan, compare
from benchmarks.servers import Lazily, Stage

_PATH = "/pass/1k"


def run(stage: Stage, plan: Plan) -> Iterator[Row]:
    """Yield the one row."""
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

"""Run comparisons, print their table, keep the figures as JSON, a page and a plot.

    python -m benchmarks [hot] [rules] [pass] [memcached] [crowds] [workers]
                         [observed] [blob] [readers] [cluster]
                         [image | image-sizes | image-http | image-formats ...]
                         [--rounds N] [--seconds S] [--blobs N] [--draw FILE.json]

"image" is everything that begins with it; without a name it is everything else.

The exit status is 0 when every bar holds, 1 when one is missed, 2 when nothing could be
measured at all.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import cattrs

from benchmarks import (
    blob,
    cluster,
    crowds,
    hot,
    image_formats,
    image_http,
    image_memory,
    image_sizes,
    image_workers,
    memcached_hits,
    needs,
    observed,
    pass_through,
    readers,
    rules,
    workers,
)
from benchmarks.figures import BenchmarkFailed, Reading, Row
from benchmarks.page import page
from benchmarks.plot import plot
from benchmarks.rounds import Plan
from benchmarks.servers import Cores, Stage
from benchmarks.table import format_reading, format_row, format_summary

RESULTS = Path(__file__).with_name("results")

COMPARISONS: Mapping[str, Callable[[Stage, Plan], Iterator[Row | Reading]]] = {
    "hot": hot.run,
    "rules": rules.run,
    "pass": pass_through.run,
    "memcached": memcached_hits.run,
    "crowds": crowds.run,
    "workers": workers.run,
    "observed": observed.run,
    "blob": blob.run,
    "readers": readers.run,
    "cluster": cluster.run,
    "image-sizes": image_sizes.run,
    "image-formats": image_formats.run,
    "image-http": image_http.run,
    "image-workers": image_workers.run,
    "image-memory": image_memory.run,
}
_PROGRAMS = {
    "hot": ("nginx", "varnishd", "wrk"),
    "rules": ("nginx", "varnishd", "wrk"),
    "pass": ("nginx", "varnishd", "wrk"),
    "memcached": ("nginx", "memcached", "wrk"),
    "crowds": ("nginx", "memcached"),
    "workers": ("nginx", "wrk"),
    "observed": ("nginx", "wrk"),
    "blob": ("nginx", "wrk"),
    "cluster": ("wrk",),
}


def main(argv: Sequence[str]) -> int:
    """Do what the command line asks; return the exit status."""
    options = _parser().parse_args(argv)
    if options.draw is not None:
        _draw(options.draw)
        return 0
    names = _chosen(options.comparison)
    plan = Plan(options.rounds, options.seconds, options.blobs)
    rows: list[Row | Reading] = []
    try:
        _install(names)
        cores = Cores.choose()
        for name in names:
            with Stage(RESULTS / "work" / name, cores) as stage:
                for row in COMPARISONS[name](stage, plan):
                    print(_format(row), end="\n\n", flush=True)
                    rows.append(row)
    except BenchmarkFailed as failure:
        print(f"benchmarks: {failure}", file=sys.stderr)
        return 2
    print(format_summary(rows))
    _save(rows, plan, options.json)
    return 1 if any(row.missed() for row in rows) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure clinfra and its peers side by side on two cores.",
    )
    parser.add_argument(
        "comparison",
        nargs="*",
        help=f"which: {', '.join(COMPARISONS)}; image is all of it (all but image)",
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="turns of every contender (3)"
    )
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="length of a turn (4)"
    )
    parser.add_argument(
        "--blobs",
        type=int,
        default=200_000,
        help="in the stores of the cluster (200000)",
    )
    parser.add_argument(
        "--json", type=Path, help="where the figures go (benchmarks/results/TIME.json)"
    )
    parser.add_argument(
        "--draw", metavar="FILE", type=Path, help="only draw figures kept before"
    )
    return parser


def _chosen(words: Sequence[str]) -> list[str]:
    """Return the names of the comparisons that the words mean."""
    images = [name for name in COMPARISONS if name.startswith("image-")]
    if not words:
        return [name for name in COMPARISONS if name not in images]
    return [name for word in words for name in (images if word == "image" else [word])]


def _install(names: Sequence[str]) -> None:
    unknown = [name for name in names if name not in COMPARISONS]
    if unknown:
        raise BenchmarkFailed(f"no comparison is called {', '.join(unknown)}")
    wanted = {program for name in names for program in _PROGRAMS.get(name, ())}
    needs.programs("taskset", "setpriv", *sorted(wanted))


def _format(row: Row | Reading) -> str:
    return format_row(row) if isinstance(row, Row) else format_reading(row)


def _told(row: Row | Reading) -> dict[str, object]:
    if isinstance(row, Reading):
        return attrs.asdict(row)
    ratios = {result.name: row.ratio(result.name) for result in row.results[1:]}
    return {**attrs.asdict(row), "measure": row.measure.value, "ratios": ratios}


def _save(rows: Sequence[Row | Reading], plan: Plan, path: Path | None) -> None:
    """Write every sample, with what is needed to judge it later."""
    path = path or RESULTS / time.strftime("%Y%m%d-%H%M%S.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "plan": attrs.asdict(plan),
        "rows": [_told(row) for row in rows],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    print(f"figures in {path}")
    _draw(path)


def _draw(path: Path) -> None:
    """Write the page and the plot of figures beside them."""
    document = json.loads(path.read_text())
    rows: list[Row | Reading] = []
    for each in document["rows"]:
        if "results" in each:
            rows.append(cattrs.structure(each, Row))
        else:
            rows.append(cattrs.structure(each, Reading))
    drawing, text = path.with_suffix(".svg"), path.with_suffix(".rst")
    drawing.write_text(plot([row for row in rows if isinstance(row, Row)]))
    plan = ", ".join(f"{name} {value}" for name, value in document["plan"].items())
    about = (
        document["time"],
        f"{document['machine']}, Python {document['python']}",
        f"plan: {plan}",
    )
    text.write_text(page(rows, about, drawing.name))
    print(f"table in {text}, plot in {drawing}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

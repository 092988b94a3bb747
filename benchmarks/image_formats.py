"""Formats in and out, clinfra's codec beside libvips, per core, without HTTP.

A photograph of 3 megapixels becomes one of 600x450, both encoders having been asked for
the same effort and about the same bytes.  Bars: ≥ 0.9 x libvips for WebP and AVIF,
≥ 0.6 x for PNG.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import attrs

from benchmarks import alone, converters, image_peers, needs, photographs
from benchmarks.alone import Way
from benchmarks.figures import Bar, Measure, Row
from benchmarks.rounds import Plan, compare
from benchmarks.servers import Stage
from clinfra.image import child

_BARS = {
    ("jpeg", "webp"): 0.9,
    ("webp", "jpeg"): 0.9,
    ("webp", "webp"): 0.9,
    ("jpeg", "avif"): 0.9,
    ("avif", "jpeg"): 0.9,
    ("avif", "avif"): 0.9,
    ("jpeg", "png"): 0.6,
    ("png", "jpeg"): 0.6,
    ("png", "png"): 0.6,
}
_NAMES = {"clinfra": "clinfra's codec", "vips": "libvips"}
_SIZE = (600, 450)


def run(stage: Stage, plan: Plan) -> Iterator[Row]:
    """Yield a row for each pair of formats."""
    needs.python_package("pyvips")
    # Pictures are small and turns are steady: shorter ones are long enough.
    plan = attrs.evolve(plan, seconds=plan.seconds / 4)
    root = image_peers.root(stage)
    for (source, result), least in _BARS.items():
        pictures = photographs.small(root, source)
        ways = [_way(stage, way, pictures, result) for way in _NAMES]
        row = compare(
            f"image, {source} of 3 MP → {converters.NAME} {result}",
            [way.contender(stage) for way in ways],
            plan,
            measure=Measure.PER_CORE,
            bars=[Bar(_NAMES["vips"], least)],
        )
        trouble = any(each.trouble for each in row.results)
        yield row if trouble else attrs.evolve(row, note=_looks(root, ways))


def _way(stage: Stage, way: str, pictures: Path, result: str) -> Way:
    argv = [sys.executable, "-m", "benchmarks.converters", way, result]
    results = stage.directory / f"{way}-{pictures.name}-{result}"
    expected = {converters.NAME: _SIZE}
    prepare = child.environment if way == "clinfra" else dict
    return Way(_NAMES[way], argv, pictures, results, expected, prepare)


def _looks(root: Path, ways: list[Way]) -> str:
    wanted = {
        path.stem: photographs.reference(path, _SIZE)
        for path in sorted(photographs.small(root, "png").iterdir())
    }
    looks = [(way.name, alone.look(way.made(converters.NAME), wanted)) for way in ways]
    return "\n  ".join(f"{name}: {each}" for name, each in looks)

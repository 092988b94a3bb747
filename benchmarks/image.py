"""Three classic sizes from a 12-megapixel JPEG, per core, without HTTP.

Bars: ≥ 2 x opening the file anew for each size, ≥ 1.0 x libvips, whichever of its two
ways is better.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import photograph, resizers
from benchmarks.figures import Bar, BenchmarkFailed, Measure, Row, Sample
from benchmarks.rounds import Contender, Plan, compare
from benchmarks.servers import REPOSITORY, Stage, pinned

_EXPECTED = {"50x50c": [50, 50], "300x300": [300, 225], "600x450": [600, 450]}
_PATIENCE_SECONDS = 60.0
_NAMES = {
    "clinfra": "clinfra's codec",
    "reopening": "Pillow, reopened per size",
    "vips-each": "libvips, a thumbnail per size",
    "vips-chained": "libvips, chained",
}


def run(stage: Stage, plan: Plan) -> Iterator[Row]:
    """Yield the one row."""
    path = stage.directory / "photograph.jpg"
    if not path.exists():
        photograph.make(path)
    contenders = [
        Contender(
            name,
            partial(_check, way, path, stage.cores.server),
            partial(_measure, way, path, stage.cores.server),
        )
        for way, name in _NAMES.items()
    ]
    megabytes = path.stat().st_size / 1e6
    yield compare(
        f"image, {resizers.SIZES} from 12 MP",
        contenders,
        plan,
        measure=Measure.PER_CORE,
        bars=[
            Bar(_NAMES["reopening"], 2.0),
            Bar(_NAMES["vips-each"], 1.0),
            Bar(_NAMES["vips-chained"], 1.0),
        ],
        note=f"the JPEG has {megabytes:.1f} MB",
    )


def _check(way: str, path: Path, core: int) -> None:
    """The results have the right dimensions."""
    sizes = _run(way, path, core, 0.0)["sizes"]
    if sizes != _EXPECTED:
        raise BenchmarkFailed(f"{_NAMES[way]} made {sizes}")


def _measure(way: str, path: Path, core: int, seconds: float) -> Sample:
    figures = _run(way, path, core, seconds)
    return Sample(
        rate=figures["images"] / figures["wall_seconds"],
        per_core=figures["images"] / figures["cpu_seconds"],
    )


def _run(way: str, path: Path, core: int, seconds: float) -> dict[str, Any]:
    """Run one way in a process of its own; return what it printed."""
    argv = [sys.executable, "-m", "benchmarks.resizers", way, str(path), str(seconds)]
    try:
        run = subprocess.run(
            pinned(core, argv),
            cwd=REPOSITORY,
            env={**os.environ, "VIPS_CONCURRENCY": "1"},
            capture_output=True,
            text=True,
            timeout=seconds + _PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as stuck:
        raise BenchmarkFailed(f"{_NAMES[way]} hung") from stuck
    if run.returncode:
        last_line = run.stderr.strip().rpartition("\n")[2]
        raise BenchmarkFailed(f"{_NAMES[way]} failed: {last_line}")
    figures: dict[str, Any] = json.loads(run.stdout)
    return figures

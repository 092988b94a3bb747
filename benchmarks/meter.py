"""The loop of the programs that are measured alone: pictures in, CPU seconds out.

Pictures cost more or less, so every turn takes all of them equally often.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from resource import RUSAGE_CHILDREN, RUSAGE_SELF, getrusage

Renditions = Mapping[str, bytes]
"""Encoded pictures by the names of their sizes."""


def run(
    make: Callable[[bytes], Renditions], pictures: Path, results: Path, seconds: float
) -> None:
    """Repeat one way for so long, after once to warm up, and print a line of JSON.

    It has the pictures taken, CPU seconds of this process and its children, and wall
    seconds.

    Args:
        pictures: directory of what is read.
        results: directory that gets what was made, as PICTURE@NAME.
    """
    paths = sorted(pictures.iterdir())
    bodies = [path.read_bytes() for path in paths]
    for path, body in zip(paths, bodies, strict=True):
        for name, made in make(body).items():
            (results / f"{path.stem}@{name}").write_bytes(made)
    count = 0
    wall, cpu = time.perf_counter(), _cpu_seconds()
    while time.perf_counter() - wall < seconds:
        for body in bodies:
            make(body)
        count += len(bodies)
    figures = {
        "images": count,
        "cpu_seconds": _cpu_seconds() - cpu,
        "wall_seconds": time.perf_counter() - wall,
    }
    print(json.dumps(figures))


def _cpu_seconds() -> float:
    own, children = getrusage(RUSAGE_SELF), getrusage(RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime

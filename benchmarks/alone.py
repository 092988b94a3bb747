"""Programs that make pictures without HTTP, each measured alone on one core.

What they are told and what they print is said in `meter`.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from attrs import frozen
from PIL import Image

from benchmarks.figures import BenchmarkFailed, Sample
from benchmarks.rounds import Contender
from benchmarks.servers import REPOSITORY, Stage, pinned
from tests.image.looks import ssim

_PATIENCE_SECONDS = 60.0


@frozen
class Way:
    """One way to make pictures.

    Attributes:
        name: in the table.
        argv: the program and the words before the pictures.
        pictures: directory of what it reads.
        results: directory of what it made, as PICTURE@NAME.
        expected: width and height of what it makes, by the name of the size.
        prepare: installs it and returns further environment variables.  Raises
            BenchmarkFailed.
    """

    name: str
    argv: Sequence[str]
    pictures: Path
    results: Path
    expected: Mapping[str, tuple[int, int]]
    prepare: Callable[[], Mapping[str, str]] = dict

    def contender(self, stage: Stage) -> Contender:
        """Return it as something to compare, on the server's core."""
        core = stage.cores.server
        return Contender(
            self.name, partial(self._check, core), partial(self._measure, core)
        )

    def made(self, size: str) -> Mapping[str, Path]:
        """Return the results of one size, by the stem of the picture."""
        stems = [path.stem for path in sorted(self.pictures.iterdir())]
        return {stem: self.results / f"{stem}@{size}" for stem in stems}

    def _check(self, core: int) -> None:
        """All results are there, of the right dimensions."""
        self.results.mkdir(parents=True, exist_ok=True)
        self._run(core, 0.0)
        for size, dimensions in self.expected.items():
            for path in self.made(size).values():
                with Image.open(path) as picture:
                    picture.load()
                    if picture.size != dimensions:
                        raise BenchmarkFailed(f"{path.name} is {picture.size}")

    def _measure(self, core: int, seconds: float) -> Sample:
        figures = self._run(core, seconds)
        return Sample(
            rate=figures["images"] / figures["wall_seconds"],
            per_core=figures["images"] / figures["cpu_seconds"],
        )

    def _run(self, core: int, seconds: float) -> dict[str, Any]:
        """Run it in a process of its own; return what it printed."""
        argv = [*self.argv, str(self.pictures), str(self.results), str(seconds)]
        environment = {**os.environ, "VIPS_CONCURRENCY": "1", **self.prepare()}
        try:
            run = subprocess.run(
                pinned(core, argv),
                cwd=REPOSITORY,
                env=environment,
                capture_output=True,
                text=True,
                timeout=seconds + _PATIENCE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as stuck:
            raise BenchmarkFailed(f"{self.name} hung") from stuck
        if run.returncode:
            last_line = run.stderr.strip().rpartition("\n")[2]
            raise BenchmarkFailed(f"{self.name} failed: {last_line}")
        figures: dict[str, Any] = json.loads(run.stdout)
        return figures


@frozen
class Look:
    """How good and how large what was made is, on average.

    Attributes:
        ssim: structural similarity to what was wanted, at most 1.
        kilobytes: of the encoded pictures.
    """

    ssim: float
    kilobytes: float

    def __str__(self) -> str:
        return f"SSIM {self.ssim:.4f}, {self.kilobytes:.1f} kB"


def look(made: Mapping[str, Path], wanted: Mapping[str, Image.Image]) -> Look:
    """Compare pictures with what they should look like, by the same names."""
    scores = []
    for name, path in made.items():
        with Image.open(path) as picture:
            scores.append(ssim(wanted[name], picture.convert("RGB")))
    total = sum(path.stat().st_size for path in made.values())
    return Look(sum(scores) / len(scores), total / len(made) / 1000)

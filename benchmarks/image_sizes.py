"""Three classic sizes from 12-megapixel photographs, per core, without HTTP.

Bars: ≥ 2.5 x opening the file anew for each size, as the original did; ≥ 1.3 x libvips
and sharp, in each of their ways.  And the largest size is as good as one that all of
the photograph was decoded for, resampled by Lanczos's filter and encoded at the same
quality: structural similarity within 0.002.
"""

from __future__ import annotations

import io
import statistics
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks import alone, image_peers, needs, photographs, resizers
from benchmarks.alone import Way
from benchmarks.figures import Bar, BenchmarkFailed, Measure, Reading, Row
from benchmarks.rounds import Plan, compare
from benchmarks.servers import Stage
from clinfra.image import child
from tests.image.looks import ssim

_EXPECTED = {"50x50c": (50, 50), "300x300": (300, 225), "600x450": (600, 450)}
_LARGEST = "600x450"
_UNIT = "thousandths"
_MOST_LOST = 2.0
_OURS = "clinfra"
_NAMES = {
    _OURS: "clinfra's codec",
    "clinfra-upload": "the same, info made too",
    "reopening": "Pillow, reopened per size",
    "vips-each": "libvips, a thumbnail per size",
    "vips-chained": "libvips, chained",
    "sharp-each": "sharp, a pipeline per size",
    "sharp-chained": "sharp, chained",
}
_BARS = (
    Bar(_NAMES["reopening"], 2.5),
    *(Bar(_NAMES[way], 1.3) for way in _NAMES if way.startswith(("vips", "sharp"))),
)


def run(stage: Stage, plan: Plan) -> Iterator[Row | Reading]:
    """Yield the row of speed, then the reading of quality."""
    pictures = photographs.large(image_peers.root(stage))
    ways = {way: _way(stage, way, pictures) for way in _NAMES}
    megabytes = statistics.mean(path.stat().st_size for path in pictures.iterdir())
    row = compare(
        f"image, {resizers.SIZES} from 12 MP",
        [way.contender(stage) for way in ways.values()],
        plan,
        measure=Measure.PER_CORE,
        bars=_BARS,
        note=f"JPEGs of {megabytes / 1e6:.1f} MB, quality {resizers.QUALITY} out",
    )
    yield row
    measured = {result.name for result in row.results if result.samples}
    yield _quality(pictures, [way for way in ways.values() if way.name in measured])


def _way(stage: Stage, way: str, pictures: Path) -> Way:
    results = stage.directory / way
    make = partial(Way, _NAMES[way])
    if way.startswith("sharp"):
        argv = ["node", str(Path(__file__).with_name("sharp_ways.js")), way]
        return make(argv, pictures, results, _EXPECTED, partial(_with_sharp, stage))
    argv = [sys.executable, "-m", "benchmarks.resizers", way]
    if way.startswith(_OURS):
        return make(argv, pictures, results, _EXPECTED, child.environment)
    prepare = _with_pyvips if way.startswith("vips") else dict
    return make(argv, pictures, results, _EXPECTED, prepare)


def _with_pyvips() -> Mapping[str, str]:
    needs.python_package("pyvips")
    return {}


def _with_sharp(stage: Stage) -> Mapping[str, str]:
    return {"NODE_PATH": str(image_peers.node_modules(stage))}


def _quality(pictures: Path, ways: list[Way]) -> Reading:
    """Compare the largest size of every way with what could be had at best."""
    title = f"image, SSIM that {_LARGEST} lost to a full decode and Lanczos"
    wanted = {
        path.stem: photographs.reference(path, _EXPECTED[_LARGEST])
        for path in sorted(pictures.iterdir())
    }
    best = statistics.mean(ssim(each, _encoded(each)) for each in wanted.values())
    looks = {way.name: alone.look(way.made(_LARGEST), wanted) for way in ways}
    if _NAMES[_OURS] not in looks:
        return Reading(title, _UNIT, (), trouble="there is nothing to look at")
    lines = [f"best possible at this quality: SSIM {best:.4f}"]
    lines += [f"{name}: {each}" for name, each in looks.items()]
    lines.append(f"ours before it is encoded: SSIM {_unencoded(pictures, wanted):.4f}")
    lost = 1000 * (best - looks[_NAMES[_OURS]].ssim)
    note = "\n  ".join(lines)
    return Reading(title, _UNIT, (lost,), at_most=_MOST_LOST, note=note)


def _encoded(picture: Image.Image) -> Image.Image:
    memory = io.BytesIO()
    picture.save(memory, "JPEG", quality=resizers.QUALITY)
    return Image.open(memory).convert("RGB")


def _unencoded(pictures: Path, wanted: Mapping[str, Image.Image]) -> float:
    scores = []
    for path in pictures.iterdir():
        try:
            made = Image.open(io.BytesIO(resizers.unencoded(path.read_bytes())))
        except Exception as error:
            raise BenchmarkFailed(f"clinfra's codec failed: {error!r}") from error
        scores.append(ssim(wanted[path.stem], made.convert("RGB")))
    return statistics.mean(scores)

"""One picture of 600x450 of a 12-megapixel photograph, over HTTP, per core.

Ours is asked in three ways: a PUT of the photograph that is answered with the picture;
a GET on demand, made of the original, which is what the peers do; and a GET on demand
made of the mezzanine that is kept beside the original.  One worker, one core for
everything of a server.

Bars: the first two ≥ 1.2 x thumbor and ipx, the last ≥ 5 x thumbor.

Nobody answers from a cache: every request on demand asks for something that was not
asked for before, a frame that is 600 wide and higher and higher, so that the result is
always the same.  Ours keeps what it made, as a store should; the peers keep nothing.
"""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import attrs
from attrs import define, field
from PIL import Image

from benchmarks import asking, image_peers, load, photographs
from benchmarks.asking import Request
from benchmarks.figures import Bar, BenchmarkFailed, Measure, Row, Sample
from benchmarks.rounds import Contender, Plan, compare
from benchmarks.servers import Lazily, Server, Stage
from clinfra.image.signing import Keys

CONNECTIONS = 4

_SIZE = (600, 450)
_UPLOADED = "clinfra, a PUT and its answer"
_ORIGINAL = "clinfra, from the original"
_MEZZANINE = "clinfra, from the mezzanine"
_THUMBOR, _IPX = "thumbor", "ipx"
_PEERS = (Bar(_THUMBOR, 1.2), Bar(_IPX, 1.2))
_PUT = f"/?sizes=600x450&response=600x450&save=false&quality={image_peers.QUALITY}"

# So small that everything is made of the original.
NO_MEZZANINE = 'mezzanine = "16x16"'


def run(stage: Stage, plan: Plan) -> Iterator[Row]:
    """Yield a row for each of our ways, of one run."""
    pictures = photographs.large(image_peers.root(stage))
    from_original = Lazily(
        partial(image_peers.clinfra, stage, "originals", workers=1, more=NO_MEZZANINE)
    )
    from_mezzanine = Lazily(
        partial(image_peers.clinfra, stage, "mezzanines", workers=1)
    )
    thumbor = Lazily(partial(image_peers.thumbor, stage, pictures))
    ipx = Lazily(partial(image_peers.ipx, stage, pictures))
    contenders = [
        Asked(_UPLOADED, from_original, partial(_put, pictures)),
        Asked(_ORIGINAL, from_original, partial(on_demand, pictures, from_original)),
        Asked(_MEZZANINE, from_mezzanine, partial(on_demand, pictures, from_mezzanine)),
        Asked(_THUMBOR, thumbor, partial(_thumbor, pictures)),
        Asked(_IPX, ipx, partial(_ipx, pictures)),
    ]
    row = compare(
        "",
        [each.contender(stage) for each in contenders],
        plan,
        measure=Measure.PER_CORE,
    )
    yield _part(row, "image, 600x450 of an upload of 12 MP", _UPLOADED, _PEERS)
    yield _part(row, "image, 600x450 on demand of 12 MP", _ORIGINAL, _PEERS)
    faster = [Bar(_THUMBOR, 5.0)]
    title = "image, 600x450 on demand, kept mezzanine"
    yield _part(row, title, _MEZZANINE, faster)


def _part(row: Row, title: str, ours: str, bars: Sequence[Bar]) -> Row:
    """Return one of our ways beside the peers."""
    chosen = {ours, _THUMBOR, _IPX}
    results = tuple(each for each in row.results if each.name in chosen)
    note = f"{CONNECTIONS} connections; the peers' figures are of the same run"
    return attrs.evolve(row, title=title, results=results, bars=tuple(bars), note=note)


@define(eq=False)
class Asked:
    """A server, and how it is asked for pictures.

    Args:
        ready: does what is needed once, and returns how to ask for the photograph of
            a number, inside a frame of that height.
    """

    _name: str
    _server: Lazily
    _ready: Callable[[], Callable[[int, int], Request]]
    _request: Callable[[int, int], Request] = field(init=False)
    _heights: Iterator[int] = field(
        init=False, factory=lambda: itertools.count(_SIZE[1])
    )

    def contender(self, stage: Stage) -> Contender:
        """Return it as something to compare."""
        return Contender(
            self._name, self._check, partial(self._measure, stage.cores.load)
        )

    def _check(self) -> None:
        """It answers with a JPEG of the right size."""
        server = self._server()
        self._request = self._ready()
        asked = self._request(0, next(self._heights))
        answer = load.ask(server, asked.method, asked.target, asked.body)
        if answer.status != 200:
            raise BenchmarkFailed(
                f"{self._name} answered {asked.target[:80]} with {answer.status}: "
                f"{answer.body[:80].decode(errors='replace')!r}"
            )
        with Image.open(io.BytesIO(answer.body)) as picture:
            if picture.format != "JPEG" or picture.size != _SIZE:
                raise BenchmarkFailed(f"{self._name} made {picture!r}")

    def _measure(self, core: int, seconds: float) -> Sample:
        return asking.drive(
            self._server(),
            lambda number: self._request(number, next(self._heights)),
            core=core,
            connections=CONNECTIONS,
            seconds=seconds,
            step=len(photographs.NAMES),
        )


def _put(pictures: Path) -> Callable[[int, int], Request]:
    bodies = [path.read_bytes() for path in sorted(pictures.iterdir())]
    return lambda number, height: Request("PUT", _PUT, bodies[number % len(bodies)])


def on_demand(
    pictures: Path, server: Callable[[], Server]
) -> Callable[[int, int], Request]:
    """Keep the photographs there; return how to ask for a rendition of one of them."""
    names = [keep(server(), path) for path in sorted(pictures.iterdir())]
    keys = Keys.of([image_peers.KEY])

    def request(number: int, height: int) -> Request:
        recipe = f"{_SIZE[0]}x{height}_q-{image_peers.QUALITY}"
        path = f"/{names[number % len(names)]}/{recipe}"
        return Request("GET", keys.sign(path.encode()).decode())

    return request


def keep(server: Server, photograph: Path) -> str:
    """Put a photograph that is kept; return its name."""
    target = "/?sizes=50x50c&response=info&keep=true"
    answer = load.ask(server, "PUT", target, photograph.read_bytes())
    if answer.status != 200:
        raise BenchmarkFailed(
            f"{server.name} answered a PUT with {answer.status}: "
            f"{answer.body[:80].decode(errors='replace')!r}"
        )
    info = json.loads(answer.body)
    if not info.get("kept"):
        raise BenchmarkFailed(f"{server.name} does not keep originals")
    return str(info["blob_info_name"]).removesuffix(".json")


def _thumbor(pictures: Path) -> Callable[[int, int], Request]:
    names = [path.name for path in sorted(pictures.iterdir())]
    return lambda number, height: Request(
        "GET", f"/unsafe/fit-in/{_SIZE[0]}x{height}/{names[number % len(names)]}"
    )


def _ipx(pictures: Path) -> Callable[[int, int], Request]:
    names = [path.name for path in sorted(pictures.iterdir())]
    options = f"q_{image_peers.QUALITY},f_jpeg,fit_inside,s_{_SIZE[0]}"
    return lambda number, height: Request(
        "GET", f"/{options}x{height}/{names[number % len(names)]}"
    )

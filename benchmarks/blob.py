"""The blob store: random GETs of 16 KB, and durable PUTs of 16 KB.

Bars: GET ≥ 0.3 x nginx serving the same blobs as files; PUT at 32 connections ≥ 5 x a
store of one synced file per blob on the same disk, by wall time, since waiting for the
disk is what is compared.  That store (`file_store`) writes a blob at a time.  It is
measured once more with as many threads as serve it best, so that the file system merges
their syncs.  That is shown without a bar: where the disk syncs fast, our PUT waits for
its one core and not for the disk, and such a store comes nearer than a fifth.

Files are never deleted between runs: for minutes after many deletions ext4 is ten times
slower at creating files, which would be held against the peer.  They are truncated
instead, and the cost of creating one is measured first and printed.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from random import Random

from attrs import define, field

from benchmarks import load, peers
from benchmarks.figures import Bar, BenchmarkFailed, Measure, Row, Sample
from benchmarks.rounds import Contender, Plan, compare
from benchmarks.servers import Lazily, Stage

_BLOB_BYTES = 16384
_BLOBS = 10_000
_FOLDERS = 100
_GET_CONNECTIONS = 64
_PUT_CONNECTIONS = 32
_ONE_AT_A_TIME = "synced files, one at a time"
_FILE_STORES = {_ONE_AT_A_TIME: 1, "synced files, 8 threads": 8}
_FILLER = Random(16).randbytes(_BLOB_BYTES)


def run(stage: Stage, plan: Plan) -> Iterator[Row]:
    """Yield the row of GET, then the row of PUT."""
    clinfra = Lazily(partial(peers.clinfra_blob, stage))
    files = stage.directory / "static"
    nginx = Lazily(partial(peers.nginx_static, stage, files))
    readers = [
        Reader("clinfra blob", clinfra, stage, partial(_fill_store, clinfra)),
        Reader("nginx static", nginx, stage, partial(_fill_files, files)),
    ]
    yield compare(
        f"blob GET, 16KB, {_BLOBS} blobs at random, {_GET_CONNECTIONS} connections",
        [reader.contender() for reader in readers],
        plan,
        measure=Measure.PER_CORE,
        bars=[Bar("nginx static", 0.3)],
    )
    creating = _creation_microseconds(stage.directory / "created")
    synced = stage.directory / "file-store"
    synced.mkdir(exist_ok=True)
    writers = [
        Writer("clinfra blob", clinfra, stage),
        *(
            Writer(name, Lazily(partial(peers.file_store, stage, synced, n)), stage)
            for name, n in _FILE_STORES.items()
        ),
    ]
    yield compare(
        f"blob PUT, durable, 16KB, {_PUT_CONNECTIONS} connections",
        [writer.contender() for writer in writers],
        plan,
        measure=Measure.RATE,
        bars=[Bar(_ONE_AT_A_TIME, 5.0)],
        note=f"creating an empty file takes {creating:.0f} µs on this disk now",
    )
    _truncate(synced)


@define(eq=False)
class Reader:
    """GETs of random blobs.

    Attributes:
        fill: stores the blobs and returns their paths, in order of their numbers.
    """

    name: str
    server: Lazily
    stage: Stage
    fill: partial[list[str]]
    paths_file: Path = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.paths_file = self.stage.directory / f"{self.server_slug()}-paths.txt"

    def server_slug(self) -> str:
        """Return the name as part of a file name."""
        return self.name.replace(" ", "-")

    def contender(self) -> Contender:
        """Return what `compare` needs."""
        return Contender(self.name, self.check, self.measure)

    def check(self) -> None:
        """Fill the store and read some blobs back."""
        paths = self.fill()
        for number in range(0, _BLOBS, _BLOBS // 50):
            load.expect(self.server(), paths[number], _blob(number))
        self.paths_file.write_text("\n".join(paths) + "\n")

    def measure(self, seconds: float) -> Sample:
        """Ask for blobs at random."""
        return load.drive(
            self.server(),
            "/",
            core=self.stage.cores.load,
            connections=_GET_CONNECTIONS,
            seconds=seconds,
            script=("paths", str(self.paths_file)),
        )


@define(eq=False)
class Writer:
    """PUTs of new blobs; what was acknowledged is read back."""

    name: str
    server: Lazily
    stage: Stage

    def contender(self) -> Contender:
        """Return what `compare` needs."""
        return Contender(self.name, self.check, self.measure)

    def check(self) -> None:
        """Store one blob and read it back."""
        name = f"check-{time.time_ns()}"
        load.expect(self.server(), self.store(name), _blob(0))

    def store(self, name: str) -> str:
        """PUT the first blob under a name; return the path it can be read from."""
        answer = load.ask(self.server(), "PUT", f"/{name}", _blob(0))
        if answer.status not in (200, 201, 204):
            raise BenchmarkFailed(f"{self.name} answered a PUT with {answer.status}")
        return f"/{_stored_name(answer.body)}" if answer.body else f"/{name}"

    def measure(self, seconds: float) -> Sample:
        """Store new blobs, then read one back."""
        prefix = f"put-{time.time_ns()}-"
        sample = load.drive(
            self.server(),
            "/",
            core=self.stage.cores.load,
            connections=_PUT_CONNECTIONS,
            seconds=seconds,
            script=("put", f"/{prefix}", str(_BLOB_BYTES)),
        )
        # One more PUT tells how this store turns a name into a path.  wrk makes the
        # first request only to look at it; the second is sent.
        path = self.store(prefix).replace(prefix, f"{prefix}2")
        load.expect(self.server(), path, b"%016d" % 2 + b"x" * (_BLOB_BYTES - 16))
        return sample


def _blob(number: int) -> bytes:
    return b"%016d" % number + _FILLER[16:]


def _stored_name(info: bytes) -> str:
    try:
        name: str = json.loads(info)["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkFailed(f"not the info of a blob: {info[:80]!r}") from error
    return name


def _fill_store(server: Lazily) -> list[str]:
    """PUT every blob; return the paths under which they can be read."""
    answers = load.put_all(server(), _BLOBS, _blob)
    return [f"/{_stored_name(answer)}" for answer in answers]


def _fill_files(root: Path) -> list[str]:
    """Write every blob as a file, unless an earlier run did, and read them once."""
    paths = [f"/{number % _FOLDERS:02d}/{number}" for number in range(_BLOBS)]
    for number in range(_FOLDERS):
        (root / f"{number:02d}").mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        file = root / path[1:]
        if not file.exists() or file.read_bytes() != _blob(number):
            file.write_bytes(_blob(number))
    return paths


def _creation_microseconds(root: Path) -> float:
    """Return what creating one empty file costs; the files stay."""
    root.mkdir(exist_ok=True)
    stamp, count = time.time_ns(), 200
    begun = time.perf_counter()
    for number in range(count):
        os.close(os.open(root / f"{stamp}-{number}", os.O_CREAT | os.O_WRONLY))
    return (time.perf_counter() - begun) / count * 1e6


def _truncate(root: Path) -> None:
    """Give the space of stored files back without deleting one."""
    for folder, _, names in os.walk(root):
        for name in names:
            os.truncate(os.path.join(folder, name), 0)

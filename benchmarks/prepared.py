"""Stores full of small blobs, made quickly by clinfra's own committer.

A store is made once for each number of blobs and kept; every run works on a copy.
"""

from __future__ import annotations

import hashlib
import shutil
import time
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from attrs import frozen

from benchmarks.figures import BenchmarkFailed
from clinfra.blob import names
from clinfra.blob.commit import Committer, Job, Plan
from clinfra.blob.datadir import DataDirectory
from clinfra.blob.index import Batch
from clinfra.blob.index_sqlite import SqliteIndex
from clinfra.blob.records import BYTES, EVERYWHERE, Data, Expiry, Row, State
from clinfra.blob.recovery import Recovery
from clinfra.blob.stamps import stamp_at
from clinfra.blob.store_volume import VolumeStore

BODY_BYTES = 100

LONG_AGO = 1_500_000_000
"""When blobs that have expired ended, unix seconds."""

_FORMAT = 3
_AT_ONCE = 1000


@frozen
class Prepared:
    """A data directory with blobs in it, to be copied.

    Attributes:
        path: as ``--data-dir`` says.
    """

    path: Path
    blobs: int
    expired: bool
    body_bytes: int = BODY_BYTES

    def copy(
        self,
        to: Path,
        *,
        replica: str,
        sent_to: tuple[str, ...] = (),
        alone: bool = False,
        sent: int | None = None,
    ) -> Path:
        """Return a fresh copy that belongs to a replica.

        Args:
            sent_to: replicas that are taken to have everything.
            alone: the replica has nobody to compare with.
            sent: or only so many of the blobs.
        """
        shutil.rmtree(to, ignore_errors=True)
        shutil.copytree(self.path, to)
        directory = DataDirectory(to / "blob", replica)
        directory.open()
        index = SqliteIndex(directory.index, by_leaf=not alone)
        index.open()
        try:
            sent = self.blobs if sent is None else sent
            cursors: Mapping[str, int] = {f"peer:{n}": sent for n in sent_to}
            index.apply(Batch(cursors=cursors))
            index.sync()
        finally:
            index.close()
            directory.close()
        return to

    def name(self, number: int) -> str:
        """Return the stored name of one blob."""
        return name_of(number, self.blobs)


def body_of(number: int, size: int = BODY_BYTES) -> bytes:
    """Return the body of the blob of that number."""
    return (b"%016d" % number).ljust(size, b".")


def name_of(number: int, blobs: int) -> str:
    """Return a stored name: rising with the number, otherwise like any digest."""
    # In order they go into the index quickly; their leaves are as random as others'.
    spread = number * (1 << 64) // blobs
    tail = hashlib.md5(b"%d" % number, usedforsecurity=False).hexdigest()[:16]
    return names.encode(f"{spread:016x}{tail}", [0])


def prepare(
    root: Path, blobs: int, *, expired: bool = False, body_bytes: int = BODY_BYTES
) -> Prepared:
    """Return a store of so many blobs, made now unless an earlier run did it."""
    kind = "expired" if expired else "living"
    if body_bytes != BODY_BYTES:
        kind += f"-{body_bytes}"
    path = root / f"{kind}-{blobs}-v{_FORMAT}"
    prepared = Prepared(path, blobs, expired, body_bytes)
    done = prepared.path / "complete"
    if not done.exists():
        shutil.rmtree(prepared.path, ignore_errors=True)
        _fill(prepared)
        done.touch()
    return prepared


def _fill(prepared: Prepared) -> None:
    directory = DataDirectory(prepared.path / "blob", "")
    directory.open()
    index = SqliteIndex(directory.index)
    store = VolumeStore(directory.store, volume_bytes=1 << 30)
    try:
        Recovery(index, store).run()
        committer = Committer(index, store, time.time)
        committer.load()
        jobs: list[Job] = []
        for job in _jobs(prepared):
            jobs.append(job)
            if len(jobs) == _AT_ONCE:
                _commit(committer, jobs)
                jobs = []
        _commit(committer, jobs)
        index.sync()
    finally:
        index.close()
        store.close()
        directory.close()


def _commit(committer: Committer, jobs: list[Job]) -> None:
    committer.run(jobs)
    for job in jobs:
        if job.error is not None:
            raise BenchmarkFailed(f"cannot prepare a store: {job.error!r}")


def _jobs(prepared: Prepared) -> Iterator[Job]:
    began = time.time() - 86400
    deleted = LONG_AGO if prepared.expired else 0
    for number in range(prepared.blobs):
        body = body_of(number, prepared.body_bytes)
        stamp = stamp_at(began + number / 100_000)
        sha256 = hashlib.sha256(body).digest()
        data = Data(stamp, sha256, len(body), zlib.crc32(body))
        state = State(data, Expiry(stamp, deleted))
        plan = Plan(state, body, fanout=EVERYWHERE | BYTES)
        yield Job(prepared.name(number), partial(_as_planned, plan))


def _as_planned(plan: Plan, row: Row | None) -> Plan:
    return plan

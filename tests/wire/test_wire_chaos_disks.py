"""Clusters of real processes whose disks fill up, and whose disks change bytes."""

from __future__ import annotations

import os
import random
import threading
from contextlib import ExitStack

import pytest

from tests.support import wait_until
from tests.wire.chaos import Cluster, Load, SmallDisk, files_of

MEGABYTE = 1 << 20

RESERVE_BYTES = 14 * MEGABYTE
"""Of the full disk: deletes and the index's log need some."""

VICTIM = "001"

MOST_OPEN = 200
"""Files whose bytes are flipped."""


def test_full_disk() -> None:
    """A replica whose disk is full costs nobody anything; with space it catches up.

    It refuses what it would have to keep itself; deletes and purges work there, and
    make the space.
    """
    with ExitStack() as stack:
        disk = SmallDisk(stack, 40)
        cluster = Cluster(
            stack,
            disks={VICTIM: disk},
            min_free_bytes=RESERVE_BYTES,
            volume_bytes=MEGABYTE,
            expiration_delay=0,
            purge_interval=1,
        )
        filling: list[str] = []
        while True:
            target = f"/fill-{len(filling)}?replicate=replica"
            status, told, _ = cluster.ask(VICTIM, "PUT", target, bytes(400_000))
            if status != 200:
                break
            filling.append(cluster.stored(f"fill-{len(filling)}"))
        assert (status, len(filling) > 20) == (507, True), told

        load = Load(cluster, 3, full=[VICTIM])
        try:
            # As much as there will be space for: more would never get there.
            wait_until(
                lambda: load.refused_507 > 20 and load.acknowledged > 300,
                "some changes are refused, and many are not",
            )
        finally:
            load.end()
        assert load.wrong == []
        assert disk.free_bytes() < RESERVE_BYTES + MEGABYTE

        for stored in filling:
            query = "?replicate=replica"
            status, told, _ = cluster.ask(VICTIM, "DELETE", f"/{stored}{query}")
            assert status == 200, told
        wait_until(
            lambda: disk.free_bytes() > RESERVE_BYTES + 5 * MEGABYTE,
            "what was deleted is purged, and its space is free",
        )
        cluster.converge()
        load.check()


class Flipping:
    """Flips bytes in the files of a running server, many in a second.

    Only in what is there now, of which the others are to have copies.

    Attributes:
        flipped: how many.
    """

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.flipped = 0
        self._rng = random.Random(1)
        found = files_of(cluster.servers[name])
        # Open, so that it is these that change and not what takes their place.
        self._files = [
            path.open("r+b", buffering=0)
            for path in self._rng.sample(found, min(MOST_OPEN, len(found)))
        ]
        self._sizes = [len(file.readall().rstrip(b"\0")) for file in self._files]
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._ending.wait(0.02):
            number = self._rng.randrange(len(self._files))
            self._flip(self._files[number].fileno(), self._sizes[number])

    def _flip(self, file: int, size: int) -> None:
        if size > 64:
            at = self._rng.randrange(64, size)
            (byte,) = os.pread(file, 1, at)
            os.pwrite(file, bytes([byte ^ 1 << self._rng.randrange(8)]), at)
            self.flipped += 1

    def end(self) -> None:
        """Leave the bytes alone."""
        self._ending.set()
        self._thread.join()
        for file in self._files:
            file.close()


def scrub(cluster: Cluster) -> None:
    """Have the server whose bytes change read all it has, from now on."""
    wait_until(
        lambda: not cluster.told(VICTIM, "/_status")["scrub"]["running"],
        "nothing is being read any more",
        timeout_seconds=45,
    )
    before = cluster.told(VICTIM, "/_status")["scrub"]["ended_at"]
    status, told, _ = cluster.ask(VICTIM, "POST", "/_scrub")
    assert (status, told) == (200, b'{"queued":true}')
    wait_until(
        lambda: cluster.told(VICTIM, "/_status")["scrub"]["ended_at"] != before,
        "everything is read",
        timeout_seconds=45,
    )


@pytest.mark.parametrize("store", ["volume", "files"])
def test_bytes_flipped(store: str) -> None:
    """Flipped bytes are never served; the scrubber finds them, peers put them right."""
    with ExitStack() as stack:
        cluster = Cluster(stack, store=store, cache_bytes=0, scrub_rate=64 * MEGABYTE)
        load = Load(cluster, 4)
        try:
            wait_until(lambda: load.acknowledged > 400, "there is something")
            with load.resting():
                cluster.converge()
                flipping = Flipping(cluster, VICTIM)
            try:
                wait_until(lambda: flipping.flipped > 40, "bytes are flipped")
            finally:
                flipping.end()
        finally:
            load.end()
        assert load.wrong == []

        for _ in range(2):
            scrub(cluster)
        found = cluster.told(VICTIM, "/_status")["scrub"]
        assert found["quarantined"] > 0
        assert found["healed"] > 0
        cluster.converge()
        load.check()
        cluster.cut_power()
        cluster.start()
        cluster.converge()
        load.check()

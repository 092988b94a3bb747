"""A full disk, and then space again: for the bytes, and for the index alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.support import wait_until
from tests.wire.test_wire_full_disk import SmallDisk, body_of, check, fill

INDEX_ONLY = (
    'mount -t tmpfs -o size=4m tmpfs "$0" && mkdir -p "$0/data/blob"'
    ' && ln -s "$0.volumes" "$0/data/blob/volumes" && "$@"; "$@"'
)
"""Runs a command twice, where the index has 4 MB, and bytes have plenty."""


SAME = "/late?modified=1&modified_deleted=1"
"""What it says is known after the first time: it costs nothing to say it again."""


class SmallIndex(SmallDisk):
    """A blob store whose index has a small disk of its own."""

    def __init__(self, **blob: object) -> None:
        super().__init__(**blob)
        self.volumes = Path(f"{self.disk}.volumes")
        self.volumes.mkdir()
        self.command[self.command.index("-c") + 1] = INDEX_ONLY

    def ballast(self) -> Path:
        """Return a path on that disk, as it is seen from outside."""
        return Path(f"/proc/{self.twistd()}/root{self.disk}/ballast")

    def close(self) -> None:
        super().close()
        shutil.rmtree(self.volumes, ignore_errors=True)


def takes(process: SmallDisk, name: str, kept: set[str]) -> bool:
    """PUT; return whether it was kept."""
    if process.request("PUT", f"/{name}", body_of(name))[0] != 200:
        return False
    kept.add(name)
    return True


def test_index_full() -> None:
    """When the index cannot grow: 507, nothing lost, and on as soon as it can."""
    process = SmallIndex(min_free_bytes=0)
    with process:
        ballast = process.ballast()
        ballast.write_bytes(bytes(3_000_000))
        kept, refused = fill(process)
        assert set(refused.values()) == {507}
        check(process, kept, refused)
        # There may be some space left in the index's log.
        answers = (process.request("PUT", f"/more{n}", b"x") for n in range(1000))
        status, sentence = next(answer for answer in answers if answer[0] != 200)
        assert (status, b"Not enough space" in sentence) == (507, True), sentence

        ballast.unlink()
        # How much is free is measured once a second; from then on nothing is refused.
        wait_until(
            lambda: all(takes(process, f"later{n}", kept) for n in range(20)),
            "space for more",
        )
        os.kill(process.twistd(), signal.SIGKILL)
        wait_until(
            lambda: process.running.output.count("clinfra is ready") == 2,
            "a second start",
        )
        check(process, kept, refused)
        os.kill(process.twistd(), signal.SIGTERM)
        process.running.wait()


def test_index_reserve() -> None:
    """What is to stay free is so on the index's disk too: deletes work."""
    process = SmallIndex(min_free_bytes=1 << 20)
    with process:
        ballast = process.ballast()
        kept, _ = fill_some(process, 20)
        disk = os.statvfs(ballast.parent)
        ballast.write_bytes(bytes(disk.f_bavail * disk.f_frsize - 900_000))
        wait_until(lambda: process.request("PUT", SAME, b"x")[0] == 507, "no more PUTs")
        for name in kept:
            assert process.request("DELETE", f"/000_{name}")[0] == 200
        ballast.unlink()
        wait_until(lambda: process.request("PUT", SAME, b"x")[0] == 200, "PUTs again")


def fill_some(process: SmallDisk, count: int) -> tuple[set[str], int]:
    """PUT some blobs; return their names, and how many failed."""
    kept: set[str] = set()
    failed = sum(not takes(process, f"f{n}", kept) for n in range(count))
    return kept, failed


def purged(process: SmallDisk) -> int:
    """Return how many blobs were purged."""
    told = json.loads(process.request("GET", "/_status")[1])
    return int(told["purged"])


@pytest.mark.parametrize("store", ["volume", "files"])
def test_purge_makes_room(store: str) -> None:
    """With the reserve reached, deletes and purges work, and then PUTs do again."""
    settings: dict[str, object] = {
        "store": store,
        "expiration_delay": 0,
        "purge_interval": 1,
    }
    process = SmallDisk(min_free_bytes=6 << 20, **settings)
    with process:
        kept, refused = fill(process)
        assert set(refused.values()) == {507}
        for name in kept:
            assert process.request("DELETE", f"/000_{name}")[0] == 200, name
        wait_until(lambda: purged(process) == len(kept), "all is purged")
        if store == "files":
            # They are kept for a minute, for readers: unless there are none any more.
            os.kill(process.twistd(), signal.SIGTERM)
            wait_until(
                lambda: process.running.output.count("clinfra is ready") == 2,
                "a second start",
            )
        late: set[str] = set()
        wait_until(lambda: takes(process, "f20", late), "space again")
        check(process, late, ())

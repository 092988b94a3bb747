"""Clusters of real processes on bad days: what was acknowledged is kept, agreed on."""

from __future__ import annotations

from contextlib import ExitStack

from tests.wire.chaos import Cluster, go_through, hang, kill, restart, tear, wipe


def test_bucket_of_three() -> None:
    """One bucket: kills, hangs, a torn volume and a dead disk, then a power cut.

    What is deleted is purged at once, so that nobody remembers it for long.
    """
    with ExitStack() as stack:
        cluster = Cluster(stack, purge_interval=1, expiration_delay=2)
        days = [
            (kill, "001"),
            (hang, "002"),
            (restart, "000"),
            (tear, "002"),
            (wipe, "001"),
        ]
        go_through(cluster, 1, days)


def test_original_example() -> None:
    """The same in the original's example of two clusters of two buckets of three."""
    with ExitStack() as stack:
        days = [(kill, "011"), (hang, "100"), (restart, "112")]
        go_through(Cluster(stack, 12), 2, days)

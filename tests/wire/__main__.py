"""Put real processes through bad days.

::

    python -m tests.wire SECONDS [SEED]     a cluster of blob stores
    python -m tests.wire workers [SECONDS]  workers, reloaded and killed under load
"""

from __future__ import annotations

import random
import sys
import time
from contextlib import ExitStack

from tests.wire.chaos import Cluster, Day, go_through, hang, kill, restart, tear, wipe
from tests.wire.crews import soak

DAYS: tuple[Day, ...] = (kill, kill, hang, restart, tear, wipe)

AT_A_TIME = 10
"""Bad days before a power cut and a check."""


RELOADS = 200
KILLS = 50


def wear_out_workers(seconds: float) -> None:
    """Reload and kill workers, for about so long or until all is done."""
    began = time.monotonic()
    pause = seconds / (RELOADS + KILLS) / 2
    went = soak(RELOADS, KILLS, pause, lambda line: print(line, flush=True))
    print(f"{went} in {time.monotonic() - began:.0f} s, nothing wrong", flush=True)


def main(seconds: float, seed: int) -> None:
    """Have bad days for so long.  Raises AssertionError when a promise is broken."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rng = random.Random(seed)
        soon = seed % 2 == 1
        with ExitStack() as stack:
            cluster = Cluster(
                stack,
                rng.choice((3, 6, 12)),
                purge_interval=1 if soon else 60,
                expiration_delay=2 if soon else 86400,
            )
            names = list(cluster.servers)
            days = [(rng.choice(DAYS), rng.choice(names)) for _ in range(AT_A_TIME)]
            told = ", ".join(f"{happen.__name__} {name}" for happen, name in days)
            print(f"seed {seed}, {len(names)} processes: {told}", flush=True)
            load = go_through(cluster, seed, days)
            print(f"{load.acknowledged} changes, nothing wrong", flush=True)
        seed += 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["workers"]:
        wear_out_workers(float((sys.argv[2:] or ["0"])[0]))
    else:
        numbers = [int(argument) for argument in sys.argv[1:]]
        main(*(numbers + [600, 1][len(numbers) :]))

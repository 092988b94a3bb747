"""Run simulated clusters: ``python -m tests.sim [SEEDS [FIRST]] [--plant NAME]``.

With ``--plant`` our code is broken in some way, and it is told how long it took to be
found out; ``--plant all`` tries every way.  ``--story SEED`` tells all that happened.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
import time
from contextlib import nullcontext
from multiprocessing import get_context

from attrs import frozen
from twisted.logger import globalLogBeginner

from tests.sim.chaos import Chaos
from tests.sim.clock import Hang
from tests.sim.plants import PLANTS
from tests.sim.promises import Broken

MOST_SECONDS = 120
"""Processor time of one cluster; more is a hang."""


@frozen
class Outcome:
    """How a seed went; `story` is empty when all was well.

    Attributes:
        is_promise: it was a promise that was broken.
    """

    seed: int
    answered: int
    faults: int
    story: str = ""
    is_promise: bool = False


def _too_long(number: int, frame: object) -> None:
    raise Hang(f"it has not come to an end after {MOST_SECONDS} s of processor time")


def run(seed: int) -> Outcome:
    """Run a seed."""
    signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, MOST_SECONDS)
    chaos = Chaos(seed)
    story, is_promise = "", False
    try:
        chaos.run()
    except Exception as error:
        is_promise = isinstance(error, Broken | Hang)
        told = chaos.world.story(getattr(error, "name", ""))
        story = f"seed {seed}: {type(error).__name__}: {error}\n{told}"
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    return Outcome(
        seed,
        chaos.clients.answered,
        sum(chaos.faults.counts.values()),
        story,
        is_promise,
    )


def quiet() -> None:
    """Say nothing of what goes wrong as it should, and collect garbage seldom."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    sys.unraisablehook = lambda what: None
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)


def run_all(count: int, first: int) -> int:
    """Run so many seeds on all processors; return how many broke a promise."""
    began, answered, faults, broken = time.monotonic(), 0, 0, []
    with get_context("fork").Pool(os.cpu_count(), quiet, maxtasksperchild=500) as pool:
        for outcome in pool.imap_unordered(run, range(first, first + count), 4):
            answered += outcome.answered
            faults += outcome.faults
            if outcome.story:
                broken.append(outcome.seed)
                print(outcome.story, flush=True)
    seconds = time.monotonic() - began
    print(
        f"{count} clusters in {seconds:.0f} s: {faults} faults,"
        f" {answered} changes answered, {len(broken)} broken {sorted(broken) or ''}"
    )
    return len(broken)


def find(name: str, count: int, first: int) -> bool:
    """Plant a bug; return whether one of so many seeds finds it."""
    began = time.process_time()
    with PLANTS[name]() or nullcontext():
        for seed in range(first, first + count):
            outcome = run(seed)
            if outcome.is_promise:
                seconds = time.process_time() - began
                told = outcome.story.partition("\n")[0][:110]
                print(f"{name:22}{seed + 1 - first:5} seeds {seconds:6.1f} s  {told}")
                return True
    print(f"{name:22} not found in {count} seeds")
    return False


def main() -> int:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim")
    parser.add_argument("count", nargs="?", type=int, default=100, metavar="SEEDS")
    parser.add_argument("first", nargs="?", type=int, default=0)
    parser.add_argument("--plant", choices=[*PLANTS, "all"])
    parser.add_argument("--story", type=int, metavar="SEED")
    given = parser.parse_args()
    if given.story is not None:
        quiet()
        chaos = Chaos(given.story)
        try:
            chaos.run()
        finally:
            print(chaos.world.story())
        return 0
    if given.plant is None:
        return int(run_all(given.count, given.first) > 0)
    quiet()
    wanted = PLANTS if given.plant == "all" else [given.plant]
    return int(not all([find(name, given.count, given.first) for name in wanted]))


if __name__ == "__main__":
    sys.exit(main())

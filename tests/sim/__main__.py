"""Run simulated clusters: ``python -m tests.sim SEEDS [FIRST]``."""

from __future__ import annotations

import sys
import time

from tests.sim.chaos import Chaos


def main(count: int, first: int) -> int:
    """Run so many seeds; return how many broke a promise."""
    began, broken, answered = time.monotonic(), 0, 0
    for seed in range(first, first + count):
        chaos = Chaos(seed)
        try:
            chaos.run()
        except Exception as error:
            broken += 1
            print("\n".join(chaos.history))
            print(f"seed {seed}: {type(error).__name__}: {error}", flush=True)
        answered += chaos.answered
    seconds = time.monotonic() - began
    print(
        f"{count} clusters in {seconds:.0f} s, {answered} changes answered,"
        f" {broken} broken"
    )
    return broken


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:]]
    sys.exit(main(*(numbers + [100, 0][len(numbers) :])) > 0)

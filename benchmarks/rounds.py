"""Interleaved rounds: every contender has its turn in each, so drift hits all alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from attrs import define, frozen

from benchmarks.figures import Bar, BenchmarkFailed, Measure, Result, Row, Sample


@frozen
class Plan:
    """How long everything runs, and how much of it there is.

    Attributes:
        blobs: in the stores of the cluster's comparisons.
    """

    rounds: int
    seconds: float
    blobs: int = 200_000


@frozen
class Contender:
    """One server or program in a comparison.

    Attributes:
        check: raises BenchmarkFailed unless it gives right answers; starts it, too.
        measure: runs it for so many seconds.
    """

    name: str
    check: Callable[[], None]
    measure: Callable[[float], Sample]


@define(eq=False)
class _Running:
    contender: Contender
    samples: list[Sample]
    trouble: str = ""

    def attempt(self, action: Callable[[], None]) -> None:
        """Do something with a contender unless it has failed before."""
        if self.trouble:
            return
        try:
            action()
        except BenchmarkFailed as failure:
            self.trouble = str(failure)
            self.samples.clear()

    def sample(self, seconds: float) -> None:
        """Add one sample."""
        self.samples.append(self.contender.measure(seconds))

    def warm_up(self, seconds: float) -> None:
        """Check the answers, then take a turn whose figures are not kept."""
        self.contender.check()
        self.contender.measure(seconds)


def compare(
    title: str,
    contenders: Sequence[Contender],
    plan: Plan,
    *,
    measure: Measure,
    bars: Sequence[Bar] = (),
    note: str = "",
) -> Row:
    """Check, warm up and measure every contender, ours first, round by round."""
    running = [_Running(contender, []) for contender in contenders]
    for one in running:
        one.attempt(partial(one.warm_up, plan.seconds))
    for _ in range(plan.rounds):
        for one in running:
            one.attempt(partial(one.sample, plan.seconds))
    results = tuple(
        Result(one.contender.name, tuple(one.samples), one.trouble) for one in running
    )
    return Row(title, measure, results, tuple(bars), note)

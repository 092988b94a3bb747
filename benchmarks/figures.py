"""The values a run yields, and how they are compared.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from statistics import median

from attrs import frozen


class BenchmarkFailed(Exception):
    """A contender could not be started or answered wrongly; its figures are void."""


@frozen
class Sample:
    """One short run against one contender.

    Attributes:
        rate: units of work (requests, images) per second of wall time.
        per_core: the same per second of the server's CPU time, kernel included; on a
            machine shared with others this is the steadier figure.
        p50_ms: median latency; None where there is none.
        p99_ms: 99th percentile.
        load_cores: how much of the cores the load generator took; 0 when not known.
    """

    rate: float
    per_core: float
    p50_ms: float | None = None
    p99_ms: float | None = None
    load_cores: float = 0.0


class Measure(Enum):
    """What a row's ratios are made of."""

    PER_CORE = "per core"
    RATE = "per second"
    P99 = "by p99"

    def of(self, sample: Sample) -> float:
        """Return the figure of `sample` that counts; more is better."""
        if self is Measure.P99:
            return 1 / sample.p99_ms if sample.p99_ms else 0.0
        return sample.per_core if self is Measure.PER_CORE else sample.rate


@frozen
class Result:
    """Everything measured of one contender in one row, a sample per round.

    Attributes:
        trouble: why there are no samples; empty when there are.
    """

    name: str
    samples: tuple[Sample, ...]
    trouble: str = ""

    def typical(self) -> Sample:
        """Return the medians of the samples, each taken on its own."""
        p50s = [s.p50_ms for s in self.samples if s.p50_ms is not None]
        p99s = [s.p99_ms for s in self.samples if s.p99_ms is not None]
        return Sample(
            rate=median(s.rate for s in self.samples),
            per_core=median(s.per_core for s in self.samples),
            p50_ms=median(p50s) if p50s else None,
            p99_ms=median(p99s) if p99s else None,
            load_cores=median(s.load_cores for s in self.samples),
        )


@frozen
class Bar:
    """What the first contender of a row must reach against another one."""

    against: str
    at_least: float


@frozen
class Row:
    """One comparison: the first result is ours, the others are the peers'."""

    title: str
    measure: Measure
    results: tuple[Result, ...]
    bars: tuple[Bar, ...] = ()
    note: str = ""

    def ratio(self, name: str) -> float | None:
        """Return ours ÷ theirs, the median of the rounds; None when either failed.

        Rounds are compared one by one, so what slows the whole machine for a while
        slows both sides of a quotient.
        """
        ours = self.results[0]
        theirs = next(result for result in self.results if result.name == name)
        pairs = list(zip(ours.samples, theirs.samples, strict=False))
        if not pairs:
            return None
        return median(self.measure.of(a) / self.measure.of(b) for a, b in pairs)

    def missed(self) -> Sequence[Bar]:
        """Return the bars that do not hold, those that could not be measured too."""
        return [
            bar
            for bar in self.bars
            if (ratio := self.ratio(bar.against)) is None or ratio < bar.at_least
        ]


@frozen
class Reading:
    """A figure that is held to a bound of its own, not to a peer's.

    Attributes:
        values: one for each time it was taken; none when that failed.
        at_least, at_most: its bar; None is no bound on that side.
        trouble: why there are no values; empty when there are.
    """

    title: str
    unit: str
    values: tuple[float, ...]
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""
    trouble: str = ""

    @property
    def has_bar(self) -> bool:
        """Whether there is anything to hold; a figure that failed counts too."""
        bounds = (self.at_least, self.at_most)
        return bool(self.trouble) or any(bound is not None for bound in bounds)

    def typical(self) -> float | None:
        """Return the median; None when there are no values."""
        return median(self.values) if self.values else None

    def missed(self) -> bool:
        """Return whether a bar does not hold, or could not be measured."""
        value = self.typical()
        if not self.has_bar:
            return False
        return (
            value is None
            or (self.at_least is not None and value < self.at_least)
            or (self.at_most is not None and value > self.at_most)
        )

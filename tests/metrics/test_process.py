"""What is told of a process."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.metrics.process import BEAT_SECONDS, Pulse, Vitals


class PulseTests(SynchronousTestCase):
    """How late the reactor is."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.pulse = Pulse(self.clock, self.clock.seconds)
        self.pulse.start()

    def counts(self) -> dict[str, int]:
        buckets = self.pulse.late.report()["buckets"]
        return {name: count for name, count in buckets.items() if count}

    def test_in_time(self) -> None:
        """A reactor that has nothing to do is in time."""
        self.clock.pump([BEAT_SECONDS] * 8)

        self.assertEqual({"0.0005": 8}, self.counts())

    def test_late(self) -> None:
        """When something held it, that is seen; later calls are in time again."""
        self.clock.pump([BEAT_SECONDS, BEAT_SECONDS + 0.06, BEAT_SECONDS - 0.06])
        self.clock.pump([BEAT_SECONDS * 3.2, BEAT_SECONDS * 0.8, BEAT_SECONDS])

        self.assertEqual({"0.0005": 4, "0.1": 1, "1": 1}, self.counts())

    def test_stop(self) -> None:
        """It can be stopped, once or twice."""
        for _ in range(2):
            self.successResultOf(Deferred.fromCoroutine(self.pulse.stop()))

        self.assertEqual([], self.clock.getDelayedCalls())


class VitalsTests(SynchronousTestCase):
    """Memory, descriptors and time."""

    def test_report(self) -> None:
        """Everything is a whole number, and plausible."""
        report = Vitals(Pulse(Clock()), lambda: 7).report()

        self.assertGreater(report["resident_bytes"], 1 << 20)
        self.assertGreater(report["open_fds"], 2)
        self.assertGreaterEqual(report["max_fds"], report["open_fds"])
        self.assertGreater(report["cpu_microseconds"], 0)
        self.assertEqual(7, report["lost_lines"])

"""What is to be known of this process: memory, descriptors, how late its loop is."""

from __future__ import annotations

import gc
import os
import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

from clinfra.tally import Durations

BEAT_SECONDS = 0.25

_COUNT_SECONDS = 15.0
"""Descriptors are not counted more often: ten thousand of them take a while."""


@define(eq=False)
class Pulse:
    """Asks the reactor for a call now and then, and notes how late it was made.

    Args:
        reactor: whose lateness it is.
        seconds: returns monotonic seconds: the reactor's own clock may be set.
    """

    _reactor: IReactorTime
    _seconds: Callable[[], float] = time.monotonic
    late: Durations = field(factory=Durations)
    _beating: LoopingCall | None = field(default=None, init=False)
    _due: float = field(default=0.0, init=False)

    def start(self) -> None:
        """Begin; it goes on as long as the reactor does."""
        self._beating = beating = LoopingCall(self._beat)
        beating.clock = self._reactor
        self._due = self._seconds() + BEAT_SECONDS
        beating.start(BEAT_SECONDS, now=False)

    async def stop(self) -> None:
        """End."""
        if self._beating is not None and self._beating.running:
            self._beating.stop()

    def _beat(self) -> None:
        # A looping call that was late keeps its rhythm: so does what is due.
        now = self._seconds()
        late = now - self._due
        self.late.add(max(0.0, late))
        self._due += BEAT_SECONDS * (1 + max(0, int(late / BEAT_SECONDS)))


@define(eq=False)
class Vitals:
    """This process, as `metrics.tables.PROCESS` reads it; whole numbers only.

    Args:
        pulse: of its reactor.
        lost_lines: returns how many log lines were dropped.
    """

    pulse: Pulse
    _lost_lines: Callable[[], int]
    _open_fds: int = field(default=0, init=False)
    _counted_at: float = field(default=-_COUNT_SECONDS, init=False)

    def report(self) -> Mapping[str, Any]:
        """Return the numbers, as JSON-able values."""
        now = time.monotonic()
        if now - self._counted_at >= _COUNT_SECONDS:
            self._counted_at = now
            self._open_fds = len(os.listdir("/proc/self/fd")) - 1
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[1])
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return {
            "open_fds": self._open_fds,
            "max_fds": limit,
            "resident_bytes": pages * resource.getpagesize(),
            "cpu_microseconds": int(time.process_time() * 1e6),
            "collections": sum(each["collections"] for each in gc.get_stats()),
            "lost_lines": self._lost_lines(),
            "reactor_delay": self.pulse.late.report(),
        }

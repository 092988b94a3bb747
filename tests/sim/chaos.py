"""A cluster on bad days, and what must be true of it, then and afterwards.

Everything follows from one seed: the cluster (`world`), what clients do (`clients`),
what breaks and when (`faults`, `long_days`).  While it lasts, no read may return bytes
that nobody wrote under that name, and no client waits for ever.  After it, when all are
back and connected, within a bounded time (`verdict`)

* all replicas that keep a name show the same of it, which is what was promised
  (`promises`), or a later change; of what had one copy only, unless its disk was hurt;
* every server answers with the bytes of the winning write, or 404 where it ended;
* the digest trees tell what the indexes say.
"""

from __future__ import annotations

import traceback
from typing import cast

from attrs import define, field
from twisted.internet.defer import CancelledError, FirstError
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from clinfra.errors import StartupFailed, Trouble
from tests.sim.clients import Clients
from tests.sim.faults import Faults
from tests.sim.long_days import LongDays
from tests.sim.promises import Broken
from tests.sim.verdict import Verdict
from tests.sim.world import SECONDS, World

WRITES = 60
"""By clients, before all is well again."""

HEALING_SECONDS = 1500.0
"""After that, how long it may take until all are the same."""

AFTERWARDS_SECONDS = 1500.0
"""Then, now and then, how long it is watched whether it stays so."""


class Unforeseen(AssertionError):
    """Something failed that no fault explains."""


@define(eq=False)
class Chaos:
    """One run.

    Args:
        seed: decides everything.
    """

    seed: int
    world: World = field(init=False)
    clients: Clients = field(init=False)
    faults: Faults = field(init=False)
    _long_days: LongDays = field(init=False)
    _verdict: Verdict = field(init=False)
    _failures: list[str] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self.world = World(self.seed)
        self.clients = Clients(self.world)
        self.faults = Faults(self.world, self.clients.read_at)
        self.clients.strike = self.faults.strike
        self.clients.lose_index = self.faults.lose_index
        self._long_days = LongDays(self.world, self.clients, self.faults)
        self._verdict = Verdict(self.world)
        for host in self.world.cluster.hosts.values():
            self.world.watch(host)
        self.world.note(
            f"{self.world.shape} {'purging quickly' * self.world.quick}"
            f" hurt disk: {self.world.damaged}"
            f" long away: {self.faults.absent or None}"
            f" turned back: {self.world.turned_back or None}"
        )

    def run(self) -> None:
        """Live through it all.  Raises Broken, Hang or Unforeseen."""
        observer = cast(ILogObserver, self._logged)
        globalLogPublisher.addObserver(observer)
        world = self.world
        try:
            world.plan(self.clients.write, WRITES)
            world.plan(self.clients.read, WRITES // 2)
            world.plan(self.faults.happen, world.rng.randrange(14))
            self._long_days.begin()
            world.cluster.run(SECONDS)
            if self._long_days.coming:
                self._long_days.let_pass()
            self.faults.heal()
            self._judge()
            if self._long_days.coming or world.rng.random() < 0.1:
                world.cluster.run(AFTERWARDS_SECONDS)
                self._judge()
            if world.broken is not None:
                raise world.broken
            if self._failures:
                raise Unforeseen(self._failures[0])
        finally:
            globalLogPublisher.removeObserver(observer)
            world.cluster.close()

    def _judge(self) -> None:
        """Wait until all are the same, and judge: anew when an original gave back.

        Ours pull from originals now and then, also while they are judged: what only an
        original had left comes back at one of them first.  It has to be lawful and the
        same everywhere when that is over, as anything else.
        """
        while True:
            self._wait()
            before = self._verdict.known()
            try:
                self._verdict.check()
            except Broken as broken:
                if not self._verdict.is_back(broken.name, before):
                    raise
                self.world.note("an original gave it back meanwhile", broken.name)
            else:
                return

    def _wait(self) -> None:
        """Let time pass until all are the same, or too much has."""
        end = self.world.cluster.clock.seconds() + HEALING_SECONDS
        while True:
            self.world.cluster.run(5)
            kept = any(
                host.service.report()["handoff"]["waiting"]
                for host in self.world.cluster.hosts.values()
                if host.service is not None
            )
            if not kept and not self.world.outstanding and self._verdict.agrees():
                # What was committed last may still be on its way out of the threads.
                self.world.cluster.run(2)
                if self._verdict.agrees():
                    return
            if self.world.cluster.clock.seconds() > end:
                return

    def _logged(self, event: LogEvent) -> None:
        """Take a logged traceback for a bug, unless it tells of a fault."""
        failure = event.get("log_failure")
        while failure is not None and failure.check(FirstError):
            failure = failure.value.subFailure
        if failure is None or failure.check(
            OSError, Trouble, StartupFailed, CancelledError
        ):
            return
        if "already awaited coroutine" in str(failure.value):
            # What a dead process was in the middle of is collected.
            return
        where = "".join(traceback.format_tb(failure.getTracebackObject())[-4:])
        self._failures.append(f"{event.get('log_format')}: {failure.value!r}\n{where}")

"""Long days: a replica misses much, all are switched off, or a backup is restored."""

from __future__ import annotations

import json
import random

from attrs import define, field

from clinfra.blob.destinations import destinations
from clinfra.blob.rejoin import NOTE
from tests.sim.clients import Clients
from tests.sim.cluster import Host
from tests.sim.disk import Disk
from tests.sim.faults import Faults
from tests.sim.world import SECONDS, World

DAY = 86400.0


@define(eq=False)
class LongDays:
    """Decides whether days pass, and lets them.

    Attributes:
        coming: they will.
    """

    _world: World
    _clients: Clients
    _faults: Faults
    coming: bool = field(init=False, default=False)
    _absent: str = field(init=False, default="")
    _backup: Disk | None = field(init=False, default=None)
    _is_switched_off: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        rng, hosts = self._world.rng, self._world.cluster.hosts
        self.coming = rng.random() < 0.2
        if self.coming and rng.random() < 0.6 and len(hosts) > 1:
            self._absent = self._faults.absent = rng.choice(sorted(hosts))
        elif self.coming:
            self._plan_more(random.Random(f"long days {self._world.seed}"))

    def begin(self) -> None:
        """Have who will be long away go, soon."""
        if self._absent:
            host = self._world.cluster.hosts[self._absent]
            self._world.later(
                self._world.rng.uniform(3, 20), self._faults.crash, host, False
            )

    def let_pass(self) -> None:
        """Let one replica miss much: all others have time to forget what they may."""
        for host in self._world.cluster.hosts.values():
            if host.name != self._absent:
                self._faults.restart(host)
        self._world.cluster.network.join()
        if self._world.turned_back:
            for _ in range(4):
                self._clients.write()
            self._world.cluster.run(700)
            self._make_backup(self._world.cluster.hosts[self._world.turned_back])
            self._clients.delete_some()
        for _ in range(2):
            days = self._world.rng.choice((0.1, 3.0, 12.0))
            self._world.note(f"{days} days pass")
            self._pass(days * DAY)
            self._world.plan(self._clients.write, 4)
            self._world.cluster.run(800)
            if self._world.rng.random() < 0.3:
                host = self._world.rng.choice(list(self._world.cluster.hosts.values()))
                self._world.note(f"{host.name}: {self._faults.lose_index(host)}")
            self._world.plan(self._faults.happen, self._world.rng.randrange(3))
            self._world.cluster.run(SECONDS)
        if self._backup is not None:
            self._restore(
                self._world.cluster.hosts[self._world.turned_back], self._backup
            )

    def _pass(self, seconds: float) -> None:
        """Let time pass in which nothing happens, or all are switched off."""
        hosts = self._world.cluster.hosts.values() if self._is_switched_off else ()
        for host in hosts:
            self._world.cluster.crash(host)
        self._world.cluster.clock.advance(seconds)
        for host in hosts:
            self._faults.restart(host)

    def _make_backup(self, host: Host) -> None:
        """Copy a disk, if it is known to all others what is on it."""
        if host.service is None:
            return
        fence, last = host.service.fence, host.index.last_seq()
        noted = json.loads(host.index.notes().get(NOTE, "{}")).get("known", {})
        others = {
            replica
            for destination in destinations(host.service.topology)
            for replica in destination.replicas
        }
        if not fence.closed and all(
            noted.get(name, ("", -1))[1] >= last for name in others
        ):
            self._backup = host.disk.image(power_failed=False)
            self._faults.indexes_count = True
            self._world.note(f"a backup is made of {host.name}")

    def _restore(self, host: Host, backup: Disk) -> None:
        self._world.note(f"the backup of {host.name} is restored")
        self._faults.counts["_restore"] = 1
        self._world.cluster.crash(host)
        host.disk = backup
        self._faults.restart(host)

    def _plan_more(self, rng: random.Random) -> None:
        """Choose whether all are off meanwhile, or a backup of one is restored."""
        if rng.random() < 0.3:
            self._is_switched_off = True
        elif len(self._world.cluster.hosts) > 1 and not self._world.shape.originals:
            self._world.damaged = self._world.damaged or rng.choice(
                sorted(self._world.cluster.hosts)
            )
            self._world.turned_back = self._world.damaged

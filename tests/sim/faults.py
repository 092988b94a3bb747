"""What breaks in a cluster on bad days, and how it is mended."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from clinfra.errors import StartupFailed
from tests.sim.cluster import Host
from tests.sim.disk import CAPACITY_BYTES
from tests.sim.world import SECONDS, World


@define(eq=False)
class Faults:
    """Breaks things.

    Args:
        read_at: reads what a server may have to look for on its disk.

    Attributes:
        counts: how often what happened.
        absent: the host that stays away, once it is.
        indexes_count: nobody else remembers what an index knows.
        over: nothing breaks any more of its own accord.
    """

    _world: World
    _read_at: Callable[[Host], None]
    counts: dict[str, int] = field(init=False, factory=dict)
    absent: str = field(init=False, default="")
    indexes_count: bool = field(init=False, default=False)
    over: bool = field(init=False, default=False)

    def happen(self) -> None:
        kinds: list[Callable[[Host], str]] = [
            self.kill,
            self.kill,
            self._cut_power,
            self._cut_power,
            self._cut_short,
            self._cut_short,
            self._cut,
            self._cut,
            self._isolate,
            self._set_clock,
            self._turn_clock_back,
            self._halt,
            self._stop,
            self.lose_index,
            self._fill,
            self._fail_syncs,
        ]
        host = self._world.rng.choice(list(self._world.cluster.hosts.values()))
        if self._world.damaged is not None and self._world.rng.random() < 0.3:
            kinds = [self.wipe, self._flip, self._flip]
            host = self._world.cluster.hosts[self._world.damaged]
        kind = self._world.rng.choice(kinds)
        said = kind(host)
        self.counts[kind.__name__] = self.counts.get(kind.__name__, 0) + 1
        self._world.note(f"{host.name}: {said}")

    def kill(self, host: Host) -> str:
        self.crash(host, False)
        return "killed"

    def _cut_power(self, host: Host) -> str:
        self.crash(host, True)
        return "without power"

    def _cut_short(self, host: Host) -> str:
        """Let it die in the middle of something."""
        power_failed = self._world.rng.random() < 0.6
        host.disk.blow = lambda: self.crash(host, power_failed)
        told = ", power too" * power_failed
        if self._world.rng.random() < 0.5:
            host.disk.dies_syncing = True
            return f"dies when it syncs{told}"
        host.disk.fuse = self._world.rng.randint(1, 25)
        return f"dies in {host.disk.fuse} steps{told}"

    def _stop(self, host: Host) -> str:
        self._world.cluster.stop(host)
        self._restart_later(host)
        return "stopped in order"

    def _halt(self, host: Host) -> str:
        host.process.stopped_until = (
            self._world.cluster.clock.seconds() + self._world.rng.uniform(0.1, 30)
        )
        return "stands still"

    def _cut(self, host: Host) -> str:
        other = self._world.rng.choice(list(self._world.cluster.hosts.values()))
        self._world.cluster.network.cut(host.ip, other.ip)
        self._world.later(
            self._world.rng.uniform(0.1, SECONDS), self._world.cluster.network.join
        )
        return f"cut from {other.name}"

    def _isolate(self, host: Host) -> str:
        for other in self._world.cluster.topology.peers.values():
            self._world.cluster.network.cut(host.ip, other.ip)
        self._world.later(
            self._world.rng.uniform(0.1, SECONDS), self._world.cluster.network.join
        )
        return "cut from everybody"

    def _set_clock(self, host: Host) -> str:
        host.offset = self._world.rng.choice((-600, -200, 0, 200, 600))
        return f"its clock is wrong by {host.offset}"

    def _turn_clock_back(self, host: Host) -> str:
        """Let it forget by a clock that is ahead, start anew, and lose its index."""
        if self._world.cluster.clock.seconds() - self._world.began > SECONDS - 22:
            return self._set_clock(host)
        host.offset = 600

        def turn_back() -> None:
            host.offset = 0
            self.crash(host, False)
            self._world.later(1, self.restart, host)

        self._world.later(12, turn_back)
        self._world.later(20, self.lose_index, host)
        return "its clock is ahead, then right, then its index is lost"

    def lose_index(self, host: Host) -> str:
        if self.indexes_count:
            # Nobody would remember what there was when the backup was made.
            return self.kill(host)
        self.crash(host, self._world.rng.random() < 0.5)
        host.disk.index.clear()
        return "killed, its index is lost"

    def _fill(self, host: Host) -> str:
        host.disk.capacity = host.disk.used_bytes() + self._world.rng.randrange(3000)

        def empty() -> None:
            host.disk.capacity = CAPACITY_BYTES

        self._world.later(self._world.rng.uniform(0.1, SECONDS), empty)
        return "its disk is full"

    def _fail_syncs(self, host: Host) -> str:
        host.disk.syncs_fail = self._world.rng.randint(1, 3)
        return "its disk fails to sync"

    def wipe(self, host: Host) -> str:
        self.crash(host, False)
        self._world.cluster.wipe(host)
        return "wiped"

    def _flip(self, host: Host) -> str:
        """Flip bits of one file."""
        inodes = [
            inode
            for found in host.disk.names.values()
            for inode in found.values()
            if inode.content
        ]
        if not inodes:
            return "has nothing to be hurt"
        inode = self._world.rng.choice(inodes)
        for _ in range(self._world.rng.choice((1, 1, 8))):
            at = self._world.rng.randrange(len(inode.content))
            host.disk.flip(inode, at, self._world.rng.randrange(8))
        for _ in range(6):
            self._world.later(self._world.rng.uniform(0, 3), self._read_at, host)
        return "bits of it flip"

    def strike(self, host: Host) -> None:
        """Take a disk, and the power of everybody."""
        self._world.note(f"{host.name}: {self.wipe(host)}, and all are without power")
        for other in list(self._world.cluster.hosts.values()):
            self.crash(other, True)

    # Down, and up again

    def crash(self, host: Host, power_failed: bool) -> None:
        if not host.process.dead:
            self._world.cluster.crash(host, power_failed=power_failed)
            self._world.note(f"{host.name} is dead{', power failed' * power_failed}")
            self._restart_later(host)

    def _restart_later(self, host: Host) -> None:
        if host.name != self.absent:
            self._world.later(self._world.rng.uniform(0.1, SECONDS), self.restart, host)

    def restart(self, host: Host) -> None:
        if host.service is not None:
            return
        self._world.cluster.crash(host)
        self._world.watch(host)
        if self._world.rng.random() < 0.1 and not self.over:
            self._cut_short(host)
        self._world.note(f"{host.name} starts")
        try:
            self._world.cluster.start(host)
        except StartupFailed as error:
            if host.disk.capacity == CAPACITY_BYTES and not host.disk.syncs_fail:
                raise
            self._world.note(f"{host.name} does not start: {error}")
            self._world.cluster.crash(host)
            self._restart_later(host)

    def heal(self) -> None:
        self._world.note("all is well from here on")
        self.absent = self.absent and " "
        self._world.cluster.network.join()
        for host in self._world.cluster.hosts.values():
            host.offset = 0.0
            host.process.stopped_until = 0.0
            host.disk.capacity, host.disk.syncs_fail = CAPACITY_BYTES, 0
            host.disk.fuse, host.disk.dies_syncing = None, False
            while host.service is None:
                self.restart(host)
                host.disk.fuse, host.disk.dies_syncing = None, False
        # Who is struck by one of the last answers is left alone when he starts again.
        self.over = True

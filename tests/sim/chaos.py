"""A cluster on bad days, and what must be true afterwards.

Everything follows from one seed: the cluster, what clients do, what breaks and when.
While it lasts, no read may return bytes that nobody wrote under that name.  After it,
when all are back and connected and some time has passed:

* every change that was answered is there, or a later one (of those that said they had
  two copies, when a disk died);
* all replicas that keep a name show the same of it;
* every replica answers with the bytes of the winning write, or 404 where it ended.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from typing import Any

from attrs import define, field

from clinfra.blob.index_memory import MemoryIndex
from clinfra.blob.records import Expiry, Row, State
from clinfra.config import Seconds
from tests.sim.cluster import Answer, Cluster, Host, copy_index

LAYOUTS: tuple[list[list[int]], ...] = (
    [[2]],
    [[3]],
    [[2], [1]],
    [[2], [2]],
    [[2, 1], [1, 2]],
)

SECONDS = 40.0
"""How long the bad days last."""

HEALING_SECONDS = 1000.0


class Broken(AssertionError):
    """A promise was not kept."""


@define(eq=False)
class Name:
    """What clients know of a name.

    Attributes:
        bodies: digest → everything that was sent under it.
        data, expiry: the greatest registers that were promised.
        heard: every expiry that was answered, promised or not.
        unsure: some change of it was not answered.
    """

    bodies: dict[bytes, bytes] = field(factory=dict)
    data: tuple[int, str] = (0, "")
    expiry: tuple[int, int] = (0, 0)
    heard: set[tuple[int, int]] = field(factory=set)
    unsure: bool = False


@define(eq=False)
class Chaos:
    """One run.

    Args:
        seed: decides everything.
    """

    seed: int
    writes: int = 60
    rng: random.Random = field(init=False)
    cluster: Cluster = field(init=False)
    names: dict[str, Name] = field(init=False, factory=dict)
    answered: int = field(init=False, default=0)
    disk_may_die: bool = field(init=False, default=False)
    history: list[str] = field(init=False, factory=list)
    _wiped: bool = field(init=False, default=False)
    _snapshots: dict[str, MemoryIndex] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        layout = self.rng.choice(LAYOUTS)
        config: dict[str, Any] = {}
        if self.rng.random() < 0.5:
            # What ends is purged while the others may not have heard of it.
            config = {"purge_interval": Seconds(3), "expiration_delay": Seconds(1)}
        self.disk_may_die = self.rng.random() < 0.3
        self.cluster = Cluster(layout, self.seed, **config)
        slow = self.rng.choice((0.01, 0.01, 0.5))
        self.cluster.network.delays = (0.0002, slow)
        self.note(f"layout {layout}")

    def note(self, what: str) -> None:
        """Write down what happens, for whoever has to find out why."""
        self.history.append(f"{self.cluster.clock.seconds():.3f} {what}")

    def run(self) -> None:
        """Live through it all.  Raises Broken."""
        try:
            self._plan(self._write, self.writes)
            self._plan(self._read, self.writes // 2)
            self._plan(self._break, self.rng.randrange(12))
            self.cluster.run(SECONDS)
            self._heal()
            self._check()
        finally:
            self.cluster.close()

    def _plan(self, what: Callable[[], None], times: int) -> None:
        for _ in range(times):
            self.cluster.clock.callLater(self.rng.uniform(0, SECONDS), what)

    # What clients do

    def _someone(self) -> Host:
        return self.rng.choice(list(self.cluster.hosts.values()))

    def _stored(self) -> str:
        service = next(h.service for h in self.cluster.hosts.values() if h.service)
        plain = f"n{self.rng.randrange(6)}"
        return service.topology.place(plain, encoded=False).stored

    def _keeper(self, stored: str) -> Host | None:
        """Return a replica that keeps a name and is running."""
        keepers = [host for host in self.cluster.keepers(stored) if host.service]
        return self.rng.choice(keepers) if keepers else None

    def _write(self) -> None:
        if not any(host.service for host in self.cluster.hosts.values()):
            return
        stored = self._stored()
        host = self._keeper(stored)
        if host is None:
            return
        name = self.names.setdefault(stored, Name())
        if self.rng.random() < 0.25:
            asked = self.cluster.ask(host, "DELETE", f"/{stored}")
            self.note(f"DELETE {stored} at {host.name}")
        else:
            body = b"%s %d" % (stored.encode(), self.rng.getrandbits(64))
            if self.rng.random() < 0.1:
                body *= 3000
            name.bodies[hashlib.sha256(body).digest()] = body
            query = self.rng.choice(
                ("", "", "&copies=all", "&copies=1", "&ttl=1000000")
            )
            asked = self.cluster.ask(host, "PUT", f"/{stored}?encoded=1{query}", body)
            self.note(f"PUT {stored} at {host.name} {body[:40]!r}")
        asked.addCallback(self._wrote, name, host)

    def _wrote(self, answer: Answer, name: Name, host: Host) -> None:
        if answer.status != 200:
            # It may have been kept all the same.
            name.unsure = True
            return
        self.answered += 1
        told = answer.told
        expiry = told["modified_deleted"], told["deleted"]
        name.heard.add(expiry)
        self.note(f"{host.name} answered {told} {answer.fields[b'x-clblob-copies']!r}")
        if self.disk_may_die and answer.fields[b"x-clblob-copies"][:1] == b"1":
            # One copy is not promised to outlive its disk.
            return
        if told["modified"] is not None:
            name.data = max(name.data, (told["modified"], told["sha256"]))
        name.expiry = max(name.expiry, expiry)

    def _read(self) -> None:
        if not self.names:
            return
        stored = self.rng.choice(list(self.names))
        host = self._keeper(stored)
        if host is not None:
            asked = self.cluster.ask(host, "GET", f"/{stored}")
            asked.addCallback(self._was_read, self.names[stored], stored)

    def _was_read(self, answer: Answer, name: Name, stored: str) -> None:
        if answer.status == 200:
            digest = hashlib.sha256(answer.body).digest()
            if digest not in name.bodies:
                raise Broken(f"{stored} was read as {answer.body[:60]!r}")

    # What breaks

    def _break(self) -> None:
        kind = self.rng.choice(("crash", "crash", "cut", "clock", "snapshot", "wipe"))
        host = self._someone()
        later = self.cluster.clock.callLater
        self.note(f"{kind} {host.name}")
        if kind == "crash":
            self._crash(host)
            later(self.rng.uniform(0.1, SECONDS), self._restart, host)
        elif kind == "wipe":
            if self.disk_may_die and not self._wiped:
                self._wiped = True
                self.cluster.wipe(host)
                later(self.rng.uniform(0.1, SECONDS), self._restart, host)
        elif kind == "cut":
            self.cluster.network.cut(host.ip, self._someone().ip)
            later(self.rng.uniform(0.1, SECONDS), self.cluster.network.join)
        elif kind == "clock":
            host.offset = self.rng.choice((-600, -200, 0, 200, 600))
        else:
            self._snapshots[host.name] = copy_index(host.index)

    def _crash(self, host: Host) -> None:
        if host.service is None:
            return
        self.cluster.crash(host)
        snapshot = self._snapshots.pop(host.name, None)
        if snapshot is not None:
            # The machine died, and with it the end of the index's log.
            host.index = snapshot

    def _restart(self, host: Host) -> None:
        if host.service is None:
            self.cluster.start(host)

    # What must be true

    def _heal(self) -> None:
        self.note("healing")
        self.cluster.network.join()
        for host in self.cluster.hosts.values():
            host.offset = 0.0
            self._restart(host)
        self.cluster.run(HEALING_SECONDS)

    def _check(self) -> None:
        for stored, name in self.names.items():
            keepers = self.cluster.keepers(stored)
            rows = [host.rows().get(stored) for host in keepers]
            self._check_rows(stored, name, rows, [host.name for host in keepers])
            for host in keepers:
                self._check_answer(stored, name, host, host.rows().get(stored))

    def _check_rows(
        self, stored: str, name: Name, rows: list[Row | None], hosts: list[str]
    ) -> None:
        # Who never knew a name need not know that it has ended.
        states = {self._visible(row) for row in rows}
        if len(states) > 1:
            raise Broken(f"{stored} is not the same at {hosts}: {rows}")
        (state,) = states
        known = [(0, 0)] + [
            (row.expiry.modified_deleted, row.expiry.deleted)
            for row in rows
            if row is not None
        ]
        # What has ended may be forgotten by now.
        now = self.cluster.clock.seconds()
        ended = name.unsure or any(
            Expiry(*expiry).passed(now)
            for expiry in name.heard
            if expiry >= name.expiry
        )
        if max(known) < name.expiry and not (ended and state is None):
            raise Broken(f"{stored} was answered {name.expiry} and is {rows}")
        if state is None or state.data is None:
            return
        if state.data.sha256 not in name.bodies:
            raise Broken(f"nobody wrote what {stored} is: {state}")
        if (state.data.modified, state.data.sha256.hex()) < name.data:
            raise Broken(f"{stored} was answered {name.data} and is {state}")

    def _visible(self, row: Row | None) -> State | None:
        if row is None or row.expiry.passed(self.cluster.clock.seconds()):
            return None
        return row.state

    def _check_answer(
        self, stored: str, name: Name, host: Host, row: Row | None
    ) -> None:
        answer: Any = self.cluster.get(host, f"/{stored}")
        state = self._visible(row)
        if state is None or state.data is None:
            if answer.status != 404:
                raise Broken(f"{stored} is gone, and {host.name} serves {answer}")
            return
        if answer.body != name.bodies[state.data.sha256]:
            raise Broken(f"{host.name} serves {answer} for {stored}")

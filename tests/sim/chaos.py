"""A cluster on bad days, and what must be true of it, then and afterwards.

Everything follows from one seed: the cluster, what clients do, what breaks and when.
While it lasts, no read may return bytes that nobody wrote under that name, and no
client waits for ever.  After it, when all are back and connected, within a bounded time

* all replicas that keep a name show the same of it, which is what was promised
  (`promises`), or a later change; of what had one copy only, unless its disk was hurt;
* every server answers with the bytes of the winning write, or 404 where it ended;
* the digest trees tell what the indexes say.
"""

from __future__ import annotations

import hashlib
import json
import random
import traceback
from collections.abc import Callable, Sequence
from typing import Any, cast

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred, FirstError
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher

from clinfra.blob.destinations import destinations
from clinfra.blob.index import Batch
from clinfra.blob.records import Row, State
from clinfra.blob.rejoin import NOTE
from clinfra.blob.replica import SMALL_BYTES
from clinfra.blob.stamps import stamp_at
from clinfra.blob.trees import BRANCHES, LEAVES, Place, digest_of
from clinfra.config import Seconds
from clinfra.errors import StartupFailed, Trouble
from clinfra.web.pool import Origin
from tests.sim.clock import Hang
from tests.sim.cluster import Answer, Cluster, Host
from tests.sim.disk import CAPACITY_BYTES, Disk
from tests.sim.promises import Broken, Change, Name, Promise, expiry_of, told_of

SECONDS = 40.0
"""How long the bad days last."""

HEALING_SECONDS = 1500.0
"""After that, how long it may take until all are the same."""

LONGEST_ANSWER_SECONDS = 120.0

AFTERWARDS_SECONDS = 1500.0
"""Then, now and then, how long it is watched whether it stays so."""

DAY = 86400.0

MOST_FLIPPED_BITS = 200
"""Of one body, by all that happens to a disk."""

MOST_TOLD = 100
"""Lines of a story."""


class Unforeseen(AssertionError):
    """Something failed that no fault explains."""


@frozen
class Shape:
    """A cluster file, and who in it is an original."""

    layout: Sequence[Sequence[int]]
    originals: frozenset[str] = frozenset()


SMALL: tuple[Shape, ...] = (
    Shape([[1]]),
    Shape([[2]]),
    Shape([[3]]),
    Shape([[2], [1]]),
    Shape([[2], [2]]),
    Shape([[2, 1], [1, 2]]),
    Shape([[3]], frozenset({"c0b0r2"})),
    Shape([[2], [1]], frozenset({"c1b0r0"})),
)

LARGE: tuple[Shape, ...] = (Shape([[2], [2], [2]]), Shape([[3, 3], [3, 3]]))


@define(eq=False)
class Chaos:
    """One run.

    Args:
        seed: decides everything.
        writes: by clients, before all is well again.

    Attributes:
        damaged: the host whose disk may be hurt, if any: never more than one.
    """

    seed: int
    writes: int = 60
    rng: random.Random = field(init=False)
    shape: Shape = field(init=False)
    cluster: Cluster = field(init=False)
    names: dict[str, Name] = field(init=False, factory=dict)
    answered: int = field(init=False, default=0)
    damaged: str | None = field(init=False, default=None)
    faults: dict[str, int] = field(init=False, factory=dict)
    history: list[tuple[float, str, str]] = field(init=False, factory=list)
    _began: float = field(init=False, default=0.0)
    _is_long: bool = field(init=False, default=False)
    _absent: str = field(init=False, default="")
    _struck: str = field(init=False, default="")
    _turned_back: str = field(init=False, default="")
    _backup: Disk | None = field(init=False, default=None)
    _is_switched_off: bool = field(init=False, default=False)
    _outstanding: dict[int, tuple[float, str]] = field(init=False, factory=dict)
    _asked: int = field(init=False, default=0)
    _failures: list[str] = field(init=False, factory=list)
    _broken: Broken | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.rng = rng = random.Random(self.seed)
        self.shape = rng.choice(LARGE if rng.random() < 0.08 else SMALL)
        config: dict[str, Any] = {}
        if rng.random() < 0.5:
            # What ends is purged while the others may not have heard of it.
            config = {"purge_interval": Seconds(3), "expiration_delay": Seconds(1)}
        self.cluster = Cluster(
            self.shape.layout,
            self.seed,
            originals=self.shape.originals,
            slowness=rng.choice((0.0, 0.01, 0.3)),
            volume_bytes=rng.choice((2048, 1 << 15, 1 << 20)),
            **config,
        )
        network = self.cluster.network
        network.delays = (0.0002, rng.choice((0.01, 0.01, 0.5)))
        network.repeats = rng.choice((0.0, 0.1, 0.3))
        network.repeated = self._repeated
        self._began = self.cluster.clock.seconds()
        if rng.random() < 0.5:
            self.damaged = rng.choice(sorted(self.cluster.hosts))
        self._is_long = rng.random() < 0.2
        if self._is_long and rng.random() < 0.6 and len(self.cluster.hosts) > 1:
            self._absent = rng.choice(sorted(self.cluster.hosts))
        elif self._is_long:
            self._plan_long_days(random.Random(f"long days {self.seed}"))
        for host in self.cluster.hosts.values():
            self._watch(host)
        self.note(
            f"{self.shape} {config and 'purging quickly'}"
            f" hurt disk: {self.damaged} long away: {self._absent or None}"
            f" turned back: {self._turned_back or None}"
        )

    def _plan_long_days(self, rng: random.Random) -> None:
        """Choose whether all are off meanwhile, or a backup of one is restored."""
        if rng.random() < 0.3:
            self._is_switched_off = True
        elif len(self.cluster.hosts) > 1 and not self.shape.originals:
            self.damaged = self.damaged or rng.choice(sorted(self.cluster.hosts))
            self._turned_back = self.damaged

    # The story

    def note(self, what: str, name: str = "") -> None:
        """Write down what happens, for whoever has to find out why."""
        self.history.append((self.cluster.clock.seconds() - self._began, name, what))

    def story(self, name: str = "") -> str:
        """Return what broke, and what happened to a name; without one, everything."""
        told = [
            f"{at:10.3f} {what}"
            for at, about, what in self.history
            if about in ("", name) or not name
        ]
        if len(told) > MOST_TOLD:
            told[1 : 1 - MOST_TOLD] = ["…"]
        return "\n".join(told)

    def _repeated(self, source: str, host: str, request: bytes) -> None:
        line = request.partition(b"\r\n")[0].decode("latin-1")[:60]
        name = line.split(" ")[1].partition("?")[0].strip("/")
        self.note(f"{host} is asked once more by {source}: {line}", name)

    def _watch(self, host: Host) -> None:
        """Note what a replica keeps, from now on."""
        index = host.disk.index
        known = host.rows()

        def applied(batch: Batch) -> None:
            now = self.cluster.clock.seconds()
            before, after = dict(known), {row.name: row for row in index.rows()}
            known.clear()
            known.update(after)
            for stored in {**before, **after}:
                old, new = before.get(stored), after.get(stored)
                if old is new or (old and new and old.state == new.state):
                    continue
                name = self.names.setdefault(stored, Name(stored))
                if old is not None and self._is_too_early(host, name, old, new):
                    early = f"{host.name} drops {stored} before it ends"
                    self._broken = self._broken or Broken(early, stored)
                news = name.applied(host.name, old, new, now)
                told = told_of(new.state) if new is not None else "nothing"
                self.note(f"{host.name} {news or f'keeps {told}'}", stored)

        index.applied = applied

    def _is_too_early(self, host: Host, name: Name, old: Row, new: Row | None) -> bool:
        """Return whether a row or its data is dropped before it ends."""
        if new is not None and (new.data is not None or old.data is None):
            return False
        known = expiry_of(old.expiry)
        if self._turned_back and any(end > known for end in name.forgotten):
            # It came back with a backup, and everybody had forgotten that it ended.
            return False
        if known in name.forgotten:
            # By a clock that was ahead, perhaps: it is only told again.
            return False
        if Origin(host.ip, 80) not in self.cluster.network.listeners:
            # It starts, and learns what it forgot before the index lost that.
            return False
        return not old.expiry.passed(self.cluster.clock.seconds() + host.offset)

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

    # Living through it

    def run(self) -> None:
        """Live through it all.  Raises Broken, Hang or Unforeseen."""
        observer = cast(ILogObserver, self._logged)
        globalLogPublisher.addObserver(observer)
        try:
            self._plan(self._write, self.writes)
            self._plan(self._read, self.writes // 2)
            self._plan(self._break, self.rng.randrange(14))
            if self._absent:
                host = self.cluster.hosts[self._absent]
                self._later(self.rng.uniform(3, 20), self._crash, host, False)
            self.cluster.run(SECONDS)
            if self._is_long:
                self._let_days_pass()
            self._heal()
            self._wait()
            self.check()
            if self._is_long or self.rng.random() < 0.1:
                self.cluster.run(AFTERWARDS_SECONDS)
                self._wait()
                self.check()
            if self._broken is not None:
                raise self._broken
            if self._failures:
                raise Unforeseen(self._failures[0])
        finally:
            globalLogPublisher.removeObserver(observer)
            self.cluster.close()

    def _later(self, wait: float, what: Callable[..., object], *how: object) -> None:
        self.cluster.clock.callLater(wait, what, *how)

    def _plan(self, what: Callable[[], None], times: int) -> None:
        for _ in range(times):
            self._later(self.rng.uniform(0, SECONDS), what)

    def _let_days_pass(self) -> None:
        """Let one replica miss much: all others have time to forget what they may."""
        for host in self.cluster.hosts.values():
            if host.name != self._absent:
                self._restart(host)
        self.cluster.network.join()
        if self._turned_back:
            for _ in range(4):
                self._write()
            self.cluster.run(700)
            self._make_backup(self.cluster.hosts[self._turned_back])
            self._delete_some()
        for _ in range(2):
            days = self.rng.choice((0.1, 3.0, 12.0))
            self.note(f"{days} days pass")
            self._pass(days * DAY)
            self._plan(self._write, 4)
            self.cluster.run(800)
            if self.rng.random() < 0.3:
                host = self.rng.choice(list(self.cluster.hosts.values()))
                self.note(f"{host.name}: {self._lose_index(host)}")
            self._plan(self._break, self.rng.randrange(3))
            self.cluster.run(SECONDS)
        if self._backup is not None:
            self._restore(self.cluster.hosts[self._turned_back], self._backup)

    def _pass(self, seconds: float) -> None:
        """Let time pass in which nothing happens, or all are switched off."""
        hosts = self.cluster.hosts.values() if self._is_switched_off else ()
        for host in hosts:
            self.cluster.crash(host)
        self.cluster.clock.advance(seconds)
        for host in hosts:
            self._restart(host)

    def _delete_some(self) -> None:
        """Delete some of what is there."""
        for stored in sorted(self.names):
            if self.rng.random() < 0.7:
                self._change(stored, None)

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
            self.note(f"a backup is made of {host.name}")

    def _restore(self, host: Host, backup: Disk) -> None:
        self.note(f"the backup of {host.name} is restored")
        self.faults["_restore"] = 1
        self.cluster.crash(host)
        host.disk = backup
        self._restart(host)

    # What clients do

    def _running(self) -> list[Host]:
        return [host for host in self.cluster.hosts.values() if host.service]

    def _stored(self) -> str:
        plain = f"n{self.rng.randrange(6)}"
        return self.cluster.topology.place(plain, encoded=False).stored

    def _server(self, stored: str) -> Host | None:
        """Return somebody to be asked, most often one that keeps a name."""
        keepers = [host for host in self.cluster.keepers(stored) if host.service]
        others = self._running()
        if self.rng.random() < 0.15 or not keepers:
            keepers = others
        return self.rng.choice(keepers) if keepers else None

    def _ask(
        self, host: Host, method: str, target: str, body: bytes | None = None
    ) -> Deferred[Answer]:
        """Ask; somebody who is not answered for very long has found a hang."""
        self._asked += 1
        number = self._asked
        asked = f"{method} {target} at {host.name}"
        self._outstanding[number] = self.cluster.clock.seconds(), asked

        def over(answer: Answer) -> Answer:
            del self._outstanding[number]
            return answer

        return self.cluster.ask(host, method, target, body).addCallback(over)

    def _write(self) -> None:
        stored = self._stored()
        if stored == self._struck:
            return
        chance = self.rng.random()
        if chance < 0.25:
            self._change(stored, None)
        elif chance < 0.3:
            # Somebody who chooses his own stamps gave one to two writes.
            stamp = stamp_at(self.cluster.clock.seconds(), self.rng.getrandbits(12))
            self._change(stored, self._body(stored), f"&modified={stamp}", stamp)
            self._change(stored, self._body(stored), f"&modified={stamp}", stamp)
        else:
            queries = ("", "", "&copies=all", "&copies=1", "&ttl=1000000", "&ttl=15")
            self._change(stored, self._body(stored), self.rng.choice(queries))

    def _body(self, stored: str) -> bytes:
        body = b"%s %d " % (stored.encode(), self.rng.getrandbits(64))
        chance = self.rng.random()
        if chance < 0.003:
            return body * 50_000
        if chance < 0.1:
            return body * 3000
        return body * 100 if chance < 0.35 else body

    def _change(
        self, stored: str, body: bytes | None, query: str = "", stamp: int | None = None
    ) -> None:
        host = self._server(stored)
        if host is None:
            return
        name = self.names.setdefault(stored, Name(stored))
        now = self.cluster.clock.seconds()
        if body is None:
            change = Change(None, None, now)
            asked = self._ask(host, "DELETE", f"/{stored}")
            self.note(f"DELETE at {host.name}", stored)
        else:
            digest = hashlib.sha256(body).digest()
            name.bodies[digest] = body
            ttl = int(query[5:]) if query.startswith("&ttl=") else None
            change = Change(digest, ttl, now, stamp)
            asked = self._ask(host, "PUT", f"/{stored}?encoded=1{query}", body)
            told = f"PUT {digest.hex()[:8]} {len(body)} bytes {query} at {host.name}"
            self.note(told, stored)
        name.changes.append(change)
        asked.addCallback(self._changed, name, change, host)

    def _changed(self, answer: Answer, name: Name, change: Change, host: Host) -> None:
        digest = change.sha256.hex()[:8] if change.sha256 else "DELETE"
        if answer.status != 200:
            # It may have been kept all the same.
            self.note(f"{host.name} answered {answer.status} to {digest}", name.stored)
            return
        self.answered += 1
        self._strike_after(answer, name, host)
        change.ended = self.cluster.clock.seconds()
        told, copies = answer.told, answer.fields.get(b"x-clblob-copies", b"1/1")
        self.note(
            f"{host.name} answered {digest}: {told['modified']},"
            f" ends {told['deleted']} by {told['modified_deleted']},"
            f" copies {copies.decode()}",
            name.stored,
        )
        data = None
        if told["modified"] is not None and told.get("sha256"):
            data = told["modified"], bytes.fromhex(told["sha256"])
        is_handed_off = b"x-clblob-handoff" in answer.fields
        answering = host.name
        if host not in self.cluster.keepers(name.stored) and not is_handed_off:
            answering = ""
        expiry = told["modified_deleted"], told["deleted"]
        name.promises.append(
            Promise(change, answering, int(copies.partition(b"/")[0]), data, expiry)
        )

    def _strike_after(self, answer: Answer, name: Name, host: Host) -> None:
        """Perhaps take the disk of who answered, and the power of all others.

        Once; and nobody writes that name any more, so that it is seen what is left.
        """
        copies = answer.fields.get(b"x-clblob-copies", b"1/1")
        if host.name != self.damaged or copies < b"2" or self._struck:
            return
        if self.shape.originals:
            # A copy that only an original has comes back when it is next pulled from.
            return
        if self.rng.random() > 0.1:
            return
        self._struck = name.stored
        self.note(f"{host.name}: {self._wipe(host)}, and all are without power")
        for other in list(self.cluster.hosts.values()):
            self._crash(other, True)

    def _read(self) -> None:
        stored = self._stored()
        self._read_from(stored, self._server(stored))

    def _read_at(self, host: Host) -> None:
        """Read what a server may have to look for on its disk."""
        if host.service is not None:
            stored = self._stored()
            host.service.replica.hot.drop(stored)
            self._read_from(stored, host)

    def _read_from(self, stored: str, host: Host | None) -> None:
        if host is not None:
            asked = self._ask(host, "GET", f"/{stored}")
            asked.addCallback(self._was_read, stored, host)

    def _was_read(self, answer: Answer, stored: str, host: Host) -> None:
        name = self.names.setdefault(stored, Name(stored))
        if answer.status != 200:
            return
        digest = hashlib.sha256(answer.body).digest()
        if digest not in name.bodies and not self._is_hurt(answer.body, name):
            said = f"{host.name} served {stored} as {answer.body[:60]!r}"
            self._broken = self._broken or Broken(said, stored)

    def _is_hurt(self, body: bytes, name: Name) -> bool:
        """Return whether a large body is one that was written, but for flipped bits.

        Large bodies are sent as they are read: no checksum can be known before.  Their
        readers have the digest, and the scrubber finds what they meet.
        """
        if self.damaged is None or len(body) <= SMALL_BYTES:
            return False
        read = int.from_bytes(body, "big")
        return any(
            len(written) == len(body)
            and (int.from_bytes(written, "big") ^ read).bit_count() <= MOST_FLIPPED_BITS
            for written in name.bodies.values()
        )

    # What breaks

    def _break(self) -> None:
        kinds: list[Callable[[Host], str]] = [
            self._kill,
            self._kill,
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
            self._lose_index,
            self._fill,
            self._fail_syncs,
        ]
        host = self.rng.choice(list(self.cluster.hosts.values()))
        if self.damaged is not None and self.rng.random() < 0.3:
            kinds = [self._wipe, self._flip, self._flip]
            host = self.cluster.hosts[self.damaged]
        kind = self.rng.choice(kinds)
        said = kind(host)
        self.faults[kind.__name__] = self.faults.get(kind.__name__, 0) + 1
        self.note(f"{host.name}: {said}")

    def _kill(self, host: Host) -> str:
        self._crash(host, False)
        return "killed"

    def _cut_power(self, host: Host) -> str:
        self._crash(host, True)
        return "without power"

    def _cut_short(self, host: Host) -> str:
        """Let it die in the middle of something."""
        power_failed = self.rng.random() < 0.6
        host.disk.blow = lambda: self._crash(host, power_failed)
        told = ", power too" * power_failed
        if self.rng.random() < 0.5:
            host.disk.dies_syncing = True
            return f"dies when it syncs{told}"
        host.disk.fuse = self.rng.randint(1, 25)
        return f"dies in {host.disk.fuse} steps{told}"

    def _stop(self, host: Host) -> str:
        self.cluster.stop(host)
        self._restart_later(host)
        return "stopped in order"

    def _halt(self, host: Host) -> str:
        host.process.stopped_until = self.cluster.clock.seconds() + self.rng.uniform(
            0.1, 30
        )
        return "stands still"

    def _cut(self, host: Host) -> str:
        other = self.rng.choice(list(self.cluster.hosts.values()))
        self.cluster.network.cut(host.ip, other.ip)
        self._later(self.rng.uniform(0.1, SECONDS), self.cluster.network.join)
        return f"cut from {other.name}"

    def _isolate(self, host: Host) -> str:
        for other in self.cluster.topology.peers.values():
            self.cluster.network.cut(host.ip, other.ip)
        self._later(self.rng.uniform(0.1, SECONDS), self.cluster.network.join)
        return "cut from everybody"

    def _set_clock(self, host: Host) -> str:
        host.offset = self.rng.choice((-600, -200, 0, 200, 600))
        return f"its clock is wrong by {host.offset}"

    def _turn_clock_back(self, host: Host) -> str:
        """Let it forget by a clock that is ahead, start anew, and lose its index."""
        if self.cluster.clock.seconds() - self._began > SECONDS - 22:
            return self._set_clock(host)
        host.offset = 600

        def turn_back() -> None:
            host.offset = 0
            self._crash(host, False)
            self._later(1, self._restart, host)

        self._later(12, turn_back)
        self._later(20, self._lose_index, host)
        return "its clock is ahead, then right, then its index is lost"

    def _lose_index(self, host: Host) -> str:
        if self._backup is not None:
            # Nobody would remember what there was when the backup was made.
            return self._kill(host)
        self._crash(host, self.rng.random() < 0.5)
        host.disk.index.clear()
        return "killed, its index is lost"

    def _fill(self, host: Host) -> str:
        host.disk.capacity = host.disk.used_bytes() + self.rng.randrange(3000)

        def empty() -> None:
            host.disk.capacity = CAPACITY_BYTES

        self._later(self.rng.uniform(0.1, SECONDS), empty)
        return "its disk is full"

    def _fail_syncs(self, host: Host) -> str:
        host.disk.syncs_fail = self.rng.randint(1, 3)
        return "its disk fails to sync"

    def _wipe(self, host: Host) -> str:
        self._crash(host, False)
        self.cluster.wipe(host)
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
        inode = self.rng.choice(inodes)
        for _ in range(self.rng.choice((1, 1, 8))):
            at = self.rng.randrange(len(inode.content))
            host.disk.flip(inode, at, self.rng.randrange(8))
        for _ in range(6):
            self._later(self.rng.uniform(0, 3), self._read_at, host)
        return "bits of it flip"

    def _crash(self, host: Host, power_failed: bool) -> None:
        if not host.process.dead:
            self.cluster.crash(host, power_failed=power_failed)
            self.note(f"{host.name} is dead{', power failed' * power_failed}")
            self._restart_later(host)

    def _restart_later(self, host: Host) -> None:
        if host.name != self._absent:
            self._later(self.rng.uniform(0.1, SECONDS), self._restart, host)

    def _restart(self, host: Host) -> None:
        if host.service is not None:
            return
        self.cluster.crash(host)
        self._watch(host)
        if self.rng.random() < 0.1:
            self._cut_short(host)
        self.note(f"{host.name} starts")
        try:
            self.cluster.start(host)
        except StartupFailed as error:
            if host.disk.capacity == CAPACITY_BYTES and not host.disk.syncs_fail:
                raise
            self.note(f"{host.name} does not start: {error}")
            self.cluster.crash(host)
            self._restart_later(host)

    # What must be true

    def _heal(self) -> None:
        self.note("all is well from here on")
        self._absent = self._absent and " "
        self.cluster.network.join()
        for host in self.cluster.hosts.values():
            host.offset = 0.0
            host.process.stopped_until = 0.0
            host.disk.capacity, host.disk.syncs_fail = CAPACITY_BYTES, 0
            host.disk.fuse, host.disk.dies_syncing = None, False
            while host.service is None:
                self._restart(host)
                host.disk.fuse, host.disk.dies_syncing = None, False

    def _wait(self) -> None:
        """Let time pass until all are the same, or too much has."""
        end = self.cluster.clock.seconds() + HEALING_SECONDS
        while True:
            self.cluster.run(5)
            kept = any(
                host.service.report()["handoff"]["waiting"]
                for host in self.cluster.hosts.values()
                if host.service is not None
            )
            if not kept and not self._outstanding and self._agree():
                # What was committed last may still be on its way out of the threads.
                self.cluster.run(2)
                if self._agree():
                    return
            if self.cluster.clock.seconds() > end:
                return

    def _agree(self) -> bool:
        """Return whether all replicas show the same of every name."""
        rows = {host.name: host.rows() for host in self.cluster.hosts.values()}
        for stored, name in self.names.items():
            if len(set(self._shown(name, rows))) > 1:
                return False
            state = self._visible(name, rows)
            for original in self.cluster.keeping_originals(stored):
                if self._original_differs(name, original.blobs.get(stored), state):
                    return False
        return True

    def _shown(self, name: Name, rows: dict[str, dict[str, Row]]) -> list[State | None]:
        """Return what the replicas that keep a name show of it.

        What only one ever had is passed over when its disk was hurt.
        """
        now = self.cluster.clock.seconds()
        shown: list[State | None] = []
        for host in self.cluster.keepers(name.stored):
            row = rows[host.name].get(name.stored)
            state = row.state if row is not None else None
            if state is not None and state.expiry.passed(now):
                state = None
            if not (host.name == self.damaged and name.only_had(state, host.name)):
                shown.append(state)
        return shown

    def _visible(self, name: Name, rows: dict[str, dict[str, Row]]) -> State | None:
        shown = self._shown(name, rows)
        return shown[0] if shown else None

    def _original_differs(
        self,
        name: Name,
        kept: tuple[int | None, int, int, bytes] | None,
        state: State | None,
    ) -> bool:
        """Return whether an original shows something else than it must.

        A write that its server died of, or could not keep, and never answered, may live
        on where it had a head start to.  So may one that it answered before its disk
        was lost, and with that whom it was to be sent to.  Our replicas give it to one
        another, comparing trees; an original may only get it with the next change.
        """
        modified, deleted, marked, _ = kept or (None, 0, 0, b"")
        if 0 != deleted <= self.cluster.clock.seconds():
            modified = None
        ours = state.data.modified if state is not None and state.data else None
        if modified == ours:
            return False
        if name.was_answered(state, self.damaged):
            return True
        return not name.has_promised(kept and kept[0], marked, state)

    def check(self) -> None:
        """Raise Broken unless all is as it was promised, Hang when somebody waits."""
        now = self.cluster.clock.seconds()
        for began, asked in self._outstanding.values():
            if now - began > LONGEST_ANSWER_SECONDS:
                raise Hang(f"{asked} is not answered")
        for stored, name in self.names.items():
            # To ask for those before took a while, and changes may have come.
            rows = {host.name: host.rows() for host in self.cluster.hosts.values()}
            shown = self._shown(name, rows)
            if len(set(shown)) > 1:
                told = ", ".join(told_of(each) if each else "-" for each in shown)
                raise Broken(f"{stored} is not the same everywhere: {told}", stored)
            state = self._visible(name, rows)
            if shown:
                name.check(state, self.damaged, self.cluster.clock.seconds())
            for original in self.cluster.keeping_originals(stored):
                kept = original.blobs.get(stored)
                if self._original_differs(name, kept, state):
                    raise Broken(f"{stored} is {kept} at an original", stored)
            self._check_answers(name, state, bool(shown))
        self._check_trees()

    def _check_answers(self, name: Name, state: State | None, known: bool) -> None:
        aside = self._only_at_damaged(name)
        for host in self.cluster.hosts.values():
            asked = self._ask(host, "GET", f"/{name.stored}")
            answer: Answer = self.cluster.finish(asked, LONGEST_ANSWER_SECONDS)
            if state is not None and state.expiry.passed(self.cluster.clock.seconds()):
                # It has ended meanwhile, before it was asked for or after.
                return
            is_aside = aside is not None or self._only_at_damaged(name) is not None
            is_told = known and not (host.name == self.damaged and is_aside)
            said = f"{host.name} answers {answer.status} {answer.body[:60]!r}"
            if answer.status == 200:
                digest = hashlib.sha256(answer.body).digest()
                if digest not in name.bodies:
                    if self._is_hurt(answer.body, name):
                        continue
                    raise Broken(f"{said} for {name.stored}", name.stored)
                if not is_told or digest == aside:
                    # Who keeps nothing of it may have asked the damaged one.
                    continue
                if state is None or state.data is None or digest != state.data.sha256:
                    told = told_of(state) if state is not None else "gone"
                    raise Broken(f"{name.stored} is {told}, {said}", name.stored)
            elif is_told and not (
                answer.status == 404 and (state is None or state.data is None)
            ):
                raise Broken(f"{name.stored} is there, and {said}", name.stored)

    def _only_at_damaged(self, name: Name) -> bytes | None:
        """Return the digest of what nobody but the damaged host ever had, if it does.

        It is passed over: perhaps it cannot be read any more, and while it has a stamp
        from the future nobody takes it.
        """
        host = self.cluster.hosts.get(self.damaged or "")
        row = host.rows().get(name.stored) if host is not None else None
        if host is None or row is None or not name.only_had(row.state, host.name):
            return None
        return row.data.sha256 if row.data is not None else None

    def _check_trees(self) -> None:
        for host in self.cluster.hosts.values():
            forest = host.service.committer.forest if host.service else None
            if forest is None or not forest.complete:
                continue
            sums: dict[Place, list[int]] = {
                place: [0] * BRANCHES for place in forest.trees
            }
            shown = host.rows()
            for leaf, name, digest in host.index.digests(0, LEAVES - 1):
                row = shown[name]
                if row.at is not None and digest != digest_of(name, row.state):
                    raise Broken(f"{host.name} has a wrong digest of {name}", name)
                for place in (None, *forest._places_of(name)):
                    if place in sums:
                        sums[place][leaf >> 8] += int.from_bytes(digest, "big")
            for place, tree in forest.trees.items():
                if tree.branches() != [each % (1 << 128) for each in sums[place]]:
                    raise Broken(f"the tree of {host.name} for {place} is wrong")

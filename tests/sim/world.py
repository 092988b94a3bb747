"""What a seed has made: a cluster, its clock, and all that is known of what happened.

While it lasts, no read may return bytes that nobody wrote under that name, and no
replica may drop what has not ended.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from clinfra.blob.index import Batch
from clinfra.blob.reading import SMALL_BYTES
from clinfra.blob.records import Row
from clinfra.config import Seconds
from clinfra.web.pool import Origin
from tests.sim.cluster import Answer, Cluster, Host
from tests.sim.promises import Broken, Name, expiry_of, told_of

SECONDS = 40.0
"""How long the bad days last."""

MOST_FLIPPED_BITS = 200
"""Of one body, by all that happens to a disk."""

MOST_TOLD = 100
"""Lines of a story."""


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
class World:
    """Of one run.

    Args:
        seed: decides everything.

    Attributes:
        names: all that there ever were.
        damaged: the host whose disk may be hurt, if any: never more than one.
        turned_back: the host that a backup is restored of, if any.
        outstanding: what was asked, and not answered yet: since when, and what.
        history: when, about which name, what.
        broken: the first promise that was seen to be broken.
    """

    seed: int
    rng: random.Random = field(init=False)
    shape: Shape = field(init=False)
    quick: bool = field(init=False, default=False)
    cluster: Cluster = field(init=False)
    names: dict[str, Name] = field(init=False, factory=dict)
    damaged: str | None = field(init=False, default=None)
    turned_back: str = field(init=False, default="")
    outstanding: dict[int, tuple[float, str]] = field(init=False, factory=dict)
    history: list[tuple[float, str, str]] = field(init=False, factory=list)
    broken: Broken | None = field(init=False, default=None)
    began: float = field(init=False, default=0.0)
    _asked: int = field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.rng = rng = random.Random(self.seed)
        self.shape = rng.choice(LARGE if rng.random() < 0.08 else SMALL)
        config: dict[str, Any] = {}
        if rng.random() < 0.5:
            # What ends is purged while the others may not have heard of it.
            config = {"purge_interval": Seconds(3), "expiration_delay": Seconds(1)}
        self.quick = bool(config)
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
        self.began = self.cluster.clock.seconds()
        if rng.random() < 0.5:
            self.damaged = rng.choice(sorted(self.cluster.hosts))

    @property
    def is_alone(self) -> bool:
        """There is one replica, and nobody else."""
        return len(self.cluster.topology.peers) == 1

    # The story

    def note(self, what: str, name: str = "") -> None:
        """Write down what happens, for whoever has to find out why."""
        self.history.append((self.cluster.clock.seconds() - self.began, name, what))

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

    def watch(self, host: Host) -> None:
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
                    self.broken = self.broken or Broken(early, stored)
                news = name.applied(host.name, old, new, now, self.is_alone)
                told = told_of(new.state) if new is not None else "nothing"
                self.note(f"{host.name} {news or f'keeps {told}'}", stored)

        index.applied = applied

    def _is_too_early(self, host: Host, name: Name, old: Row, new: Row | None) -> bool:
        """Return whether a row or its data is dropped before it ends."""
        if new is not None and (new.data is not None or old.data is None):
            return False
        known = expiry_of(old.expiry)
        if self.turned_back and any(end > known for end in name.forgotten):
            # It came back with a backup, and everybody had forgotten that it ended.
            return False
        if known in name.forgotten:
            # By a clock that was ahead, perhaps: it is only told again.
            return False
        if Origin(host.ip, 80) not in self.cluster.network.listeners:
            # It starts, and learns what it forgot before the index lost that.
            return False
        return not old.expiry.passed(self.cluster.clock.seconds() + host.offset)

    # What is to happen

    def later(self, wait: float, what: Callable[..., object], *how: object) -> None:
        self.cluster.clock.callLater(wait, what, *how)

    def plan(self, what: Callable[[], None], times: int) -> None:
        for _ in range(times):
            self.later(self.rng.uniform(0, SECONDS), what)

    def ask(
        self, host: Host, method: str, target: str, body: bytes | None = None
    ) -> Deferred[Answer]:
        """Ask; somebody who is not answered for very long has found a hang."""
        self._asked += 1
        number = self._asked
        asked = f"{method} {target} at {host.name}"
        self.outstanding[number] = self.cluster.clock.seconds(), asked

        def over(answer: Answer) -> Answer:
            del self.outstanding[number]
            return answer

        return self.cluster.ask(host, method, target, body).addCallback(over)

    # What may be

    def is_hurt(self, body: bytes, name: Name) -> bool:
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

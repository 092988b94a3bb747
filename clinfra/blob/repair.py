"""Comparing with everybody, continuously, and sending what others turn out to lack.

Each destination is compared with by digest trees (see `trees`); rows it lacks or has
older are sent to it.  It compares with us in the same way, so both get everything;
deletes are compared like any change.  What has ended is not sent to those who do not
know it.

Note [Tombstones]: a deleted name is forgotten only when everybody is known to have
heard of it: when each destination has completed a comparison that began after the
delete was committed here, and each replica of it: one of another cluster that was away
would bring the name back, whoever of its bucket had heard.  So would a request from
before the delete that was long on its way: it is known for `LATE_SECONDS`, at least.
(Originals have no trees: it has to be old, and they are told; see `telling`.)  For
whoever heard and was turned back in time see `rejoin`.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any, cast

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import Logger

from clinfra.blob.between import Between, states_in
from clinfra.blob.commit import Call, Committer
from clinfra.blob.destinations import Destination, destinations
from clinfra.blob.merge import merge
from clinfra.blob.peers import PeerFailed, PeerRefused, Peers
from clinfra.blob.pulling import Pulling
from clinfra.blob.records import Row, State
from clinfra.blob.rejoin import Fence, Proof, told_in
from clinfra.blob.replica import Replica
from clinfra.blob.sending import is_full
from clinfra.blob.standing import Standing
from clinfra.blob.topology import Topology
from clinfra.blob.trees import LEAVES, Forest, Tree, differing, unpack
from clinfra.blob.workers import Workers
from clinfra.errors import InvalidRequest, NotFound, StorageDamaged, Trouble

FIRST_SECONDS = 5.0
"""After the start, before the first one, about."""

LATE_SECONDS = 300.0
"""A request that is on its way for so long does not arrive any more."""

GROW_ROWS = 4000
"""Rows taken into the trees at a time, about."""

AT_A_TIME = 64
"""Rows sent in parallel."""

MAX_TREE_BYTES = 8 << 20
"""Longest answer about trees."""

Send = Callable[[str, Row, str], Any]

Act = Callable[[Sequence[Row], Mapping[str, State]], Awaitable[int]]
"""Does something about rows that differ, and what is known of them elsewhere."""


@define(eq=False)
class Repair:
    """Compares with every destination, one after the other.

    Args:
        send: sends a row to a replica; see `sending.Sender.send`.
        set_aside: keeps a blob in quarantine; a sentence says why.
        has: told which destination has everything up to which number.
        now: returns unix seconds.
        compare_seconds: between two comparisons with a destination, about.
        tombstone_seconds: how long deletes are remembered for destinations that
            cannot be compared with.

    Attributes:
        repaired: rows that somebody lacked, and got.
        pulling: from originals, instead.
    """

    log = Logger()

    _topology: Topology
    _replica: Replica
    _committer: Committer
    _workers: Workers
    _peers: Peers
    _between: Between
    _send: Send
    _fence: Fence
    _set_aside: Callable[[Row, str], Awaitable[object]]
    _standing: Standing
    _has: Callable[[str, int], object]
    _reactor: Any
    _now: Callable[[], float]
    _rng: random.Random
    _compare_seconds: float
    _tombstone_seconds: float
    repaired: int = field(init=False, default=0)
    pulling: Pulling | None = field(init=False, default=None)
    _known: deque[tuple[float, int]] = field(init=False, factory=deque)
    _destinations: Sequence[Destination] = field(init=False)
    _compared: dict[str, int] = field(init=False, factory=dict)
    _compared_at: dict[str, float] = field(init=False, factory=dict)
    _lacked: dict[str, int] = field(init=False, factory=dict)
    _trouble: dict[str, str] = field(init=False, factory=dict)
    _refused: int = field(init=False, default=0)
    _is_full: bool = field(init=False, default=False)
    _running: Deferred[None] | None = field(init=False, default=None)

    @_destinations.default
    def _all_destinations(self) -> Sequence[Destination]:
        return destinations(self._topology)

    def start(self) -> None:
        """Plant the trees and begin to compare."""
        places = [each.place for each in self._destinations if each.place is not None]
        self._committer.forest = Forest(places, self._places_of)
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._over)

    def stop(self) -> None:
        """Compare no more."""
        running, self._running = self._running, None
        if running is not None:
            running.cancel()

    def _over(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            self.log.failure("comparing broke down", failure=failure)

    def _places_of(self, name: str) -> list[tuple[int, int]]:
        try:
            return list(self._topology.place(name, encoded=True).buckets.items())
        except InvalidRequest:
            return []

    # The rounds

    async def _run(self) -> None:
        await self._standing.sure()
        await self._grow()
        if self._fence.closed:
            await self._proof().run()
        await self._rest(FIRST_SECONDS)
        everybody = [
            (each, replica) for each in self._destinations for replica in each.replicas
        ]
        while True:
            left, pause = self._compare_seconds, FIRST_SECONDS
            behind = await self._compare_with(everybody)
            # Who has just started, as all do after a power cut, is soon asked again.
            while behind and pause < left:
                await self._rest(pause)
                left, pause = left - pause, 2 * pause
                behind = await self._compare_with(behind)
            await self._rest(left)

    def _proof(self) -> Proof:
        return Proof(
            self._fence,
            str(self._topology.replica),
            self._destinations,
            self._replica,
            self._peers,
            self._ask,
            self._each_difference,
            self._set_aside,
            self._reactor,
            self._now,
        )

    async def _compare_with(
        self, replicas: Sequence[tuple[Destination, str]]
    ) -> list[tuple[Destination, str]]:
        """Compare with each; return those that could not be compared with."""
        behind = []
        last_seq = await self._workers.run(self._replica.index.last_seq)
        self._known.append((self._reactor.seconds(), last_seq))
        for destination, replica in replicas:
            is_ours = self._peers.is_ours(replica)
            if not self._peers.is_up(replica) or is_ours is None:
                continue
            try:
                if is_ours:
                    await self.compare(destination, replica)
                elif self.pulling is not None:
                    await self.pulling.pull(replica)
            except (Trouble, ValueError, OSError) as trouble:
                behind.append((destination, replica))
                self._trouble[replica] = str(trouble)
                self.log.info(
                    "cannot compare with {replica}: {trouble}",
                    replica=replica,
                    trouble=trouble,
                )
        try:
            await self._fence.note()
        except CancelledError:
            raise
        except Exception as trouble:
            self.log.error("cannot note who was compared with: {error}", error=trouble)
        return behind

    async def _rest(self, seconds: float) -> None:
        await deferLater(self._reactor, seconds * self._rng.uniform(0.7, 1.3))

    async def _grow(self) -> None:
        """Sum up the trees; see Note [Digests are stored, sums are not]."""
        forest, leaves = self._committer.forest, 1
        while forest is not None and not forest.complete:
            end = min(forest.grown_to + leaves, LEAVES)
            call = Call(partial(self._grow_some, forest, end))
            await self._replica.commit(call)
            found = max(1, cast(int, call.result))
            leaves = max(1, leaves * GROW_ROWS // found)
            await deferLater(self._reactor, 0)

    def _grow_some(self, forest: Forest, end: int) -> int:
        """Take the next leaves.  The writer thread: nothing changes meanwhile."""
        digests = self._replica.index.digests(forest.grown_to, end - 1)
        forest.grow(end, digests)
        return len(digests)

    async def compare(self, destination: Destination, replica: str) -> int:
        """Send a replica what it lacks of ours; return how many rows it lacked.

        Raises errors.Trouble or ValueError when that could not be completed.
        """
        self._refused, self._is_full = 0, False
        began_at = self._now()
        # Asked before: an index that is new afterwards is not taken for the old one.
        told = told_in(await self._ask(replica, "/_tree?self=1"))
        began = await self._workers.run(self._replica.index.last_seq)
        send = partial(self._send_lacking, destination, replica)
        sent = await self._each_difference(destination, replica, send)
        self._lacked[replica] = sent
        self._trouble.pop(replica, None)
        if not self._refused:
            self._compared[replica] = began
            self._compared_at[replica] = began_at
            self._fence.compared(replica, told.incarnation, began)
            self._has(destination.key, began)
        if sent:
            self.log.info(
                "{replica} lacked {sent} changes, and has them now",
                replica=replica,
                sent=sent,
            )
        return sent

    async def _each_difference(
        self, destination: Destination, replica: str, act: Act
    ) -> int:
        """Have something done about all that a replica has not as we have."""
        forest = self._committer.forest
        tree = forest.trees.get(destination.place) if forest is not None else None
        if tree is None:
            raise ValueError("there is no such tree")
        asked = "/_tree?"
        if destination.place is not None:
            asked += f"place={self._topology.cluster}:{self._topology.bucket}&"
        branches = unpack(await self._ask(replica, asked))
        done = 0
        for branch in differing(tree.branches(), branches):
            done += await self._each_of_branch(
                destination, replica, asked, tree, branch, act
            )
        return done

    async def _each_of_branch(
        self,
        destination: Destination,
        replica: str,
        asked: str,
        tree: Tree,
        branch: int,
        act: Act,
    ) -> int:
        theirs = unpack(await self._ask(replica, f"{asked}branch={branch}"))
        leaves = [
            (branch << 8) + leaf for leaf in differing(tree.leaves(branch), theirs)
        ]
        done = 0
        for first, last in _ranges(leaves):
            start: int | None = first
            while start is not None:
                rows, next_here = await self._between.rows(
                    start, last, destination.place
                )
                end = last if next_here is None else next_here - 1
                states = await self._states(replica, asked, start, end)
                done += await act(rows, states)
                start = next_here
        return done

    async def _states(
        self, replica: str, asked: str, first: int, last: int
    ) -> dict[str, State]:
        states: dict[str, State] = {}
        start: int | None = first
        while start is not None:
            raw = await self._ask(replica, f"{asked}first={start}&last={last}")
            more, following = states_in(raw)
            states.update(more)
            if following is not None and following <= start:
                raise ValueError(f"{replica} goes round in circles")
            start = following
        return states

    async def _send_lacking(
        self,
        destination: Destination,
        replica: str,
        rows: Sequence[Row],
        states: Mapping[str, State],
    ) -> int:
        now = self._now()
        lacking = [row for row in rows if is_news(row.state, states.get(row.name), now)]
        # What has ended first: it makes space where there is none.
        lacking.sort(key=lambda row: not row.expiry.passed(now))

        async def send(row: Row) -> None:
            if self._is_full and not row.expiry.passed(now):
                self._refused += 1
                return
            try:
                await self._send(replica, row, destination.replicate)
            except (PeerFailed, NotFound, StorageDamaged, OSError) as trouble:
                self._is_full = self._is_full or is_full(trouble)
                if isinstance(trouble, PeerFailed) and not (
                    isinstance(trouble, PeerRefused) or is_full(trouble)
                ):
                    raise
                self._refused += 1
                if not is_full(trouble):
                    self.log.error(
                        "{replica} lacks {name}, and does not get it: {trouble}",
                        replica=replica,
                        name=row.name,
                        trouble=trouble,
                    )
            else:
                self.repaired += 1

        for at in range(0, len(lacking), AT_A_TIME):
            await gatherResults(
                [
                    Deferred.fromCoroutine(send(row))
                    for row in lacking[at : at + AT_A_TIME]
                ],
                consumeErrors=True,
            ).addErrback(_first_error)
        return len(lacking)

    async def _ask(self, replica: str, target: str) -> bytes:
        response = await self._peers.call(
            replica, b"GET", target.rstrip("?&").encode("ascii")
        )
        async with response:
            raw = await response.read_all(MAX_TREE_BYTES)
        if response.head.status != 200:
            raise PeerFailed(replica, response.head.status, "it compares no trees")
        return raw

    # Tombstones

    def may_forget(self, row: Row) -> bool:
        """Return whether a name that has ended can be forgotten: Note [Tombstones]."""
        if self._fence.closed or (self._destinations and row.seq > self._known_long()):
            return False
        forgotten = row.expiry.passed(self._now() - self._tombstone_seconds)
        told = self.pulling.telling.has_told if self.pulling is not None else None
        return all(
            row.seq <= self._compared.get(replica, -1)
            or (forgotten and told is not None and told(replica, row))
            for destination in self._destinations
            for replica in destination.replicas
        )

    def _known_long(self) -> int:
        """Return up to which number changes are known for `LATE_SECONDS`."""
        since = self._reactor.seconds() - LATE_SECONDS
        while len(self._known) > 1 and self._known[1][0] <= since:
            self._known.popleft()
        known_at, seq = self._known[0] if self._known else (inf, -1)
        return seq if known_at <= since else -1

    def report(self) -> Mapping[str, Any]:
        """Return what status pages show.

        For each destination when the last comparison began that left nothing
        unequal, and how many of our rows it lacked at the last; None if unknown.
        """
        forest, now = self._committer.forest, self._now()
        return {
            "trees": forest is not None and forest.complete,
            "repaired": self.repaired,
            "destinations": {
                each.key: self._told(each.replicas, now) for each in self._destinations
            },
        }

    def _told(self, replicas: Sequence[str], now: float) -> Mapping[str, Any]:
        """Return how replicas are that keep the same, all together."""
        ours = [name for name in replicas if self._peers.is_ours(name) is not False]
        since = [self._compared_at.get(name) for name in ours]
        lacked = [self._lacked[name] for name in ours if name in self._lacked]
        trouble = [self._trouble[name] for name in ours if name in self._trouble]
        known = [at for at in since if at is not None]
        all_known = known and len(known) == len(since)
        return {
            "compared_seconds": round(now - min(known), 1) if all_known else None,
            "lacked": sum(lacked) if lacked else None,
            "trouble": "; ".join(trouble) or None,
        }


def is_news(ours: State, theirs: State | None, now: float) -> bool:
    """Return whether somebody who knows `theirs` is to hear of `ours`."""
    merged = merge(theirs, ours)
    if ours.expiry.passed(now):
        # It has ended: nobody needs the bytes, nor to be told of what he never knew.
        return theirs is not None and merged.expiry_won
    return merged.data_won or merged.expiry_won


def _ranges(numbers: Sequence[int]) -> list[tuple[int, int]]:
    """Return the runs of neighbours in rising numbers, as (first, last)."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number - 1:
            runs[-1] = runs[-1][0], number
        else:
            runs.append((number, number))
    return runs


def _first_error(failure: Any) -> Any:
    return getattr(failure.value, "subFailure", failure)

"""Sending our changes on: one delivery for each destination, on one feed.

Note [Filled, not fed]: a peer that has nothing of very many changes is new, and asks
somebody for a stream (see `refill`).  Changes are not delivered to it besides, one by
one, until it has taken ours, or was compared with: then it is known what it has.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred, DeferredList, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from clinfra.blob.backlog import Backlog
from clinfra.blob.commit import Call, Committer
from clinfra.blob.delivery import RETRY_SECONDS, Delivery
from clinfra.blob.destinations import Destination, destinations
from clinfra.blob.feed import BackOff, Window
from clinfra.blob.parking import Parking
from clinfra.blob.peers import Peers
from clinfra.blob.rejoin import Fence
from clinfra.blob.replica import Replica
from clinfra.blob.sending import Sender
from clinfra.blob.topology import Topology
from clinfra.blob.workers import Workers

HOLD_CHANGES = 1000
"""Who has nothing of more is filled, not fed."""

HOLD_SECONDS = 1.0
"""How often it is looked whether that is over."""


@define(eq=False)
class Replication:
    """All deliveries of this replica.

    Args:
        now: returns unix seconds.
        parked_seconds: until a name that a destination refused is tried again.
        longest_pause: between two tries of a destination that fails, seconds.
    """

    log = Logger()

    _topology: Topology
    _replica: Replica
    _committer: Committer
    _workers: Workers
    _peers: Peers
    _reactor: Any
    _now: Callable[[], float]
    _rng: random.Random
    _sender: Sender
    _parked_seconds: float
    _longest_pause: float
    _fence: Fence
    deliveries: dict[str, Delivery] = field(init=False, factory=dict)
    _had: dict[str, int] = field(init=False, factory=dict)
    _held: dict[str, Deferred[None]] = field(init=False, factory=dict)
    _waking: IDelayedCall | None = field(init=False, default=None)
    _retrying: LoopingCall = field(init=False)

    @_retrying.default
    def _make_retrying(self) -> LoopingCall:
        call = LoopingCall(self._retry_parked)
        call.clock = self._reactor
        return call

    def start(self) -> None:
        """Begin to send; destinations that are no more are forgotten."""
        cursors = dict(self._replica.index.cursors())
        wanted: Sequence[Destination] = destinations(self._topology)
        moves: dict[str, int | None] = {}
        windows: dict[str, Window] = {}
        for destination in wanted:
            key = destination.key
            windows[key] = Window(cursors.get(key, 0))
            if key not in cursors:
                moves[key] = 0
            self.deliveries[key] = Delivery(
                destination=destination,
                topology=self._topology,
                replica=self._replica,
                workers=self._workers,
                peers=self._peers,
                sender=self._sender,
                note=self._note,
                reactor=self._reactor,
                now=self._now,
                back_off=BackOff(self._rng.random, most_seconds=self._longest_pause),
                window=windows[key],
                parking=Parking(
                    key, self._replica, self._workers, self._now, self._parked_seconds
                ),
            )
        for key in cursors.keys() - self.deliveries.keys():
            self.log.info("{key} is no destination any more", key=key)
            moves[key] = None
        if moves:
            self._replica.commit(Call(partial(self._committer.move_cursors, moves)))
        self._replica.changed = self._changed
        self._fence.when_open(partial(self._begin, windows))
        self._retrying.start(RETRY_SECONDS, now=False)

    def _begin(self, windows: Mapping[str, Window]) -> None:
        for key in self.deliveries:
            holding = Deferred.fromCoroutine(self._begin_one(key, windows[key]))
            if not holding.called:
                self._held[key] = holding
            holding.addErrback(self._not_begun, key)

    def stop(self) -> Deferred[Any]:
        """Send no more; fires when the cursors are written down."""
        if self._retrying.running:
            self._retrying.stop()
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        self._replica.changed = None
        for holding in list(self._held.values()):
            holding.cancel()
        return DeferredList(
            [delivery.stop() for delivery in self.deliveries.values()],
            consumeErrors=True,
        )

    def has(self, key: str, seq: int) -> None:
        """A destination turned out to have everything of ours up to a number."""
        self._had[key] = max(self._had.get(key, 0), seq)

    async def _begin_one(self, key: str, window: Window) -> None:
        """Begin to deliver: Note [Filled, not fed]."""
        delivery = self.deliveries[key]
        is_peer = delivery.destination.place is None
        (replica, *_) = delivery.destination.replicas
        while (
            is_peer
            and not window.cursor
            and self._last_seq() - self._had.get(key, 0) > HOLD_CHANGES
            and self._peers.is_ours(replica) is not False
        ):
            await deferLater(self._reactor, HOLD_SECONDS)
        self._held.pop(key, None)
        window.skip_to(self._had.get(key, 0))
        delivery.start()

    def _last_seq(self) -> int:
        return self._replica.index.last_seq()

    def _not_begun(self, failure: Any, key: str) -> None:
        if not failure.check(CancelledError):
            self.log.failure("delivery to {key} does not begin", failure, key=key)

    def _note(self, key: str, cursor: int) -> Deferred[None]:
        return self._replica.commit(
            Call(partial(self._committer.move_cursors, {key: cursor}))
        )

    def _changed(self, seq: int, fanout: int) -> None:
        for delivery in self.deliveries.values():
            delivery.notice(seq, fanout)
        # On a later turn: what was pushed ahead of the feed is known by then.
        if self._waking is None:
            self._waking = self._reactor.callLater(0, self._wake_all)

    def _wake_all(self) -> None:
        self._waking = None
        for delivery in self.deliveries.values():
            delivery.wake()

    def _retry_parked(self) -> Deferred[Any]:
        return self._of_each(Delivery.retry_parked)

    def came_back(self, replica: str) -> None:
        """A replica that did not answer does: whatever waits for it is sent."""
        for delivery in self.deliveries.values():
            if replica in delivery.destination.replicas:
                delivery.rest_no_more()

    async def hurry(self) -> None:
        """Try at once to send whatever failed, rests or was put aside."""
        await self._of_each(Delivery.hurry)

    def _of_each(
        self, what: Callable[[Delivery], Coroutine[Any, Any, object]]
    ) -> Deferred[Any]:
        """Do something for all destinations together; trouble is only logged."""

        def failed(failure: Any, key: str) -> None:
            self.log.failure("cannot retry for {key}", failure=failure, key=key)

        if self._fence.closed:
            return succeed(None)
        return DeferredList(
            [
                Deferred.fromCoroutine(what(each)).addErrback(failed, key)
                for key, each in self.deliveries.items()
            ]
        )

    def measure(self) -> Deferred[None]:
        """Look how much waits for each destination."""
        deliveries = list(self.deliveries.values())

        def measured(found: Sequence[Backlog]) -> None:
            for delivery, backlog in zip(deliveries, found, strict=True):
                delivery.backlog = backlog

        looking = self._workers.run(lambda: [each.measure() for each in deliveries])
        return looking.addCallback(measured)

    def report(self) -> Mapping[str, Any]:
        """Return each destination's state, by its key."""
        return {
            key: {**each.report(), "held": key in self._held}
            for key, each in self.deliveries.items()
        }

"""Names that a destination of changes would not take: put aside, and tried again.

They are kept in the index, so a restart forgets none, and the cursor can pass them: a
name that is refused is never in the way of those behind it, however many there are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from clinfra.blob.commit import Call
from clinfra.blob.index import Batch
from clinfra.blob.peers import PeerFailed
from clinfra.blob.records import Parked
from clinfra.blob.replica import Replica
from clinfra.blob.workers import Workers

AT_A_TIME = 32
"""Names tried again in parallel."""

Attempt = Callable[[str], Awaitable[str | None]]
"""Sends a name; returns why it is refused.  Raises peers.PeerFailed."""


@define(eq=False)
class Parking:
    """What one destination would not take.

    Args:
        destination: its key.
        now: returns unix seconds.
        rest_seconds: until a name is tried again.
    """

    log = Logger()

    _destination: str
    _replica: Replica
    _workers: Workers
    _now: Callable[[], float]
    _rest_seconds: float
    _stopped: bool = field(init=False, default=False)

    def stop(self) -> None:
        """Try nothing again any more."""
        self._stopped = True

    def park(self, name: str, reason: str) -> Deferred[None]:
        """Put a name aside.  Fails as the index does, when that cannot be noted."""
        now = self._now()
        parked = Parked(self._destination, name, reason, now, now + self._rest_seconds)
        return self._apply(Batch(parked=[parked]))

    def make_due(self, since: float) -> Deferred[None]:
        """Have what was put aside since then tried again at the next occasion."""
        return self._apply(Batch(due={self._destination: since}))

    def hurry(self, since: float) -> None:
        """The same, as well as it goes."""
        self.make_due(since).addErrback(
            lambda failure: self.log.error(
                "what {key} refused rests on: {error}",
                key=self._destination,
                error=failure.value,
            )
        )

    def _apply(self, batch: Batch) -> Deferred[None]:
        return self._replica.commit(Call(partial(self._replica.index.apply, batch)))

    async def retry(self, attempt: Attempt) -> None:
        """Try what is due, what waited longest first, while some of it is taken."""
        while not self._stopped:
            due = await self._workers.run(
                self._replica.index.parked, self._destination, self._now(), AT_A_TIME
            )
            trying: list[Deferred[object]] = [
                Deferred.fromCoroutine(self._try(each, attempt)) for each in due
            ]
            if not any(await gatherResults(trying, consumeErrors=True)):
                return

    async def _try(self, parked: Parked, attempt: Attempt) -> bool:
        """Try one name; return whether that is settled."""
        try:
            refusal = await attempt(parked.name)
        except PeerFailed as trouble:
            if trouble.status != 500:
                return False
            refusal = trouble.sentence
        if self._stopped:
            return False
        if refusal is not None:
            await self.park(parked.name, refusal)
            return False
        await self._apply(Batch(taken_up=[(self._destination, parked.name)]))
        return True

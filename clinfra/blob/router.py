"""Names that live elsewhere: which replica answers for them, and what if it does not.

Reads ask the replicas of our own cluster's bucket, then those of other clusters, best
first; when the one that was asked is slower than nearly all reads are, the next is
asked too, and the first good answer wins.  A replica that never heard of a name does
not settle the matter, one that knows it is deleted does.

Writes go to one replica of our cluster's bucket, which sends them on; when none can be
reached, to one of another cluster, which delivers them to ours later.  What is sent is
settled before (stamps, end) and can be sent again whole, so trying the next replica
after a silence does no harm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from attrs import define, evolve, field, frozen

from clinfra.blob.health import Hedging
from clinfra.blob.info import NOT_FOUND
from clinfra.blob.peers import FILLING, KNOWN_GONE, PeerFailed, PeerRefused, Peers
from clinfra.blob.race import Ask, Race
from clinfra.blob.replica import Write, end_of
from clinfra.blob.stamps import Stamps
from clinfra.blob.topology import Placement, Topology
from clinfra.errors import InvalidRequest, NotFound, Overloaded, StorageFull
from clinfra.web.responses import OriginResponse

MAX_READS = 1024
"""Most reads elsewhere at a time; more are told to come back."""

WRITE_PATIENCE_SECONDS = 2.0
"""How long a replica may take to keep a small blob before another is asked to."""

_GONE = KNOWN_GONE.lower()
_FILLING = FILLING[0].lower()
_COPIES = b"x-clblob-copies"
_NOT_NOW = (408, 421, 429)
"""4xx that say nothing of the request: another replica may see it otherwise."""


class Gone(NotFound):
    """A replica knows that a blob has ended.

    Attributes:
        modified_deleted: stamp of that word.
    """

    def __init__(self, modified_deleted: int) -> None:
        super().__init__(NOT_FOUND)
        self.modified_deleted = modified_deleted


@frozen
class Found:
    """An answer from elsewhere: whose, and the answer, to be read or aborted."""

    peer: str
    response: OriginResponse


@define(eq=False)
class Router:
    """Finds who answers for names that live elsewhere.

    Args:
        clock: Twisted's IReactorTime.
        now: returns unix seconds.
        stamps: this process's.
    """

    topology: Topology
    peers: Peers
    stamps: Stamps
    clock: Any
    _now: Callable[[], float]
    hedging: Hedging = field(init=False, factory=Hedging)
    _reads: int = field(init=False, default=0)

    def settle(self, write: Write, default_ttl_seconds: int | None) -> Write:
        """Return a change with its stamps and end chosen: sending it twice is once.

        Raises errors.InvalidRequest for stamps that cannot be true.
        """
        for stamp in (write.modified, write.modified_deleted):
            if stamp is not None:
                self.stamps.check(stamp)
        modified = write.modified or self.stamps.next()
        return evolve(
            write,
            modified=modified,
            deleted=end_of(write, default_ttl_seconds, self._now()),
            modified_deleted=write.modified_deleted or modified,
            ttl_seconds=None,
        )

    # Who

    def nearest(self, placement: Placement) -> list[str]:
        """Return the replicas of our own cluster that keep a placement.

        Of every cluster, when this process belongs to none.
        """
        own = self.topology.replica
        return [name for name in self.topology.replicas_of(placement) if name != own]

    def farther(self, placement: Placement) -> list[str]:
        """Return the replicas of other clusters that keep a placement."""
        mine = self.topology.cluster
        if mine is None:
            return []
        return [
            name
            for cluster, bucket in sorted(placement.buckets.items())
            if cluster != mine
            and cluster < len(self.topology.clusters)
            and bucket < len(self.topology.clusters[cluster])
            for name in self.topology.clusters[cluster][bucket].replicas
        ]

    def everybody(self) -> list[str]:
        """Return the other servers of our own cluster, whatever they keep.

        Of every cluster, when this process belongs to none.
        """
        mine = self.topology.cluster
        return [
            name
            for cluster, buckets in enumerate(self.topology.clusters)
            if mine is None or cluster == mine
            for bucket in buckets
            for name in bucket.replicas
            if name != self.topology.replica
        ]

    def has_others(self, placement: Placement) -> bool:
        """Return whether anybody else keeps a placement."""
        return bool(self.nearest(placement) or self.farther(placement))

    # Reads

    async def read(self, placement: Placement, ask: Ask) -> Found:
        """Return the first good answer: any that is no 404 and no 5xx.

        Raises:
            errors.NotFound: enough replicas say so, or all, if some of them are only
                being filled (see `standing`); Gone when one knows it.
            errors.Overloaded: too few can be asked to be sure.
        """
        near = self.nearest(placement)
        order = self._readers(near, least_weight=0)
        order += self._readers(self.farther(placement), least_weight=0)
        # What was acknowledged is on two replicas, as long as there were two: when all
        # but one never heard of it, nobody did.
        return await self._read(order, ask, near, max(1, len(near) - 1))

    async def rescue(self, placement: Placement, ask: Ask) -> Found:
        """Look elsewhere for what should be here and is not.

        Like `read`; but when others cannot be asked, we are right in not having it.
        """
        near = self.nearest(placement)
        order = self._readers(near, least_weight=1)
        order += self._readers(self.farther(placement), least_weight=1)
        return await self._read(order, ask, near, 0)

    def _readers(self, replicas: Sequence[str], *, least_weight: int) -> list[str]:
        peers = self.topology.peers
        weighted = [
            (name, max(least_weight, peers[name].read_weight)) for name in replicas
        ]
        return self.peers.order(weighted)

    async def _read(
        self, order: list[str], ask: Ask, near: Sequence[str], enough: int
    ) -> Found:
        if self._reads >= MAX_READS:
            raise Overloaded("Too many reads wait for other replicas")
        unsure: set[str] = set()

        async def asking(peer: str) -> OriginResponse:
            response = await ask(peer)
            if _FILLING in response.head.index:
                unsure.add(peer)
            return response

        hedging = self.hedging
        race = self._race(asking, order, hedging.after_seconds, hedging.take)
        race.answered_after = hedging.took
        self._reads += 1
        try:
            found = await race.run(_settles_read)
        finally:
            race.end()
            self._reads -= 1
        if found is not None:
            peer, response = found
            if response.head.status != 404:
                return Found(peer, response)
            response.abort()
            stamp = response.head.get(_GONE) or b""
            raise Gone(int(stamp) if stamp.isdigit() else 0)
        missed = [name for name, status in race.answers if status == 404]
        silent = len(race.answers) + len(race.failed) - len(missed)
        sure = [name for name in missed if name in near and name not in unsure]
        if not silent or len(sure) >= enough:
            raise NotFound(NOT_FOUND)
        raise Overloaded("The replicas that keep this blob cannot be reached")

    # Writes

    async def write(
        self, placement: Placement, send: Ask, *, hurry: bool, once: bool = False
    ) -> Found:
        """Have one replica take a change; return its answer, 2xx to 4xx.

        Args:
            send: sends one peer the same change, from its beginning.
            hurry: try a second replica when the first takes very long.
            once: the change depends on what is there, so that doing it twice is not
                doing it once: only the best replica is asked.

        Raises:
            errors.InvalidRequest: none can keep such a name.
            errors.StorageFull: those that answered are full.
            errors.Overloaded: none can be reached.
            Exception: what reading the body raised.
        """
        order = [
            peer
            for near in (self.nearest(placement), self.farther(placement))
            for peer in self.peers.relaying(
                self.peers.order((name, 1) for name in near), placement.stored
            )
        ]
        if once:
            del order[1:]
        patience = WRITE_PATIENCE_SECONDS if hurry else None
        race = self._race(send, order, patience, lambda: True)
        try:
            found = await race.run(_settles_write)
        finally:
            race.end()
        if found is not None:
            return Found(*found)
        refused = [why for _, why in race.failed if isinstance(why, PeerRefused)]
        if refused and not race.answers and len(refused) == len(race.failed):
            raise InvalidRequest(refused[0].sentence)
        if any(status == 507 for _, status in race.answers):
            raise StorageFull("Not enough space to keep this blob")
        raise Overloaded(f"No replica that keeps {placement.stored} can be reached")

    def _race(
        self,
        ask: Ask,
        order: Iterable[str],
        patience: float | None,
        may_hurry: Callable[[], bool],
    ) -> Race:
        slow = self.peers.health.is_slow
        return Race(
            ask, deque(order), (PeerFailed,), self.clock, patience, may_hurry, slow
        )


def _settles_read(response: OriginResponse) -> bool:
    status = response.head.status
    if status == 404:
        return _GONE in response.head.index
    return status < 500 and status not in _NOT_NOW


def _settles_write(response: OriginResponse) -> bool:
    # A 503 that tells of copies has kept the blob: it was told to say so.
    status = response.head.status
    return (status < 500 and status not in _NOT_NOW) or _COPIES in response.head.index

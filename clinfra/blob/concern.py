"""Write concern: how many durable copies there are before a change is answered.

By default two, when the bucket has a second replica that is alive, else one: the client
is told which.  ``copies=N|quorum|all`` and ``clusters=M`` ask for more (or fewer), and
with ``require`` the answer is 503 when that was not reached in time; the change stays
and travels on all the same, and may be sent again with the stamps it got.

What is needed is pushed at once, past the feed, small blobs even while they are being
committed here (see `ahead`); the rest is the feed's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from clinfra.blob.ahead import NOTHING_BEGUN, Begun, HeadStart
from clinfra.blob.delivery import Delivery
from clinfra.blob.destinations import peers_of
from clinfra.blob.parameters import integer, split
from clinfra.blob.peers import PeerFailed, PeerRefused, Peers
from clinfra.blob.records import CLUSTERS, EVERYWHERE, PEERS, Row
from clinfra.blob.sending import Sender
from clinfra.blob.topology import Topology
from clinfra.errors import InvalidRequest, NotFound
from clinfra.web.heads import Field

DEFAULT_COPIES = 2

PATIENCE_SECONDS = 1.0
"""How long a change waits for its copies, from when the last byte moved."""

DURABLE_BYTES_PER_SECOND = 64 << 20
"""A large body is waited for longer, in which it can be made durable."""

HURRY_SHARE = 0.3
"""Of that time; then another replica is asked for the copy, too."""

SLOWEST_BYTES_PER_SECOND = 16 << 20
"""However it moves, nobody waits longer than at this pace."""

ALL, QUORUM = -1, -2


@frozen
class Wish:
    """What a client wants.

    Attributes:
        copies: in our bucket; ALL or QUORUM of it; None for the default.
        clusters: which have the change.
        required: fail rather than fall short.
    """

    copies: int | None = None
    clusters: int = 1
    required: bool = False


@frozen
class Reached:
    """How many have a change, of how many."""

    copies: int
    of_copies: int
    clusters: int
    of_clusters: int
    enough: bool

    def fields(self) -> tuple[Field, ...]:
        """Return the header fields that tell of it."""
        return (
            (b"X-Clblob-Copies", b"%d/%d" % (self.copies, self.of_copies)),
            (b"X-Clblob-Clusters", b"%d/%d" % (self.clusters, self.of_clusters)),
        )


@lru_cache(256)
def parse_wish(query: bytes) -> Wish:
    """Return what a query asks for.  Raises InvalidRequest."""
    if b"copies" not in query and b"clusters" not in query and b"require" not in query:
        return Wish()
    given = split(query)
    copies: int | None = None
    if "copies" in given:
        words = {"all": ALL, "quorum": QUORUM}
        value = given["copies"]
        copies = words[value] if value in words else integer("copies", value)
        if copies == 0 or copies < QUORUM or (copies < 0 and value not in words):
            raise InvalidRequest(f"Invalid int value for copies: {value}")
    clusters = integer("clusters", given["clusters"]) if "clusters" in given else 1
    if clusters < 1:
        raise InvalidRequest(f"Invalid int value for clusters: {clusters}")
    return Wish(copies, clusters, "require" in given)


@define(eq=False)
class Concern:
    """Sees to it that changes have the copies they should.

    Args:
        deliveries: by key of the destination.
        clock: Twisted's IReactorTime.
        refused: told when a peer refused a change, whatever the reason.
    """

    log = Logger()

    _topology: Topology
    _peers: Peers
    _sender: Sender
    _deliveries: dict[str, Delivery]
    _clock: Any
    _refused: Callable[[], object] = lambda: None
    _bucket: tuple[str, ...] = field(init=False)

    @_bucket.default
    def _peers_of_bucket(self) -> tuple[str, ...]:
        return peers_of(self._topology)

    def ahead(self, fanout: int, wish: Wish) -> HeadStart | None:
        """Return what is to hear of a change while it is committed; None for nothing.

        It is for `Replica.put` first and for `reach` then.
        """
        missing = self._missing(fanout, wish)
        return HeadStart(self._sender, self._peers_up, missing) if missing > 0 else None

    async def reach(
        self, row: Row, fanout: int, wish: Wish, ahead: HeadStart | None = None
    ) -> Reached | None:
        """Return how many copies there are, when there are enough or time is up.

        None when that goes without saying: a replica that is alone in the world.

        Args:
            row: as it was committed here.
            fanout: where the change is to travel on to; it is pushed nowhere else.
            ahead: what heard of it while it was committed.
        """
        if not self._deliveries and wish == Wish():
            return None
        places = self._places_of(row)
        of_copies, of_clusters = 1 + len(self._bucket), 1 + len(places)
        patience = Patience(self._clock, row.data.size if row.data is not None else 0)
        peers = _Race()
        missing = self._missing(fanout, wish)
        if missing > 0:
            begun = ahead.begun(row) if ahead is not None else NOTHING_BEGUN
            names = list(begun)
            if len(names) < len(self._bucket):
                names += [name for name in self._peers_up() if name not in begun]
            keys = [f"peer:{name}" for name in names]
            peers = self._push(keys, row, missing, patience, begun)
        clusters = _Race()
        if fanout & CLUSTERS and wish.clusters > 1:
            clusters = self._push(places, row, wish.clusters - 1, patience)
        for race in (peers, clusters):
            await race.wait(patience)
        copies, reached = 1 + peers.won, 1 + clusters.won
        enough = copies >= self._wanted(wish, of_copies) and reached >= wish.clusters
        return Reached(copies, of_copies, reached, of_clusters, enough)

    def _missing(self, fanout: int, wish: Wish) -> int:
        """Return how many peers a change is to be pushed to."""
        if not fanout & PEERS or (wish.copies is None and fanout != EVERYWHERE):
            # It came from another replica: who took it first has counted.
            return 0
        of_copies = 1 + len(self._bucket)
        return min(self._wanted(wish, of_copies), of_copies) - 1

    def _peers_up(self) -> list[str]:
        """Return the peers of our bucket, in the order to push to them."""
        up = [(name, 1) for name in self._bucket if self._peers.is_up(name)]
        return self._peers.order(up) if len(up) > 1 else [name for name, _ in up]

    def _wanted(self, wish: Wish, of_copies: int) -> int:
        if wish.copies is None:
            return min(DEFAULT_COPIES, of_copies)
        if wish.copies == ALL:
            return of_copies
        if wish.copies == QUORUM:
            return of_copies // 2 + 1
        return wish.copies

    def _places_of(self, row: Row) -> list[str]:
        """Return the keys of the other clusters' buckets that a name belongs to."""
        if len(self._deliveries) == len(self._bucket):
            return []
        buckets = self._topology.place(row.name, encoded=True).buckets
        keys = (f"cluster:{each}:{buckets[each]}" for each in sorted(buckets))
        return [key for key in keys if key in self._deliveries]

    def _push(
        self,
        keys: Iterable[str],
        row: Row,
        needed: int,
        patience: Patience,
        begun: Begun = NOTHING_BEGUN,
    ) -> _Race:
        """Push to so many destinations, to the next ones when one fails."""

        def start(key: str) -> Deferred[bool]:
            sending = begun.get(key.removeprefix("peer:"))
            push = self._deliveries[key].push(row, patience.moved, sending)
            pushing = Deferred.fromCoroutine(push)
            return pushing.addCallbacks(lambda _: True, failed, errbackArgs=(key,))

        def failed(failure: Any, key: str) -> bool:
            if not failure.check(PeerFailed, NotFound):
                self.log.failure("cannot push to {key}", failure=failure, key=key)
            elif failure.check(PeerRefused):
                self._refused()
            return False

        race = _Race(list(keys), needed, start, self._is_slow)
        race.begin()
        return race

    def _is_slow(self, key: str) -> None:
        kind, _, name = key.partition(":")
        if kind == "peer":
            self._peers.health.is_slow(name)


@define(eq=False)
class Patience:
    """How long copies of one change are waited for.

    Args:
        clock: Twisted's IReactorTime.
        size: of its body, bytes.

    Attributes:
        seconds: how long it lasts from when the last byte moved.
    """

    clock: Any
    _size: int
    seconds: float = field(init=False)
    _moved: float = field(init=False)
    _end: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._moved = self.clock.seconds()
        self.seconds = PATIENCE_SECONDS + self._size / DURABLE_BYTES_PER_SECOND
        longest = PATIENCE_SECONDS + self._size / SLOWEST_BYTES_PER_SECOND
        self._end = self._moved + longest

    def moved(self) -> None:
        """Bytes have moved."""
        self._moved = self.clock.seconds()

    @property
    def left_seconds(self) -> float:
        """Return how long it lasts, when nothing moves."""
        now: float = self.clock.seconds()
        return min(self._moved + self.seconds, self._end) - now

    @property
    def hurry_seconds(self) -> float:
        """Return after how long the next replica is to be tried, when nothing moves."""
        now: float = self.clock.seconds()
        return self._moved + self.seconds * HURRY_SHARE - now


@define(eq=False)
class _Race:
    """So many of some pushes have to succeed.

    Args:
        waiting: to whom to push, in order.
        needed: how many.
        start: pushes to one; its result tells whether that went well.
        is_slow: told of those that let us wait for too long.
    """

    _waiting: list[str] = field(factory=list)
    _needed: int = 0
    _start: Callable[[str], Deferred[bool]] | None = None
    _is_slow: Callable[[str], object] = lambda key: None
    won: int = field(init=False, default=0)
    _extra: int = field(init=False, default=0)
    _running: list[str] = field(init=False, factory=list)
    _over: Deferred[None] | None = field(init=False, default=None)
    _timer: Any = field(init=False, default=None)

    def begin(self) -> None:
        """Start as many as are needed."""
        most = self._needed + self._extra
        while self._waiting and self._start and self.won + len(self._running) < most:
            key = self._waiting.pop(0)
            self._running.append(key)
            self._start(key).addCallback(self._ended, key)

    def _ended(self, success: bool, key: str) -> None:
        self._running.remove(key)
        self.won += success
        self.begin()
        if not self._running or self.won >= self._needed:
            self._decide()

    async def wait(self, patience: Patience) -> None:
        """Wait until it is decided, or for too long; pushes go on then."""
        if not self._running or self.won >= self._needed:
            return
        self._over = over = Deferred[None]()
        self._look(patience)
        try:
            await over
        finally:
            self._over = None
            self._stop_timer()

    def _look(self, patience: Patience) -> None:
        """See who lets us wait, and look again in time."""
        self._stop_timer()
        left, hurry = patience.left_seconds, patience.hurry_seconds
        if left <= 0:
            self._decide()
            return
        if not self._extra and hurry <= 0:
            # Nothing has moved for a while: try others, too.
            self._extra = len(self._running)
            for key in self._running:
                self._is_slow(key)
            self.begin()
        wait = max(left if self._extra else hurry, 0.01)
        self._timer = patience.clock.callLater(wait, self._look, patience)

    def _decide(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            over.callback(None)

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

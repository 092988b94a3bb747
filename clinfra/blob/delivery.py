"""Sending our changes on to one destination.

A delivery reads changes after its cursor and sends a window of them in parallel, until
the end of time.  A destination that is down costs a timer; a name it refuses is parked;
damage on our side is not blamed on it.  Cursors are written down now and then.

Note [Poison]: an original answers 500 to a name that it cannot keep, and to everything
when its disk is full.  So a name that gets this answer again and again is put aside,
and when that happened to very many, one after the other, each further one at once, but
slowly: whatever is good behind them gets there.  As soon as one is taken, all that were
put aside in that time are tried again.

Note [Full]: a replica of our kind says that its disk is full, and takes deletes all the
same: they make space.  So only what has bytes waits, in its place, and one of it tries
every now and then, until one is taken.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from math import inf
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from clinfra.blob.backlog import NOTHING, Backlog, following, measure
from clinfra.blob.cursor_note import CursorNote
from clinfra.blob.destinations import Destination, is_for
from clinfra.blob.feed import BackOff, Window
from clinfra.blob.parking import Parking
from clinfra.blob.peers import PeerFailed, PeerRefused, Peers, original_relays
from clinfra.blob.pushes import Pushes
from clinfra.blob.records import BYTES, Row
from clinfra.blob.replica import Replica
from clinfra.blob.resting import Pause, Rest
from clinfra.blob.sending import Moved, Sender, is_full
from clinfra.blob.topology import Topology
from clinfra.blob.workers import Workers
from clinfra.errors import NotFound, StorageDamaged

READ_ROWS = 256
"""Changes read at a time."""

WINDOW, BATCHED_WINDOW = 32, 512
"""Changes under way to one destination: one by one, and when they go in batches."""

WINDOW_BYTES = 32 << 20
"""Bodies under way to one destination, about."""

MAX_AHEAD = 16384
"""Changes past the oldest unfinished one, at most."""

RETRY_SECONDS = 60.0
"""How often it is looked which parked names are due."""

PAUSE_SECONDS = 0.02
"""How long the feed waits, while changes are pushed past it, before it reads them."""

POISONED_AFTER = 5
"""A name answered with 500 so often is put aside."""

SUSPICIOUS = 32
"""After so many put aside in a row, further ones are at once: Note [Poison]."""

ANSWERED_SECONDS = 2.0
"""Longest rest of a destination that does answer, if only with 500 or 507."""


@define(eq=False)
class Delivery:
    """Follows the feed for one destination.

    Args:
        note: writes the cursor down.
        now: returns unix seconds.
    """

    log = Logger()

    destination: Destination
    _topology: Topology
    _replica: Replica
    _workers: Workers
    _peers: Peers
    _sender: Sender
    _note: Callable[[str, int], Deferred[None]]
    _reactor: Any
    _now: Callable[[], float]
    _back_off: BackOff
    _window: Window
    _parking: Parking
    backlog: Backlog = field(init=False, factory=Backlog)
    sent: int = field(init=False, default=0)
    _parked_in_a_row: int = field(init=False, default=0)
    _refusing_since: float = field(init=False, default=0.0)
    _running: Deferred[None] | None = field(init=False, default=None)
    _stopped: bool = field(init=False, default=False)
    _changed: bool = field(init=False, default=False)
    _waiter: Deferred[None] | None = field(init=False, default=None)
    _bytes: int = field(init=False, default=0)
    _rows: OrderedDict[int, Row] = field(init=False, factory=OrderedDict)
    _under_way: dict[int, Deferred[None]] = field(init=False, factory=dict)
    _pushes: Pushes = field(init=False, factory=Pushes)
    _unread: float = field(init=False, default=inf)
    _resting: Pause = field(init=False)
    _full: Rest = field(init=False)
    _noted: CursorNote = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._resting = Pause(self._reactor, self._wake)
        self._full = Rest(self._reactor, ANSWERED_SECONDS)
        self._noted = CursorNote(
            self.destination.key,
            self._note,
            lambda: self._window.cursor,
            self._reactor,
        )

    # Lifetime

    def start(self) -> None:
        """Begin to follow the feed."""
        self._noted.is_noted()
        self._unread = inf
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._over)

    def _over(self, failure: Any) -> None:
        if not self._stopped:
            self.log.failure(
                "delivery to {key} broke down and begins again",
                failure=failure,
                key=self.destination.key,
            )
            self._cancel_all()
            self._window = Window(self._window.cursor)
            self._running = deferLater(self._reactor, RETRY_SECONDS, self.start)
            self._running.addErrback(lambda failure: None)

    def stop(self) -> Deferred[None]:
        """Send no more; fires when the cursor is written down."""
        self._stopped = True
        self._parking.stop()
        if self._running is not None:
            self._running.cancel()
        self._cancel_all()
        self._full.end()
        self._resting.end()
        return self._noted.stop()

    def _cancel_all(self) -> None:
        # First, or the window would take what is given up for finished.
        self._rows.clear()
        self._bytes = 0
        for deferred in list(self._under_way.values()):
            deferred.cancel()
        self._under_way.clear()

    def notice(self, seq: int, fanout: int) -> None:
        """There is a change; if it is none of ours, the feed need not read it."""
        self._unread = max(self._unread, seq)
        if not fanout & self.destination.bit:
            self._window.pass_over(seq)

    def wake(self) -> None:
        """There are new changes."""
        self._changed = True
        self._wake()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    async def _wait(self) -> None:
        self._waiter = Deferred()
        try:
            await self._waiter
        finally:
            self._waiter = None

    # The feed

    async def _run(self) -> None:
        while True:
            self._changed = False
            if self._pushes:
                await deferLater(self._reactor, PAUSE_SECONDS)
            self._window.skip_passed()
            rows, last = NOTHING
            if (read_to := self._window.read_to) < self._unread:
                self._unread = 0
                rows, last = await self._workers.run(self._following, read_to)
                if len(rows) == READ_ROWS:
                    self._unread = inf
            for row in rows:
                await self._take(row)
            self._window.skip_to(last)
            self._noted.moved()
            if len(rows) < READ_ROWS:
                while not self._changed:
                    await self._wait()

    def _following(self, read_to: int) -> tuple[Sequence[Row], int]:
        """Read on.  A reader thread."""
        return following(self._replica.index, self.destination, read_to, READ_ROWS)

    async def _take(self, row: Row) -> None:
        if self._window.is_passed(row.seq) or not is_for(
            self.destination, self._topology, row
        ):
            self._window.skip_to(row.seq)
            return
        while self._window.under_way and (
            self._window.under_way >= self._most_under_way()
            or self._bytes >= WINDOW_BYTES
            or row.seq - self._window.cursor > MAX_AHEAD
            or self._resting.active
        ):
            await self._wait()
        self._window.begin(row.seq)
        self._rows[row.seq] = row
        self._bytes += _bytes_of(row)
        delivering = Deferred.fromCoroutine(self._deliver(row))
        if not delivering.called:
            self._under_way[row.seq] = delivering
        delivering.addErrback(self._broken, row)

    def _most_under_way(self) -> int:
        ours = map(self._peers.is_ours, self.destination.replicas)
        return BATCHED_WINDOW if all(ours) else WINDOW

    def _broken(self, failure: Any, row: Row) -> None:
        if not failure.check(CancelledError):
            self.log.failure(
                "sending {name} to {key} broke down",
                failure=failure,
                name=row.name,
                key=self.destination.key,
            )

    async def _deliver(self, row: Row) -> None:
        """Send a row until it is there, refused, or replaced by a newer one."""
        arrived = await self._pushes.arrived(row)
        try:
            if not arrived:
                await self._insist(row)
        finally:
            if not self._stopped:
                self._under_way.pop(row.seq, None)
                if self._rows.pop(row.seq, None) is not None:
                    self._bytes -= _bytes_of(row)
                    self._window.finish(row.seq)
                self._noted.moved()
                self._wake()

    async def _insist(self, row: Row) -> None:
        """Send a row until it is taken, or put aside: Note [Poison]."""
        answered_500 = 0
        while True:
            await self._resting.wait()
            if self._needs_space(row):
                await self._full.over()
            try:
                refusal = await self._refusal_of(row)
            except PeerFailed as trouble:
                if is_full(trouble) and self._needs_space(row):
                    self._is_full(trouble.sentence)
                    continue
                answered = trouble.status == 500
                answered_500 += answered
                suspicious = self._parked_in_a_row >= SUSPICIOUS
                poison = answered and (suspicious or answered_500 >= POISONED_AFTER)
                if suspicious or not poison:
                    self._begin_rest(trouble.sentence, answered)
                if not poison:
                    continue
                refusal = trouble.sentence
            if refusal is None:
                self.sent += 1
                self._took(row)
                return
            try:
                await self._park(row.name, refusal)
                return
            except CancelledError:
                raise
            except Exception as trouble:
                self._begin_rest(f"{row.name} cannot be put aside: {trouble}")

    async def _refusal_of(self, row: Row) -> str | None:
        """Send a row; return why it will not be taken, None when it was.

        Raises peers.PeerFailed when it may be later.
        """
        try:
            await self._send_to_any(row)
        except (PeerRefused, NotFound) as refusal:
            return refusal.sentence
        except (PeerFailed, CancelledError):
            raise
        except (StorageDamaged, OSError) as trouble:
            return f"cannot be read here: {trouble}"
        except Exception as error:
            self.log.failure("cannot send {name}", name=row.name)
            return f"cannot be sent: {error!r}"
        return None

    def _is_full(self, trouble: str) -> None:
        """There is no space for bytes: Note [Full]."""
        if not self._full.active:
            self.log.warn(
                "{key} has no space left: {trouble}",
                key=self.destination.key,
                trouble=trouble,
            )
        self._full.begin()

    def _took(self, row: Row) -> None:
        """A change was taken: what was refused before has another chance."""
        self._back_off.succeeded()
        if self._needs_space(row):
            self._full.end()
        parked, self._parked_in_a_row = self._parked_in_a_row, 0
        if parked >= SUSPICIOUS:
            self._parking.hurry(self._refusing_since)

    async def _send_to_any(
        self, row: Row, moved: Moved = lambda: None, *, newest: bool = False
    ) -> None:
        replicas = self.destination.replicas
        if len(replicas) > 1:
            replicas = tuple(self._peers.order([(name, 1) for name in replicas]))
        replicate, enough, taken = self.destination.replicate, 1, 0
        if replicate != "replica" and not original_relays(row.name):
            replicas = tuple(self._peers.relaying(replicas, row.name))
            if self._peers.is_ours(replicas[0]) is False:
                # None of them could send it on: each gets it from here.
                replicate, enough = "replica", len(replicas)
        for number, replica in enumerate(replicas, 1):
            try:
                await self._sender.send(replica, row, replicate, moved, newest=newest)
                if (taken := taken + 1) == enough:
                    return
            except PeerFailed as trouble:
                last = number == len(replicas) and not taken
                if last or isinstance(trouble, PeerRefused):
                    raise

    def _needs_space(self, row: Row) -> bool:
        """Return whether a change brings bytes that somebody can want."""
        brings = row.data is not None and bool(row.fanout & BYTES)
        return brings and not row.expiry.passed(self._now())

    def _begin_rest(self, trouble: str, answered: bool = False) -> None:
        if self._resting.active:
            return
        wait = self._back_off.failed()
        if answered:
            wait = min(wait, ANSWERED_SECONDS)
        if self._back_off.failures == 1:
            self.log.info(
                "{key} does not take changes: {trouble}",
                key=self.destination.key,
                trouble=trouble,
            )
        self._resting.begin(wait)

    async def _park(self, name: str, reason: str) -> None:
        """Put a name aside.  Raises what the index does when that cannot be noted."""
        self.log.error(
            "{name} is put aside, {key} does not have it: {reason}",
            name=name,
            key=self.destination.key,
            reason=reason,
        )
        if not self._parked_in_a_row:
            self._refusing_since = self._now()
        self._parked_in_a_row += 1
        await self._parking.park(name, reason)

    async def retry_parked(self) -> None:
        """Try what was put aside long enough ago once more."""
        if not self._resting.active:
            await self._parking.retry(self._refusal_again)

    async def _refusal_again(self, name: str) -> str | None:
        row = await self._workers.run(self._replica.index.get, name)
        if row is None or not is_for(self.destination, self._topology, row):
            return None
        return await self._refusal_of(row)

    def rest_no_more(self) -> None:
        """Try at once what failed."""
        self._back_off.succeeded()
        self._full.end()
        self._resting.end()

    async def hurry(self) -> None:
        """Try at once whatever failed or was put aside."""
        self.rest_no_more()
        await self._parking.make_due(0.0)
        await self.retry_parked()

    # Ahead of the feed

    async def push(
        self, row: Row, moved: Moved, sending: Awaitable[object] | None = None
    ) -> None:
        """Send a row at once; the feed then passes over it.

        Args:
            sending: it is on its way already; raises as `Sender.send`.

        Raises as `Sender.send`.
        """
        await self._pushes.run(
            row, sending or self._send_to_any(row, moved, newest=True)
        )
        self._took(row)
        self._window.pass_over(row.seq)

    # Status

    def measure(self) -> Backlog:
        """Return what waits.  A reader thread."""
        index, cursor = self._replica.index, self._window.cursor
        return measure(index, self.destination, self._topology, cursor)

    def report(self) -> Mapping[str, Any]:
        """Return what status pages show; the backlog is as it was when measured."""
        told = self.backlog.told(self._now())
        told["waiting"] = max(told["waiting"], self._window.under_way)
        return {
            "cursor": self._window.cursor,
            "under_way": self._window.under_way,
            **told,
            "sent": self.sent,
            "resting": self._resting.active,
            "full": self._full.active,
        }


def _bytes_of(row: Row) -> int:
    return row.data.size if row.data is not None else 0

"""Sending our changes on to one destination.

A delivery reads changes after its cursor and sends a window of them in parallel, until
the end of time.  A destination that is down costs a timer; a name it refuses is parked;
damage on our side is not blamed on it.  Cursors are written down now and then: what is
sent twice after a restart is merged away.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger

from clinfra.blob.destinations import Destination, wants
from clinfra.blob.feed import BackOff, Parking, Window
from clinfra.blob.peers import PeerFailed, PeerRefused, Peers
from clinfra.blob.records import Row
from clinfra.blob.replica import Replica
from clinfra.blob.stamps import seconds_of
from clinfra.blob.topology import Topology
from clinfra.blob.workers import Workers
from clinfra.errors import InvalidRequest, NotFound, StorageDamaged

READ_ROWS = 256
"""Changes read at a time."""

WINDOW, BATCHED_WINDOW = 32, 512
"""Changes under way to one destination: one by one, and when they go in batches."""

WINDOW_BYTES = 32 << 20
"""Bodies under way to one destination, about."""

MAX_AHEAD = 16384
"""Changes past the oldest unfinished one, at most."""

NOTE_SECONDS = 1.0
"""How often a cursor that moved is written down."""

RETRY_SECONDS = 60.0
"""How often parked names are looked through."""

MAX_PASSED = 65536

POISONED_AFTER = 5
"""A name answered with 500 so often, while others are taken, is put aside."""

Send = Callable[[str, Row, str], Any]


@define(eq=False)
class Delivery:
    """Follows the feed for one destination.

    Args:
        send: sends a row to a replica; see `Sender.send`.
        note: writes the cursor down.
        now: returns unix seconds.
    """

    log = Logger()

    destination: Destination
    _topology: Topology
    _replica: Replica
    _workers: Workers
    _peers: Peers
    _send: Send
    _note: Callable[[str, int], Deferred[None]]
    _reactor: Any
    _now: Callable[[], float]
    _back_off: BackOff
    _window: Window
    parking: Parking = field(init=False, factory=Parking)
    sent: int = field(init=False, default=0)
    _taken: int = field(init=False, default=0)
    _noted: int = field(init=False, default=0)
    _noting: IDelayedCall | None = field(init=False, default=None)
    _running: Deferred[None] | None = field(init=False, default=None)
    _stopped: bool = field(init=False, default=False)
    _changed: bool = field(init=False, default=False)
    _waiter: Deferred[None] | None = field(init=False, default=None)
    _resting: Deferred[None] | None = field(init=False, default=None)
    _bytes: int = field(init=False, default=0)
    _rows: OrderedDict[int, Row] = field(init=False, factory=OrderedDict)
    _under_way: dict[int, Deferred[None]] = field(init=False, factory=dict)
    _passed: OrderedDict[str, tuple[int, Deferred[None] | None]] = field(
        init=False, factory=OrderedDict
    )

    # Lifetime

    def start(self) -> None:
        """Begin to follow the feed."""
        self._noted = self._window.cursor
        self._running = Deferred.fromCoroutine(self._run())
        self._running.addErrback(self._over)

    def _over(self, failure: Any) -> None:
        if not self._stopped:
            self.log.failure(
                "delivery to {key} broke down and begins again",
                failure=failure,
                key=self.destination.key,
            )
            self._window = Window(self._window.cursor)
            self._cancel_all()
            self._running = deferLater(self._reactor, RETRY_SECONDS, self.start)
            self._running.addErrback(lambda failure: None)

    def stop(self) -> Deferred[None]:
        """Send no more; fires when the cursor is written down."""
        self._stopped = True
        if self._running is not None:
            self._running.cancel()
        self._cancel_all()
        if self._resting is not None:
            self._resting.cancel()
        if self._noting is not None:
            self._noting.cancel()
            self._noting = None
        return self._note(self.destination.key, self._window.cursor)

    def _cancel_all(self) -> None:
        for deferred in list(self._under_way.values()):
            deferred.cancel()
        self._under_way.clear()
        self._rows.clear()
        self._bytes = 0

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
            rows = await self._workers.run(
                self._replica.index.changes, self._window.read_to, READ_ROWS
            )
            for row in rows:
                await self._take(row)
            self._moved()
            if len(rows) < READ_ROWS:
                while not self._changed:
                    await self._wait()

    async def _take(self, row: Row) -> None:
        if not self._is_wanted(row):
            self._window.skip_to(row.seq)
            return
        passed = self._passed.get(row.name)
        if passed is not None and passed[0] == row.seq and passed[1] is None:
            del self._passed[row.name]
            self._window.skip_to(row.seq)
            return
        while self._window.under_way and (
            self._window.under_way >= self._most_under_way()
            or self._bytes >= WINDOW_BYTES
            or row.seq - self._window.cursor > MAX_AHEAD
            or self._resting is not None
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

    def _is_wanted(self, row: Row) -> bool:
        if not row.fanout & self.destination.bit:
            return False
        try:
            return wants(self.destination, self._topology, row.name)
        except InvalidRequest:
            return False

    async def _deliver(self, row: Row) -> None:
        """Send a row until it is there, refused, or replaced by a newer one."""
        passed = self._passed.get(row.name)
        if passed is not None and passed[0] == row.seq and passed[1] is not None:
            # It is on its way already: see how that ends.
            waiter: Deferred[None] = Deferred()
            passed[1].addBoth(_tell, waiter)
            await waiter
            passed = self._passed.pop(row.name, None)
        else:
            passed = None
        try:
            if passed is None or passed[1] is not None:
                await self._insist(row)
        finally:
            if not self._stopped:
                self._under_way.pop(row.seq, None)
                if self._rows.pop(row.seq, None) is not None:
                    self._bytes -= _bytes_of(row)
                    self._window.finish(row.seq)
                self._moved()
                self._wake()

    async def _insist(self, row: Row) -> None:
        answered_500, taken_before = 0, self._taken
        while True:
            if self._resting is not None:
                await self._rest()
            try:
                await self._send_to_any(row)
            except (PeerRefused, NotFound) as refusal:
                self._park(row.name, refusal.sentence)
            except PeerFailed as trouble:
                answered_500 += trouble.status == 500
                if answered_500 < POISONED_AFTER or self._taken == taken_before:
                    if self._resting is None:
                        self._begin_rest(trouble)
                    continue
                # It takes others: originals have no other answer to a bad name.
                self._park(row.name, trouble.sentence)
            except CancelledError:
                raise
            except (StorageDamaged, OSError) as trouble:
                self._park(row.name, f"cannot be read here: {trouble}")
            except Exception as error:
                self.log.failure("cannot send {name}", name=row.name)
                self._park(row.name, f"cannot be sent: {error!r}")
            else:
                self.parking.forget(row.name)
                self.sent += 1
                self._taken += 1
                self._back_off.succeeded()
            return

    async def _send_to_any(self, row: Row) -> None:
        replicas = self.destination.replicas
        if len(replicas) > 1:
            replicas = tuple(self._peers.order([(name, 1) for name in replicas]))
        for number, replica in enumerate(replicas, 1):
            try:
                await self._send(replica, row, self.destination.replicate)
                return
            except PeerRefused:
                raise
            except PeerFailed:
                if number == len(replicas):
                    raise

    def _begin_rest(self, trouble: PeerFailed) -> None:
        wait = self._back_off.failed()
        if self._back_off.failures == 1:
            self.log.info(
                "{key} does not take changes: {trouble}",
                key=self.destination.key,
                trouble=trouble.sentence,
            )
        resting: Deferred[None] = deferLater(self._reactor, wait)
        self._resting = resting

        def over(result: object) -> None:
            self._resting = None
            self._wake()

        resting.addBoth(over)

    async def _rest(self) -> None:
        while self._resting is not None:
            waiter: Deferred[None] = Deferred()
            self._resting.addBoth(_tell, waiter)
            await waiter

    def _park(self, name: str, reason: str) -> None:
        self.log.error(
            "{name} is put aside, {key} does not have it: {reason}",
            name=name,
            key=self.destination.key,
            reason=reason,
        )
        self.parking.park(name, reason, self._now())

    async def retry_parked(self) -> None:
        """Try names that were put aside long enough ago once more."""
        for name in self.parking.due(self._now(), WINDOW):
            row = await self._workers.run(self._replica.index.get, name)
            if row is None or not self._is_wanted(row):
                self.parking.forget(name)
            else:
                try:
                    await self._send_to_any(row)
                except (PeerRefused, NotFound) as refusal:
                    self._park(name, refusal.sentence)
                except PeerFailed as failure:
                    if failure.status != 500:
                        return
                    self._park(name, failure.sentence)
                except (StorageDamaged, OSError) as trouble:
                    self._park(name, f"cannot be read here: {trouble}")
                else:
                    self.parking.forget(name)

    # Ahead of the feed

    async def push(self, row: Row) -> None:
        """Send a row at once; the feed then passes over it.

        Raises as `Sender.send`.
        """
        done: Deferred[None] = Deferred()
        self._passed[row.name] = row.seq, done
        if len(self._passed) > MAX_PASSED:
            self._passed.popitem(last=False)
        try:
            await self._send_to_any(row)
        except BaseException:
            self._settle(row, None)
            raise
        else:
            self._settle(row, (row.seq, None))
            self._taken += 1
            self._back_off.succeeded()
        finally:
            done.callback(None)

    def _settle(self, row: Row, how: tuple[int, None] | None) -> None:
        known = self._passed.get(row.name)
        if known is not None and known[0] == row.seq:
            if how is not None and row.seq > self._window.cursor:
                self._passed[row.name] = how
            else:
                del self._passed[row.name]

    # The cursor

    def _moved(self) -> None:
        if self._noting is None and self._window.cursor != self._noted:
            self._noting = self._reactor.callLater(NOTE_SECONDS, self._note_now)

    def _note_now(self) -> None:
        self._noting = None
        cursor = self._noted = self._window.cursor

        def failed(failure: Any) -> None:
            self._noted = -1
            self.log.error(
                "cannot note the cursor of {key}: {error}",
                key=self.destination.key,
                error=failure.value,
            )

        self._note(self.destination.key, cursor).addErrback(failed)

    def report(self) -> Mapping[str, Any]:
        """Return what status pages show."""
        lag = 0.0
        if self._rows:
            oldest = next(iter(self._rows.values()))
            stamp = max(
                oldest.expiry.modified_deleted,
                oldest.data.modified if oldest.data is not None else 0,
            )
            lag = max(0.0, self._now() - seconds_of(stamp))
        return {
            "cursor": self._window.cursor,
            "under_way": self._window.under_way,
            "lag_seconds": round(lag, 1),
            "sent": self.sent,
            "parked": len(self.parking),
            "resting": self._resting is not None,
        }


def _bytes_of(row: Row) -> int:
    return row.data.size if row.data is not None else 0


def _tell(result: object, waiter: Deferred[None]) -> None:
    if not waiter.called:
        waiter.callback(None)

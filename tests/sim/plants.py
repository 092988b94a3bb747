"""Bugs planted on purpose: does the simulation find them?

Each is a context in which our code is broken as somebody might break it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from unittest import mock

from attrs import evolve
from twisted.internet.defer import Deferred

from clinfra.blob import batch, recovery, repair, replica, store_volume, volume
from clinfra.blob.commit import Committer, Job, Plan
from clinfra.blob.delivery import Delivery
from clinfra.blob.expire import Reaper
from clinfra.blob.feed import Window
from clinfra.blob.index import VolumeMark
from clinfra.blob.merge import Merged, merge
from clinfra.blob.records import Row, State
from clinfra.blob.recovery import Recovery
from clinfra.blob.rejoin import Fence
from clinfra.blob.repair import Repair
from clinfra.blob.store_volume import VolumeStore
from tests.sim.disk import Os, SimIndex


@contextmanager
def _merging(merge: Callable[[State | None, State], Merged]) -> Iterator[None]:
    with (
        mock.patch.object(replica, "merge", merge),
        mock.patch.object(recovery, "merge", merge),
        mock.patch.object(repair, "merge", merge),
    ):
        yield


def merge_last_arrival() -> AbstractContextManager[None]:
    """What comes last wins, whatever its stamps say."""

    def merge(known: State | None, incoming: State) -> Merged:
        if known is None or incoming == known:
            won = known is None
            return Merged(incoming, won and incoming.data is not None, won)
        data = incoming.data or known.data
        return Merged(State(data, incoming.expiry), incoming.data is not None, True)

    return _merging(merge)


def merge_ties_by_arrival() -> AbstractContextManager[None]:
    """Of two writes with one stamp the one that comes last wins."""

    def merge(known: State | None, incoming: State) -> Merged:
        if known is None:
            return Merged(incoming, incoming.data is not None, True)
        ours, theirs = known.data, incoming.data
        data_won = theirs is not None and (
            ours is None
            or theirs.modified > ours.modified
            or (theirs.modified == ours.modified and theirs != ours)
        )
        stamps = incoming.expiry.modified_deleted, known.expiry.modified_deleted
        expiry_won = stamps[0] > stamps[1]
        state = State(
            theirs if data_won else ours,
            incoming.expiry if expiry_won else known.expiry,
        )
        return Merged(state, data_won, expiry_won)

    return _merging(merge)


def merge_mixes() -> AbstractContextManager[None]:
    """The later stamp is put on the bytes that are there."""

    def mixed(known: State | None, incoming: State) -> Merged:
        merged = merge(known, incoming)
        if known is None or not known.data or not incoming.data:
            return merged
        if merged.data_won or incoming.data.modified == known.data.modified:
            return merged
        data = evolve(incoming.data, modified=known.data.modified)
        return Merged(evolve(merged.state, data=data), True, merged.expiry_won)

    return _merging(mixed)


def tombstone_early() -> AbstractContextManager[Any]:
    """Deletes are forgotten without asking who has heard of them."""
    return mock.patch.object(Repair, "may_forget", lambda self, row: True)


def no_rejoin_fence() -> AbstractContextManager[Any]:
    """A replica that was away for too long is trusted."""
    load = Fence.load

    def trusting(self: Fence) -> None:
        load(self)
        self.closed = False

    return mock.patch.object(Fence, "load", trusting)


def skip_fsync() -> AbstractContextManager[Any]:
    """Records are written and not synced."""
    return mock.patch.object(Os, "fdatasync", lambda self, fd: None)


def skip_directory_sync() -> AbstractContextManager[Any]:
    """New volumes may lose their names."""
    return mock.patch.object(store_volume, "sync_directory", lambda path: None)


def skip_index_sync() -> AbstractContextManager[Any]:
    """Volumes are deleted while the index may still forget that they were empty."""
    return mock.patch.object(SimIndex, "sync", lambda self: None)


def forget_moves() -> AbstractContextManager[Any]:
    """Bytes that were moved are not found where the index does not know them yet."""
    return mock.patch.object(Recovery, "_is_there", lambda self, at: at is not None)


@contextmanager
def skip_index_sync_forget_moves() -> Iterator[None]:
    """Both: each alone is made up for by the other."""
    with skip_index_sync(), forget_moves():
        yield


def lose_tail() -> AbstractContextManager[Any]:
    """What the index had not got when it died is not looked for."""

    def read(self: Recovery, number: int, start: int, size: int) -> None:
        mark = self._marks.get(number, VolumeMark(start, 0))
        self._marks[number] = evolve(mark, indexed=size)

    return mock.patch.object(Recovery, "_read", read)


def forget_purges() -> AbstractContextManager[Any]:
    """A rebuilt index knows again what was purged."""
    return mock.patch.object(Recovery, "_learn_purges", lambda self, number: None)


@contextmanager
def cursor_before_ack() -> Iterator[None]:
    """A change counts as delivered as soon as it is sent; failures are not retried."""

    async def insist(self: Delivery, row: Row) -> None:
        try:
            await self._send_to_any(row)
        except Exception:
            return

    early = property(lambda self: self._read_to)
    with (
        mock.patch.object(Window, "cursor", early),
        mock.patch.object(Delivery, "_insist", insist),
        # Comparing would put it right: it takes its time.
        mock.patch.object(repair, "FIRST_SECONDS", 1e9),
    ):
        yield


def ack_before_sync() -> AbstractContextManager[Any]:
    """A peer says that it has a copy before it is durable."""
    keep = batch.Receiver._keep

    async def hasty(self: Any, *arguments: Any) -> int:
        Deferred.fromCoroutine(keep(self, *arguments)).addErrback(lambda _: None)
        return batch.KEPT

    return mock.patch.object(batch.Receiver, "_keep", hasty)


@contextmanager
def feed_skips() -> Iterator[None]:
    """A name that is under way is passed over when it is met again in the feed."""
    take = Delivery._take

    async def skipping(self: Delivery, row: Row) -> None:
        if any(each.name == row.name for each in self._rows.values()):
            self._window.skip_to(row.seq)
        else:
            await take(self, row)

    with (
        mock.patch.object(Delivery, "_take", skipping),
        mock.patch.object(repair, "FIRST_SECONDS", 1e9),
    ):
        yield


def expire_newer() -> AbstractContextManager[Any]:
    """A purge removes whatever the row is by now."""
    forget = Reaper._forget

    def hasty(self: Reaper, expected: Row) -> Any:
        commit = self._replica.commit

        def committing(job: Any) -> Any:
            if isinstance(job, Job):
                plan = job.plan

                def planned(row: Row | None) -> Plan | None:
                    made = plan(expected)
                    return made if row is not None else None

                job.plan = planned
            return commit(job)

        with mock.patch.object(type(self._replica), "commit", staticmethod(committing)):
            return forget(self, expected)

    return mock.patch.object(Reaper, "_forget", hasty)


def torn_records() -> AbstractContextManager[Any]:
    """Records are taken up without a look at their bytes."""
    scan = volume.scan

    def trusting(*arguments: Any, check_bodies: bool) -> Any:
        return scan(*arguments, check_bodies=False)

    return mock.patch.object(volume, "scan", trusting)


@contextmanager
def unchecked_reads() -> Iterator[None]:
    """Bodies are served as they are on disk."""
    with mock.patch.object(replica.Replica, "_check", lambda *arguments: None):
        yield


def index_first() -> AbstractContextManager[Any]:
    """Rows are written before their records are synced."""
    append = VolumeStore.append

    def hasty(self: VolumeStore, entries: Sequence[Any], now: float) -> Any:
        with mock.patch.object(Os, "fdatasync", lambda self, fd: None):
            return append(self, entries, now)

    return mock.patch.object(VolumeStore, "append", hasty)


def keep_no_pending() -> AbstractContextManager[Any]:
    """A later change of a name forgets to whom the one before is still to be sent."""
    return mock.patch.object(Committer, "_fanout", lambda self, plan, row: plan.fanout)


def feed_sleeps() -> AbstractContextManager[Any]:
    """Who reads the feed does not hear of changes that come meanwhile."""
    return mock.patch.object(Delivery, "wake", Delivery._wake)


PLANTS: Mapping[str, Callable[[], AbstractContextManager[Any]]] = {
    plant.__name__.replace("_", "-"): plant
    for plant in (
        merge_last_arrival,
        merge_ties_by_arrival,
        merge_mixes,
        tombstone_early,
        no_rejoin_fence,
        skip_fsync,
        skip_directory_sync,
        skip_index_sync_forget_moves,
        lose_tail,
        forget_purges,
        cursor_before_ack,
        ack_before_sync,
        feed_skips,
        feed_sleeps,
        expire_newer,
        torn_records,
        unchecked_reads,
        keep_no_pending,
    )
}

"""Group commit: together when it can be, alone when it must, answered when durable."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.commit import Call, Committer, Job, Plan
from clinfra.blob.hot import ROW_BYTES, Hot, HotCache
from clinfra.blob.index import Batch
from clinfra.blob.index_memory import MemoryIndex
from clinfra.blob.records import Row
from clinfra.blob.store_memory import MemoryStore
from clinfra.blob.writer import WriterThread
from clinfra.errors import PreconditionFailed, StorageFull
from tests.blob.store_contract import NOW, entry
from tests.blob.test_index import row


def put(name: str, body: bytes = b"x") -> Job:
    """Return a job that puts a body."""
    return Job(name, lambda row: Plan(entry(name, body).state, body), len(body))


class CommitterTests(SynchronousTestCase):
    """Batches of jobs."""

    def setUp(self) -> None:
        self.index = MemoryIndex()
        self.store = MemoryStore(capacity_bytes=100_000)
        self.store.open()
        self.committer = Committer(self.index, self.store, lambda: NOW)
        self.applied: list[Batch] = []
        real = self.index.apply

        def apply(index: MemoryIndex, batch: Batch) -> None:
            self.applied.append(batch)
            real(batch)

        self.patch(MemoryIndex, "apply", apply)

    def test_one_transaction(self) -> None:
        """A batch of jobs is one append and one transaction, numbered in order."""
        jobs = [put(f"n{n}") for n in range(20)]
        self.committer.run(jobs)

        self.assertEqual(1, len(self.applied))
        self.assertEqual([None] * 20, [job.error for job in jobs])
        self.assertEqual(
            list(range(1, 21)), [job.after.seq for job in jobs if job.after]
        )

    def test_jobs_see_earlier_ones(self) -> None:
        """A job plans on what the jobs before it leave, in the same batch too."""
        seen: list[Row | None] = []

        def plan(row: Row | None) -> Plan | None:
            seen.append(row)
            return None

        first = put("a", b"one")
        self.committer.run([first, Job("a", plan), put("a", b"two!"), Job("a", plan)])
        sizes = [row.data.size for row in seen if row is not None and row.data]

        self.assertEqual([3, 4], sizes)
        found = self.index.get("a")
        assert found is not None and found.at is not None
        self.assertEqual(b"two!", self.store.read(found.at, 0, 4))

    def test_tidying_up_fails(self) -> None:
        """What cannot be tidied up after a job ends neither it nor the writer."""

        def fail() -> None:
            raise OSError("the file system is read-only now")

        large, other = put("large"), put("b")
        large.alone, large.cleanup = True, fail
        self.committer.run([large, other])

        self.assertEqual([None, None], [large.error, other.error])
        self.assertEqual([1, 2], [job.after.seq for job in (large, other) if job.after])

    def test_replaced_in_the_same_batch(self) -> None:
        """Bytes that a later job of the batch replaces are said to be nowhere."""
        self.committer.run([put("a", b"old")])
        first, second = put("a", b"one"), put("a", b"two!")
        self.committer.run([first, second])

        assert first.after is not None and second.after is not None
        self.assertIsNone(first.after.at)
        self.assertEqual(self.index.get("a"), second.after)

    def test_moved_with_change(self) -> None:
        """Old bytes that move in the batch of new ones do not take their place."""
        self.committer.run([put("a", b"old")])
        old = self.index.get("a")
        assert old is not None

        def move(row: Row | None) -> Plan | None:
            # As compaction does: what it read before, if that is where the row points.
            if row is None or row.at != old.at:
                return None
            return Plan(row.state, b"old", counted=False)

        self.committer.run([put("a", b"new!"), Job("a", move)])
        found = self.index.get("a")
        assert found is not None and found.at is not None and found.data is not None

        self.assertEqual(b"new!", self.store.read(found.at, 0, found.data.size))

    def test_forgotten_with_change(self) -> None:
        """Bytes that come and are dropped in one batch leave no place behind."""
        gone = entry("a", None).state
        self.committer.run([put("a", b"new"), Job("a", lambda row: Plan(gone))])
        found = self.index.get("a")
        assert found is not None

        self.assertEqual((None, None), (found.data, found.at))

    def test_trouble_is_its_jobs_own(self) -> None:
        """A job that refuses fails alone, with its own error."""

        def refuse(row: Row | None) -> Plan | None:
            raise PreconditionFailed("no")

        good, bad = put("a"), Job("b", refuse)
        self.committer.run([good, bad])

        self.assertIsNone(good.error)
        self.assertIsInstance(bad.error, PreconditionFailed)

    def test_one_by_one(self) -> None:
        """When a batch fails, its jobs are tried alone: only the bad one fails."""
        jobs = [put("a"), put("big", bytes(200_000)), put("c")]
        self.committer.run(jobs)

        self.assertEqual(
            [None, StorageFull, None], [j.error and type(j.error) for j in jobs]
        )
        self.assertIsNotNone(self.index.get("c"))
        self.assertIsNone(self.index.get("big"))

    def test_told_ahead(self) -> None:
        """Jobs hear what they become before the sync; of a second attempt, nothing."""
        told: list[tuple[Row, bytes]] = []
        held: list[int] = []

        def ahead(row: Row, body: bytes) -> None:
            told.append((row, body))
            held.append(len(self.store.volumes()))

        jobs = [put("a", b"one"), put("big", bytes(200_000)), put("c", b"two")]
        for job in jobs:
            job.ahead = ahead
        self.committer.run(jobs)

        self.assertEqual([b"one", bytes(200_000), b"two"], [body for _, body in told])
        self.assertEqual([0, 0, 0], held)
        self.assertEqual([None, True, None], [j.error and True for j in jobs])
        again = put("a", b"one")
        again.ahead = ahead
        self.committer.run([again])
        assert again.after is not None
        self.assertIs(told[-1][0].state, again.after.state)

    def test_live_bytes(self) -> None:
        """The marks know how much of a volume still counts."""
        self.committer.run([put("a", b"x" * 100), put("b", b"x" * 100)])
        (mark,) = self.committer.marks.values()
        both = mark.live
        self.committer.run([put("a", b"x" * 100)])
        (mark,) = self.committer.marks.values()

        self.assertEqual(both, mark.live)
        self.assertEqual(both + both // 2, mark.indexed - 64)
        self.assertEqual(mark, self.index.marks()[1])

    def test_pending_change_is_kept(self) -> None:
        """A change not sent everywhere yet outlives one that travels nowhere."""

        def change(fanout: int) -> int | None:
            body = b"%d" % fanout
            state = entry("a", body).state
            self.committer.run([Job("a", lambda row: Plan(state, body, fanout=fanout))])
            found = self.index.get("a")
            return None if found is None else found.fanout

        self.committer.move_cursors({"peer:b": 0, "peer:c": 1})
        self.assertEqual([1, 3, 3], [change(1), change(2), change(0)])
        self.committer.move_cursors({"peer:b": 3, "peer:c": 3})
        self.assertEqual([0, 1], [change(0), change(1)])
        self.committer.move_cursors({"peer:b": 5, "peer:c": None})
        self.assertEqual(2, change(2))

    def test_full_volume_is_not_removed(self) -> None:
        """A volume that rows point at cannot be removed."""
        self.committer.run([put("a")])
        call = Call(lambda: self.committer.remove_volume(1))
        self.committer.run([call])

        self.assertIsInstance(call.error, ValueError)


class WriterThreadTests(SynchronousTestCase):
    """The thread."""

    def setUp(self) -> None:
        store = MemoryStore()
        store.open()
        committer = Committer(MemoryIndex(), store, lambda: NOW)
        self.batches: list[int] = []
        run = committer.run

        def counting(jobs: Sequence[Job | Call]) -> None:
            self.batches.append(len(jobs))
            run(jobs)

        self.patch(Committer, "run", lambda _, jobs: counting(jobs))
        self.answers: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.clock = Clock()
        self.order: list[int] = []
        self.writer = WriterThread(committer, self.answers.put, self.clock)

    def submit(self, *numbers: int) -> None:
        for n in numbers:
            self.writer.submit(
                put(f"n{n % 7}", b"%d" % n), partial(self.order.append, n)
            )

    def end_turn(self) -> None:
        self.clock.advance(0)

    def answer(self) -> None:
        self.answers.get(timeout=10)()

    def test_all_are_answered(self) -> None:
        """Everything submitted is committed in order and handed back; then it stops."""
        self.submit(*range(1000))
        self.writer.start()
        self.writer.stop()
        while not self.answers.empty():
            self.answer()

        self.assertEqual(list(range(1000)), self.order)
        self.assertLess(len(self.batches), 20)
        self.assertEqual(0, self.writer.waiting)
        self.assertNotIn("blob writer", [each.name for each in threading.enumerate()])

    def test_gathers(self) -> None:
        """A batch is taken when a turn has brought nothing more, and not before."""
        self.writer.start()
        self.addCleanup(self.writer.stop)
        self.submit(1, 2)
        self.end_turn()
        self.submit(3)
        self.end_turn()
        self.assertEqual([], self.batches)
        self.end_turn()
        self.answer()
        self.assertEqual([3], self.batches)

    def test_next_batch(self) -> None:
        """What comes meanwhile waits for those who are answered, and write again."""
        self.writer.start()
        self.addCleanup(self.writer.stop)
        self.submit(1)
        self.end_turn()
        first = self.answers.get(timeout=10)
        self.submit(2)
        self.end_turn()
        first()
        self.end_turn()
        self.submit(3)
        self.end_turn()
        self.end_turn()
        self.answer()
        self.assertEqual([1, 2], self.batches)
        self.assertEqual([1, 2, 3], self.order)


class HotCacheTests(SynchronousTestCase):
    """Rows and bodies in memory."""

    def names(self, cache: HotCache, names: Sequence[str]) -> list[bool]:
        return [cache.get(name) is not None for name in names]

    def test_bounded(self) -> None:
        """Bodies go first, then rows, those used longest ago before others."""
        cache = HotCache(16 * (ROW_BYTES + 100))
        made = [Hot(row(f"n{n}"), bytes(2000)) for n in range(20)]
        for each in made:
            cache.put(each)

        self.assertLessEqual(cache.used_bytes, cache.max_bytes)
        self.assertIsNotNone(cache.get("n19"))
        self.assertIsNone(cache.get("n0"))
        self.assertFalse(made[0].valid)
        self.assertTrue(made[19].valid)

    def test_use_keeps(self) -> None:
        """What is used stays."""
        cache = HotCache(4 * 3 * (ROW_BYTES + 8))
        for name in ("a", "b", "c"):
            cache.put(Hot(row(name), None))
        cache.get("a")
        cache.put(Hot(row("d"), None))

        self.assertEqual(
            [True, False, True, True], self.names(cache, ["a", "b", "c", "d"])
        )

    def test_replaced(self) -> None:
        """A name that changed makes the old one invalid and its memory free."""
        cache = HotCache(1 << 20)
        old = Hot(row("a"), bytes(1000))
        cache.put(old)
        before = cache.used_bytes
        cache.put(Hot(row("a", 6), bytes(1000)))

        self.assertFalse(old.valid)
        self.assertEqual(before, cache.used_bytes)
        cache.drop("a")
        self.assertEqual((0, 0), (cache.used_bytes, len(cache)))
        cache.keep_body(old, b"late")
        self.assertEqual(0, cache.used_bytes)

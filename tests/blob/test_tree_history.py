"""Whatever happens to a replica, its trees are what its rows make them.

Changes go through a committer on real files; it is killed and started again, it loses
the end of its index, and all of it.  The trees that were kept up on the way are then
held against the sum over the rows.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.commit import Committer, Job, Plan
from clinfra.blob.index_sqlite import SqliteIndex
from clinfra.blob.merge import merge
from clinfra.blob.parameters import MIN_TIME
from clinfra.blob.records import Data, Expiry, Row, State
from clinfra.blob.recovery import Recovery
from clinfra.blob.store_volume import VolumeStore
from clinfra.blob.trees import LEAVES, Forest, Tree, digest_of, leaf_of

NAMES = st.sampled_from(["a", "b", "c", "ax", "bx"])
PLACE = (1, 0)
HOUR = 3600
GROWN = [("grow",), ("grow",)]

PUT = st.tuples(st.just("put"), NAMES, st.sampled_from([0, 1, 1, HOUR]))
CHANGES = st.tuples(st.sampled_from(["delete", "undelete", "empty", "forget"]), NAMES)
ENDS = st.tuples(st.sampled_from(["drop", "clear", "end", "end", "grow"]))
STARTS = st.tuples(st.sampled_from(["crash", "lose", "ruin"]))


class History:
    """A replica's files, and what happens to them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.now = 1_800_000_000
        self.stamp = self.now << 32
        self.start()

    def start(self) -> None:
        self.index = SqliteIndex(self.path / "index.sqlite")
        self.store = VolumeStore(self.path / "volumes", volume_bytes=1000)
        Recovery(self.index, self.store).run()
        self.committer = Committer(self.index, self.store, lambda: self.now)
        self.committer.load()
        self.forest = Forest([PLACE], lambda name: [PLACE] if "x" in name else [])
        self.committer.forest = self.forest

    def close(self) -> None:
        self.index.close()
        self.store.close()

    def change(self, name: str, plan: Callable[[Row | None], Plan | None]) -> None:
        self.stamp += 1
        job = Job(name, plan)
        self.committer.run([job])
        if job.error is not None:
            raise job.error

    def put(self, name: str, ttl: int) -> None:
        body = b"%d" % self.stamp * 10
        sha256 = hashlib.sha256(body).digest()

        def plan(row: Row | None) -> Plan:
            state = State(
                Data(self.stamp, sha256, len(body), zlib.crc32(body)),
                Expiry(self.stamp, self.now + ttl if ttl else 0),
            )
            merged = merge(row.state if row is not None else None, state)
            return Plan(merged.state, body)

        self.change(name, plan)

    def _expire(self, name: str, deleted: int) -> None:
        def plan(row: Row | None) -> Plan:
            data = row.data if row is not None else None
            return Plan(State(data, Expiry(self.stamp, deleted)))

        self.change(name, plan)

    def delete(self, name: str) -> None:
        self._expire(name, self.now)

    def undelete(self, name: str) -> None:
        self._expire(name, 0)

    def empty(self, name: str) -> None:
        def plan(row: Row | None) -> Plan | None:
            if row is None:
                return None
            return Plan(State(None, row.expiry), counted=False)

        self.change(name, plan)

    def forget(self, name: str) -> None:
        def plan(row: Row | None) -> Plan | None:
            return None if row is None else Plan(row.state, counted=False, forget=True)

        self.change(name, plan)

    def drop(self) -> None:
        for number in self.committer.drop_volumes(lambda mark: mark.ends < self.now):
            self.committer.delete_dropped(number)

    def clear(self) -> None:
        numbers = self.committer.dropped_volumes()
        if not self.committer.forget_dropped(MIN_TIME, 1):
            self.committer.forget_volumes(numbers)

    def end(self) -> None:
        self.now += HOUR
        self.drop()

    def grow(self) -> None:
        if not self.forest.complete:
            first, end = self.forest.grown_to, self.forest.grown_to + LEAVES // 2
            self.forest.grow(end, self.index.digests(first, end - 1))

    def crash(self) -> None:
        """The process dies, and is started again."""
        self.close()
        self.start()

    def lose(self) -> None:
        """The machine dies: the index is as it was when it was synced."""
        kept = self.path / "kept"
        shutil.copy(self.path / "index.sqlite", kept)
        self.close()
        kept.rename(self.path / "index.sqlite")
        self.start()

    def ruin(self) -> None:
        """The index is lost."""
        self.close()
        (self.path / "index.sqlite").unlink()
        self.start()

    def rows(self) -> list[Row]:
        return list(self.index.names_after("", 99))


class HistoryTests(SynchronousTestCase):
    """Trees through all of it."""

    @given(st.lists(st.one_of(PUT, PUT, CHANGES, ENDS, ENDS, STARTS), max_size=40))
    @example([*GROWN, ("put", "a", 1), ("put", "b", 1), ("end",), ("put", "a", 0)])
    @example([*GROWN, ("put", "a", 1), ("end",), ("delete", "a"), ("clear",)])
    @settings(deadline=None, max_examples=60)
    def test_any(self, steps: list[tuple[Any, ...]]) -> None:
        """The trees that were kept up are those of the rows."""
        path = Path(tempfile.mkdtemp(prefix="clinfra-trees-"))
        history = History(path)
        try:
            for step, *arguments in steps:
                getattr(history, step)(*arguments)
            while not history.forest.complete:
                history.grow()
            while history.committer.dropped_volumes():
                history.clear()
            self.check(history)
            summed = history.forest
            history.crash()
            while not history.forest.complete:
                history.grow()
            self.check(history)
            for place in (None, PLACE):
                one, other = summed.trees[place], history.forest.trees[place]
                self.assertEqual(one.branches(), other.branches())
        finally:
            history.close()
            shutil.rmtree(path)

    def check(self, history: History) -> None:
        whole, elsewhere = Tree(), Tree()
        for row in history.rows():
            digest = digest_of(row.name, row.state)
            self.assertEqual(digest, row.digest)
            number = int.from_bytes(digest, "big")
            whole.add(leaf_of(row.name), number)
            if "x" in row.name:
                elsewhere.add(leaf_of(row.name), number)
        for place, tree in ((None, whole), (PLACE, elsewhere)):
            kept = history.forest.trees[place]
            self.assertEqual(tree.branches(), kept.branches())
            for branch in range(256):
                self.assertEqual(tree.leaves(branch), kept.leaves(branch))

"""The exam that every blob index passes."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from clinfra.blob.index import Batch, IBlobIndex, IndexDamaged, VolumeMark
from clinfra.blob.index_memory import MemoryIndex
from clinfra.blob.index_sqlite import SqliteIndex
from clinfra.blob.records import Data, Expiry, Locator, Parked, Row, State
from clinfra.blob.trees import LEAVES, digest_of, leaf_of

DAY = 86400 << 32


def row(
    name: str, modified: int | None = 5, deleted: int = 0, seq: int = 1, size: int = 3
) -> Row:
    """Return a row."""
    data = at = None
    if modified is not None:
        data = Data(modified, bytes(32), size, (1 << 32) - 1, "image/jpeg")
        at = Locator(1, 64, 120, 128)
    return Row(name, State(data, Expiry(modified or 9, deleted)), at, seq, (1, 2))


class IndexContract(SynchronousTestCase):
    """What an index must do; `IndexTests` hides it from test runners."""

    index: IBlobIndex

    def make(self) -> IBlobIndex:
        """Return an index, not opened."""
        raise NotImplementedError

    def setUp(self) -> None:
        self.index = self.make()
        self.index.open()

    def tearDown(self) -> None:
        self.index.close()

    def put(self, *rows: Row) -> None:
        self.index.apply(Batch(rows))

    def test_interface(self) -> None:
        """It has everything the interface says."""
        self.assertTrue(verifyObject(IBlobIndex, self.index))

    def test_round_trip(self) -> None:
        """A row comes back as it was, at the ends of every range too."""
        rows = [
            row("a"),
            row("ü☮", modified=None, deleted=7),
            row("top", modified=(1 << 64) - 1, deleted=(1 << 63) - 1),
            row("bottom", modified=0, deleted=-(1 << 63)),
        ]
        self.put(*rows)

        for each in rows:
            self.assertEqual(each, self.index.get(each.name))
        self.assertIsNone(self.index.get("b"))

    def test_get_many(self) -> None:
        """Many names are asked for at once; those unknown are left out."""
        self.put(*(row(f"n{n}") for n in range(600)))
        wanted = {f"n{n}" for n in range(0, 1200, 2)}
        found = self.index.get_many(wanted)

        self.assertEqual({f"n{n}" for n in range(0, 600, 2)}, set(found))
        self.assertEqual(row("n8"), found["n8"])
        self.assertEqual({}, dict(self.index.get_many(())))

    def test_replace_and_forget(self) -> None:
        """A name has one row, and none when it is forgotten."""
        self.put(row("a"), row("b"))
        self.put(row("a", modified=6, seq=2))
        self.index.apply(Batch(forget=["b", "never"]))

        found = self.index.get("a")
        assert found is not None and found.data is not None
        self.assertEqual(6, found.data.modified)
        self.assertIsNone(self.index.get("b"))

    def test_survives_reopening(self) -> None:
        """What was applied is there after closing and opening."""
        self.index.apply(Batch([row("a", seq=8)], (), {3: VolumeMark(100, 50)}))
        self.index.close()
        self.index.open()

        self.assertEqual(row("a", seq=8), self.index.get("a"))
        self.assertEqual({3: VolumeMark(100, 50)}, dict(self.index.marks()))
        self.assertEqual(8, self.index.last_seq())

    def test_sequence_outlives_rows(self) -> None:
        """A change number is never given twice, even when its row is forgotten."""
        self.put(row("a", seq=8))
        self.index.apply(Batch(forget=["a"]))

        self.assertEqual(8, self.index.last_seq())

    def test_changes(self) -> None:
        """The feed gives the latest state of each name, by change number."""
        self.put(row("a", seq=1), row("b", seq=2))
        self.put(row("a", seq=3))

        self.assertEqual(["b", "a"], [each.name for each in self.index.changes(0, 9)])
        self.assertEqual(["b"], [each.name for each in self.index.changes(1, 1)])

    def test_changes_for_some(self) -> None:
        """The feed can be asked for what is to be sent to somebody."""
        self.put(*(evolve(row(f"{n}", seq=n), fanout=n) for n in range(1, 8)))
        found = [each.name for each in self.index.changes(1, 3, 5)]
        self.assertEqual(["3", "4", "5"], found)

    def test_cursors(self) -> None:
        """How far destinations are is kept, and what rows are still to be sent to."""
        sent = evolve(row("a"), fanout=7)
        self.index.apply(Batch([sent], cursors={"peer:b": 3, "peer:c": 4}))
        self.index.apply(Batch(cursors={"peer:b": None, "peer:c": 9}))
        self.index.close()
        self.index.open()

        self.assertEqual({"peer:c": 9}, dict(self.index.cursors()))
        self.assertEqual(sent, self.index.get("a"))

    def test_parked(self) -> None:
        """What is put aside is kept by destination, until it is taken up."""
        a, b, c = (
            Parked("peer:x", name, "no", since, since + 10.0)
            for name, since in (("a", 5.0), ("b", 3.0), ("c", 8.0))
        )
        other = Parked("peer:y", "a", "why", 1.0, 2.0)
        self.index.apply(Batch(parked=[a, b, c, other], cursors={"peer:y": 1}))
        self.index.close()
        self.index.open()

        self.assertEqual([b], self.index.parked("peer:x", 13.0, 9))
        self.assertEqual([b, a], self.index.parked("peer:x", 99.0, 2))
        self.assertEqual((3, 3.0), self.index.parking("peer:x"))
        again = Parked("peer:x", "b", "still no", 20.0, 30.0)
        self.index.apply(Batch(parked=[again], taken_up=[("peer:x", "a")]))
        kept = evolve(again, since=3.0)
        self.assertEqual([c, kept], self.index.parked("peer:x", 99.0, 9))
        self.index.apply(Batch(due={"peer:x": 8.0}, cursors={"peer:y": None}))
        self.assertEqual([evolve(c, until=0.0)], self.index.parked("peer:x", 1.0, 9))
        self.assertEqual((0, None), self.index.parking("peer:y"))

    def test_notes(self) -> None:
        """Notes are kept by name until they are forgotten, or all is cleared."""
        self.index.apply(Batch(notes={"a": "1", "b": "2", "never": None}))
        self.index.apply(Batch(notes={"a": None, "b": "", "c": "3"}))
        self.index.close()
        self.index.open()

        self.assertEqual({"b": "", "c": "3"}, dict(self.index.notes()))
        self.index.clear()
        self.assertEqual({}, dict(self.index.notes()))

    def test_count_changes(self) -> None:
        """Changes above a number are counted."""
        rows = [evolve(row(f"n{n}"), seq=n) for n in range(1, 8)]
        self.index.apply(Batch(rows))
        self.assertEqual(4, self.index.count_changes(3))

    def test_expired(self) -> None:
        """Expired rows come in pages, by time and name; 0 never ends."""
        self.put(row("c", deleted=5), row("a", deleted=5), row("b", deleted=-3))
        self.put(row("never"), row("later", deleted=11))
        first = self.index.expired(11, (-(1 << 63), ""), 2)

        self.assertEqual(["b", "a"], [each.name for each in first])
        last = (first[-1].expiry.deleted, first[-1].name)
        self.assertEqual(["c"], [r.name for r in self.index.expired(11, last, 2)])

    def test_names_after(self) -> None:
        """Names come in the order of their bytes."""
        self.put(*(row(name) for name in ("b", "a", "ü", "~", "☮")))

        self.assertEqual(
            ["b", "~", "ü", "☮"], [r.name for r in self.index.names_after("a", 9)]
        )

    def test_leaves(self) -> None:
        """Rows come by leaf and name, in pages."""
        rows = sorted((row(f"n{n}") for n in range(50)), key=lambda r: leaf_of(r.name))
        self.put(*rows)
        first, last = leaf_of(rows[10].name), leaf_of(rows[39].name)
        page = self.index.leaves(first, last, (first, ""), 20)
        after = leaf_of(page[-1].name), page[-1].name

        self.assertEqual(rows[10:30], page)
        self.assertEqual(rows[30:40], self.index.leaves(first, last, after, 20))

    def test_listing(self) -> None:
        """Listings go by stamp, start included, stop excluded, tombstones left out."""
        self.put(row("a", 10), row("b", 20), row("c", 30), row("t", None, 5))

        def listed(start: int | None, stop: int | None) -> list[str]:
            return [each.name for each in self.index.listing(start, stop, 9)]

        self.assertEqual(["a", "b", "c"], listed(None, None))
        self.assertEqual(["b"], listed(20, 30))
        self.assertEqual([], listed(31, None))
        self.assertEqual(["a", "b", "c"], listed(-5, 1 << 70))

    def test_windows(self) -> None:
        """Windows are aligned, empty ones left out, their sum is the original's."""
        base = 20_779 * DAY
        self.put(row("a", base + 8192), row("b", base + DAY - 8192))
        self.put(row("c", base + 5 * DAY), row("t", None, 5))

        self.assertEqual(
            [
                (base, base + DAY, 2, base + DAY // 2),
                (base + 5 * DAY, base + 6 * DAY, 1, base + 5 * DAY),
            ],
            list(self.index.windows(None, None, DAY, 9)),
        )
        self.assertEqual([], list(self.index.windows(0, 5, DAY, 9)))
        self.assertEqual(1, len(self.index.windows(None, None, DAY, 1)))

    def test_marks(self) -> None:
        """Marks of volumes are replaced and removed."""
        self.index.apply(Batch(marks={1: VolumeMark(1, 1), 2: VolumeMark(2, 2)}))
        self.index.apply(Batch(marks={1: VolumeMark(5, 0), 2: None}))

        self.assertEqual({1: VolumeMark(5, 0)}, dict(self.index.marks()))

    def test_dropped(self) -> None:
        """Rows of a dropped volume have no data any more, and go bit by bit."""
        at = Locator(7, 64, 8, 16)
        gone = [
            evolve(row(f"g{n}", 10 + n, deleted=5 + n, seq=n), at=at) for n in (1, 2, 3)
        ]
        self.put(*gone, row("keep", 20, deleted=5))
        mark = VolumeMark(99, 0, ends=9, seq=3, spread=True, dropped=True)
        self.index.apply(Batch(marks={7: mark}))
        self.index.close()
        self.index.open()

        told = self.index.get("g1")
        assert told is not None
        self.assertEqual((None, None), (told.data, told.at))
        self.assertEqual(gone[0].expiry, told.expiry)
        self.assertEqual(digest_of("g1", gone[0].state), told.digest)
        names = ["g1", "g2", "g3", "keep"]
        for found in (
            self.index.get_many(names).values(),
            self.index.names_after("", 9),
            self.index.changes(-1, 9),
            self.index.leaves(0, LEAVES - 1, (0, ""), 9),
        ):
            self.assertEqual(names, sorted(each.name for each in found))
            self.assertEqual(["keep"], [each.name for each in found if each.data])
        for found in (
            self.index.expired(100, (-9, ""), 9),
            self.index.listing(None, None, 9),
        ):
            self.assertEqual(["keep"], [each.name for each in found])
        ((_, _, count, _),) = self.index.windows(None, None, DAY, 9)
        self.assertEqual(1, count)
        self.put(row("g2", 30))

        (first,) = self.index.left_behind(-(1 << 63), 1)
        self.assertEqual(told, first)
        self.assertEqual(["g3"], [each.name for each in self.index.left_behind(7, 9)])
        self.index.apply(Batch(forget=["g1", "g3"]))
        self.assertEqual([], list(self.index.left_behind(-9, 9)))
        left = self.index.names_after("", 9)
        self.assertEqual([row("g2", 30), row("keep", 20, deleted=5)], left)
        self.assertEqual({7: mark}, dict(self.index.marks()))

    def test_digests(self) -> None:
        """What the trees are made of is kept with each row."""
        rows = [row("a"), row("b", None, 5), row("c", deleted=8)]
        self.put(row("a", 99), *rows)
        told = {(leaf_of(r.name), r.name, digest_of(r.name, r.state)) for r in rows}

        self.assertEqual(told, set(self.index.digests(0, LEAVES - 1)))
        (one,) = self.index.digests(leaf_of("b"), leaf_of("b"))
        self.assertEqual("b", one[1])

    def test_clear(self) -> None:
        """Cleared, it is as new."""
        self.put(row("a"))
        self.index.clear()

        self.assertIsNone(self.index.get("a"))
        self.assertEqual(0, self.index.last_seq())


class MemoryIndexTests(IndexContract):
    """The fake."""

    def make(self) -> IBlobIndex:
        return MemoryIndex()


class SqliteIndexTests(IndexContract):
    """SQLite."""

    def make(self) -> IBlobIndex:
        directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, directory)
        self.path = directory / "index.sqlite"
        return SqliteIndex(self.path)

    def test_alone_and_in_company(self) -> None:
        """Only who compares with others pays for the index by leaf; it can change."""

        def plan() -> str:
            with contextlib.closing(sqlite3.connect(self.path)) as connection:
                found = connection.execute(
                    "EXPLAIN QUERY PLAN SELECT name FROM blob WHERE leaf = 1"
                )
                return str(found.fetchall())

        self.put(row("a"))
        self.assertIn("blob_leaf", plan())
        for by_leaf in (False, True):
            self.index.close()
            self.index = SqliteIndex(self.path, by_leaf=by_leaf)
            self.index.open()
            leaf = leaf_of("a")

            self.assertEqual(by_leaf, "blob_leaf" in plan())
            self.assertEqual([row("a")], self.index.leaves(leaf, leaf, (leaf, ""), 9))

    def test_all_or_nothing(self) -> None:
        """A batch with one bad row changes nothing at all."""
        self.put(row("a"))
        bad = row("b", size=1 << 70)
        with self.assertRaises(OverflowError):
            self.index.apply(Batch([row("c"), bad], ["a"], {1: VolumeMark(1, 1)}))

        self.assertIsNotNone(self.index.get("a"))
        self.assertIsNone(self.index.get("c"))
        self.assertEqual({}, dict(self.index.marks()))
        self.put(row("d"))
        self.assertIsNotNone(self.index.get("d"))

    def test_sync(self) -> None:
        """Synced, everything applied is in the file itself, without its log."""
        self.put(row("a"))
        self.index.sync()
        alone = SqliteIndex(self.path.with_name("copy"))
        shutil.copy(self.path, alone.path)
        alone.open()
        self.addCleanup(alone.close)

        self.assertEqual(row("a"), alone.get("a"))

    def test_damaged(self) -> None:
        """A file that is no data base is told apart, and can be set aside."""
        self.index.close()
        self.path.write_bytes(b"no data base at all" * 1000)
        with self.assertRaises(IndexDamaged):
            self.index.open()
        self.index.clear()

        self.put(row("a"))
        self.assertTrue(list(self.path.parent.glob("*.aside.*")))


del IndexContract  # no test of its own

"""What readers in other processes are told of changes."""

from __future__ import annotations

import os
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.generations import Generations, slot_of
from clinfra.blob.index import Batch, VolumeMark
from clinfra.blob.index_sqlite import SqliteIndex
from clinfra.blob.records import Expiry, Row, State
from clinfra.blob.sqlite_reading import SqliteReading


class GenerationsTests(SynchronousTestCase):
    """Whoever believes the counters never believes what has changed."""

    def setUp(self) -> None:
        directory = Path(self.mktemp())
        directory.mkdir()
        self.written = Generations()
        self.written.create()
        self.addCleanup(self.written.close)
        self.read = Generations()
        self.read.open(os.dup(self.written.descriptor))
        self.addCleanup(self.read.close)
        self.index = SqliteIndex(directory / "index", generations=self.written)
        self.index.open()
        self.addCleanup(self.index.close)
        self.reader = SqliteReading(directory / "index")
        self.reader.follow()
        self.addCleanup(self.reader.close)

    def row(self, name: str) -> Row:
        return Row(name, State(None, Expiry(1, 1)), None, 1, None, 0, b"")

    def test_changes_are_seen(self) -> None:
        """A name's counter moves with its row, and when it is forgotten."""
        before = self.read.of(slot_of("name"))
        self.index.apply(Batch(rows=[self.row("name")]))
        between = self.read.of(slot_of("name"))
        self.assertNotEqual(before, between)
        self.assertIsNotNone(self.reader.get("name"))
        self.index.apply(Batch(forget=["name"]))
        self.assertNotEqual(between, self.read.of(slot_of("name")))
        self.assertIsNone(self.reader.get("name"))
        self.assertEqual(self.read.of_all, 0)

    def test_what_concerns_all(self) -> None:
        """Dropped volumes, and changes that are not listed, concern every name."""
        self.index.apply(Batch(marks={1: VolumeMark(8, 8)}))
        self.assertEqual(self.read.of_all, 0)
        self.index.apply(Batch(marks={1: VolumeMark(8, 0, dropped=True)}))
        self.assertEqual(self.read.of_all, 1)
        self.index.apply(Batch(), lambda: None)
        self.assertEqual(self.read.of_all, 2)

    def test_shut(self) -> None:
        """Readers leave everything to the one who writes until they are allowed to."""
        self.assertTrue(self.read.is_shut)
        self.written.allow()
        self.assertFalse(self.read.is_shut)

    def test_a_failed_change(self) -> None:
        """What was not applied is not told."""

        def fail() -> None:
            raise ZeroDivisionError

        with self.assertRaises(ZeroDivisionError):
            self.index.apply(Batch(rows=[self.row("name")]), fail)
        self.assertEqual(self.read.of(slot_of("name")), 0)
        self.assertEqual(self.read.of_all, 0)

    def test_made_anew(self) -> None:
        """Those who look at an older table are not told of what a newer one tells."""
        older = self.read
        self.written.create()
        self.written.allow()
        self.assertTrue(older.is_shut)

"""What a process says of blobs that another one writes."""

from __future__ import annotations

import os
from pathlib import Path
from zlib import crc32

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.generations import Generations
from clinfra.blob.hot import Hot, HotCache
from clinfra.blob.index import Batch, VolumeMark
from clinfra.blob.index_sqlite import SqliteIndex
from clinfra.blob.read_service import SharedReader, may_read
from clinfra.blob.records import Data, Expiry, Row, State
from clinfra.blob.sqlite_reading import SqliteReading
from clinfra.blob.store import Entry
from clinfra.blob.store_volume import VolumeStore
from clinfra.blob.volume_files import VolumeFiles
from clinfra.blob.workers import InlineWorkers
from clinfra.errors import StorageDamaged
from clinfra.web.heads import parse_request_head


class SharedReaderTests(SynchronousTestCase):
    """It never says what was so before the last change."""

    def setUp(self) -> None:
        directory = Path(self.mktemp())
        self.generations = Generations()
        self.generations.create()
        self.generations.allow()
        self.addCleanup(self.generations.close)
        self.index = SqliteIndex(directory / "index", generations=self.generations)
        self.index.open()
        self.addCleanup(self.index.close)
        self.store = VolumeStore(directory / "volumes", 1 << 20)
        self.store.open()
        self.addCleanup(self.store.close)
        reading, table = SqliteReading(directory / "index"), Generations()
        self.addCleanup(reading.close)
        table.open(os.dup(self.generations.descriptor))
        self.addCleanup(table.close)
        self.files = VolumeFiles(directory / "volumes")
        self.addCleanup(self.files.close)
        self.hot = HotCache(1 << 20)
        self.reader = SharedReader(
            index=reading,
            store=self.files,
            hot=self.hot,
            workers=InlineWorkers(),
            now=lambda: 1000.0,
            generations=table,
            main=os.getppid(),
        )

    def put(self, name: str, body: bytes, stamp: int = 1) -> Row:
        """Have a blob written by the other process."""
        data = Data(stamp, b"", len(body), crc32(body), "")
        state = State(data, Expiry(stamp, 0))
        (at,) = self.store.append([Entry(name, state, body)], 1000.0)
        row = Row(name, state, at, stamp, (at.volume, at.volume), 0, b"")
        self.index.apply(Batch([row], marks={at.volume: VolumeMark(0, at.length)}))
        return row

    def find(self, name: str) -> Hot | None:
        return self.successResultOf(Deferred.fromCoroutine(self.reader.find(name)))

    def body(self, name: str) -> bytes:
        hot = self.find(name)
        assert hot is not None
        return self.successResultOf(Deferred.fromCoroutine(self.reader.body(hot)))

    def test_changes(self) -> None:
        """What is kept in memory is believed until its name changes."""
        self.put("name", b"first")
        self.assertEqual(b"first", self.body("name"))
        kept = self.hot.get("name")
        assert kept is not None
        self.assertTrue(self.reader.is_current(kept))
        self.assertIs(kept, self.find("name"))
        self.put("other", b"other")
        self.assertTrue(self.reader.is_current(kept))
        self.put("name", b"second", 2)
        self.assertFalse(self.reader.is_current(kept))
        self.assertEqual(b"second", self.body("name"))

    def test_forgotten(self) -> None:
        """A name that is forgotten is not there."""
        self.put("name", b"bytes")
        self.find("name")
        self.index.apply(Batch(forget=["name"]))
        self.assertIsNone(self.find("name"))

    def test_changed_while_it_is_read(self) -> None:
        """What may have changed since it was read is answered, but not kept."""
        self.put("name", b"first")
        read = self.reader.index.get

        def get(name: str) -> Row | None:
            found = read(name)
            self.put("name", b"second", 2)
            return found

        self.patch(SqliteReading, "get", lambda index, name: get(name))
        self.find("name")
        self.assertIsNone(self.hot.get("name"))

    def test_dropped_volumes(self) -> None:
        """With a volume that is dropped, all its blobs lose their bytes."""
        row = self.put("name", b"bytes")
        kept = self.find("name")
        assert row.at is not None and kept is not None
        mark = VolumeMark(0, 0, dropped=True)
        self.index.apply(Batch(marks={row.at.volume: mark}))
        self.assertFalse(self.reader.is_current(kept))
        found = self.find("name")
        assert found is not None
        self.assertIsNone(found.row.data)

    def test_deleted_volumes(self) -> None:
        """A volume that is deleted while it is open is read on, and then let go."""
        row = self.put("name", b"bytes")
        assert row.at is not None
        self.assertEqual(b"bytes", self.files.read(row.at, 0, 5))
        self.store.remove(row.at.volume)
        self.assertEqual(b"bytes", self.files.read(row.at, 0, 5))
        self.files.let_go()
        with self.assertRaises(LookupError):
            self.files.read(row.at, 0, 5)
        finding = Deferred.fromCoroutine(self.reader.find("name"))
        self.failureResultOf(finding, StorageDamaged)

    def test_trusted(self) -> None:
        """It answers for the process that started it only, and when that allows it."""
        self.assertTrue(self.reader.trusted)
        self.generations.create()
        self.assertTrue(self.reader.trusted)
        orphan = SharedReader(
            index=self.reader.index,
            store=self.files,
            hot=self.hot,
            workers=InlineWorkers(),
            now=lambda: 1000.0,
            generations=self.reader.generations,
            main=os.getppid() + 1,
        )
        self.assertFalse(orphan.trusted)
        table = Generations()
        table.open(os.dup(self.generations.descriptor))
        self.addCleanup(table.close)
        self.reader.generations = table
        self.assertFalse(self.reader.trusted)
        self.generations.allow()
        self.assertTrue(self.reader.trusted)


class RequestTests(SynchronousTestCase):
    """Only what asks for a blob could be for a process that only reads."""

    def test_which(self) -> None:
        """GET and HEAD without a body."""
        for request, expected in (
            (b"GET /000_a", True),
            (b"HEAD /000_a?x=1", True),
            (b"PUT /a", False),
            (b"DELETE /000_a", False),
            (b"OPTIONS *", False),
            (b"GET /_status", False),
        ):
            raw = request + b" HTTP/1.1\r\nHost: x\r\n\r\n"
            self.assertEqual(expected, may_read(parse_request_head(raw)), request)
        raw = b"GET /000_a HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
        self.assertFalse(may_read(parse_request_head(raw)))

"""A wiped replica becomes what its peer is: volumes and index taken over as files."""

from __future__ import annotations

import json
import random
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast
from unittest import mock

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob import adopt, clone, fetch, sqlite_clone
from clinfra.blob.adopt import Adoption
from clinfra.blob.fetch import Fetch
from clinfra.blob.index import Batch
from clinfra.blob.service import BlobService
from clinfra.blob.store_volume import VolumeStore
from clinfra.config import BlobConfig, Bytes
from clinfra.errors import OriginFailed, StorageFull
from clinfra.web.pool import Origin, Pool
from clinfra.web.site import Site
from tests.blob.support import LIMITS, NOW
from tests.sim.cluster import Answer, cluster_file
from tests.sim.network import Network

FIRST, SECOND = "c0b0r0", "c0b0r1"
IPS = {FIRST: "10.0.0.0", SECOND: "10.0.0.1"}


class Died(BaseException):
    """The process is killed here."""


class CloneTests(SynchronousTestCase):
    """Two replicas with real files, on a clock."""

    def setUp(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="clinfra-clone-"))
        self.addCleanup(shutil.rmtree, self.root)
        self.clock = Clock()
        self.clock.advance(NOW)
        self.network = Network(self.clock, random.Random(1))
        self.services: dict[str, BlobService] = {}
        (self.root / "cluster.json").write_text(cluster_file([[2]]))
        self.pool = Pool(self.clock, connect=self.network.connector("192.0.2.1"))
        self.addCleanup(self.end)
        self.patch(clone, "LEAST_BLOBS", 20)
        self.patch(adopt, "ROWS", 10)
        self.patch(clone, "PIECE_BYTES", 1 << 17)
        self.patch(fetch, "PIECE_BYTES", 1 << 17)
        self.patch(fetch, "BLOCK_BYTES", 1 << 14)

    def end(self) -> None:
        for name in list(self.services):
            self.stop(name)
        self.pool.close()
        self.run_for(1)

    def start(self, name: str, **config: Any) -> BlobService:
        service = BlobService(
            BlobConfig(
                **{
                    "min_free_bytes": Bytes(0),
                    "cluster_file": str(self.root / "cluster.json"),
                    "replica": name,
                    "volume_bytes": Bytes(20000),
                    **config,
                }
            ),
            reactor=self.clock,
            data_dir=self.root / name,
            threads=False,
            rng=random.Random(1),
            connect=self.network.connector(IPS[name]),
        )
        service.open()
        service.startService()
        self.services[name] = service
        site = Site(
            service.resource, reactor=self.clock, limits=LIMITS, lane=service.lane
        )
        self.network.listeners[Origin(IPS[name], 80)] = cast(Factory, site)
        return service

    def stop(self, name: str) -> None:
        del self.network.listeners[Origin(IPS[name], 80)]
        self.network.crash(IPS[name])
        service = self.services.pop(name)
        service.stopService()
        self.run_for(0.1)
        service.close()

    def kill(self, name: str) -> None:
        """Let go of a replica; the next one finds what it left, out of order."""
        running = self.root / name / "blob" / "running"
        self.stop(name)
        running.touch()

    def wipe(self, name: str) -> None:
        self.stop(name)
        shutil.rmtree(self.root / name)
        self.run_for(1.5)

    def run_for(self, seconds: float) -> None:
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(0.02)

    def ask(
        self, name: str, method: str, target: str, body: bytes | None = None
    ) -> Answer:
        async def ask() -> Answer:
            origin = Origin(IPS[name], 80)
            try:
                response = await self.pool.request(
                    origin, method.encode(), target.encode(), (), body
                )
                return Answer(
                    response.head.status, await response.read_all(1 << 24), {}
                )
            except OriginFailed:
                return Answer(0)

        found: list[Answer] = []
        asking = Deferred.fromCoroutine(ask())
        asking.addCallback(found.append)
        for _ in range(2000):
            if found:
                break
            self.run_for(0.02)
        return found[0]

    def put(self, name: str, target: str, body: bytes) -> str:
        answer = self.ask(name, "PUT", target, body)
        self.assertEqual(200, answer.status)
        return str(answer.told["name"])

    def filled(self, name: str) -> dict[str, Any]:
        for _ in range(400):
            report = dict(self.services[name].refill.report())
            if not report["filling"]:
                return report
            self.run_for(0.1)
        raise AssertionError(report)

    def states(self, name: str) -> dict[str, object]:
        rows = self.services[name].replica.index.names_after("", 10000)
        return {row.name: row.state for row in rows}

    def check_equal(self, bodies: dict[str, bytes]) -> None:
        """Check that both have the same, and the second all bytes itself."""
        self.assertEqual(self.states(FIRST), self.states(SECOND))
        replica = self.services[SECOND].replica
        for stored, body in bodies.items():
            row = replica.index.get(stored)
            assert row is not None and row.at is not None, stored
            self.assertEqual(body, replica.store.read(row.at, 0, len(body)))
        self.check_marks(SECOND)

    def check_marks(self, name: str) -> None:
        """Check what the index knows of the volumes against its rows."""
        service = self.services[name]
        live: dict[int, int] = {}
        for row in service.replica.index.names_after("", 10000):
            if row.at is not None:
                live[row.at.volume] = live.get(row.at.volume, 0) + row.at.length
                mark = service.committer.marks[row.at.volume]
                self.assertLessEqual(row.seq, mark.seq)
        marks = service.committer.marks
        self.assertEqual(marks, service.replica.index.marks())
        self.assertEqual(
            live, {number: mark.live for number, mark in marks.items() if mark.live}
        )
        self.assertLessEqual(live.keys(), service.replica.store.volumes().keys())

    def both(self, count: int = 60) -> dict[str, bytes]:
        """Start both, and keep some blobs, deletes and ends; return the bodies."""
        self.start(FIRST)
        self.start(SECOND)
        self.run_for(8)
        bodies = {}
        for number in range(count):
            body = b"%d " % number * 300
            ttl = "?ttl=3000" if number % 10 == 3 else ""
            bodies[self.put(FIRST, f"/n{number}{ttl}", body)] = body
        large = bytes(range(256)) * 5000
        bodies[self.put(FIRST, "/large", large)] = large
        for stored in list(bodies)[5:8]:
            self.assertEqual(200, self.ask(FIRST, "DELETE", f"/{stored}").status)
        self.run_for(5)
        return bodies

    def test_everything(self) -> None:
        """All rows and bytes come as files; nothing is sent again, or left behind."""
        bodies = self.both()
        self.wipe(SECOND)
        second = self.start(SECOND)
        report = self.filled(SECOND)
        self.assertEqual((61, 0), (report["blobs"], report["left_out"]))
        self.check_equal(bodies)
        for row in second.replica.index.names_after("", 10000):
            self.assertEqual(0, row.fanout)
        self.assertIn('"over"', second.replica.index.notes()[adopt.NOTE])
        self.run_for(300)
        for name in (FIRST, SECOND):
            blob = self.root / name / "blob"
            self.assertFalse((blob / "clone").exists())
            self.assertFalse(list((blob / "lent").glob("*")))
            self.assertEqual(0, self.services[name].repair.repaired)
        deliveries = second.replication.deliveries
        self.assertEqual([0], [each.sent for each in deliveries.values()])
        self.assertTrue(second.repair.report()["trees"])
        self.check_equal(bodies)

    def test_restart_and_rebuilt_index(self) -> None:
        """A restart finds it all, and so does one that has lost the index."""
        bodies = self.both()
        self.wipe(SECOND)
        self.start(SECOND)
        self.filled(SECOND)
        stored = self.put(SECOND, "/later", b"later")
        bodies[stored] = b"later"
        self.run_for(3)
        self.stop(SECOND)
        self.start(SECOND)
        self.check_equal(bodies)
        before = self.states(SECOND)
        self.stop(SECOND)
        for path in (self.root / SECOND / "blob").glob("index.sqlite*"):
            path.unlink()
        self.start(SECOND)
        self.assertEqual(before, self.states(SECOND))

    def test_killed_at_every_step(self) -> None:
        """Wherever it is killed, the next start goes on or begins anew; all is there.

        No volume is left that nobody knows, no row without its bytes.
        """
        bodies = self.both()
        steps: list[tuple[object, str, int]] = [
            (adopt, "offer_in", 1),
            (Fetch, "_make_files", 1),
            (fetch, "write", 20),
            (Fetch, "_sync", 1),
            (Adoption, "_begin_with", 1),
            (Adoption, "_place", 1),
            (VolumeStore, "adopt", 1),
            (sqlite_clone, "look", 2),
            (sqlite_clone, "take", 2),
            (Adoption, "_take_some", 2),
            (Adoption, "_end", 1),
        ]
        for where, name, last in steps:
            for nth, after in ((1, False), (last, True)):
                self.wipe(SECOND)
                died: list[str] = []
                dying = _dying(getattr(where, name), nth, after, died)
                with (
                    mock.patch.object(where, name, dying),
                    # The dead do not tidy up.
                    mock.patch.object(shutil, "rmtree"),
                ):
                    self.start(SECOND)
                    self.run_for(0.5)
                    self.flushLoggedErrors()
                    self.kill(SECOND)
                self.assertTrue(died, name)
                second = self.start(SECOND)
                self.assertEqual(False, self.filled(SECOND)["filling"])
                self.check_equal(bodies)
                self.assertFalse((self.root / SECOND / "blob" / "clone").exists())
                known = second.committer.marks.keys()
                files = (self.root / SECOND / "blob" / "volumes").glob("*.volume")
                self.assertLessEqual({int(f.stem, 16) for f in files}, known)
                self.flushLoggedErrors()

    def test_changes_meanwhile(self) -> None:
        """A newer change here wins, an older one loses; what changes there comes."""
        bodies = self.both()
        names = list(bodies)
        stamp = int(NOW) - 1000 << 32
        self.wipe(SECOND)
        # What comes at first finds no row; what comes later, one of the peer's.
        with mock.patch.object(adopt, "ROWS", 1):
            self.start(SECOND)
            self.ask(SECOND, "PUT", f"/{names[0]}?encoded=1", b"newer")
            old = f"/{names[1]}?encoded=1&modified={stamp}&modified_deleted={stamp}"
            self.ask(SECOND, "PUT", old, b"older")
            self.ask(SECOND, "DELETE", f"/{names[2]}")
            self.put(FIRST, f"/{names[4]}?encoded=1", b"there")
            self.filled(SECOND)
        self.run_for(30)
        bodies[names[0]] = b"newer"
        bodies[names[4]] = b"there"
        for gone in (names[2], *names[5:8]):
            self.assertEqual(404, self.ask(SECOND, "GET", f"/{gone}").status)
        self.check_equal(bodies)

    def test_a_dropped_volume(self) -> None:
        """What the peer deletes meanwhile is there all the same, and then ends here."""
        bodies = self.both()
        self.wipe(SECOND)
        get = Fetch.get
        store = self.services[FIRST].replica.store

        async def meddle(fetch: Fetch, *args: Any) -> None:
            for number in list(store.volumes())[:2]:
                (self.root / FIRST / "blob/volumes" / f"{number:016x}.volume").rename(
                    self.root / f"{number}"
                )
            await get(fetch, *args)
            for number in list(store.volumes())[:2]:
                (self.root / f"{number}").rename(
                    self.root / FIRST / "blob/volumes" / f"{number:016x}.volume"
                )

        with mock.patch.object(Fetch, "get", meddle):
            self.start(SECOND)
            self.filled(SECOND)
        self.check_equal(bodies)

    def test_damage_on_the_way(self) -> None:
        """A damaged piece is noticed, and asked for again; the others are not."""
        bodies = self.both()
        self.wipe(SECOND)
        damaged, written = [40], [0]

        def meddle(path: Path, block: memoryview, *args: Any) -> int:
            damaged[0] -= 1
            written[0] += len(block)
            if damaged[0] == 0:
                block = memoryview(b"x" + bytes(block)[1:])
            return kept(path, block, *args)

        kept = fetch.write
        with mock.patch.object(fetch, "write", meddle):
            self.start(SECOND)
            self.filled(SECOND)
        self.assertLess(damaged[0], 0)
        self.check_written(written[0])
        self.check_equal(bodies)

    def check_written(self, written: int) -> None:
        """Check that hardly anything came twice."""
        volumes = self.services[FIRST].replica.store.volumes()
        size = sum(facts.size for facts in volumes.values())
        self.assertGreater(written, size)
        self.assertLess(written, size + 400_000)

    def test_odd_blocks(self) -> None:
        """What cannot be written past the page cache is written all the same."""
        path = self.root / "odd"
        path.write_bytes(bytes(30_000))
        body = memoryview(bytes(range(250)) * 80)
        for block, offset in ((body[1:], 4096), (body[:10_000], 5), (body[:0], 0)):
            crc = fetch.write(path, block, offset, 7)
            self.assertEqual(zlib.crc32(block, 7), crc)
            written = path.read_bytes()[offset : offset + len(block)]
            self.assertEqual(bytes(block), written)

    def test_a_lost_sender(self) -> None:
        """When it is back it is asked for the rest, and for what has changed."""
        bodies = self.both()
        self.wipe(SECOND)
        left, written = [60], [0]

        def meddle(path: Path, block: memoryview, *args: Any) -> int:
            left[0] -= 1
            written[0] += len(block)
            if left[0] == 0:
                self.clock.callLater(0, self.stop, FIRST)
            return kept(path, block, *args)

        kept = fetch.write
        with mock.patch.object(fetch, "write", meddle):
            self.start(SECOND)
            self.run_for(3)
            self.assertTrue(self.services[SECOND].refill.report()["filling"])
            self.start(FIRST)
            bodies[self.put(FIRST, "/later", b"later")] = b"later"
            self.filled(SECOND)
        self.check_written(written[0])
        self.check_equal(bodies)

    def test_gone_for_good(self) -> None:
        """Nothing of it is left here once others told what they have."""
        self.both()
        self.wipe(SECOND)
        with mock.patch.object(Fetch, "_sync", side_effect=OSError):
            self.start(SECOND)
            self.run_for(1)
        self.assertTrue((self.root / SECOND / "blob" / "clone").exists())
        with mock.patch.object(clone, "LEAST_BLOBS", 1000):
            self.filled(SECOND)
        self.assertFalse((self.root / SECOND / "blob" / "clone").exists())
        self.assertEqual(self.states(FIRST), self.states(SECOND))

    def test_full_while_taking_over(self) -> None:
        """It goes on as soon as there is space again, and only then ends being busy."""
        bodies = self.both()
        self.wipe(SECOND)
        full = mock.Mock(side_effect=StorageFull("Not enough space to note this"))
        with mock.patch.object(sqlite_clone, "take", full):
            second = self.start(SECOND)
            self.run_for(5)
            self.assertTrue(second.refill.busy)
            self.assertTrue(second.refill.report()["filling"])
        self.filled(SECOND)
        self.assertFalse(second.refill.busy)
        self.check_equal(bodies)

    def test_of_another_bucket(self) -> None:
        """What a peer has and neither of them should have is left out."""
        bodies = self.both()
        self.wipe(SECOND)
        index = self.services[FIRST].replica.index
        names = list(bodies)
        strange = {names[10]: "001_elsewhere", names[11]: "n11"}
        for stored, name in strange.items():
            row = index.get(stored)
            assert row is not None
            self.services[FIRST].committer.index.apply(
                Batch([evolve(row, name=name)], [stored])
            )
        second = self.start(SECOND)
        report = self.filled(SECOND)
        self.assertEqual(2, report["left_out"])
        for name in strange.values():
            self.assertIsNone(second.replica.index.get(name))
        self.assertEqual(len(bodies) - 2, len(self.states(SECOND)))
        self.check_marks(SECOND)

    def test_no_space(self) -> None:
        """Without space for all of it nothing is fetched, and it is tried again."""
        bodies = self.both()
        self.wipe(SECOND)
        with mock.patch.object(VolumeStore, "free_bytes", lambda self: 1000):
            self.start(SECOND, min_free_bytes=Bytes(900))
            self.run_for(5)
            self.assertTrue(self.services[SECOND].refill.report()["filling"])
            self.assertFalse((self.root / SECOND / "blob" / "clone").exists())
        self.filled(SECOND)
        self.check_equal(bodies)

    def test_few(self) -> None:
        """A peer with few blobs, or that is filling itself, is streamed."""
        bodies = self.both(5)
        answer = self.ask(FIRST, "GET", "/_clone?for=x")
        self.assertIn(answer.status, (403, 404))
        self.wipe(SECOND)
        second = self.start(SECOND)
        self.filled(SECOND)
        self.assertNotIn("over", json.loads(second.replica.index.notes()[adopt.NOTE]))
        self.assertEqual(self.states(FIRST), self.states(SECOND))
        self.assertTrue(bodies)

    def test_higher_numbers(self) -> None:
        """A peer that began later by its clock is streamed."""
        bodies = self.both()
        self.services[FIRST].committer.count_from(int(NOW + 10_000) << 20)
        self.put(FIRST, "/last", b"x")
        self.wipe(SECOND)
        second = self.start(SECOND)
        self.filled(SECOND)
        self.assertNotIn("over", json.loads(second.replica.index.notes()[adopt.NOTE]))
        self.assertEqual(self.states(FIRST), self.states(SECOND))
        self.assertTrue(bodies)

    def test_strangers(self) -> None:
        """Only replicas of the cluster file may ask."""
        self.both(1)
        self.assertEqual(403, self.ask(FIRST, "GET", "/_clone?for=x").status)


def _dying(
    function: Callable[..., Any], nth: int, after: bool, died: list[str]
) -> Callable[..., Any]:
    """Return a function that never comes back from its nth call, and tells of it."""
    calls = [0]

    def call(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] > nth or (calls[0] == nth and not after):
            died.append(function.__name__)
            raise Died
        result = function(*args, **kwargs)
        if calls[0] == nth:
            died.append(function.__name__)
            raise Died
        return result

    return call

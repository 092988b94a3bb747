"""A volume that has expired goes whole and at once, and nothing is wrong on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred

from clinfra.blob.drop import REST_SECONDS, ROWS
from clinfra.blob.records import Row
from clinfra.blob.store_volume import VolumeStore
from clinfra.config import Seconds
from tests.blob.test_recovery import Crash, DiskCase

DAY = 86400
MANY = 2 * ROWS + 50


class DropTests(DiskCase):
    """Volumes are dropped."""

    config: Mapping[str, Any] = {"purge_interval": Seconds(10**9)}
    """Not by itself."""

    def put_many(self) -> None:
        for n in range(MANY):
            self.rig.put(f"/x{n}?ttl=100", b"%d" % n)

    def run_reaper(self) -> None:
        """Let the reaper run, and no time pass: most rows are left behind."""
        running = Deferred.fromCoroutine(self.rig.service.reaper.run())
        self.successResultOf(running)

    def left_behind(self) -> int:
        """Return how many rows there are."""
        return len(self.rig.service.replica.index.names_after("", 2 * MANY))

    def finish(self) -> None:
        """Let the rows go."""
        for _ in range(10):
            self.clock.advance(REST_SECONDS)

    def test_at_once(self) -> None:
        """The file is deleted in one step; of its blobs nothing can be seen."""
        self.rig.put("/keep", b"kept")
        self.put_many()
        self.clock.advance(2 * DAY)
        self.run_reaper()
        index = self.rig.service.replica.index

        self.assertEqual(1, len(self.volumes()))
        self.assertEqual(1 + MANY - ROWS, self.left_behind())
        for n in range(MANY):
            self.assertEqual(404, self.rig.ask("GET", f"/000_x{n}").status)
            self.assertIsNone(self.rig.info(f"/000_x{n}"))
        self.assertEqual(["000_keep"], [r.name for r in index.listing(None, None, 999)])
        windows = index.windows(None, None, DAY, 99)
        self.assertEqual(1, sum(count for _, _, count, _ in windows))
        self.finish()

        self.assertEqual(["000_keep"], list(self.state()))
        self.assertEqual(MANY, self.rig.service.reaper.purged)
        self.assertEqual([1], list(index.marks()))
        self.assertEqual(b"kept", self.rig.get("/000_keep"))

    def test_what_memory_holds(self) -> None:
        """A blob that could still be read until then cannot be read from memory."""
        self.rig.close()
        self.rig = self.open(serve_deleted=True)
        self.put_many()
        self.clock.advance(2 * DAY)
        self.assertEqual(b"249", self.rig.get("/000_x249"))
        self.run_reaper()

        self.assertIsNone(self.rig.get("/000_x249"))

    def test_put_meanwhile(self) -> None:
        """A name that is put again before its row was removed is not touched."""
        self.put_many()
        self.clock.advance(2 * DAY)
        self.run_reaper()
        self.rig.put("/x249", b"new")
        self.finish()
        self.reopen()

        self.assertEqual(["000_x249"], list(self.state()))
        self.assertEqual(b"new", self.rig.get("/000_x249"))

    def test_undeleted_meanwhile(self) -> None:
        """What is undeleted too late has no bytes, and is no error either."""
        self.put_many()
        self.clock.advance(2 * DAY)
        self.run_reaper()
        self.rig.delete("/000_x249?deleted=0")
        self.assertIsNone(self.rig.get("/000_x249"))
        self.finish()
        self.reopen()

        self.assertIsNone(self.rig.get("/000_x249"))
        self.assertEqual(1, self.left_behind())

    def test_one_that_lives(self) -> None:
        """A volume is whole as long as one blob in it has not ended."""
        self.put_many()
        self.rig.delete(f"/000_x3?ttl={9 * DAY}")
        self.clock.advance(2 * DAY)
        self.run_reaper()

        self.assertEqual(b"3", self.rig.get("/000_x3"))

    def test_not_heard_of(self) -> None:
        """While somebody might not have heard of the ends, these are kept."""
        self.put_many()
        heard: list[Row] = []

        def may_forget(row: Row) -> bool:
            heard.append(row)
            return False

        self.rig.service.reaper.dropper._may_forget = may_forget
        self.rig.service.reaper._may_forget = may_forget
        self.clock.advance(2 * DAY)
        for number in self.rig.service.replica.store.volumes():
            self.rig.service.replica.store.seal(number)
        self.run_reaper()

        self.assertEqual(MANY, self.left_behind())
        self.assertEqual(MANY, max(row.seq for row in heard))
        self.assertEqual(1, len(self.volumes()))  # of changes: the bytes have gone
        self.lose_index()
        self.assertEqual(MANY, self.left_behind())

    def test_bytes_elsewhere(self) -> None:
        """What a name was before does not come back when the index is rebuilt."""
        self.rig.put("/keep", b"k" * 1000)
        self.rig.put("/x", b"old")
        self.rig.put("/x?ttl=100", b"new")
        self.clock.advance(2 * DAY)
        self.rig.purge()
        self.assertEqual(["000_keep"], list(self.state()))
        self.lose_index()

        self.assertIsNone(self.rig.get("/000_x"))
        self.assertEqual(b"k" * 1000, self.rig.get("/000_keep"))

    def test_forgotten_late(self) -> None:
        """A delete that was kept for others is not lost when it is forgotten."""
        self.rig.put("/keep", b"k" * 1000)
        self.rig.put("/x", b"old")
        self.rig.delete(f"/000_x?ttl={-2 * DAY}")
        real = self.rig.service.reaper._may_forget
        self.rig.service.reaper._may_forget = lambda row: False
        self.rig.purge()
        self.rig.service.reaper._may_forget = real
        self.rig.purge()
        self.clock.advance(2 * DAY)
        self.rig.purge()
        self.lose_index()

        self.assertIsNone(self.rig.get("/000_x"))

    def test_crash_before_the_file_goes(self) -> None:
        """Dead between the mark and the unlinking, it is deleted at the next start."""
        self.put_many()
        self.clock.advance(2 * DAY)

        def remove(store: VolumeStore, number: int) -> None:
            raise Crash

        patch = self.patch(VolumeStore, "remove", remove)
        committer = self.rig.service.committer
        (number,) = committer.drop_volumes(lambda mark: True)
        self.assertRaises(Crash, committer.delete_dropped, number)
        patch.restore()
        self.assertEqual(1, len(self.volumes()))
        self.reopen()

        self.assertEqual([], self.volumes())
        self.finish()
        self.assertEqual(0, self.left_behind())
        self.assertEqual([], list(self.rig.service.replica.index.marks()))

    def test_crash_before_the_rows_go(self) -> None:
        """Dead while rows were being removed, it goes on with that."""
        self.put_many()
        self.clock.advance(2 * DAY)
        self.run_reaper()
        self.reopen()
        self.assertIsNone(self.rig.get("/000_x249"))
        self.finish()

        self.assertEqual(0, self.left_behind())

    def test_lost_index(self) -> None:
        """An index that is rebuilt after that has nothing of it."""
        self.put_many()
        self.rig.delete("/000_x7?ttl=90")
        self.rig.put("/keep")
        self.clock.advance(2 * DAY)
        self.run_reaper()
        self.lose_index()
        self.rig.purge()

        self.assertEqual(["000_keep"], list(self.state()))

    def test_file_that_stays(self) -> None:
        """A file that cannot be deleted is deleted at the next start."""
        self.rig.put("/keep")
        self.rig.put("/x?ttl=100")
        self.clock.advance(2 * DAY)

        def remove(store: VolumeStore, number: int) -> None:
            store._forget(number)
            raise OSError(5, "Input/output error")

        patch = self.patch(VolumeStore, "remove", remove)
        self.rig.purge()
        patch.restore()
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))
        self.assertIsNone(self.rig.get("/000_x"))
        self.assertEqual(2, len(self.volumes()))
        self.reopen()

        self.assertEqual(1, len(self.volumes()))
        self.assertEqual(["000_keep"], list(self.state()))

    def test_large_blobs(self) -> None:
        """Blobs that are volumes by themselves go in the same way."""
        for n in range(3):
            self.rig.put(f"/x{n}?ttl={n}", b"%d" % n * (2 << 20))
        self.clock.advance(2 * DAY)
        self.rig.purge()

        self.assertEqual([], self.volumes())
        self.assertEqual(0, self.left_behind())


class FilesTests(DiskCase):
    """A store whose bodies are files of their own."""

    config: Mapping[str, Any] = {"kept": "files", "expiration_delay": Seconds(0)}

    def test_bodies(self) -> None:
        """Its bodies go one by one, and none is left."""
        self.rig.put("/x?ttl=1", b"1", **{"Content-Type": "a/b"})
        self.clock.advance(DAY)
        self.rig.purge()
        self.clock.advance(DAY)
        self.rig.purge()
        files = (self.directory / "blob" / "files").rglob("*x")

        self.assertEqual([], [path for path in files if path.is_file()])
        self.assertEqual([], list(self.state()))

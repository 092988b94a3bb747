"""What ends is removed for good, and nothing else is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred

from clinfra.blob.index import Batch
from clinfra.blob.store_volume import VolumeStore
from clinfra.blob.volume import Found
from clinfra.config import Bytes, Seconds
from tests.blob.support import NOW
from tests.blob.test_recovery import DiskCase

DAY = 86400


class PurgeTests(DiskCase):
    """Removing expired blobs."""

    def test_delay(self) -> None:
        """1339-1346: an expired blob is purged after the delay, not before."""
        self.rig.put("/x", b"one")
        self.rig.delete("/000_x")
        self.assertEqual(0, self.rig.purge())
        self.assertIsNotNone(self.rig.info("/000_x"))
        self.rig.delete(f"/000_x?ttl={-DAY - 100}")

        self.assertEqual(1, self.rig.purge())
        self.assertIsNone(self.rig.info("/000_x"))
        self.assertIsNone(self.rig.get("/000_x"))

    def test_only_expired(self) -> None:
        """Blobs without an end, with a later one, or undeleted, stay."""
        self.rig.put("/never", b"1")
        self.rig.put(f"/later?ttl={10 * DAY}", b"2")
        self.rig.put("/undeleted", b"3")
        self.rig.delete("/000_undeleted")
        self.rig.delete("/000_undeleted?deleted=0")
        for n in range(250):
            self.rig.put(f"/gone{n}?ttl=1")
        self.clock.advance(2 * DAY)
        self.rig.purge()

        self.assertEqual(250, self.rig.service.reaper.purged)
        self.assertEqual(
            ["000_later", "000_never", "000_undeleted"], sorted(self.state())
        )

    def test_by_itself(self) -> None:
        """The purge runs by the clock."""
        self.rig.put("/x?ttl=1")
        self.clock.advance(DAY + 10)
        self.clock.advance(60)

        self.assertIsNone(self.rig.info("/000_x"))

    def test_asked_for(self) -> None:
        """_purge from this machine runs one now."""
        self.rig.put(f"/x?ttl={-2 * DAY}")

        self.assertTrue(self.rig.service.purging.soon())
        self.assertIsNone(self.rig.info("/000_x"))

    def test_put_meanwhile(self) -> None:
        """Fault 5: a blob that is put again while the purge runs is kept."""
        self.rig.put("/keep?ttl=100")
        self.rig.put(f"/x?ttl={-2 * DAY}", b"old")
        index = self.rig.service.replica.index
        real = type(index).expired

        def expired(self_: Any, *arguments: Any) -> Sequence[Any]:
            found: Sequence[Any] = real(self_, *arguments)
            if found and self.rig.info("/000_x") is not None:
                # Between the list and the delete somebody puts it again.
                patch.restore()
                self.rig.put("/x", b"new")
            return found

        patch = self.patch(type(index), "expired", expired)

        self.assertEqual(0, self.rig.purge())
        self.assertEqual(b"new", self.rig.get("/000_x"))

    def test_one_bad_blob(self) -> None:
        """Fault 26: a blob that cannot be purged does not keep the others."""
        self.rig.put("/keep?ttl=100")
        for n in range(5):
            self.rig.put(f"/x{n}?ttl={-2 * DAY}")
        index = self.rig.service.replica.index
        real = type(index).apply

        def apply(self_: Any, batch: Batch) -> None:
            if "000_x2" in batch.forget:
                raise OSError(5, "Input/output error")
            real(self_, batch)

        patch = self.patch(type(index), "apply", apply)
        self.assertEqual(4, self.rig.purge())
        patch.restore()

        self.assertEqual(["000_keep", "000_x2"], sorted(self.state()))
        self.assertEqual(1, self.rig.purge())


class TidyTests(DiskCase):
    """Getting disk space back."""

    def seal_all(self) -> None:
        store = self.rig.service.replica.store
        for number in store.volumes():
            store.seal(number)

    def numbers(self) -> list[int]:
        return sorted(self.rig.service.replica.store.volumes())

    def test_expired_volume(self) -> None:
        """A volume in which everything has ended is deleted whole."""
        for n in range(20):
            self.rig.put(f"/x{n}?ttl=100", b"x" * 1000)
        self.rig.put("/keep", b"kept")
        self.seal_all()
        self.clock.advance(2 * DAY)
        self.rig.purge()

        facts = self.rig.service.replica.store.volumes().values()
        self.assertEqual([0], sorted(each.ttl_class for each in facts))
        self.assertEqual(b"kept", self.rig.get("/000_keep"))

    def test_large_blob(self) -> None:
        """A large blob's bytes go when it is purged, and when it is replaced."""
        self.rig.put("/a", b"a" * (2 << 20))
        self.rig.put("/b", b"b" * (2 << 20))
        self.rig.put("/a", b"small")
        self.rig.delete(f"/000_b?ttl={-2 * DAY}")
        self.rig.purge()
        self.rig.purge()

        self.assertLess(sum(p.stat().st_size for p in self.volumes()), 10_000)
        self.assertEqual(b"small", self.rig.get("/000_a"))

    def test_compaction(self) -> None:
        """A volume mostly dead is copied and deleted; its live blobs are as before."""
        for n in range(20):
            self.rig.put(f"/x{n}", b"%d" % n * 500)
        for n in range(20):
            if n % 4:
                self.rig.delete(f"/000_x{n}?ttl={-2 * DAY}")
        self.rig.delete("/000_x4?ttl=1000")
        before = {f"000_x{n}": self.rig.info(f"/000_x{n}") for n in range(0, 20, 4)}
        first = self.numbers()[0]
        self.seal_all()
        self.rig.purge()

        self.assertNotIn(first, self.numbers())
        for n in range(0, 20, 4):
            self.assertEqual(b"%d" % n * 500, self.rig.get(f"/000_x{n}"))
        self.assertEqual(before, {name: self.rig.info(f"/{name}") for name in before})
        self.reopen()
        self.assertEqual(before, {name: self.rig.info(f"/{name}") for name in before})
        self.lose_index()
        self.assertEqual(before, {name: self.rig.info(f"/{name}") for name in before})

    def test_mostly_live(self) -> None:
        """A volume mostly live is left alone."""
        for n in range(20):
            self.rig.put(f"/x{n}", b"x" * 500)
        self.rig.delete(f"/000_x0?ttl={-2 * DAY}")
        first = self.numbers()[0]
        self.seal_all()
        self.rig.purge()

        self.assertIn(first, self.numbers())

    def test_read_during_compaction(self) -> None:
        """A reader that knows the old place finds the blob at its new one."""
        for n in range(10):
            self.rig.put(f"/x{n}", b"x" * 500_000)
        replica = self.rig.service.replica
        hot = self.successResultOf(Deferred.fromCoroutine(replica.find("000_x0")))
        assert hot is not None and hot.row.at is not None
        for n in range(1, 10):
            self.rig.delete(f"/000_x{n}?ttl={-2 * DAY}")
        self.seal_all()
        self.rig.purge()
        body = self.successResultOf(Deferred.fromCoroutine(replica.body(hot)))

        self.assertNotIn(hot.row.at.volume, self.numbers())
        self.assertEqual(b"x" * 500_000, body)

    def test_changes(self) -> None:
        """Deletes are forgotten when no volume can hold bytes of theirs, not before."""
        self.rig.put("/keep", b"kept" * 1000)
        for n in range(20):
            self.rig.put(f"/x{n}", b"x")
            self.rig.delete(f"/000_x{n}?ttl={-2 * DAY}")
        for n in range(200):
            self.rig.delete(f"/000_t{n}?ttl={-2 * DAY}")
        for _ in range(2):
            # The first time the volume goes that the other deletes were recorded in.
            self.seal_all()
            self.rig.purge()
        changes = [
            found.record.name
            for number, facts in self.rig.service.replica.store.volumes().items()
            if facts.ttl_class == 1
            for found in self.rig.service.replica.store.scan(number, 0)
            if isinstance(found, Found)
        ]
        self.assertEqual(sorted(f"000_x{n}" for n in range(20)), sorted(changes))
        self.lose_index()

        self.assertEqual([None] * 20, [self.rig.get(f"/000_x{n}") for n in range(20)])
        self.assertEqual(b"kept" * 1000, self.rig.get("/000_keep"))

    def test_one_bad_volume(self) -> None:
        """A volume that cannot be deleted does not keep the others."""
        for n in range(3):
            self.rig.put(f"/x{n}", b"%d" % n * (2 << 20))
            self.rig.delete(f"/000_x{n}?ttl={-2 * DAY}")
        bad = self.numbers()[0]
        real = VolumeStore.remove

        def remove(store: VolumeStore, number: int) -> None:
            if number == bad:
                raise OSError(5, "Input/output error")
            real(store, number)

        patch = self.patch(VolumeStore, "remove", remove)
        self.rig.purge()
        patch.restore()
        self.assertEqual(1, len(self.flushLoggedErrors(OSError)))

        large = [p for p in self.volumes() if p.stat().st_size > 1 << 20]
        self.assertEqual(1, len(large))
        self.rig.purge()
        self.assertEqual(1, len(self.volumes()))


class SettingTests(DiskCase):
    """Keys of the configuration."""

    def open(self, **config: Any) -> Any:
        return super().open(
            expiration_delay=Seconds(10), volume_bytes=Bytes(2000), **config
        )

    def test_expiration_delay(self) -> None:
        """How long an expired blob can be undeleted is configured."""
        self.rig.put("/x?ttl=0")
        self.clock.advance(5)
        self.assertEqual(0, self.rig.purge())
        self.clock.advance(10)

        self.assertEqual(1, self.rig.purge())

    def test_volume_bytes(self) -> None:
        """How large volumes become is configured."""
        for n in range(10):
            self.rig.put(f"/x{n}", b"x" * 1000)

        self.assertEqual(5, len(self.volumes()))
        self.assertEqual(int(NOW), int(self.clock.seconds()))

"""The exam that every blob store passes."""

from __future__ import annotations

import os
from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from clinfra.blob.records import Data, Expiry, Locator, State
from clinfra.blob.replica import _digests
from clinfra.blob.store import Entry, IBlobStore, ISpool
from clinfra.blob.volume import Found
from clinfra.web.exchange import FileBody

NOW = 1_800_000_000.0


def entry(
    name: str,
    body: bytes | ISpool | None = b"body",
    deleted: int = 0,
    volumes: tuple[int, int] | None = None,
) -> Entry:
    """Return an entry with matching checksums."""
    data = None
    if body is not None:
        sha256, crc32, size = _digests(body)
        data = Data(5, sha256, size, crc32, "")
    return Entry(name, State(data, Expiry(5, deleted)), body, volumes)


class StoreContract(SynchronousTestCase):
    """What a store must do."""

    store: IBlobStore

    def make(self) -> IBlobStore:
        """Return a store whose volumes are sealed at 4096 bytes, not opened."""
        raise NotImplementedError

    def setUp(self) -> None:
        self.store = self.make()
        self.store.open()

    def tearDown(self) -> None:
        self.store.close()

    def append(self, *entries: Entry) -> Sequence[Locator]:
        return self.store.append(entries, NOW)

    def names(self) -> list[str]:
        """Return the names of all good records, void ones left out."""
        return [
            found.record.name
            for number in sorted(self.store.volumes())
            for found in self.store.scan(number, 0)
            if isinstance(found, Found) and not found.record.is_void
        ]

    def body(self, at: Locator, size: int) -> bytes:
        """Return a body, read in every way a store offers."""
        body = self.store.read(at, 0, size)
        self.assertIn(self.store.read_at_once(at, 0, size), (None, body))
        piece = self.store.file_of(at, 0, size)
        if isinstance(piece, FileBody):
            self.assertEqual(body, os.pread(piece.fd, piece.length, piece.offset))
            piece.close()
        else:
            self.assertEqual(body, piece)
        return body

    def test_interface(self) -> None:
        """It has everything the interface says."""
        self.assertTrue(verifyObject(IBlobStore, self.store))

    def test_round_trip(self) -> None:
        """Bodies of any length come back, whole and in pieces."""
        bodies = [b"x" * n for n in (0, 1, 7, 8, 9, 1000)]
        places = self.append(*(entry(f"n{len(b)}", b) for b in bodies))

        for body, at in zip(bodies, places, strict=True):
            self.assertEqual(body, self.body(at, len(body)))
        self.assertEqual(bodies[5][10:30], self.store.read(places[5], 10, 20))

    def test_spool(self) -> None:
        """A large body comes in by pieces and is a record like any other."""
        spool = self.store.spool("big", "")
        for _ in range(3):
            spool.write(b"x" * 5000)
        spool.sync()
        (at,) = self.append(entry("big", spool))
        spool.discard()

        self.assertEqual(b"x" * 15000, self.body(at, 15000))
        self.assertEqual(["big"], self.names())

    def test_discarded_spool(self) -> None:
        """A body that never arrived whole leaves nothing."""
        spool = self.store.spool("big", "")
        spool.write(b"x" * 5000)
        spool.discard()
        spool.discard()

        self.assertEqual({}, dict(self.store.volumes()))

    def test_classes(self) -> None:
        """Blobs that end together share a volume, changes have their own."""
        places = self.append(
            entry("for ever"),
            entry("a day", deleted=int(NOW) + 100),
            entry("change", None),
            entry("too", deleted=int(NOW) + 200),
        )
        numbers = [at.volume for at in places]

        self.assertEqual(3, len(set(numbers)))
        self.assertEqual(numbers[1], numbers[3])
        classes = {n: each.ttl_class for n, each in self.store.volumes().items()}
        self.assertEqual([0, 86400, 1], [classes[n] for n in numbers[:3]])

    def test_sealing(self) -> None:
        """A full volume is left alone; a new one follows."""
        first = self.append(*(entry(f"a{n}", bytes(90)) for n in range(20)))[0].volume
        for n in range(60):
            second = self.append(entry(f"b{n}"))[0].volume

        self.assertGreater(second, first)
        facts = self.store.volumes()
        self.assertEqual([False, True], [facts[n].active for n in (first, second)])

    def test_void(self) -> None:
        """A record that was taken back is not found again."""
        places = self.append(entry("a"), entry("b"), entry("c"))
        self.store.void(places[1:2])

        self.assertEqual(["a", "c"], self.names())

    def test_void_purge(self) -> None:
        """What follows a purge, a change or bytes that were taken back is found."""
        data = entry("a", b"x" * 999).state
        places = self.append(
            Entry("a", data, None, purge=True), entry("b", None), entry("c", None)
        )
        self.store.void(places[:2])

        self.assertEqual(["c"], self.names())

    def test_carry(self) -> None:
        """A record is appended again with its body, wherever that is kept."""
        body = b"body" * 50
        (at,) = self.append(entry("a", body))
        (found,) = self.store.scan(at.volume, 0)
        assert isinstance(found, Found)
        carried = self.store.carry(found)
        volumes = (at.volume, at.volume)
        (again,) = self.append(Entry("a", found.record.state, carried, volumes))
        self.store.tend(NOW + 1e6)

        self.assertNotEqual(at, again)
        self.assertEqual(body, self.body(again, len(body)))

    def test_scan_from_the_middle(self) -> None:
        """Reading begins where the index ends."""
        places = self.append(entry("a"), entry("b"))
        found = list(self.store.scan(places[0].volume, places[1].offset))

        self.assertEqual(places[1:], [f.at for f in found if isinstance(f, Found)])

    def test_truncate(self) -> None:
        """The end of a volume can be cut off, and appending goes on there."""
        first, second = self.append(entry("a"), entry("b"))
        self.store.truncate(first.volume, second.offset)
        self.append(entry("c"))

        self.assertEqual(["a", "c"], self.names())

    def test_remove(self) -> None:
        """A removed volume is gone; numbers go on rising."""
        at = self.append(entry("a"))[0]
        self.store.remove(at.volume)
        again = self.append(entry("b"))[0]

        self.assertEqual(["b"], self.names())
        self.assertGreater(again.volume, at.volume)
        with self.assertRaises(LookupError):
            self.store.read(at, 0, 4)

    def test_volumes_of_a_name(self) -> None:
        """A record remembers where bytes of its name have been."""
        at = self.append(entry("a", volumes=(1, 1)))[0]
        (found,) = self.store.scan(at.volume, 0)
        assert isinstance(found, Found)

        self.assertEqual((1, max(1, at.volume)), found.record.volumes)

    def test_reopening(self) -> None:
        """Everything is there after closing and opening, and appending goes on."""
        self.append(entry("a"))
        self.store.close()
        self.store.open()
        self.append(entry("b"))

        self.assertEqual(["a", "b"], self.names())

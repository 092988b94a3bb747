"""The format of volumes: what was written is found again, whatever happened."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob import volume
from clinfra.blob.records import Data, Expiry, State
from clinfra.blob.replica import _digests
from clinfra.blob.volume import Damage, Found, VolumeHead

STAMP = st.integers(0, (1 << 64) - 1)
SECONDS = st.integers(-(1 << 63), (1 << 63) - 1)


def record(
    name: str, body: bytes | None, at: int = 0, *, stamp: int = 5, deleted: int = 0
) -> bytes:
    """Return a record as it is on disk, `at` an offset of volume 7."""
    data = None
    if body is not None:
        sha256, crc32, size = _digests(body)
        data = Data(stamp, sha256, size, crc32, "a/b")
    state = State(data, Expiry(stamp, deleted))
    raw = volume.pack_record_head(
        name, state, (1, 2), has_body=body is not None, place=(7, at)
    )
    raw += body or b""
    return raw + volume.padding(len(raw))


def scanned(content: bytes) -> Sequence[Found | Damage]:
    """Read through the records of a volume."""
    return list(
        volume.scan(
            7, 0, len(content), lambda at, n: content[at : at + n], check_bodies=True
        )
    )


def names_in(found: Sequence[Found | Damage]) -> list[str]:
    """Return the names of the good records."""
    return [each.record.name for each in found if isinstance(each, Found)]


class FormatTests(SynchronousTestCase):
    """Packing and unpacking."""

    @given(st.integers(1, 1 << 60), st.integers(0, 1 << 30), st.booleans())
    @settings(deadline=None)
    def test_volume_head(self, number: int, ttl: int, alone: bool) -> None:
        """A volume's head comes back, and one flipped bit is noticed."""
        head = VolumeHead(number, ttl, 1_800_000_000, alone)
        raw = volume.pack_volume_head(head)

        self.assertEqual(volume.VOLUME_HEAD_BYTES, len(raw))
        self.assertEqual(head, volume.unpack_volume_head(raw))
        damaged = bytearray(raw)
        damaged[number % 60] ^= 1
        self.assertIsNone(volume.unpack_volume_head(bytes(damaged)))

    @given(st.text(max_size=200), STAMP, STAMP, SECONDS, st.binary(max_size=300))
    @settings(deadline=None)
    def test_record(
        self, name: str, modified: int, ended: int, deleted: int, body: bytes
    ) -> None:
        """A record comes back with both registers, beyond 2038 too."""
        sha256, crc32, size = _digests(body)
        state = State(
            Data(modified, sha256, size, crc32, "image/png"), Expiry(ended, deleted)
        )
        head = volume.pack_record_head(
            name, state, (3, 9), has_body=True, seq=ended, place=(7, 0)
        )
        raw = head + body + volume.padding(len(head) + len(body))
        (found,) = scanned(raw)
        assert isinstance(found, Found)

        self.assertEqual(state, found.record.state)
        self.assertEqual((name, (3, 9)), (found.record.name, found.record.volumes))
        self.assertEqual(ended, found.record.seq)
        self.assertEqual((7, 0, len(raw)), (found.at.volume, 0, found.at.length))
        self.assertEqual(volume.head_bytes(name, "image/png"), found.at.head_bytes)

    def test_classes(self) -> None:
        """Blobs share volumes with those that end at about the same time."""
        for deleted, expected in (
            (0, 0),
            (50, 86400),
            (100 + 86400, 86400),
            (101 + 86400, 7 * 86400),
            (100 + 90 * 86400, 93 * 86400),
            (100 + 4000 * 86400, 0),
        ):
            self.assertEqual(expected, volume.ttl_class(deleted, 100))


class ScanTests(SynchronousTestCase):
    """Reading through a damaged volume."""

    def setUp(self) -> None:
        self.records: list[bytes] = []
        self.content = b""
        for n in range(6):
            self.add(record(f"n{n}", bytes([n]) * (n * 37), len(self.content)))
        self.add(record("gone", None, len(self.content), deleted=3))
        self.names = [f"n{n}" for n in range(6)] + ["gone"]

    def add(self, raw: bytes) -> None:
        self.records.append(raw)
        self.content += raw

    def test_whole(self) -> None:
        """All records are found in order."""
        self.assertEqual(self.names, names_in(scanned(self.content)))

    @given(st.data())
    @settings(deadline=None, max_examples=60)
    def test_torn(self, data: st.DataObject) -> None:
        """However a volume is cut, whole records are found and the rest is damage."""
        cut = data.draw(st.integers(0, len(self.content)))
        whole, end = 0, 0
        while whole < len(self.records) and end + len(self.records[whole]) <= cut:
            end += len(self.records[whole])
            whole += 1
        found = scanned(self.content[:cut])

        self.assertEqual(self.names[:whole], names_in(found))
        damage = [each for each in found if isinstance(each, Damage)]
        self.assertEqual([Damage(end, cut - end, True)] if cut > end else [], damage)

    @given(st.data())
    @settings(deadline=None, max_examples=100)
    def test_flipped_bit(self, data: st.DataObject) -> None:
        """One flipped bit costs one record, never another, and is never served."""
        at = data.draw(st.integers(0, len(self.content) - 1))
        damaged = bytearray(self.content)
        damaged[at] ^= 1 << data.draw(st.integers(0, 7))
        found = names_in(scanned(bytes(damaged)))

        self.assertLessEqual(len(self.names) - 1, len(found))
        self.assertEqual([n for n in self.names if n in found], found)

    def test_void(self) -> None:
        """A voided record is met, and known to be void."""
        raw = bytearray(self.content)
        raw[: volume.RECORD_HEAD_BYTES] = volume.void_mark(
            bytes(raw[: volume.RECORD_HEAD_BYTES]), (7, 0)
        )
        first = scanned(bytes(raw))[0]
        assert isinstance(first, Found)

        self.assertTrue(first.record.is_void)

    def test_volume_in_a_blob(self) -> None:
        """Records inside of a blob are bytes, even when its own record is damaged."""
        raw = bytearray(record("backup", bytes(-len("backupa/b") % 8) + self.content))
        self.assertEqual(["backup"], names_in(scanned(bytes(raw))))
        raw[20] ^= 1

        self.assertEqual([], names_in(scanned(bytes(raw))))

    @given(st.binary(max_size=2000))
    @settings(deadline=None)
    def test_garbage(self, content: bytes) -> None:
        """Anything can be scanned; nothing is found in noise."""
        self.assertEqual([], names_in(scanned(content)))

"""Who is a witness of what was deleted, and when there is nobody to ask."""

from __future__ import annotations

from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.destinations import Destination
from clinfra.blob.records import Data, Expiry, Row, State
from clinfra.blob.rejoin import (
    Known,
    Told,
    covers_all,
    is_forgotten,
    is_witness,
    knows_best,
    told_in,
)

KNOWN = Known("one", 7)
NOW = 1000.0


def row(seq: int, deleted: int = 0) -> Row:
    state = State(Data(5, b"x" * 32, 1, 0, ""), Expiry(5, deleted))
    return Row("00000_a", state, None, seq)


def destination(key: str, place: tuple[int, int] | None = None) -> Destination:
    return Destination(key, 1, (key,), "replica", place)


class DecisionTests(SynchronousTestCase):
    """The decisions alone."""

    def test_witness(self) -> None:
        """A witness has the index that we compared with, and is not fenced itself."""
        self.assertTrue(is_witness(KNOWN, Told("one", False, NOW)))
        self.assertFalse(is_witness(KNOWN, Told("one", True, NOW)))
        self.assertFalse(is_witness(KNOWN, Told("another", False, NOW)))
        self.assertFalse(is_witness(None, Told("one", False, NOW)))

    def test_forgotten(self) -> None:
        """Forgotten is what a witness had, does not have, and what has not ended."""
        self.assertTrue(is_forgotten(row(7), KNOWN, None, NOW))
        self.assertTrue(is_forgotten(row(7, 1001), KNOWN, None, NOW))
        self.assertFalse(is_forgotten(row(8), KNOWN, None, NOW))
        self.assertFalse(is_forgotten(row(7), KNOWN, row(7).state, NOW))
        self.assertFalse(is_forgotten(row(7, 999), KNOWN, None, NOW))

    def test_one_knows_best(self) -> None:
        """Of those who are all fenced exactly one opens: who was awake last."""
        for times in product((1.0, 2.0, 3.0), repeat=3):
            told = {
                name: Told(name, True, at)
                for name, at in zip("abc", times, strict=True)
            }
            best = [
                name
                for name, own in told.items()
                if knows_best(
                    name, own.alive, {each: told[each] for each in told if each != name}
                )
            ]
            self.assertEqual(1, len(best))
            self.assertEqual(max(times), told[best[0]].alive)

    def test_no_witness_at_all(self) -> None:
        """Those who are not fenced and never knew what we have know no better."""
        self.assertTrue(knows_best("a", 1.0, {}))
        self.assertTrue(knows_best("a", 1.0, {"b": Told("new", False, NOW)}))

    def test_covers_all(self) -> None:
        """One peer knows every name, or all buckets of one cluster together do."""
        peer = destination("peer")
        first, second = destination("1:0", (1, 0)), destination("1:1", (1, 1))
        third = destination("2:0", (2, 0))
        wanted = [peer, first, second, third]
        for proven, enough in (
            ([], False),
            ([peer], True),
            ([first], False),
            ([first, second], True),
            ([third], True),
        ):
            self.assertEqual(enough, covers_all(proven, wanted), proven)
        self.assertFalse(covers_all([], [peer]))

    def test_told(self) -> None:
        """What a replica tells of itself is read, and nonsense is a ValueError."""
        told = b'{"incarnation": "one", "fenced": true, "alive": 12.5}'
        self.assertEqual(Told("one", True, 12.5), told_in(told))
        for raw in (b"", b"[]", b"{}", b"3", told[:-4], b"\0" * 4096):
            self.assertRaises(ValueError, told_in, raw)

"""Stamps are the original's, never go back, and outlive 2038."""

from __future__ import annotations

import sqlite3

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.stamps import (
    LIMIT,
    Stamps,
    from_signed,
    seconds_of,
    stamp_at,
    to_signed,
)
from clinfra.errors import InvalidRequest, Overloaded

STAMPS = st.integers(0, LIMIT - 1)
END_OF_31_BITS = 2_147_483_648
"""2038-01-19, unix seconds."""


class StampTests(SynchronousTestCase):
    """The format."""

    def test_format(self) -> None:
        """Seconds, microseconds and twelve free bits."""
        self.assertEqual((10 << 32) + (250_000 << 12) + 7, stamp_at(10.25, 7))
        self.assertEqual(10, seconds_of(stamp_at(10.999999)))

    def test_in_2038(self) -> None:
        """The day the number passes 2**63 it still sorts above the day before."""
        before, after = stamp_at(END_OF_31_BITS - 1), stamp_at(END_OF_31_BITS)

        self.assertGreaterEqual(after, 1 << 63)
        self.assertGreater(to_signed(after), to_signed(before))

    @given(STAMPS, STAMPS)
    @settings(deadline=None)
    def test_signed_keeps_order(self, one: int, other: int) -> None:
        """What a column holds sorts as the stamps do, and gives them back."""
        self.assertEqual(one < other, to_signed(one) < to_signed(other))
        self.assertEqual(one, from_signed(to_signed(one)))

    @given(st.lists(STAMPS, min_size=1))
    @settings(deadline=None, max_examples=20)
    def test_sqlite_keeps_order(self, stamps: list[int]) -> None:
        """SQLite can hold every stamp and sorts them rightly."""
        base = sqlite3.connect(":memory:")
        base.execute("CREATE TABLE t (stamp INTEGER)")
        base.executemany("INSERT INTO t VALUES (?)", ((to_signed(s),) for s in stamps))
        found = base.execute("SELECT stamp FROM t ORDER BY stamp").fetchall()
        base.close()

        self.assertEqual(sorted(stamps), [from_signed(number) for (number,) in found])


class StampsTests(SynchronousTestCase):
    """Giving them out."""

    def setUp(self) -> None:
        self.now = 1_800_000_000.0
        self.stamps = Stamps(lambda: self.now, lambda: 0, 300)

    def test_monotone(self) -> None:
        """A clock that stands still or goes back never repeats a stamp."""
        first = self.stamps.next()
        second = self.stamps.next()
        self.now -= 1000
        third = self.stamps.next()

        self.assertEqual([first + 1, first + 2], [second, third])

    def test_after(self) -> None:
        """A new change is later than what it changes, even when that is ahead of us."""
        ahead = stamp_at(self.now + 100)

        self.assertEqual(ahead + 1, self.stamps.next(ahead))

    def test_after_the_same(self) -> None:
        """Two replicas that know the same stamp of the future give different ones."""
        ahead = stamp_at(self.now + 100)
        other = Stamps(lambda: self.now, lambda: 77, 300)

        self.assertNotEqual(other.next(ahead), self.stamps.next(ahead))

    def test_far_future(self) -> None:
        """A stamp that would make a blob immortal is refused; some skew is not."""
        self.stamps.check(stamp_at(self.now + 299))
        for stamp in (stamp_at(self.now + 301), (1 << 63) - 2, 1 << 64, -1):
            with self.assertRaises(InvalidRequest):
                self.stamps.check(stamp)

    def test_wrong_clock(self) -> None:
        """With a clock known to be wrong there are none; then they begin anew."""
        ahead = self.stamps.next()
        self.now -= 1000
        self.stamps.trouble = "It is wrong"
        self.assertRaises(Overloaded, self.stamps.next)
        self.stamps.set_back()

        self.assertLess(self.stamps.next(), ahead)

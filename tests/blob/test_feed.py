"""Following the change feed: nothing is passed over that was not finished."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.feed import MAX_PARKED, PARKED_SECONDS, BackOff, Parking, Window


class WindowTests(SynchronousTestCase):
    """The window."""

    def test_contiguous(self) -> None:
        """The cursor moves over what is finished, up to the first that is not."""
        window = Window(10)
        for seq in (12, 15, 16):
            window.begin(seq)
        window.finish(15)

        self.assertEqual((11, 2), (window.cursor, window.under_way))
        window.finish(12)
        self.assertEqual((15, 1), (window.cursor, window.under_way))
        window.finish(16)
        window.skip_to(20)
        self.assertEqual((20, 0), (window.cursor, window.under_way))

    def test_order(self) -> None:
        """Changes come in order, once."""
        window = Window(10)
        self.assertRaises(ValueError, window.begin, 10)

    @given(st.sets(st.integers(1, 200)), st.randoms(use_true_random=False))
    @settings(deadline=None)
    def test_any_order(self, seqs: set[int], random: Random) -> None:
        """In whatever order changes finish, none below the cursor is unfinished."""
        window, left = Window(0), set(seqs)
        for seq in sorted(seqs):
            window.begin(seq)
        order = sorted(seqs)
        random.shuffle(order)
        for seq in order:
            window.finish(seq)
            left.remove(seq)
            expected = min(left) - 1 if left else max(seqs)
            self.assertEqual(expected, window.cursor)
            self.assertEqual(len(left), window.under_way)


class ParkingTests(SynchronousTestCase):
    """Names a destination refuses."""

    def test_due(self) -> None:
        """A parked name is due after its rest, in order, and no more once it went."""
        parking = Parking()
        parking.park("a", "400 no", 0)
        parking.park("b", "400 no", 5)

        self.assertEqual([], parking.due(PARKED_SECONDS - 1, 9))
        self.assertEqual(["a"], parking.due(PARKED_SECONDS + 1, 9))
        parking.park("a", "400 no", PARKED_SECONDS + 1)
        self.assertEqual(["b"], parking.due(PARKED_SECONDS + 5, 9))
        parking.forget("b")
        self.assertEqual(["a"], [name for name, _ in parking])

    def test_bounded(self) -> None:
        """However many names are refused, memory is bounded."""
        parking = Parking()
        for n in range(MAX_PARKED + 5):
            parking.park(f"n{n}", "no", 0)

        self.assertEqual(MAX_PARKED, len(parking))
        self.assertEqual(["n5"], parking.due(1e9, 1))


class BackOffTests(SynchronousTestCase):
    """Waiting after failures."""

    def test_doubles(self) -> None:
        """Waits double up to a limit, and begin anew after a success."""
        back_off = BackOff(lambda: 0.999999)
        waits = [round(back_off.failed(), 1) for _ in range(9)]

        self.assertEqual([0.5, 1, 2, 4, 8, 16, 30, 30, 30], waits)
        back_off.succeeded()
        self.assertEqual(0.5, round(back_off.failed(), 1))

    def test_jitter(self) -> None:
        """Waits differ between destinations, at most by half."""
        self.assertEqual(0.25, BackOff(lambda: 0.0).failed())

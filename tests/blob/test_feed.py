"""Following the change feed: nothing is passed over that was not finished."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.feed import MAX_PASSED, BackOff, Window


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

    def test_passed_over(self) -> None:
        """Numbers known to need nothing are skipped, once those before them are."""
        window = Window(10)
        for seq in (11, 12, 14, 9):
            window.pass_over(seq)
        window.skip_passed()

        self.assertEqual((12, 12), (window.read_to, window.cursor))
        self.assertEqual((True, False), (window.is_passed(14), window.is_passed(12)))
        window.begin(13)
        window.skip_passed()
        self.assertEqual((14, 12), (window.read_to, window.cursor))
        window.finish(13)
        self.assertEqual(14, window.cursor)

    def test_passed_over_is_bounded(self) -> None:
        """However many are passed over behind a gap, memory is bounded."""
        window = Window(0)
        for seq in range(2, MAX_PASSED + 100):
            window.pass_over(seq)

        self.assertFalse(window.is_passed(MAX_PASSED + 50))
        window.skip_to(1)
        window.skip_passed()
        self.assertEqual(MAX_PASSED + 1, window.read_to)

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

"""What was worked out is remembered within bounds, and what is in use longest."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.web.memo import Memo


class MemoTests(SynchronousTestCase):
    """Two generations, bounded by number and by size."""

    def test_found_young(self) -> None:
        """What was kept is in the dict."""
        memo: Memo[str, int] = Memo(2, 100)
        memo.keep("a", 1, 10)
        self.assertEqual(memo.get("a"), 1)

    def test_full_of_entries(self) -> None:
        """When it is full, what was there can still be recalled, and is young again."""
        memo: Memo[str, int] = Memo(2, 100)
        for position, name in enumerate("abc"):
            memo.keep(name, position, 10)
        self.assertEqual((memo.get("a"), memo.get("c")), (None, 2))
        self.assertEqual(memo.recall("a", 10), 0)
        self.assertEqual(memo.get("a"), 0)

    def test_full_of_bytes(self) -> None:
        """Large keys fill it with fewer entries."""
        memo: Memo[str, int] = Memo(100, 20)
        for position, name in enumerate("abc"):
            memo.keep(name, position, 10)
        self.assertEqual(list(memo), ["c"])

    def test_unused_is_forgotten(self) -> None:
        """What nobody asked for during a generation is gone after it."""
        memo: Memo[str, int] = Memo(2, 100)
        for position, name in enumerate("abcde"):
            memo.keep(name, position, 10)
        self.assertIsNone(memo.recall("a", 10))
        self.assertEqual(memo.recall("c", 10), 2)

    def test_clear(self) -> None:
        """Nothing is left of either generation."""
        memo: Memo[str, int] = Memo(2, 100)
        for position, name in enumerate("abc"):
            memo.keep(name, position, 10)
        memo.clear()
        self.assertEqual([memo.get(n) or memo.recall(n, 10) for n in "abc"], [None] * 3)

    @settings(deadline=None)
    @given(st.lists(st.integers(0, 20), max_size=200), st.integers(1, 8))
    def test_never_wrong_never_too_large(self, asked: list[int], most: int) -> None:
        """Answers are right, the last ones are remembered, and no more than twice."""
        memo: Memo[int, str] = Memo(most, 1_000_000)
        recent: OrderedDict[int, None] = OrderedDict()
        for number in asked:
            value = memo.get(number) or memo.recall(number, 1)
            if value is None:
                self.assertNotIn(number, recent)
                memo.keep(number, str(number), 1)
            else:
                self.assertEqual(value, str(number))
            recent[number] = None
            recent.move_to_end(number)
            while len(recent) > most:
                recent.popitem(last=False)
            self.assertLessEqual(len(memo), most)

"""Each kind of work gets its turn."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.image.turns import Turns


class TurnsTests(SynchronousTestCase):
    def test_alternate(self) -> None:
        """Kinds take turns by what their work costs, each in its own order."""
        turns: Turns[str] = Turns(("a", "b"))
        for number in range(4):
            turns.push("a", f"a{number}", 100)
            turns.push("b", f"b{number}", 50)
        order = [turns.pop() for _ in range(8)]
        self.assertEqual(["a0", "b0", "b1", "a1", "b2", "b3", "a2", "a3"], order)
        self.assertRaises(IndexError, turns.pop)

    def test_no_credit(self) -> None:
        """Who had nothing to do has no claim to what others did meanwhile."""
        turns: Turns[str] = Turns(("a", "b"))
        for number in range(100):
            turns.push("a", f"a{number}", 100)
        for _ in range(50):
            turns.pop()
        for number in range(50):
            turns.push("b", f"b{number}", 100)
        taken = Counter(turns.pop()[0] for _ in range(20))
        self.assertEqual({"a": 10, "b": 10}, taken)

    def test_remove(self) -> None:
        """What waits no more is gone; what does not wait cannot be taken away."""
        turns: Turns[str] = Turns(("a", "b"))
        for name in ("x", "y", "z"):
            turns.push("a", name, 1)
        turns.remove("a", "y")
        self.assertRaises(ValueError, turns.remove, "a", "y")
        self.assertEqual(
            (2, 2, 0), (len(turns), turns.waiting("a"), turns.waiting("b"))
        )
        self.assertEqual(["x", "z"], turns.clear())
        self.assertEqual(0, len(turns))

    @settings(deadline=None)
    @given(
        st.lists(st.integers(20, 5000), min_size=1, max_size=40),
        st.lists(st.integers(20, 5000), min_size=1, max_size=40),
    )
    def test_fair(self, first: list[int], second: list[int]) -> None:
        """While both wait, neither gets ahead by more than one piece of work."""
        turns: Turns[tuple[str, int]] = Turns(("a", "b"))
        for kind, costs in (("a", first), ("b", second)):
            for cost in costs:
                turns.push(kind, (kind, cost), cost)
        had = {"a": 0, "b": 0}
        while turns.waiting("a") and turns.waiting("b"):
            kind, cost = turns.pop()
            had[kind] += cost
            self.assertLessEqual(abs(had["a"] - had["b"]), max(*first, *second))

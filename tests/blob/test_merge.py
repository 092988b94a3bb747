"""The merge rule: commutative, associative, idempotent; otherwise the original's."""

from __future__ import annotations

from functools import reduce
from itertools import permutations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.merge import Merged, merge
from clinfra.blob.records import Data, Expiry, State

DATA = st.builds(
    Data,
    modified=st.integers(0, 3),
    sha256=st.sampled_from([bytes(32), b"\1" * 32, b"\2" * 32]),
    size=st.just(1),
    crc32=st.just(0),
    content_type=st.sampled_from(["", "image/png"]),
)
EXPIRIES = st.builds(Expiry, st.integers(0, 3), st.integers(-1, 2))
STATES = st.builds(State, st.none() | DATA, EXPIRIES)


def merged(one: State, other: State) -> State:
    """Return the state of a merge."""
    return merge(one, other).state


class MergeTests(SynchronousTestCase):
    """Laws and examples."""

    @given(STATES, STATES)
    @settings(deadline=None)
    def test_commutative(self, one: State, other: State) -> None:
        """The order of two changes does not matter."""
        self.assertEqual(merged(one, other), merged(other, one))

    @given(STATES, STATES, STATES)
    @settings(deadline=None)
    def test_associative(self, one: State, two: State, three: State) -> None:
        """Nor does their grouping."""
        self.assertEqual(
            merged(merged(one, two), three), merged(one, merged(two, three))
        )

    @given(STATES, STATES)
    @settings(deadline=None)
    def test_idempotent(self, one: State, other: State) -> None:
        """A change that arrives twice changes nothing the second time."""
        both = merged(one, other)
        again = merge(both, other)

        self.assertEqual((both, False, False), (again.state, *_won(again)))

    @given(st.lists(STATES, min_size=1, max_size=5))
    @settings(deadline=None, max_examples=50)
    def test_any_order(self, states: list[State]) -> None:
        """However changes arrive, all replicas end alike."""
        ends = {reduce(merged, order) for order in permutations(states)}

        self.assertEqual(1, len(ends))

    def test_registers_are_independent(self) -> None:
        """A newer write with an older expiry replaces the bytes and stays deleted."""
        old = State(Data(5, bytes(32), 1, 0), Expiry(9, 77))
        new = State(Data(6, b"\1" * 32, 1, 0), Expiry(6, 0))
        found = merge(old, new)

        self.assertEqual((True, False), _won(found))
        self.assertEqual(State(new.data, old.expiry), found.state)

    def test_tombstone_first(self) -> None:
        """A delete seen before its blob keeps the blob deleted."""
        tombstone = State(None, Expiry(9, 50))
        put = State(Data(5, bytes(32), 1, 0), Expiry(5, 0))

        self.assertEqual(State(put.data, tombstone.expiry), merged(tombstone, put))

    def test_equal_stamps_converge(self) -> None:
        """Two writes of one stamp are decided by content, the same everywhere."""
        one = State(Data(5, b"\1" * 32, 1, 0), Expiry(5, 0))
        two = State(Data(5, b"\2" * 32, 1, 0), Expiry(5, 10))

        self.assertEqual(two, merged(one, two))
        self.assertEqual(two, merged(two, one))


def _won(found: Merged) -> tuple[bool, bool]:
    return found.data_won, found.expiry_won

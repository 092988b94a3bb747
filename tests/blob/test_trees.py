"""Digest trees: equal when what is known is equal, and pointing at what is not."""

from __future__ import annotations

from collections.abc import Iterable

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob.records import Data, Expiry, Row, State
from clinfra.blob.trees import (
    LEAVES,
    Forest,
    differing,
    digest_of,
    leaf_of,
    pack,
    unpack,
)
from tests.blob.test_index import row


def forest(rows: Iterable[Row]) -> Forest:
    """Return the trees of some rows; names with an "x" live in (1, 0) too."""
    made = Forest([(1, 0)], lambda name: [(1, 0)] if "x" in name else [])
    made.grow(LEAVES, map(told, rows))
    return made


def told(row: Row) -> tuple[int, str, bytes]:
    """Return what the index tells of a row for the trees."""
    return leaf_of(row.name), row.name, digest_of(row.name, row.state)


class TreeTests(SynchronousTestCase):
    """Trees."""

    def test_equal(self) -> None:
        """Replicas that know the same have the same digests, whatever was before."""
        rows = [row(f"n{n}", seq=n) for n in range(100)]
        one = forest(rows)
        other = forest([])
        for each in reversed(rows):
            changed = evolve(each, seq=7, volumes=None)
            other.replace(each.name, b"", digest_of(each.name, changed.state))

        self.assertEqual(one.trees[None].branches(), other.trees[None].branches())
        for each in rows:
            other.replace(each.name, digest_of(each.name, each.state), b"")
        self.assertEqual([0] * 256, other.trees[None].branches())

    def test_points_at_difference(self) -> None:
        """A single difference shows in its leaf, and nowhere else."""
        one = forest([row("a"), row("b")])
        other = forest([row("a"), row("b", deleted=5)])
        leaf = leaf_of("b")
        trees = one.trees[None], other.trees[None]
        branches = differing(*(tree.branches() for tree in trees))

        self.assertEqual([leaf >> 8], branches)
        leaves = differing(*(tree.leaves(leaf >> 8) for tree in trees))
        self.assertEqual([leaf & 255], leaves)

    def test_places(self) -> None:
        """The tree of a place has only the names that live there."""
        one, other = forest([row("a"), row("x")]), forest([row("b"), row("x")])

        self.assertEqual(
            one.trees[1, 0].branches(),
            other.trees[1, 0].branches(),
        )
        self.assertNotEqual(one.trees[None].branches(), other.trees[None].branches())

    def test_everything_counts(self) -> None:
        """Each part of what is known makes a difference."""
        data = Data(5, b"1" * 32, 3, 7, "a/b")
        state = State(data, Expiry(5, 0))
        others = [
            State(None, Expiry(5, 0)),
            State(evolve(data, modified=6), Expiry(5, 0)),
            State(evolve(data, sha256=b"2" * 32), Expiry(5, 0)),
            State(evolve(data, content_type="a/c"), Expiry(5, 0)),
            State(data, Expiry(6, 0)),
            State(data, Expiry(5, -1)),
        ]

        digests = {digest_of("a", each) for each in [state, *others]}
        self.assertEqual(7, len(digests | {digest_of("b", state)}) - 1)

    @given(st.lists(st.tuples(st.sampled_from("abcdefxyz"), st.integers(1, 9))))
    @settings(deadline=None)
    def test_growing(self, changes: list[tuple[str, int]]) -> None:
        """Changes while the trees grow are counted once, before and after."""
        known: dict[str, Row] = {name: row(name, 1) for name in "adgxz"}
        growing = Forest([(1, 0)], lambda name: [(1, 0)] if "x" in name else [])

        def grow() -> None:
            first, end = growing.grown_to, growing.grown_to + LEAVES // 16
            found = map(told, known.values())
            growing.grow(end, [each for each in found if first <= each[0] < end])

        for name, stamp in changes:
            new = row(name, stamp) if stamp < 9 else None
            old = known.pop(name, None)
            growing.replace(
                name,
                digest_of(name, old.state) if old is not None else b"",
                digest_of(name, new.state) if new is not None else b"",
            )
            if new is not None:
                known[name] = new
            if not growing.complete:
                grow()
        while not growing.complete:
            grow()

        whole = forest(known.values())
        for place in (None, (1, 0)):
            self.assertEqual(
                whole.trees[place].branches(), growing.trees[place].branches()
            )

    def test_travel(self) -> None:
        """Digests come back as they were sent."""
        digests = [n << 100 for n in range(256)]

        self.assertEqual(digests, unpack(pack(digests)))
        self.assertRaises(ValueError, unpack, b"x")

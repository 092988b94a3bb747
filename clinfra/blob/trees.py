"""Digest trees: how two replicas find out what they do not both know, in little data.

Every name belongs to one of 65 536 leaves, by the first two bytes of its MD5.  The
digest of a leaf is the sum, modulo 2**128, of the digests of what is known of its
names, so a change costs a subtraction and an addition.  256 leaves make a branch, whose
digest is the sum of theirs.  Equal replicas compare 256 branches; others go on to the
leaves of the branches that differ, and to the rows of those leaves.

There is one tree for all names of a replica, to compare with its peers, and one for
each bucket of another cluster, of the names that live there too.

Note [Digests are stored, sums are not]: the digest of a name is a column of its row,
written with it, and copied into the index by leaf.  After each start the trees are
summed up from there alone, a branch at a time in the writer thread's pauses, without
looking at rows; changes of branches not yet reached are left to that.  And what a
change takes out of the sum is what the column says.  So trees can never disagree with
the index, whatever was lost in a crash.

Pure.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import define, field

from clinfra.blob.records import State

LEAVES = 65536
BRANCHES = 256
DIGEST_BYTES = 16
_MASK = (1 << 128) - 1
_NUMBERS = struct.Struct("<QQQB")

Place = tuple[int, int] | None
"""A (cluster, bucket) elsewhere; None for all names of ours."""


def leaf_of(name: str) -> int:
    """Return the leaf of a stored name."""
    digest = hashlib.md5(name.encode("utf-8", "surrogatepass"), usedforsecurity=False)
    return int.from_bytes(digest.digest()[:2], "big")


def digest_of(name: str, state: State) -> bytes:
    """Return the digest of what is known of a name."""
    data, expiry = state.data, state.expiry
    packed = _NUMBERS.pack(
        data.modified if data is not None else 0,
        expiry.modified_deleted,
        expiry.deleted & ((1 << 64) - 1),
        data is not None,
    )
    if data is not None:
        packed += data.sha256 + data.content_type.encode("utf-8") + b"\0"
    packed += name.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(packed, digest_size=DIGEST_BYTES).digest()


@define(eq=False)
class Tree:
    """The digests of one set of names."""

    _leaves: list[int] = field(init=False, factory=lambda: [0] * LEAVES)
    _branches: list[int] = field(init=False, factory=lambda: [0] * BRANCHES)

    def add(self, leaf: int, difference: int) -> None:
        """Change the digest of a leaf."""
        branch = leaf >> 8
        self._leaves[leaf] = (self._leaves[leaf] + difference) & _MASK
        self._branches[branch] = (self._branches[branch] + difference) & _MASK

    def branches(self) -> list[int]:
        """Return the digest of each branch."""
        return list(self._branches)

    def leaves(self, branch: int) -> list[int]:
        """Return the digest of each leaf of a branch."""
        return self._leaves[branch << 8 : (branch + 1) << 8]


@define(eq=False)
class Forest:
    """All trees of a replica, growing until they are complete.

    Args:
        places: which buckets elsewhere to keep trees for.
        places_of: returns the places that a stored name also lives in.

    Attributes:
        grown_to: names of the leaves below this one are in the trees.
    """

    _places: Iterable[tuple[int, int]]
    _places_of: Callable[[str], Iterable[tuple[int, int]]]
    grown_to: int = field(init=False, default=0)
    trees: Mapping[Place, Tree] = field(init=False)

    @trees.default
    def _make_trees(self) -> Mapping[Place, Tree]:
        return {None: Tree(), **{place: Tree() for place in self._places}}

    @property
    def complete(self) -> bool:
        """All names are in the trees."""
        return self.grown_to == LEAVES

    def grow(self, to: int, digests: Iterable[tuple[int, str, bytes]]) -> None:
        """Take up the names of the leaves from `grown_to` up to `to`, exclusive.

        Args:
            digests: (leaf, name, digest) of all of them.
        """
        first, elsewhere = self.grown_to, len(self.trees) > 1
        sums = [0] * (to - first)
        for leaf, name, digest in digests:
            number = int.from_bytes(digest, "big")
            sums[leaf - first] += number
            if elsewhere:
                self._add_elsewhere(leaf, name, number)
        for leaf, number in enumerate(sums, first):
            if number:
                self.trees[None].add(leaf, number)
        self.grown_to = to

    def add(self, digests: Iterable[tuple[int, str, bytes]]) -> None:
        """These names had no rows before; (leaf, name, digest)."""
        tree, elsewhere = self.trees[None], len(self.trees) > 1
        for leaf, name, digest in digests:
            if leaf < self.grown_to:
                number = int.from_bytes(digest, "big")
                tree.add(leaf, number)
                if elsewhere:
                    self._add_elsewhere(leaf, name, number)

    def replace(self, name: str, before: bytes, after: bytes) -> None:
        """The digest of a name has changed; it is b"" while there is no row."""
        if before == after:
            return
        leaf = leaf_of(name)
        if leaf < self.grown_to:
            difference = int.from_bytes(after, "big") - int.from_bytes(before, "big")
            self.trees[None].add(leaf, difference)
            self._add_elsewhere(leaf, name, difference)

    def _add_elsewhere(self, leaf: int, name: str, difference: int) -> None:
        for place in self._places_of(name):
            tree = self.trees.get(place)
            if tree is not None:
                tree.add(leaf, difference)


def pack(digests: Iterable[int]) -> bytes:
    """Return digests as they travel."""
    return b"".join(digest.to_bytes(DIGEST_BYTES, "big") for digest in digests)


def unpack(raw: bytes) -> list[int]:
    """Return the digests in what came.  Raises ValueError."""
    if len(raw) != 256 * DIGEST_BYTES:
        raise ValueError("not 256 digests")
    return [
        int.from_bytes(raw[at : at + DIGEST_BYTES], "big")
        for at in range(0, len(raw), DIGEST_BYTES)
    ]


def differing(ours: Sequence[int], theirs: Sequence[int]) -> list[int]:
    """Return where digests differ."""
    pairs = zip(ours, theirs, strict=True)
    return [number for number, (one, other) in enumerate(pairs) if one != other]

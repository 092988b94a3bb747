"""Ways to choose one of several members, each as often as its share says.

Pure.  A chooser is made of the members that can be asked, and made anew when that
changes; choosing itself costs O(1) or O(log n).  `skip` are members that this request
tried already: they are chosen only when there is nobody else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import blake2b
from heapq import heapify, heapreplace
from itertools import accumulate
from random import Random
from struct import Struct
from typing import Protocol

from clinfra.proxy.member import Member
from clinfra.proxy.message import Request

_POINTS = 160
"""Points on a ring of a member that weighs 1."""
_MOST_POINTS = 1600
_LOW_BITS = 0xFFFF
_EIGHT = Struct(">8Q")
"""A digest as points."""

Load = Callable[[Member], int]
"""Returns how many requests a member has under way."""


class Chooser(Protocol):
    """Chooses members; never made of none."""

    def pick(self, key: bytes, skip: Collection[Member] = ()) -> Member: ...


def _others(members: Sequence[Member], skip: Collection[Member]) -> Sequence[Member]:
    return [member for member in members if member not in skip] or members


class Drawing:
    """By lot, weighted by the members' shares."""

    def __init__(
        self, members: Sequence[Member], shares: Sequence[float], rng: Random
    ) -> None:
        self._members = members
        self._shares = shares
        self._sums = list(accumulate(shares))
        self._last = len(members) - 1
        self._random = rng.random
        self._rng = rng

    def pick(self, key: bytes, skip: Collection[Member] = ()) -> Member:
        """Draw one."""
        if skip:
            others = _others(self._members, skip)
            if len(others) < len(self._members):
                share_of = dict(zip(self._members, self._shares, strict=True))
                shares = [share_of[member] for member in others]
                return Drawing(others, shares, self._rng).pick(key)
        point = self._random() * self._sums[-1]
        return self._members[min(bisect_right(self._sums, point), self._last)]


class LeastLoaded:
    """The less loaded of two, for its share; of two idle ones, the one drawn by lot.

    So shares hold with little to do as well, one that hangs is soon passed over by all
    but few, and one that fails quickly does not win by being idle.
    """

    def __init__(
        self,
        members: Sequence[Member],
        shares: Sequence[float],
        rng: Random,
        load: Load,
    ) -> None:
        self._members = members
        self._shares = shares
        self._sums = list(accumulate(shares))
        self._random = rng.random
        self._rng = rng
        self._load = load

    def pick(self, key: bytes, skip: Collection[Member] = ()) -> Member:
        """Draw one, and another; keep the better."""
        members, shares, random = self._members, self._shares, self._random
        last = len(members) - 1
        if not last:
            return members[0]
        if skip:
            others = _others(members, skip)
            if len(others) < len(members):
                share_of = dict(zip(members, shares, strict=True))
                left = [share_of[member] for member in others]
                return LeastLoaded(others, left, self._rng, self._load).pick(key)
        first = min(bisect_right(self._sums, random() * self._sums[-1]), last)
        second = int(random() * last)
        second += second >= first
        load = self._load(members[first])
        other_load = self._load(members[second])
        if (load or other_load) and (load + 1) * shares[second] > (
            other_load + 1
        ) * shares[first]:
            return members[second]
        return members[first]


class Turns:
    """In turn; one with twice the share has twice the turns, evenly spread.

    Earliest deadline first: each turn of a member puts its next off by 1/share.
    """

    def __init__(
        self, members: Sequence[Member], shares: Sequence[float], rng: Random
    ) -> None:
        # Where they begin is drawn: else the first would gain by every new start.
        self._queue = [
            (rng.random() / share, number, 1 / share, member)
            for number, (member, share) in enumerate(zip(members, shares, strict=True))
        ]
        heapify(self._queue)

    def pick(self, key: bytes, skip: Collection[Member] = ()) -> Member:
        """Return whose turn it is."""
        queue = self._queue
        if skip:
            queue = [turn for turn in queue if turn[3] not in skip] or queue
            return min(queue)[3]
        due, number, step, member = queue[0]
        heapreplace(queue, (due + step, number, step, member))
        return member


class Ring:
    """By a hash of the key: equal keys go to one member as long as it can be asked.

    Each member has points on a ring, as many as it weighs; a key belongs to the next
    point.  When a member goes, only its own keys move, to the members that follow.

    Args:
        members: all of the pool, so that the ring stays as it is while they come
            and go.
    """

    def __init__(self, members: Sequence[Member]) -> None:
        # A point's low bits say whose it is: plain numbers are sorted quickly.
        self._hashes = sorted(
            point & ~_LOW_BITS | number
            for number, member in enumerate(members)
            for point in _points(member)
        )
        self._owners = [members[point & _LOW_BITS] for point in self._hashes]

    def among(self, usable: Collection[Member]) -> Among:
        """Return a chooser of these members only."""
        return Among(self._hashes, self._owners, frozenset(usable))


class Among:
    """A ring of which only some members can be asked."""

    def __init__(
        self,
        hashes: Sequence[int],
        owners: Sequence[Member],
        usable: frozenset[Member],
    ) -> None:
        self._hashes = hashes
        self._owners = owners
        self._usable = usable

    def pick(self, key: bytes, skip: Collection[Member] = ()) -> Member:
        """Return the owner of the key's place, or the next that can be asked."""
        wanted = self._usable.difference(skip) or self._usable
        start = bisect_right(self._hashes, _hash(key))
        owners = self._owners
        for number in range(start, start + len(owners)):
            owner = owners[number % len(owners)]
            if owner in wanted:
                return owner
        raise LookupError("a chooser was made of no member of its ring")


def _hash(key: bytes) -> int:
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


def _points(member: Member) -> list[int]:
    """Return where a member is on a ring: the same in every process."""
    count = min(_MOST_POINTS, max(1, round(_POINTS * member.weight)))
    name = member.name.encode()
    points: list[int] = []
    number = 0
    while len(points) < count:
        points += _EIGHT.unpack(blake2b(b"%b#%d" % (name, number)).digest())
        number += 1
    return points[:count]


KeyOf = Callable[[Request], bytes]
"""Returns what of a request decides who is asked."""

_PLAIN_KEYS: Mapping[str, KeyOf] = {
    "host_path": lambda request: request.host_path.encode("latin-1"),
    "path": lambda request: request.path.encode("latin-1"),
    "client_ip": lambda request: request.client_ip.encode("latin-1"),
}


def read_hash_key(text: str) -> KeyOf:
    """Read "host_path", "path", "client_ip", "header:NAME" or "cookie:NAME".

    A request without that header or cookie goes by its client's address.

    Raises ValueError with a plain sentence.
    """
    if text in _PLAIN_KEYS:
        return _PLAIN_KEYS[text]
    kind, _, name = text.partition(":")
    by_client = _PLAIN_KEYS["client_ip"]
    if kind == "header" and name:
        field = name.lower().encode("latin-1", "replace")
        return lambda request: request.get(field) or by_client(request)
    if kind == "cookie" and name:
        return lambda request: (
            request.cookies.get(name, "").encode("latin-1", "replace")
            or by_client(request)
        )
    raise ValueError(
        f'"{text}" is not one of host_path, path, client_ip, header:NAME, cookie:NAME'
    )

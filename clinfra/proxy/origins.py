"""The origins behind us: pools, weights, and how far each member is trusted.

Pure.  The confidence of a member starts at its weight, halves with every failure down
to a floor that never quite reaches zero, and doubles with every success up to its
weight again.  Members are drawn at random, weighted by confidence: a dead one is soon
asked hardly ever, and still finds its way back by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random

from attrs import define, field

from clinfra.config import PoolConfig

MIN_CONFIDENCE = 0.008
DECREASE = 0.5
INCREASE = 2.0
MAX_AD_HOC_POOLS = 4096


@define(eq=False)
class Member:
    """One origin of a pool.

    Attributes:
        name: "host:port" or "unix:/path".
        host, port, path: where it is; path for UNIX sockets only.
        weight: confidence at the start, and its ceiling.
        confidence: chance of being drawn, relative to the others.
        origin: the forwarder's own: its address as `web.pool` wants it.
    """

    name: str
    host: str
    port: int
    path: str
    weight: float
    confidence: float
    origin: object = None

    def succeeded(self) -> None:
        """It answered."""
        if self.confidence < self.weight:
            self.confidence = min(self.weight, self.confidence * INCREASE)

    def failed(self) -> None:
        """It did not."""
        if self.confidence > MIN_CONFIDENCE:
            self.confidence = max(MIN_CONFIDENCE, self.confidence * DECREASE)


def parse_member(text: str) -> Member:
    """Make a member of "host:port", "[::1]:port", "unix:/path"; "=weight" may follow.

    Raises ValueError with a plain sentence.
    """
    name, equals, weight_text = text.strip().partition("=")
    try:
        weight = float(weight_text) if equals else 1.0
    except ValueError:
        raise ValueError(f'"{text}": the weight is not a number') from None
    if not MIN_CONFIDENCE <= weight <= 1e6:
        raise ValueError(f'"{text}": a weight is between {MIN_CONFIDENCE} and 1000000')
    if name.startswith("unix:"):
        if not name.startswith("unix:/"):
            raise ValueError(f'"{text}": a UNIX socket needs an absolute path')
        return Member(name, "", 0, name[5:], weight, weight)
    host, _, port = name.rpartition(":")
    if not host or not port.isascii() or not port.isdigit():
        raise ValueError(f'"{text}": an origin is "host:port" or "unix:/path"')
    if not 0 < int(port) < 65536:
        raise ValueError(f'"{text}": there is no such port')
    return Member(name, host.strip("[]"), int(port), "", weight, weight)


@define(eq=False)
class OriginPool:
    """Some origins that can answer the same requests.

    Attributes:
        client: the forwarder's own: the connections to them.
    """

    name: str
    members: tuple[Member, ...]
    config: PoolConfig
    rng: Random
    client: object = None

    def choose(self, tried: Collection[Member] = ()) -> Member | None:
        """Draw a member, one not yet tried if there is any; None of an empty pool."""
        members: Sequence[Member] = self.members
        if len(members) == 1:
            return members[0]
        if tried:
            members = [member for member in members if member not in tried] or members
        if not members:
            return None
        total = 0.0
        for member in members:
            total += member.confidence
        point = self.rng.random() * total
        for member in members:
            point -= member.confidence
            if point < 0:
                return member
        return members[-1]


@define(eq=False)
class Origins:
    """Every pool by name: the configured ones and those of this process.

    Args:
        pools: the configured pools.
        builtin: returns the built-in ones, name → "host:port"; asked when first
            used, for ports are known only when everything listens.
        rng: draws members.
    """

    pools: Mapping[str, PoolConfig]
    builtin: Callable[[], Mapping[str, str]]
    rng: Random
    _known: dict[str, OriginPool] = field(factory=dict, init=False)
    _ad_hoc: dict[tuple[str, ...], OriginPool] = field(factory=dict, init=False)

    def pool(self, name: str) -> OriginPool | None:
        """Return a pool; None when there is none of this name."""
        known = self._known.get(name)
        if known is not None:
            return known
        config = self.pools.get(name)
        if config is None or not config.members:
            address = self.builtin().get(name)
            if address is None and config is None:
                return None
            config = config or PoolConfig()
            members: tuple[str, ...] = (address,) if address else ()
        else:
            members = config.members
        pool = self._make(name, members, config)
        self._known[name] = pool
        return pool

    def ad_hoc(self, members: tuple[str, ...], config: PoolConfig) -> OriginPool:
        """Return the pool of exactly these members, made on first use.

        Its members' confidence lasts as long as the pool is remembered.
        """
        pool = self._ad_hoc.get(members)
        if pool is None:
            if len(self._ad_hoc) >= MAX_AD_HOC_POOLS:
                self._ad_hoc.clear()
            pool = self._make(",".join(members), members, config)
            self._ad_hoc[members] = pool
        return pool

    def report(self) -> dict[str, dict[str, float]]:
        """Return the confidence of every member in use, by pool."""
        return {
            name: {member.name: member.confidence for member in pool.members}
            for name, pool in self._known.items()
        }

    def _make(
        self, name: str, members: Sequence[str], config: PoolConfig
    ) -> OriginPool:
        return OriginPool(
            name, tuple(parse_member(member) for member in members), config, self.rng
        )

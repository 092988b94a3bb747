"""The origins behind us: every pool by its name, configured or not.

Pure: time and chance are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

from attrs import define, evolve, field

from clinfra.config import PoolConfig
from clinfra.proxy.member import parse_place
from clinfra.proxy.origin_pool import OriginPool

MAX_AD_HOC_POOLS = 4096


@define(eq=False)
class Origins:
    """Every pool by name: the configured ones and those of this process.

    Args:
        pools: the configured pools.
        builtin: returns the built-in ones, name → "host:port"; asked when first
            used, for ports are known only when everything listens.
        rng: draws members.
        now: returns the time in seconds.

    Attributes:
        maintenance: an operator wants no origin to be asked.
    """

    pools: Mapping[str, PoolConfig]
    builtin: Callable[[], Mapping[str, str]]
    rng: Random
    now: Callable[[], float] = lambda: 0.0
    maintenance: bool = field(default=False, init=False)
    _known: dict[str, OriginPool] = field(factory=dict, init=False)
    _ad_hoc: dict[tuple[str, ...], OriginPool] = field(factory=dict, init=False)

    def pool(self, name: str) -> OriginPool | None:
        """Return a pool; None when there is none of this name."""
        known = self._known.get(name)
        if known is not None:
            return known
        config = self.pools.get(name)
        if config is None or not (config.members or config.backups):
            address = self.builtin().get(name)
            if address is None and config is None:
                return None
            config = config or PoolConfig(spool_uploads=False, spool_answers=False)
            members: tuple[str, ...] = (address,) if address else ()
        else:
            members = config.members
        pool = self._make(name, members, config)
        self._known[name] = pool
        return pool

    def ad_hoc(self, members: tuple[str, ...], config: PoolConfig) -> OriginPool:
        """Return the pool of exactly these members, made on first use.

        What is known of its members lasts as long as the pool is remembered.
        """
        pool = self._ad_hoc.get(members)
        if pool is None:
            if len(self._ad_hoc) >= MAX_AD_HOC_POOLS:
                self._ad_hoc.clear()
            name = ",".join(members)
            pool = self._make(name, members, evolve(config, backups=()))
            self._ad_hoc[members] = pool
        return pool

    def maintain(self, out: bool) -> None:
        """Have no origin asked any more, or again."""
        self.maintenance = out
        for pool in (*self._known.values(), *self._ad_hoc.values()):
            pool.changed()

    def maintained(self) -> dict[str, Any]:
        """Return what operators took out."""
        self.configured()
        return {
            "all": self.maintenance,
            "pools": [name for name, pool in self._known.items() if pool.maintenance],
            "members": {
                name: [each.name for each in pool.members if each.maintained]
                for name, pool in self._known.items()
                if any(each.maintained for each in pool.members)
            },
        }

    def configured(self) -> Sequence[OriginPool]:
        """Return the pools of the configuration, made if they were not."""
        named = [
            self.pool(name)
            for name, config in self.pools.items()
            if config.members or config.backups
        ]
        return [pool for pool in named if pool is not None]

    def report(self) -> dict[str, Any]:
        """Return what is known of every pool in use."""
        return {name: pool.report() for name, pool in self._known.items()}

    def _make(
        self, name: str, members: Sequence[str], config: PoolConfig
    ) -> OriginPool:
        places = [parse_place(member) for member in members]
        places += [parse_place(member, backup=True) for member in config.backups]
        return OriginPool(
            name,
            tuple(places),
            config,
            self.rng,
            self.now,
            lambda: self.maintenance,
        )

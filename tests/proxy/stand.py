"""A pool of origins on its own: time, loads and failures by hand."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from clinfra.config import PoolConfig
from clinfra.proxy.member import Member, parse_place
from clinfra.proxy.origin_pool import OriginPool


class Stand:
    """A pool, the time, and how loaded its members are."""

    def __init__(self, *members: str, backups: tuple[str, ...] = (), **more: Any):
        self.now = 1000.0
        self.loads: dict[str, int] = {}
        places = [parse_place(each) for each in members]
        places += [parse_place(each, backup=True) for each in backups]
        self.pool = OriginPool(
            "p",
            tuple(places),
            PoolConfig(**more),
            Random(1),
            lambda: self.now,
        )
        self.pool.load = lambda member: self.loads.get(member.name, 0)

    def __getitem__(self, name: str) -> Member:
        return next(each for each in self.pool.members if each.name == name)

    def ask(self, *tried: str, key: bytes = b"", trial: bool = True) -> str:
        """Return who is chosen; "" for nobody."""
        chosen = self.pool.choose([self[name] for name in tried], key, trial)
        return "" if chosen is None else chosen.name

    def shares(self, count: int = 4000) -> dict[str, float]:
        """Return which part of the requests each gets."""
        drawn = Counter(self.ask(trial=False) for _ in range(count))
        return {name: number / count for name, number in drawn.items()}

    def fail(self, name: str, times: int = 1) -> None:
        """Have a member fail some requests."""
        for _ in range(times):
            self[name].failed("refused")

    def check(self, name: str, good: bool, times: int = 1) -> None:
        """Have a member checked."""
        for _ in range(times):
            self[name].checked(good, "" if good else "no answer")

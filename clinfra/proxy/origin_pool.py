"""A pool of origins: who of its members is asked.

Pure: time, load and chance are arguments.  What `member` knows of each decides who can
be asked; `choosing` picks one of those.

# Note [Who can be asked]
The members that are up and whose circuit is closed; when too few of these are left
(`panic_threshold`), the good ones of the backups as well; and when even that is too
few, the checks are not believed: they rather are wrong, or about to kill the rest, than
that everything is down.  When all circuits are open, a member is still sent one request
at a time, whatever its pause: the last member is never given up, and it is back with
the first answer.  Only what comes while such a trial is under way is refused at once,
instead of waiting for an origin that hangs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from math import inf
from random import Random
from typing import Any

from attrs import define, field, frozen

from clinfra.config import PoolConfig
from clinfra.proxy.choosing import (
    Chooser,
    Drawing,
    KeyOf,
    LeastLoaded,
    Load,
    Ring,
    Turns,
    read_hash_key,
)
from clinfra.proxy.member import HealthRules, Member, Place
from clinfra.proxy.retry_budget import RetryBudget

_WARMING_STEP = 0.25
"""Seconds after which the share of a member that starts slowly is looked at again."""


def _idle(member: Member) -> int:
    """Nothing is known of loads."""
    return 0


def _ignore(member: Member) -> None:
    """Nobody wants to know."""


@frozen
class Outlook:
    """Who can be asked, as long as nothing changes.

    Attributes:
        members: those that can.
        chooser: picks one of them; None when there is none.
        several: there are at least two.
        trials: those whose circuit is open, and who may have a trial now.
        until: when time changes it, in seconds.
        panic: the checks are not believed.
    """

    members: Sequence[Member]
    chooser: Chooser | None
    several: bool
    trials: list[Member]
    until: float
    panic: bool


@define(eq=False)
class OriginPool:
    """Some origins that can answer the same requests.

    Args:
        places: where members are, backups included.
        now: returns the time in seconds.
        all_closed: says whether operators took all pools out.

    Attributes:
        members: one for each place, or for each of its addresses.
        authority: what members are sent as Host; b"" is what the client sent.
        noted: called with a member when its circuit opens or closes.
        key_of: what of a request decides who is asked; None when nothing does.
        maintenance: an operator took the whole pool out.
        sole: the member to ask as long as there is nothing to choose; else None.
        load: returns how many requests a member has under way.
        client: the forwarder's own: the connections to them.
        short_circuits: how many requests were refused because every circuit was open.
    """

    name: str
    places: tuple[Place, ...]
    config: PoolConfig
    rng: Random
    now: Callable[[], float] = lambda: 0.0
    all_closed: Callable[[], bool] = lambda: False
    members: tuple[Member, ...] = field(init=False)
    budget: RetryBudget = field(init=False)
    authority: bytes = field(init=False)
    noted: Callable[[Member], None] = field(default=_ignore, init=False)
    key_of: KeyOf | None = field(default=None, init=False)
    maintenance: bool = field(default=False, init=False)
    sole: Member | None = field(default=None, init=False)
    load: Load = field(default=_idle, init=False)
    client: Any = field(default=None, init=False)
    short_circuits: int = field(default=0, init=False)
    _rules: HealthRules = field(init=False)
    _most: int = field(init=False)
    _ring: Ring | None = field(default=None, init=False)
    _outlook: Outlook | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        config = self.config
        self._rules = HealthRules(
            config.circuit_failures,
            config.circuit_pause,
            config.slow_start,
            config.check.rise,
            config.check.fall,
        )
        self.authority = config.host.encode("ascii")
        self._most = config.max_connections
        self.budget = RetryBudget(config.retry_budget)
        self.maintenance = config.maintenance
        if config.choice == "hash":
            self.key_of = read_hash_key(config.hash_key)
        self.members = tuple(self._member(place, place.host) for place in self.places)
        self.changed()

    # Who is asked.

    def choose(
        self, tried: Collection[Member] = (), key: bytes = b"", trial: bool = True
    ) -> Member | None:
        """Choose a member to ask, one not yet tried if there is any.

        None when nobody can be asked; `under_maintenance` says whether that is why.

        Args:
            key: what `key_of` returned.
            trial: this request may be spent on a member whose circuit is open, for it
                can be sent to another afterwards.
        """
        sole = self.sole
        if sole is not None and not tried:
            sole.requests += 1
            return sole
        outlook = self._outlook
        if outlook is None or (outlook.until != inf and outlook.until <= self.now()):
            outlook = self._look()
        member: Member | None
        if outlook.trials and trial and not tried:
            member = outlook.trials[0]
            member.begin_trial()
        elif outlook.chooser is None:
            member = self._last_resort(tried)
            if member is None:
                return None
        else:
            member = outlook.chooser.pick(key, tried)
            if outlook.several and self.load(member) >= self._most:
                member = self._roomiest(outlook.members, tried)
        member.requests += 1
        return member

    @property
    def under_maintenance(self) -> bool:
        """Whether operators left nobody to ask."""
        return self._closed() or (
            bool(self.members) and all(member.maintained for member in self.members)
        )

    @property
    def all_down(self) -> bool:
        """Whether there is nobody of whom checks say that a request would be answered.

        Requests are sent all the same: checks may be wrong, or asking too much.
        """
        return bool(self.members) and not any(member.up for member in self.members)

    def may_retry(self, now: float) -> bool:
        """Whether the budget allows for one more retry; takes it."""
        requests = sum(member.requests for member in self.members)
        return self.budget.spend(now, requests)

    def has_other(self, tried: Collection[Member]) -> bool:
        """Whether there is a member besides these."""
        return any(
            member not in tried and not member.maintained for member in self.members
        )

    def _closed(self) -> bool:
        return self.maintenance or self.all_closed()

    def _roomiest(self, members: Sequence[Member], tried: Collection[Member]) -> Member:
        """The chosen one has no connection free: take who has most room."""
        load = self.load
        return min(
            members, key=lambda member: (member in tried, load(member) / member.weight)
        )

    def _last_resort(self, tried: Collection[Member]) -> Member | None:
        """Every circuit is open: see Note [Who can be asked]."""
        if self._closed():
            return None
        now = self.now()
        free = [
            member
            for member in self.members
            if member.opened and not member.maintained and member.may_have_trial(now)
        ]
        if not free:
            self.short_circuits += any(member.opened for member in self.members)
            return None
        chosen = min(free, key=lambda each: (each in tried, each.failures))
        chosen.begin_trial()
        return chosen

    def changed(self) -> None:
        """Something is different with some member: look again when next asked."""
        self._outlook = None
        self.sole = None

    def _look(self) -> Outlook:
        """Find out who can be asked; see Note [Who can be asked]."""
        now = self.now()
        present = [
            member
            for member in self.members
            if not member.maintained and not self._closed()
        ]
        closed = [member for member in present if not member.opened]
        primaries = [member for member in present if not member.place.backup]
        wanted = max(1.0, self.config.panic_threshold * len(primaries))
        usable = [member for member in closed if member.up and not member.place.backup]
        short = len(usable) < wanted
        if short:
            usable += [member for member in closed if member.up and member.place.backup]
        panic = len(usable) < wanted and len(usable) < len(closed)
        if panic:
            usable = closed
        # When nobody is left, trials are chosen for in another way; backups that are
        # not needed get none.
        pausing = [
            member
            for member in present
            if member.opened and usable and (short or not member.place.backup)
        ]
        due = [member for member in pausing if _next_trial(member) <= now]
        until = min((_next_trial(each) for each in pausing), default=inf)
        if any(member.warming(now) for member in usable):
            until = min(until, now + _WARMING_STEP)
        chooser = self._chooser(usable, now) if usable else None
        outlook = self._outlook = Outlook(
            usable, chooser, len(usable) > 1, due, until, panic
        )
        if len(usable) == 1 and until == inf:
            self.sole = usable[0]
        return outlook

    def _chooser(self, usable: Sequence[Member], now: float) -> Chooser:
        shares = [member.share(now) for member in usable]
        choice = self.config.choice
        if choice == "hash":
            if self._ring is None:
                self._ring = Ring(self.members)
            return self._ring.among(usable)
        if choice == "round_robin":
            return Turns(usable, shares, self.rng)
        if choice == "least_loaded":
            return LeastLoaded(usable, shares, self.rng, self._loaded)
        return Drawing(usable, shares, self.rng)

    def _loaded(self, member: Member) -> int:
        return self.load(member)

    # Who there is.

    def resolved(self, place: Place, addresses: Sequence[str]) -> None:
        """The name of a place stands for these addresses now.

        What is known of an address that stays is kept.  New ones start slowly, unless
        nothing was known before.
        """
        known = {
            member.address: member for member in self.members if member.place is place
        }
        if not addresses or set(known) == set(addresses):
            return
        first = set(known) == {place.host}
        out = all(member.maintained for member in known.values())
        members: list[Member] = []
        for each in self.places:
            if each is not place:
                members += [member for member in self.members if member.place is each]
                continue
            for address in addresses:
                member = known.get(address)
                if member is None:
                    member = self._member(place, address)
                    member.maintained = out
                    if not first:
                        member.start_slowly()
                members.append(member)
        self.members = tuple(members)
        self._ring = None
        self.changed()

    def maintain(self, out: bool, name: str = "") -> bool:
        """Take a member out or back in, or the whole pool; False without such a member.

        Args:
            name: of a place or of one of its addresses; "" for the pool.
        """
        if not name:
            self.maintenance = out
            self.changed()
            return True
        found = [each for each in self.members if name in (each.name, each.place.name)]
        for member in found:
            member.maintain(out)
        return bool(found)

    def report(self) -> dict[str, Any]:
        """Return what the admin pages show."""
        now = self.now()
        outlook = self._outlook or self._look()
        told: dict[str, Any] = {
            "choice": self.config.choice,
            "askable": len(outlook.members),
            "panic": outlook.panic,
            "maintenance": self.maintenance,
            "retries_left": int(self.budget.tokens),
            "retries_refused": self.budget.refused,
            "short_circuits": self.short_circuits,
            "members": {},
        }
        for member in self.members:
            key = member.place.name
            if member.address != member.place.host and not member.place.path:
                key = f"{key} ({member.address})"
            told["members"][key] = {
                **member.report(now),
                "under_way": self.load(member),
            }
        return told

    def _member(self, place: Place, address: str) -> Member:
        return Member(place, address, self._rules, self.now, self.changed, self._note)

    def _note(self, member: Member) -> None:
        self.noted(member)


def _next_trial(member: Member) -> float:
    return max(member.open_until, member.trial_until)

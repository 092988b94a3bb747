"""What a cluster promised its clients of one name, and which ends that allows.

A name has two registers, when it was last written and when it ends (`blob.records`).
An answer promises that both stay at least what it told; a change that nobody answered
may have happened or not, and if so with whatever stamp it got.  That stamp is not
guessed: everything that any replica ever kept is noted when it is first kept.

So these are the lawful ends of a name:

* its data is what some client sent under it, with a stamp that those bytes got, and no
  promised write is greater.  Its expiry likewise;
* it is gone, and the greatest expiry that was promised, or some later one that a
  replica kept, has passed;
* something lower than what was promised, only if everybody was allowed to forget that,
  having ended, and it came after that.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field, frozen

from clinfra.blob.records import Data, Expiry, Row, State


class Broken(AssertionError):
    """A promise was not kept.

    Attributes:
        name: which name it was about; "" none.
    """

    def __init__(self, what: str, name: str = "") -> None:
        super().__init__(what)
        self.name = name


@define(eq=False)
class Change:
    """A PUT (of a digest) or DELETE that a client sent.

    Attributes:
        ttl_seconds: of a PUT; None for ever.
        stamp: that the client chose.
        began, ended: when it was sent and answered, seconds.
    """

    sha256: bytes | None
    ttl_seconds: int | None
    began: float
    stamp: int | None = None
    ended: float | None = None


_Data = tuple[int, bytes]
_Expiry = tuple[int, int]


@frozen
class Promise:
    """What an answer told.

    Attributes:
        host: who answered; "" when that passed on what some other did.
        copies: how many it said there were.
    """

    change: Change
    host: str
    copies: int
    data: _Data | None
    expiry: _Expiry


@define(eq=False)
class Name:
    """What is known of a name besides what replicas say at last.

    Attributes:
        bodies: digest → everything that was sent under it.
        kept, ends: what replicas ever kept: register → when and by whom first.
        holders: data → all that ever kept it.
        forgotten: expiry → when a replica first forgot the name, or its bytes, then.
        buried: expiry → when a replica last forgot the name then.
    """

    stored: str
    bodies: dict[bytes, bytes] = field(factory=dict)
    changes: list[Change] = field(factory=list)
    promises: list[Promise] = field(factory=list)
    kept: dict[_Data, float] = field(factory=dict)
    ends: dict[_Expiry, float] = field(factory=dict)
    holders: dict[_Data, set[str]] = field(factory=dict)
    forgotten: dict[_Expiry, float] = field(factory=dict)
    buried: dict[_Expiry, float] = field(factory=dict)

    def applied(
        self,
        host: str,
        before: Row | None,
        row: Row | None,
        now: float,
        is_alone: bool = False,
    ) -> str:
        """A replica keeps a row now; return that in words if it is news to anybody.

        One that is alone forgets nothing twice: nobody could have told it again.
        """
        news = ""
        if before is not None and (
            row is None or (row.data is None and before.data is not None)
        ):
            self.forgotten.setdefault(expiry_of(before.expiry), now)
            if row is None:
                expiry = expiry_of(before.expiry)
                self.buried[expiry] = self.buried.get(expiry, now) if is_alone else now
            news = "forgets it" if row is None else "forgets its bytes"
        if row is None:
            return news
        expiry = expiry_of(row.expiry)
        if self.ends.setdefault(expiry, now) == now:
            news = f"keeps {told_of(row.state)}"
        if row.data is not None:
            data = data_of(row.data)
            if self.kept.setdefault(data, now) == now:
                news = f"keeps {told_of(row.state)}"
            self.holders.setdefault(data, set()).add(host)
        return news

    def check(
        self,
        state: State | None,
        damaged: str | None,
        now: float,
        is_void: Callable[[Promise], bool] = lambda promise: False,
    ) -> None:
        """Raise Broken unless a state (None: gone) is a lawful end.

        Args:
            damaged: the host whose disk is not what it was.
            is_void: whether nobody could have kept a promise.
        """
        promises = [
            each
            for each in self.promises
            if (damaged is None or each.copies > 1 or each.host not in ("", damaged))
            and not is_void(each)
        ]
        if state is None or state.data is None:
            # A delete by a clock that was ahead has not ended by ours.
            end = expiry_of(state.expiry) if state is not None else (0, 0)
            for promise in promises:
                if promise.data is not None or promise.expiry > end:
                    self._check_gone(promise, now)
            return
        data, expiry = data_of(state.data), expiry_of(state.expiry)
        change = self._check_is_one(data, expiry)
        for promise in promises:
            lost: tuple[int, object] | None = None
            if promise.data is not None and promise.data > data:
                lost = promise.data[0], promise.data[1].hex()[:8]
            elif promise.expiry > expiry:
                lost = promise.expiry
            if lost is not None and not self._is_excused(promise, data, expiry, change):
                raise Broken(
                    f"{self.stored} was answered {lost} and is {told_of(state)}",
                    self.stored,
                )

    def _check_gone(self, promise: Promise, now: float) -> None:
        """Raise Broken unless something has ended that outdoes a promise.

        Whose clock was ahead found it to have ended earlier, and dropped it (what he
        drops is checked when he does).  Others that have it give it back to him: so it
        is gone only when he had the only copy, and said so, or all found the same.
        What was kept for others may have ended before any of them had it.
        """
        for expiry in {promise.expiry: 0.0, **self.ends}:
            ended = Expiry(*expiry).passed(now) or expiry in self.forgotten
            if expiry < promise.expiry or not ended:
                continue
            buried = self.buried.get(expiry)
            if expiry == promise.expiry or buried is None:
                return
            if buried >= promise.change.began:
                return
        raise Broken(
            f"{self.stored} was answered {promise.expiry} and is gone", self.stored
        )

    def _check_is_one(self, data: _Data, expiry: _Expiry) -> Change:
        """Return which change left this.  Raises Broken when none did."""
        written = [each for each in self.changes if each.sha256 == data[1]]
        if not written:
            raise Broken(f"nobody wrote what {self.stored} is", self.stored)
        (change,) = written
        stamps = {p.data[0] for p in self.promises if p.data and p.data[1] == data[1]}
        if change.stamp is not None and data[0] != change.stamp:
            raise Broken(
                f"{self.stored} has bytes and stamp of two writes", self.stored
            )
        if data not in self.kept:
            raise Broken(f"{self.stored} has a stamp out of nowhere", self.stored)
        others = {p.data[0] for p in self.promises if p.data and p.data[1] != data[1]}
        if data[0] in others - stamps and change.stamp is None:
            raise Broken(f"{self.stored} has the stamp of another write", self.stored)
        if expiry not in self.ends:
            raise Broken(f"{self.stored} has an end out of nowhere", self.stored)
        if expiry[0] == data[0]:
            forever = change.ttl_seconds is None
            # Two writes may be given one stamp, if ever so seldom: both registers are
            # decided, but each by itself.
            tied = sum(stamp == data[0] for stamp, _ in self.kept) > 1
            if change.stamp is None and not tied and forever != (expiry[1] == 0):
                raise Broken(f"{self.stored} has the end of another write", self.stored)
        return change

    def _is_excused(
        self, promise: Promise, data: _Data, expiry: _Expiry, change: Change
    ) -> bool:
        """Return whether a promised state had ended and was forgotten lawfully.

        (That nobody forgets what has not ended by his clock is checked when he does.)
        """
        for end, forgotten in self.forgotten.items():
            if end < promise.expiry:
                continue
            if expiry >= end:
                # Older bytes are about to end, too: whose clock was ahead forgot early.
                return True
            if self.kept[data] > forgotten and (
                change.ended is None or change.ended > forgotten
            ):
                return True
        return False

    def was_answered(self, state: State | None, lost: str | None) -> bool:
        """Return whether the write that left a state was answered.

        Args:
            lost: a host that lost its disk; what it, perhaps, answered does not count.
        """
        if state is None or state.data is None:
            return True
        sha256 = state.data.sha256
        return any(
            each.change.sha256 == sha256
            and (lost is None or each.host not in ("", lost))
            for each in self.promises
        )

    def has_promised(
        self, modified: int | None, modified_deleted: int, but: State | None
    ) -> bool:
        """Return whether stamps are not behind what was promised before a state."""
        last = but.data.sha256 if but is not None and but.data is not None else b""
        return all(
            modified_deleted >= each.expiry[0]
            and (each.data is None or (modified or 0) >= each.data[0])
            for each in self.promises
            if each.change.sha256 != last
        )

    def last(self) -> State | None:
        """Return what was the last write, when it came with its end, and no other."""
        data, expiry = max(self.kept, default=None), max(self.ends, default=None)
        if data is None or expiry is None or data[0] != expiry[0]:
            return None
        return State(Data(*data, 0, 0), Expiry(*expiry))

    def only_had(self, state: State | None, host: str | None) -> bool:
        """Return whether nobody but one host ever kept this data."""
        if state is None or state.data is None:
            return False
        return self.holders.get(data_of(state.data), set()) == {host}


def data_of(data: Data) -> _Data:
    """Return what orders writes."""
    return data.modified, data.sha256


def expiry_of(expiry: Expiry) -> _Expiry:
    """Return what orders ends."""
    return expiry.modified_deleted, expiry.deleted


def told_of(state: State) -> str:
    """Return a state in short."""
    data = "no data"
    if state.data is not None:
        data = f"{state.data.sha256.hex()[:8]} of {state.data.modified}"
    return f"{data}, ends {state.expiry.deleted} by {state.expiry.modified_deleted}"

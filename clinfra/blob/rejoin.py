"""The rejoin fence: who was away for long must not bring back what was deleted.

A delete is forgotten when it is old enough and everybody has heard of it (see
`repair`).  A replica whose disk is turned back in time, to a backup, has heard of
deletes and does not know them any more; one that was left out of the cluster file was
not waited for.  Either would send the others what they deleted and forgot.

Such a replica can be told: each notes in its index, about once a comparison, that it
is alive.  Who finds at its start that this was longer ago than the least time for which
deletes are remembered is *fenced*: whatever others have known of it is neither sent nor
listed, and served only if they serve it, until it is proven.

Note [Proof]: when a comparison with a replica is completed, that one has all our rows
up to some change number.  This is noted too, with the *incarnation* of its index, which
is made anew with each index.  So when a *witness*, of the same incarnation and not
fenced itself, lacks such a row today, it had it and forgot it: it was deleted.  It is
set aside here, in quarantine, and not told to anybody.  Rows with higher numbers are
what nobody may have got yet: they are kept, and sent.  An index that was lost and made
anew has forgotten nothing, it lacks for another reason: it is no witness.  And what
ended by a delete that a witness still remembers ends here at once: it has been told
before, and may forget that any time.

The fence opens when a witness for every name was compared with, any peer of the bucket
or all buckets of another cluster; whoever else can be asked is compared with first.
Else, when all have answered and nobody knows better: all others were wiped, are
originals, or are fenced and have been alive less lately than this one.  So a cluster
that was switched off for a month comes back at once: nothing is forgotten while all
sleep; who was the last to be awake opens, and is the witness of the others.  When
somebody does not answer for `GIVE_UP_SECONDS` it opens too, and says so: a replica that
is alone must serve at last.  ``blob.rejoin = "trust"`` builds no fence, `_trust` opens
it.

What cannot be told: rows that came after the last comparison before a backup was made
look like rows that nobody has got.  And an index that was lost with the disk has no
notes: its replica is not fenced.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger

from clinfra.blob.commit import Call, Committer, Job, Plan
from clinfra.blob.destinations import Destination
from clinfra.blob.forgotten import Forgotten, forgotten_in
from clinfra.blob.index import Batch
from clinfra.blob.merge import merge
from clinfra.blob.peers import Peers
from clinfra.blob.periods import CHANCES
from clinfra.blob.records import Expiry, Row, State
from clinfra.blob.replica import Replica, Write
from clinfra.blob.stamps import stamp_at
from clinfra.config import BlobConfig
from clinfra.errors import Overloaded, Trouble

GIVE_UP_SECONDS = 600.0
"""How long it is waited for those who do not answer."""

ROUND_SECONDS = 2.0
"""Between two rounds of asking."""

RETRY_SECONDS = 5
"""When who asked for something behind the fence is to come back."""

AT_A_TIME = 64
"""Rows set aside in parallel."""

NOTE = "rejoin"
"""Where the index notes it all."""


@frozen
class Known:
    """What a replica once had of ours: everything up to `seq`."""

    incarnation: str
    seq: int


@frozen
class Told:
    """What a replica tells of itself.

    Attributes:
        alive: when it last noted that, before it was fenced; unix seconds.
        forgotten: what it does not know any more.
    """

    incarnation: str
    fenced: bool
    alive: float
    forgotten: Forgotten = Forgotten()


def told_in(raw: bytes) -> Told:
    """Return what came as JSON.  Raises ValueError."""
    try:
        told = json.loads(raw)
        return Told(
            str(told["incarnation"]),
            bool(told["fenced"]),
            float(told["alive"]),
            forgotten_in(told.get("forgotten")),
        )
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it does not tell how it is: {error!r}") from error


def is_witness(known: Known | None, told: Told) -> bool:
    """Return whether what a replica lacks and once had is deleted: Note [Proof]."""
    return (
        known is not None and known.incarnation == told.incarnation and not told.fenced
    )


def is_forgotten(row: Row, known: Known, theirs: State | None, now: float) -> bool:
    """Return whether a witness had a row of ours and forgot it.

    What has ended by itself proves nothing, and nobody is told of it.
    """
    return theirs is None and row.seq <= known.seq and not row.expiry.passed(now)


def knows_best(name: str, alive: float, others: Mapping[str, Told]) -> bool:
    """Return whether nobody of all others, none of them a witness, knows better."""
    return all(
        not told.fenced or (told.alive, other) < (alive, name)
        for other, told in others.items()
    )


def covers_all(proven: Sequence[Destination], wanted: Sequence[Destination]) -> bool:
    """Return whether every name of ours lives at a destination that is proven."""
    if any(each.place is None for each in proven):
        return True
    keys = {each.key for each in proven}
    clusters: dict[int, bool] = {}
    for each in wanted:
        if each.place is not None:
            cluster = each.place[0]
            clusters[cluster] = clusters.get(cluster, True) and each.key in keys
    return any(clusters.values())


@define(eq=False)
class Fence:
    """What this replica noted for the day it comes back, and whether it is fenced.

    Args:
        now: returns unix seconds.
        forget_seconds: for so long at least every delete is remembered everywhere.
        delay_seconds: for so long at least it is remembered here.
        trusts: it is never fenced.

    Attributes:
        closed: this replica is fenced.
        alive: when it last was known to be alive and not fenced, unix seconds.
        forgotten: rows set aside in this run.
        opened: how the fence was opened; "" it never was closed.
    """

    log = Logger()

    _replica: Replica
    _committer: Committer
    _now: Callable[[], float]
    _forget_seconds: float
    _delay_seconds: float
    _trusts: bool
    closed: bool = field(init=False, default=False)
    incarnation: str = field(init=False, default="")
    alive: float = field(init=False, default=0.0)
    forgotten: int = field(init=False, default=0)
    opened: str = field(init=False, default="")
    _known: dict[str, Known] = field(init=False, factory=dict)
    _doubtful: int = field(init=False, default=0)
    _waiting: list[Callable[[], object]] = field(init=False, factory=list)

    def load(self) -> None:
        """Find what was noted, and whether that was too long ago."""
        noted = self._committer.index.notes().get(NOTE)
        try:
            told = json.loads(noted or "{}")
            self.incarnation, self.alive = str(told["incarnation"]), told["alive"]
            self._known = {
                name: Known(str(incarnation), int(seq))
                for name, (incarnation, seq) in told["known"].items()
            }
        except (KeyError, TypeError, ValueError):
            self.incarnation, self.alive = secrets.token_hex(8), self._now()
            if self._committer.seq:
                self.forgot_unseen()
            self._write()
            # An index that lost this would be taken for a new one.
            self._committer.index.sync()
        self._doubtful = max((known.seq for known in self._known.values()), default=0)
        away = self._now() - self.alive
        if self._doubtful and away > self._forget_seconds and not self._trusts:
            self.closed = True
            self.log.warn(
                "this replica was away for {hours:.0f} hours, deletes are remembered"
                " for {remembered:.0f}: it is fenced until it is proven what was"
                " deleted meanwhile",
                hours=away / 3600,
                remembered=self._forget_seconds / 3600,
            )

    def holds(self, row: Row) -> bool:
        """Return whether it is in doubt that a row still is."""
        return self.closed and row.seq <= self._doubtful

    def check(self) -> None:
        """Raise Overloaded while this replica is fenced."""
        if self.closed:
            raise Overloaded("This replica was away for too long", RETRY_SECONDS)

    def check_late(self, stamp: int, since: float) -> None:
        """Raise TooLate, or Overloaded, for an unknown name: see `forgotten`."""
        self.check()
        self._committer.forgotten.check(stamp, since)

    def forgot_unseen(self) -> None:
        """Take it that all was forgotten that may be.  The writer thread."""
        now = self._now()
        self._committer.forgot(stamp_at(max(0.0, now - self._delay_seconds)), now)

    def learn(self, told: Told) -> Deferred[None]:
        """Take it that what another has forgotten was forgotten here."""
        it = told.forgotten
        return self._replica.commit(
            Call(partial(self._committer.forgot, it.stamp, it.at))
        )

    def known(self, replica: str) -> Known | None:
        """Return what a replica once had of ours."""
        return self._known.get(replica)

    def compared(self, replica: str, incarnation: str, seq: int) -> None:
        """A replica has everything of ours up to a number; see `note`."""
        self._known[replica] = Known(incarnation, seq)

    def note(self) -> Deferred[None]:
        """Write down with whom was compared, and that we are alive."""
        if self.closed:
            return succeed(None)
        self.alive = self._now()
        return self._replica.commit(Call(self._write))

    def _write(self) -> None:
        """Write it down.  The writer thread."""
        known = {name: (it.incarnation, it.seq) for name, it in self._known.items()}
        told = {"incarnation": self.incarnation, "alive": self.alive, "known": known}
        self._committer.index.apply(Batch(notes={NOTE: json.dumps(told)}))

    def when_open(self, call: Callable[[], object]) -> None:
        """Call when this replica is not fenced: now, or as soon as that is so."""
        if self.closed:
            self._waiting.append(call)
        else:
            call()

    def open(self, why: str) -> None:
        """Have this replica fenced no more."""
        if not self.closed:
            return
        self.closed, self.opened = False, why
        self.log.warn(
            "this replica is fenced no more: {why}; {forgotten} blobs were deleted"
            " while it was away",
            why=why,
            forgotten=self.forgotten,
        )
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            call()

    def told(self) -> bytes:
        """Return what others ask for; see `told_in`."""
        told = {"incarnation": self.incarnation, "fenced": self.closed}
        told |= {"alive": self.alive, "forgotten": self._committer.forgotten.told()}
        return json.dumps(told).encode()

    def report(self) -> Mapping[str, Any]:
        """Return what status pages show."""
        return {
            "fenced": self.closed,
            "opened": self.opened,
            "forgotten": self.forgotten,
            "alive_seconds": round(max(0.0, self._now() - self.alive), 1),
        }

    def not_ready(self) -> Sequence[str]:
        """Return why not all blobs are served."""
        if not self.closed:
            return ()
        return ("it was away, and asks others what was deleted meanwhile",)


def make_fence(
    config: BlobConfig,
    replica: Replica,
    committer: Committer,
    now: Callable[[], float],
) -> Fence:
    """Return the fence of a replica as it is configured."""
    # Whoever comes back just in time is to be told before anybody forgets.
    chances = CHANCES * config.compare_interval
    remembered = max(config.expiration_delay - chances, chances)
    delay, trusts = config.expiration_delay, config.rejoin == "trust"
    return Fence(replica, committer, now, remembered, delay, trusts)


@define(eq=False)
class Proof:
    """Finds out what was deleted while we were away; then opens the fence.

    Args:
        ask: asks a replica about itself and its trees; raises errors.Trouble.
        differences: hands what a replica has not as we have to a function that returns
            how much it did: rows of ours, and what the replica knows of their names.
        set_aside: keeps a blob in quarantine; a sentence says why.
    """

    log = Logger()

    _fence: Fence
    _name: str
    _destinations: Sequence[Destination]
    _replica: Replica
    _peers: Peers
    _ask: Callable[[str, str], Awaitable[bytes]]
    _differences: Callable[
        [
            Destination,
            str,
            Callable[[Sequence[Row], Mapping[str, State]], Awaitable[int]],
        ],
        Awaitable[int],
    ]
    _set_aside: Callable[[Row, str], Awaitable[object]]
    _reactor: Any
    _now: Callable[[], float]

    async def run(self) -> None:
        """Return when this replica is fenced no more."""
        end = self._reactor.seconds() + GIVE_UP_SECONDS
        while self._fence.closed:
            why = await self._round()
            if why is None and self._reactor.seconds() >= end:
                why = "not all others could be asked"
            if why is not None:
                self._fence.open(why)
            else:
                await deferLater(self._reactor, ROUND_SECONDS)

    async def _round(self) -> str | None:
        """Ask everybody once; return why the fence can be opened, if it can."""
        others: dict[str, Told] = {}
        proven: list[Destination] = []
        silent = False
        for destination in self._destinations:
            for replica in destination.replicas:
                try:
                    if self._peers.is_ours(replica) is None:
                        await self._peers.learn(replica)
                    if self._peers.is_ours(replica) is False:
                        continue
                    told = told_in(await self._ask(replica, "/_tree?self=1"))
                    others[replica] = told
                    await self._fence.learn(told)
                    known = self._fence.known(replica)
                    if known is not None and is_witness(known, told):
                        forget = partial(self._forget_some, replica, known)
                        await self._differences(destination, replica, forget)
                        proven.append(destination)
                except (Trouble, ValueError, OSError) as trouble:
                    silent = True
                    self.log.info(
                        "{replica} is no witness now: {trouble}",
                        replica=replica,
                        trouble=trouble,
                    )
        if covers_all(proven, self._destinations):
            return "it was compared with those who were there"
        if not silent and knows_best(self._name, self._fence.alive, others):
            return "nobody else knows better"
        return None

    async def _forget_some(
        self,
        replica: str,
        known: Known,
        rows: Sequence[Row],
        states: Mapping[str, State],
    ) -> int:
        now = self._now()
        forgotten = [
            row for row in rows if is_forgotten(row, known, states.get(row.name), now)
        ]
        for at in range(0, len(forgotten), AT_A_TIME):
            some = forgotten[at : at + AT_A_TIME]
            forgetting = [
                Deferred.fromCoroutine(self._forget(row, replica)) for row in some
            ]
            await gatherResults(forgetting, consumeErrors=True).addErrback(_first)
        for row in rows:
            theirs = states.get(row.name)
            if theirs is not None and merge(row.state, theirs).expiry_won:
                await self._end(row.name, theirs.expiry)
        return len(forgotten)

    async def _end(self, name: str, expiry: Expiry) -> None:
        stamp, deleted = expiry.modified_deleted, expiry.deleted
        write = Write(deleted=deleted, modified_deleted=stamp, fanout=0)
        await self._replica.expire(name, write)

    async def _forget(self, row: Row, replica: str) -> None:
        """Set a row aside, and drop it unless it has changed meanwhile."""
        why = f"It was deleted while this replica was away: {replica} has forgotten it"
        await self._set_aside(row, why)

        def plan(found: Row | None) -> Plan | None:
            if found is None or found.state != row.state or found.seq != row.seq:
                return None
            # Records of it may be met when the index is rebuilt: leave word.
            logged = found.volumes is not None
            return Plan(found.state, logged=logged, counted=False, forget=True)

        job = Job(row.name, plan)
        await self._replica.commit(job)
        if job.before is not None and job.after is None:
            self._fence.forgotten += 1
            self.log.warn(
                "{name} is set aside: it was deleted while this replica was away,"
                " {replica} has forgotten it",
                name=row.name,
                replica=replica,
            )


def _first(failure: Any) -> Any:
    return getattr(failure.value, "subFailure", failure)

"""What must be true of a cluster, and of its names, after the bad days."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from attrs import define

from clinfra.blob.records import Row, State
from clinfra.blob.trees import BRANCHES, LEAVES, Place, digest_of
from tests.sim.clock import Hang
from tests.sim.cluster import Answer
from tests.sim.promises import Broken, Name, Promise, expiry_of, told_of
from tests.sim.world import World

LONGEST_ANSWER_SECONDS = 120.0

Known = Mapping[str, Mapping[str, Row]]
"""Rows by host, and by name."""

_NOTHING = None, 0, 0, b""

SENT_SECONDS = 30.0
"""When nobody is away any more, every feed moves in this time, if only a bit."""


@define(eq=False)
class Verdict:
    """Judges what is there."""

    _world: World

    def agrees(self) -> bool:
        """Return whether all replicas show the same of every name, and a lawful end.

        What only the damaged host has is passed over: others may still get it.
        """
        now = self._world.cluster.clock.seconds()
        rows = self.known()
        for stored, name in self._world.names.items():
            if len(set(self._shown(name, rows))) > 1:
                return False
            state = self._visible(name, rows)
            for original in self._world.cluster.keeping_originals(stored):
                if self._original_differs(name, original.blobs.get(stored), state):
                    return False
            if self._shown(name, rows):
                try:
                    self._check_kept(name, state, now)
                except Broken:
                    return False
        return True

    def known(self) -> Known:
        """Return what our replicas know, by their names."""
        return {host.name: host.rows() for host in self._world.cluster.hosts.values()}

    def is_back(self, stored: str, before: Known) -> bool:
        """Return whether one of us got since then what an original keeps of a name.

        Only the very write that is there, bytes and stamp.  Whether it may be back is
        not said: all that was promised is asked for again.
        """
        theirs = {
            (modified, hashlib.sha256(body).digest())
            for original in self._world.cluster.keeping_originals(stored)
            for modified, _, _, body in [original.blobs.get(stored, _NOTHING)]
        }
        for host in self._world.cluster.keepers(stored):
            was, row = before[host.name].get(stored), host.rows().get(stored)
            if row is None or row.data is None or (was and was.data == row.data):
                continue
            if (row.data.modified, row.data.sha256) in theirs:
                return True
        return False

    def check(self) -> None:
        """Raise Broken unless all is as it was promised, Hang when somebody waits."""
        now = self._world.cluster.clock.seconds()
        for began, asked in self._world.outstanding.values():
            if now - began > LONGEST_ANSWER_SECONDS:
                raise Hang(f"{asked} is not answered")
        for stored, name in self._world.names.items():
            # To ask for those before took a while, and changes may have come.
            rows = self.known()
            shown = self._shown(name, rows)
            if len(set(shown)) > 1:
                told = ", ".join(told_of(each) if each else "-" for each in shown)
                raise Broken(f"{stored} is not the same everywhere: {told}", stored)
            state = self._visible(name, rows)
            if shown:
                self._check_kept(name, state, self._world.cluster.clock.seconds())
            for original in self._world.cluster.keeping_originals(stored):
                kept = original.blobs.get(stored)
                if self._original_differs(name, kept, state):
                    raise Broken(f"{stored} is {kept} at an original", stored)
            self._check_answers(name, state, bool(shown))
        self._check_trees()
        self._check_feeds()

    def _check_kept(self, name: Name, state: State | None, now: float) -> None:
        """Raise Broken unless all that was promised of a name is kept."""

        def is_void(promise: Promise) -> bool:
            return self._is_aside(name, promise) or self._is_outdone(name, promise)

        name.check(state, self._world.damaged, now, is_void)

    def _is_aside(self, name: Name, promise: Promise) -> bool:
        """Return whether a change that nobody got was put aside by who kept it.

        It was delivered so late that its name may have been deleted meanwhile; the
        answer had told of no copy.
        """
        host = self._world.cluster.hosts.get(promise.host)
        if promise.copies or host is None or host.service is None:
            return False
        return any(
            expiry_of(kept.state.expiry) == promise.expiry
            for kept in host.service._handoff.refused(name.stored)
        )

    def _is_outdone(self, name: Name, promise: Promise) -> bool:
        """Return whether the only copy left was replaced by one with the same stamp.

        An original takes what comes last, whatever we think of it: when a client gave
        two writes one stamp, and the disk is lost of the only one of us that had the
        greater, nobody else could know that there was one.
        """
        data, lost = promise.data, self._world.damaged
        if data is None or lost is None or promise.change.stamp != data[0]:
            return False
        return name.holders.get(data, set()) <= {lost} and any(
            data in original.outdone.get(name.stored, ())
            for original in self._world.cluster.keeping_originals(name.stored)
        )

    def _shown(self, name: Name, rows: Known) -> list[State | None]:
        """Return what the replicas that keep a name show of it.

        What only one ever had is passed over when its disk was hurt.
        """
        now = self._world.cluster.clock.seconds()
        shown: list[State | None] = []
        for host in self._world.cluster.keepers(name.stored):
            row = rows[host.name].get(name.stored)
            state = row.state if row is not None else None
            if state is not None and state.expiry.passed(now):
                state = None
            if not (
                host.name == self._world.damaged and name.only_had(state, host.name)
            ):
                shown.append(state)
        return shown

    def _visible(self, name: Name, rows: Known) -> State | None:
        shown = self._shown(name, rows)
        return shown[0] if shown else None

    def _original_differs(
        self,
        name: Name,
        kept: tuple[int | None, int, int, bytes] | None,
        state: State | None,
    ) -> bool:
        """Return whether an original shows something else than it must.

        A write that its server died of, or could not keep, and never answered, may live
        on where it had a head start to.  So may one that it answered before its disk
        was lost, and with that whom it was to be sent to.  Our replicas give it to one
        another, comparing trees; an original may only get it with the next change, and
        may take an hour to hear that it has ended.
        """
        ours = state.data.modified if state is not None and state.data else None
        modified, deleted, marked, _ = kept or (None, 0, 0, b"")
        if 0 != deleted <= self._world.cluster.clock.seconds():
            modified = None
        if modified == ours:
            return False
        state = state or name.last()
        if name.was_answered(state, self._world.damaged):
            return True
        return not name.has_promised(kept and kept[0], marked, state)

    def _check_answers(self, name: Name, state: State | None, known: bool) -> None:
        aside = self._only_at_damaged(name)
        for host in self._world.cluster.hosts.values():
            asked = self._world.ask(host, "GET", f"/{name.stored}")
            answer: Answer = self._world.cluster.finish(asked, LONGEST_ANSWER_SECONDS)
            if state is not None and state.expiry.passed(
                self._world.cluster.clock.seconds()
            ):
                # It has ended meanwhile, before it was asked for or after.
                return
            is_aside = aside is not None or self._only_at_damaged(name) is not None
            is_told = known and not (host.name == self._world.damaged and is_aside)
            said = f"{host.name} answers {answer.status} {answer.body[:60]!r}"
            if answer.status == 200:
                digest = hashlib.sha256(answer.body).digest()
                if digest not in name.bodies:
                    if self._world.is_hurt(answer.body, name):
                        continue
                    raise Broken(f"{said} for {name.stored}", name.stored)
                if not is_told or digest == aside:
                    # Who keeps nothing of it may have asked the damaged one.
                    continue
                if state is None or state.data is None or digest != state.data.sha256:
                    told = told_of(state) if state is not None else "gone"
                    raise Broken(f"{name.stored} is {told}, {said}", name.stored)
            elif is_told and not (
                answer.status == 404 and (state is None or state.data is None)
            ):
                raise Broken(f"{name.stored} is there, and {said}", name.stored)

    def _only_at_damaged(self, name: Name) -> bytes | None:
        """Return the digest of what nobody but the damaged host ever had, if it does.

        It is passed over: perhaps it cannot be read any more, and while it has a stamp
        from the future nobody takes it.
        """
        host = self._world.cluster.hosts.get(self._world.damaged or "")
        row = host.rows().get(name.stored) if host is not None else None
        if host is None or row is None or not name.only_had(row.state, host.name):
            return None
        return row.data.sha256 if row.data is not None else None

    def _check_feeds(self) -> None:
        """Raise Hang when changes wait to be sent, and nothing is done about it."""
        waiting = self._waiting()
        if waiting:
            self._world.cluster.run(SENT_SECONDS)
        for feed in sorted(waiting & self._waiting()):
            raise Hang("{} has changes after {} for {}".format(*feed))

    def _waiting(self) -> set[tuple[str, int, str]]:
        """Return which feeds wait for nothing, with changes after their cursors."""
        return {
            (host.name, told["cursor"], key)
            for host in self._world.cluster.hosts.values()
            if host.service is not None
            for key, told in host.service.replication.report().items()
            if not (told["resting"] or told["full"] or told["held"])
            and host.service.replication.deliveries[key].measure().waiting
        }

    def _check_trees(self) -> None:
        for host in self._world.cluster.hosts.values():
            forest = host.service.committer.forest if host.service else None
            if forest is None or not forest.complete:
                continue
            sums: dict[Place, list[int]] = {
                place: [0] * BRANCHES for place in forest.trees
            }
            shown = host.rows()
            for leaf, name, digest in host.index.digests(0, LEAVES - 1):
                row = shown[name]
                if row.at is not None and digest != digest_of(name, row.state):
                    raise Broken(f"{host.name} has a wrong digest of {name}", name)
                for place in (None, *forest._places_of(name)):
                    if place in sums:
                        sums[place][leaf >> 8] += int.from_bytes(digest, "big")
            for place, tree in forest.trees.items():
                if tree.branches() != [each % (1 << 128) for each in sums[place]]:
                    raise Broken(f"the tree of {host.name} for {place} is wrong")

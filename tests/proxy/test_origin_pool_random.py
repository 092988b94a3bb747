"""Whatever happens to its members, a pool asks nobody it should not, and somebody."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from clinfra.proxy.member import Member
from tests.proxy.stand import Stand

PICK = st.integers(0, 10)
ADDRESSES = st.lists(
    st.sampled_from(["10.0.0.1", "10.0.0.2", "10.0.0.3"]), max_size=3, unique=True
)


class PoolMachine(RuleBasedStateMachine):
    """Failures, successes, checks, operators, names and time, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.stand = Stand(
            "a.test:1",
            "b:1=2",
            "c:1",
            backups=("d:1",),
            choice="least_loaded",
            circuit_failures=2,
            circuit_pause=5.0,
            slow_start=3.0,
        )
        self.pool = self.stand.pool

    def member(self, pick: int) -> Member:
        """Return one of the members."""
        return self.pool.members[pick % len(self.pool.members)]

    @rule(pick=PICK)
    def fails(self, pick: int) -> None:
        """A request fails."""
        self.member(pick).failed("refused")

    @rule(pick=PICK)
    def answers(self, pick: int) -> None:
        """A request is answered."""
        self.member(pick).succeeded()

    @rule(pick=PICK, good=st.booleans())
    def is_checked(self, pick: int, good: bool) -> None:
        """A check comes back."""
        self.member(pick).checked(good)

    @rule(pick=PICK, out=st.booleans())
    def is_maintained(self, pick: int, out: bool) -> None:
        """An operator takes a member out, or back in."""
        self.pool.maintain(out, self.member(pick).name)

    @rule(out=st.booleans())
    def pool_is_maintained(self, out: bool) -> None:
        """Or all of it."""
        self.pool.maintain(out)

    @rule(addresses=ADDRESSES)
    def moves(self, addresses: list[str]) -> None:
        """A name stands for other addresses."""
        self.pool.resolved(self.pool.places[0], sorted(addresses))

    @rule(seconds=st.sampled_from([0.1, 1.0, 5.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        """Time passes."""
        self.stand.now += seconds

    @rule(trial=st.booleans(), picks=st.lists(PICK, max_size=3))
    def asks(self, trial: bool, picks: list[int]) -> None:
        """A request wants a member."""
        tried = [self.member(pick) for pick in picks]
        closed = {each for each in self.pool.members if not each.opened}
        waiting = {
            each
            for each in self.pool.members
            if each.opened and each.may_have_trial(self.stand.now)
        }
        present = {each for each in self.pool.members if not each.maintained}
        if self.pool.maintenance:
            present = set()
        chosen = self.pool.choose(tried, b"key", trial)

        if chosen is None:
            assert not present & (closed | waiting), "somebody could be asked"
            return
        assert chosen in present, "it is under maintenance, or gone"
        assert chosen in closed or chosen in waiting, "a trial is under way there"
        healthy = {each for each in present & closed if each.up}
        primary = {each for each in healthy if not each.place.backup}
        if chosen.place.backup:
            enough = sum(not each.place.backup for each in present) / 2
            assert not primary or len(primary) < enough, "the backup is not needed"
        if chosen in tried:
            # Trials are for first tries, and panic is no reason to try twice.
            assert not healthy - set(tried) or chosen in primary, (
                "others were not tried"
            )

    @precondition(lambda self: not self.pool.maintenance)
    @invariant()
    def shown(self) -> None:
        """The report counts every member, and says who can be asked."""
        told = self.pool.report()
        assert len(told["members"]) == len(self.pool.members)
        assert told["askable"] <= len(self.pool.members)


PoolMachine.TestCase.settings = settings(
    deadline=None, max_examples=150, stateful_step_count=40
)
TestPool = PoolMachine.TestCase

"""Pools: who can be asked, what becomes of failures, and what names stand for."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import CheckConfig, PoolConfig
from clinfra.proxy.origins import Origins
from clinfra.proxy.retry_budget import RetryBudget
from tests.proxy.stand import Stand


class CircuitTests(SynchronousTestCase):
    """Failures in a row."""

    def test_open(self) -> None:
        """After enough of them, a member gets no requests but a trial now and then."""
        it = Stand("a:1", "b:1", circuit_failures=5, circuit_pause=5.0)
        it.fail("a:1", 5)
        self.assertEqual({"b:1"}, {it.ask() for _ in range(200)})

        it.now += 5
        asked = [it.ask() for _ in range(100)]
        self.assertEqual(1, asked.count("a:1"))
        self.assertEqual("a:1", asked[0])
        it.now += 5
        self.assertEqual("a:1", it.ask())

    def test_trials_are_safe_requests(self) -> None:
        """What cannot be sent twice is not spent on a trial."""
        it = Stand("a:1", "b:1", circuit_failures=5)
        it.fail("a:1", 5)
        it.now += 60
        self.assertEqual({"b:1"}, {it.ask(trial=False) for _ in range(50)})
        self.assertEqual("a:1", it.ask())

    def test_noted(self) -> None:
        """Somebody is told when it opens and closes, once each."""
        it = Stand("a:1", "b:1", circuit_failures=3)
        told: list[bool] = []
        it.pool.noted = lambda member: told.append(member.opened)
        it.fail("a:1", 9)
        it["a:1"].succeeded()
        it["a:1"].succeeded()
        self.assertEqual([True, False], told)

    def test_close(self) -> None:
        """One answer closes it."""
        it = Stand("a:1", "b:1", circuit_failures=5)
        it.fail("a:1", 5)
        it.now += 5
        it.ask()
        it["a:1"].succeeded()
        self.assertIn("a:1", it.shares())

    def test_a_success_between(self) -> None:
        """Failures that are not in a row open nothing."""
        it = Stand("a:1", "b:1", circuit_failures=3)
        for _ in range(10):
            it.fail("a:1", 2)
            it["a:1"].succeeded()
        self.assertFalse(it["a:1"].opened)

    def test_the_last_is_never_given_up(self) -> None:
        """With all circuits open, one request at a time goes through, at once."""
        it = Stand("a:1", circuit_failures=2, circuit_pause=5.0)
        it.fail("a:1", 2)
        self.assertEqual("a:1", it.ask())
        self.assertEqual("", it.ask(), "a trial is under way")
        it.fail("a:1")
        self.assertEqual("a:1", it.ask(), "it is over: the next")
        it["a:1"].succeeded()
        self.assertEqual({"a:1"}, {it.ask() for _ in range(20)})

    def test_a_trial_that_nobody_hears_of(self) -> None:
        """A trial whose client went away does not block the next for ever."""
        it = Stand("a:1", circuit_failures=2, circuit_pause=5.0)
        it.fail("a:1", 2)
        it.ask()
        it.now += 5
        self.assertEqual("a:1", it.ask())


class CheckTests(SynchronousTestCase):
    """What active checks find."""

    def test_fall_and_rise(self) -> None:
        """Down after three bad ones in a row, up after two good ones."""
        it = Stand("a:1", "b:1")
        for results, up in (
            ((False, False, True, False, False), True),
            ((False, False, False), False),
            ((True, False, True, False), False),
            ((True, True), True),
        ):
            for good in results:
                it.check("a:1", good)
            self.assertEqual(up, it["a:1"].up, results)
            self.assertEqual(up, "a:1" in it.shares(100))

    def test_up_again_is_a_new_start(self) -> None:
        """Confidence and circuit are forgotten when checks find it up."""
        it = Stand("a:1", "b:1", circuit_failures=3)
        it.fail("a:1", 9)
        it.check("a:1", False, 3)
        it.check("a:1", True, 2)
        self.assertEqual((1.0, False), (it["a:1"].confidence, it["a:1"].opened))

    def test_own_bounds(self) -> None:
        """`rise` and `fall` are the pool's."""
        it = Stand("a:1", "b:1", check=CheckConfig(kind="tcp", rise=1, fall=1))
        it.check("a:1", False)
        self.assertFalse(it["a:1"].up)
        it.check("a:1", True)
        self.assertTrue(it["a:1"].up)

    def test_the_last_is_never_ejected(self) -> None:
        """A single member is asked whatever its checks say."""
        it = Stand("a:1")
        it.check("a:1", False, 50)
        self.assertEqual({"a:1"}, {it.ask() for _ in range(20)})

    def test_panic(self) -> None:
        """When most look down, the checks are not believed."""
        names = [f"m{number}:1" for number in range(4)]
        it = Stand(*names)
        for name in names[:2]:
            it.check(name, False, 3)
        self.assertEqual(set(names[2:]), set(it.shares(200)))
        it.check("m2:1", False, 3)
        self.assertEqual(set(names), set(it.shares(400)))
        self.assertTrue(it.pool.report()["panic"])
        it.check("m0:1", True, 2)
        self.assertEqual({"m0:1", "m3:1"}, set(it.shares(200)))

    def test_no_panic(self) -> None:
        """With a threshold of 0 only the very last is kept."""
        names = [f"m{number}:1" for number in range(4)]
        it = Stand(*names, panic_threshold=0.0)
        for name in names[:3]:
            it.check(name, False, 3)
        self.assertEqual({"m3:1"}, set(it.shares(50)))
        it.check("m3:1", False, 3)
        self.assertEqual(set(names), set(it.shares(400)))


class BackupTests(SynchronousTestCase):
    """Members that are asked in need."""

    def test_only_in_need(self) -> None:
        """They get nothing as long as enough others can be asked."""
        it = Stand("a:1", "b:1", backups=("c:1",))
        self.assertEqual({"a:1", "b:1"}, set(it.shares(300)))
        it.check("a:1", False, 3)
        self.assertEqual({"b:1"}, set(it.shares(100)))
        it.check("b:1", False, 3)
        self.assertEqual({"c:1"}, set(it.shares(100)))
        it.check("b:1", True, 2)
        self.assertEqual({"b:1"}, set(it.shares(100)))

    def test_open_circuits(self) -> None:
        """They stand in for those that fail, which are tried now and then."""
        it = Stand("a:1", backups=("b:1",), circuit_failures=3, circuit_pause=5.0)
        it.fail("a:1", 3)
        self.assertEqual({"b:1"}, {it.ask() for _ in range(50)})
        it.now += 5
        self.assertEqual("a:1", it.ask())
        it["a:1"].succeeded()
        self.assertEqual({"a:1"}, {it.ask() for _ in range(50)})

    def test_no_trials_out_of_need(self) -> None:
        """One that failed itself is not tried while the others are well."""
        it = Stand("a:1", backups=("b:1",), circuit_failures=3, circuit_pause=5.0)
        it.fail("b:1", 3)
        it.now += 5
        self.assertEqual({"a:1"}, {it.ask() for _ in range(50)})
        it.check("a:1", False, 3)
        self.assertIn("b:1", {it.ask() for _ in range(50)})


class SlowStartTests(SynchronousTestCase):
    """Back, but not at full pace."""

    def test_share_grows(self) -> None:
        """From a tenth to the whole, evenly."""
        it = Stand("a:1", "b:1", slow_start=100.0)
        it.check("a:1", False, 3)
        it.check("a:1", True, 2)
        last = 0.0
        for seconds, least, most in (
            (0, 0.05, 0.14),
            (50, 0.28, 0.39),
            (49, 0.45, 0.55),
            (2, 0.45, 0.55),
        ):
            it.now += seconds
            share = it.shares()["a:1"]
            self.assertTrue(least < share < most, (seconds, share))
            self.assertGreater(share, last - 0.05)
            last = share

    def test_alone(self) -> None:
        """The only one gets everything at once."""
        it = Stand("a:1", slow_start=100.0)
        it.check("a:1", False, 3)
        it.check("a:1", True, 2)
        self.assertEqual({"a:1"}, set(it.shares(20)))


class MaintenanceTests(SynchronousTestCase):
    """What operators take out."""

    def test_member(self) -> None:
        """A member gets nothing, not even in panic or as a last resort."""
        it = Stand("a:1", "b:1")
        self.assertTrue(it.pool.maintain(True, "a:1"))
        self.assertEqual({"b:1"}, set(it.shares(100)))
        it.check("b:1", False, 3)
        it.fail("b:1", 9)
        self.assertNotIn("a:1", {it.ask() for _ in range(20)})
        self.assertFalse(it.pool.under_maintenance)
        self.assertFalse(it.pool.maintain(True, "z:1"))

    def test_pool(self) -> None:
        """Nobody is asked until it is back."""
        it = Stand("a:1")
        it.ask()
        it.pool.maintain(True)
        self.assertEqual(("", True), (it.ask(), it.pool.under_maintenance))
        it.pool.maintain(False)
        self.assertEqual(("a:1", False), (it.ask(), it.pool.under_maintenance))

    def test_everything(self) -> None:
        """All pools at once."""
        origins = Origins({"p": PoolConfig(members=("a:1",))}, dict, Random(1))
        it = origins.pool("p")
        assert it is not None
        self.assertIsNotNone(it.choose())
        origins.maintain(True)
        self.assertEqual((None, True), (it.choose(), it.under_maintenance))
        origins.maintain(False)
        self.assertIsNotNone(it.choose())


class RetryBudgetTests(SynchronousTestCase):
    """How many retries there may be."""

    def test_a_share(self) -> None:
        """In the long run no more than a share of the requests."""
        it = RetryBudget(0.2)
        spent = sum(it.spend(0.0, number) for number in range(10_000))
        self.assertTrue(2000 <= spent <= 2011, spent)
        self.assertEqual(10_000 - spent, it.refused)

    def test_reserve(self) -> None:
        """Ten at once with hardly any requests, and one more each second."""
        it = RetryBudget(0.0)
        self.assertEqual(10, sum(it.spend(100.0, 0) for _ in range(30)))
        self.assertEqual(3, sum(it.spend(103.0, 0) for _ in range(30)))

    @given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 2)), max_size=100))
    @settings(deadline=None)
    def test_never_more(self, steps: list[tuple[int, float]]) -> None:
        """However requests and time come, retries stay within their bounds."""
        it = RetryBudget(0.1)
        now, requests, spent = 5.0, 0, 0
        for more, seconds in steps:
            requests += more
            now += seconds
            spent += it.spend(now, requests)
            self.assertLessEqual(spent, 10 + 0.1 * requests + (now - 5.0) + 1e-6)


class ResolvedTests(SynchronousTestCase):
    """Members whose names stand for other addresses now."""

    def test_state_survives(self) -> None:
        """What is known of an address is kept when it is there again."""
        it = Stand("a.example:80", "b:1")
        (place, _) = it.pool.places
        it.pool.resolved(place, ("10.0.0.1", "10.0.0.2"))
        it.fail("10.0.0.1:80", 3)
        it.pool.resolved(place, ("10.0.0.1", "10.0.0.3"))

        self.assertEqual(
            ["10.0.0.1:80", "10.0.0.3:80", "b:1"],
            [member.name for member in it.pool.members],
        )
        self.assertEqual(0.125, it["10.0.0.1:80"].confidence)
        self.assertIn("a.example:80 (10.0.0.3)", it.pool.report()["members"])

    def test_new_ones_start_slowly(self) -> None:
        """Only those that are new among known ones."""
        it = Stand("a.example:80", slow_start=10.0)
        (place,) = it.pool.places
        it.pool.resolved(place, ("10.0.0.1",))
        it.pool.resolved(place, ("10.0.0.1", "10.0.0.2"))
        states = {each.name: each.state(it.now) for each in it.pool.members}
        self.assertEqual({"10.0.0.1:80": "up", "10.0.0.2:80": "warming"}, states)

    def test_nothing_is_no_answer(self) -> None:
        """A name without addresses keeps the last."""
        it = Stand("a.example:80")
        it.pool.resolved(it.pool.places[0], ())
        self.assertEqual("a.example:80", it.ask())

    def test_maintenance_goes_by_name(self) -> None:
        """What is taken out by its name stays out at new addresses."""
        it = Stand("a.example:80", "b:1")
        it.pool.maintain(True, "a.example:80")
        it.pool.resolved(it.pool.places[0], ("10.0.0.1",))
        self.assertEqual({"b:1"}, set(it.shares(50)))


class OriginsTests(SynchronousTestCase):
    """All pools."""

    def test_built_in(self) -> None:
        """Built-in pools are asked for late, configured ones win."""
        origins = Origins(
            {"blob": PoolConfig(members=("mine:1",))},
            lambda: {"blob": "127.0.0.1:1", "image": "127.0.0.1:2"},
            Random(1),
        )
        names = {
            name: [member.name for member in found.members]
            for name in ("blob", "image", "none")
            if (found := origins.pool(name)) is not None
        }

        self.assertEqual({"blob": ["mine:1"], "image": ["127.0.0.1:2"]}, names)

    def test_ad_hoc(self) -> None:
        """The same members are the same pool, and keep their confidence."""
        origins = Origins({}, dict, Random(1))
        one = origins.ad_hoc(("a:1", "b:1"), PoolConfig())

        self.assertIs(one, origins.ad_hoc(("a:1", "b:1"), PoolConfig()))

    def test_report(self) -> None:
        """Operators see every member: its state, confidence and last failure."""
        it = Stand("a:1", backups=("b:1",), circuit_failures=1)
        it.fail("a:1")
        told = it.pool.report()
        self.assertEqual((1, False), (told["askable"], told["panic"]))
        a, b = told["members"]["a:1"], told["members"]["b:1"]
        self.assertEqual(("open", 0.5), (a["state"], a["confidence"]))
        self.assertEqual(("refused", 1), (a["last_failure"], a["failed_requests"]))
        self.assertEqual(("up", True), (b["state"], b["backup"]))
        it.now += 7
        it.loads["a:1"] = 3
        it.check("a:1", True, 2)
        a = it.pool.report()["members"]["a:1"]
        self.assertEqual((7.0, 3), (a["seconds_since_failure"], a["under_way"]))
        self.assertEqual((2, 0), (a["checks"], a["failed_checks"]))

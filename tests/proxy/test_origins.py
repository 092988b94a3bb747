"""Pools: who is asked, what becomes of failures, and what names stand for; routes."""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import CheckConfig, Pattern, PoolConfig, RouteConfig
from clinfra.proxy.choosing import read_hash_key
from clinfra.proxy.member import MIN_CONFIDENCE, HealthRules, Member, parse_place
from clinfra.proxy.origins import OriginPool, Origins
from clinfra.proxy.retry_budget import RetryBudget
from clinfra.proxy.routes import Routes
from tests.proxy.test_message import request


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


class PlaceTests(SynchronousTestCase):
    """Where an origin is."""

    def test_parse(self) -> None:
        """Host, port, weight; UNIX paths."""
        for text, host, port, path, weight in (
            ("a:80", "a", 80, "", 1),
            ("a:80=0.5", "a", 80, "", 0.5),
            ("[::1]:80", "::1", 80, "", 1),
            ("unix:/run/x=3", "", 0, "/run/x", 3),
        ):
            it = parse_place(text)
            self.assertEqual(
                (host, port, path, weight), (it.host, it.port, it.path, it.weight)
            )

    def test_refusals(self) -> None:
        """Anything else is a ValueError with a plain sentence."""
        for text in ("", "a", "a:b", "a:0", "a:80=x", "a:80=0", "unix:x", ":80"):
            with self.assertRaises(ValueError):
                parse_place(text)


class ConfidenceTests(SynchronousTestCase):
    """The original's passive health."""

    def test_halved_and_doubled(self) -> None:
        """Halved by each failure down to a floor, doubled up to the weight."""
        it = Member(parse_place("a:80"), "a", HealthRules())
        for expected in (0.5, 0.25, 0.125):
            it.failed()
            self.assertEqual(expected, it.confidence)
        for _ in range(20):
            it.failed()
        self.assertEqual(MIN_CONFIDENCE, it.confidence)
        for _ in range(20):
            it.succeeded()
        self.assertEqual((1.0, False), (it.confidence, it.troubled))

    @given(
        st.lists(st.booleans(), max_size=80),
        st.floats(MIN_CONFIDENCE, 100),
    )
    @settings(deadline=None)
    def test_bounds(self, results: list[bool], weight: float) -> None:
        """Whatever happens, it stays between the floor and the weight."""
        it = Member(parse_place(f"a:80={weight}"), "a", HealthRules(5))
        for good in results:
            it.succeeded() if good else it.failed()
            self.assertTrue(MIN_CONFIDENCE <= it.confidence <= it.weight)
        for _ in range(40):
            it.succeeded()
        self.assertEqual((weight, False), (it.confidence, it.opened))


class ChoiceTests(SynchronousTestCase):
    """Who of several is asked."""

    def test_weights(self) -> None:
        """Drawn, in turn, or less loaded: each gets its share of the requests."""
        for choice in ("random", "round_robin"):
            shares = Stand("a:1=3", "b:1=1", choice=choice).shares()
            self.assertTrue(0.72 < shares["a:1"] < 0.78, (choice, shares))

    def test_confidence_is_weight(self) -> None:
        """A member that fails is asked less, by lot and in turn."""
        for choice in ("random", "round_robin", "least_loaded"):
            it = Stand("a:1", "b:1", choice=choice, circuit_failures=0)
            it.fail("a:1", 7)
            self.assertLess(it.shares().get("a:1", 0), 0.02, choice)

    def test_in_turn_exactly(self) -> None:
        """Round robin spreads evenly: no run is out of proportion by more than one."""
        it = Stand("a:1=2", "b:1", "c:1", choice="round_robin")
        turns = [it.ask() for _ in range(400)]
        for start in range(0, 380):
            run = Counter(turns[start : start + 20])
            self.assertTrue(9 <= run["a:1"] <= 11, run)
            self.assertTrue(4 <= run["b:1"] <= 6, run)

    def test_least_loaded(self) -> None:
        """The one with less to do wins, for its weight."""
        it = Stand("a:1", "b:1", choice="least_loaded")
        it.loads = {"a:1": 50, "b:1": 1}
        self.assertGreater(it.shares()["b:1"], 0.7)
        heavy = Stand("a:1=10", "b:1", choice="least_loaded")
        heavy.loads = {"a:1": 5, "b:1": 1}
        self.assertGreater(heavy.shares()["a:1"], 0.7)

    def test_hash_is_steady(self) -> None:
        """Equal keys go to one member, in every process; keys spread over all."""
        names = [f"m{number}:1" for number in range(5)]
        one, other = (Stand(*names, choice="hash") for _ in range(2))
        keys = [b"/page/%d" % number for number in range(2000)]
        went = {key: one.ask(key=key) for key in keys}

        self.assertEqual(went, {key: other.ask(key=key) for key in keys})
        for name, count in Counter(went.values()).items():
            self.assertTrue(250 < count < 560, (name, count))

    def test_hash_moves_little(self) -> None:
        """When a member cannot be asked, only its own keys move."""
        it = Stand(*(f"m{number}:1" for number in range(5)), choice="hash")
        keys = [b"/page/%d" % number for number in range(1000)]
        before = {key: it.ask(key=key) for key in keys}
        it.check("m2:1", False, 3)
        after = {key: it.ask(key=key) for key in keys}

        self.assertNotIn("m2:1", after.values())
        moved = {key for key in keys if before[key] != after[key]}
        self.assertEqual(moved, {key for key in keys if before[key] == "m2:1"})
        self.assertGreater(len({after[key] for key in moved}), 2)

    def test_hash_weights(self) -> None:
        """One that weighs more owns more keys."""
        it = Stand("a:1=3", "b:1", choice="hash")
        went = Counter(it.ask(key=b"%d" % number) for number in range(4000))
        self.assertTrue(0.68 < went["a:1"] / 4000 < 0.82, went)

    @given(
        st.sampled_from(["random", "least_loaded", "round_robin", "hash"]),
        st.lists(st.integers(0, 5), max_size=5, unique=True),
        st.binary(max_size=20),
    )
    @settings(deadline=None)
    def test_retry_prefers_another(
        self, choice: str, tried: list[int], key: bytes
    ) -> None:
        """Who was tried is asked again only when everybody was."""
        names = [f"m{number}:1" for number in range(6)]
        it = Stand(*names, choice=choice)
        skip = [names[number] for number in tried]

        self.assertNotIn(it.ask(*skip, key=key), skip)
        self.assertIn(it.ask(*names, key=key), names)

    def test_full_members(self) -> None:
        """A member without a free connection is passed over while another has one."""
        for choice in ("random", "round_robin", "hash"):
            it = Stand("a:1", "b:1", choice=choice, max_connections=4)
            it.loads = {"a:1": 4, "b:1": 3}
            self.assertEqual({"b:1"}, set(it.shares(50)), choice)

    def test_empty(self) -> None:
        """An empty pool has nobody to choose."""
        self.assertEqual("", Stand().ask())

    def test_hash_keys(self) -> None:
        """Parts of the request; without the named one, the client's address."""
        it = request("/a?b", "example.com")
        for text, key in (
            ("host_path", b"example.com/a?b"),
            ("path", b"/a"),
            ("client_ip", b"::1"),
            ("header:A", b"1, 2"),
            ("header:Absent", b"::1"),
            ("cookie:s", b"::1"),
        ):
            self.assertEqual(key, read_hash_key(text)(it), text)
        for text in ("", "header:", "query", "cookie"):
            with self.assertRaises(ValueError):
                read_hash_key(text)


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


class RouteTests(SynchronousTestCase):
    """Which pool."""

    def test_first_match_wins(self) -> None:
        """By prefix, by pattern, by both; else the default."""
        routes = Routes.of(
            (
                RouteConfig(pool="both", prefix="/a", match=Pattern("x$")),
                RouteConfig(pool="prefix", prefix="/a/", strip_prefix=True),
                RouteConfig(pool="pattern", match=Pattern(r"^other\.example/")),
            ),
            "default",
        )
        for target, host, name, forwarded in (
            ("/a/x", "example.com", "both", ""),
            ("/a/y?z", "example.com", "prefix", "/y?z"),
            ("/b", "other.example", "pattern", ""),
            ("/b", "example.com", "default", ""),
        ):
            it = request(target, host)
            routes.choose(it)
            self.assertEqual((name, forwarded), (it.pool, it.forward_target))

    def test_refusals(self) -> None:
        """Routes that cannot mean anything are refused."""
        for config in (
            RouteConfig(prefix="/"),
            RouteConfig(pool="x"),
            RouteConfig(pool="x", prefix="/a", strip_prefix=True),
        ):
            with self.assertRaises(ValueError):
                Routes.of((config,), "")

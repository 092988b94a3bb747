"""Who of several members is asked."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.proxy.choosing import read_hash_key
from tests.proxy.stand import Stand
from tests.proxy.test_message import request


class ChoiceTests(SynchronousTestCase):
    """Who of several is asked."""

    def test_weights(self) -> None:
        """Drawn, in turn, or less loaded: each gets its share of the requests."""
        for choice in ("random", "round_robin", "least_loaded"):
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
        it.loads = {"a:1": 5, "b:1": 1}
        self.assertEqual({"b:1": 1.0}, it.shares())
        heavy = Stand("a:1=10", "b:1", choice="least_loaded")
        heavy.loads = {"a:1": 5, "b:1": 1}
        self.assertEqual({"a:1": 1.0}, heavy.shares())

    def test_idle_because_it_fails(self) -> None:
        """One that fails at once is always idle; that does not make it the better."""
        it = Stand("a:1", "b:1", "c:1", choice="least_loaded", circuit_failures=0)
        it.fail("a:1", 7)
        it.loads = {"a:1": 0, "b:1": 20, "c:1": 20}
        self.assertLess(it.shares().get("a:1", 0), 0.01)

    @given(
        st.lists(st.floats(0.5, 5), min_size=2, max_size=6),
        st.integers(0, 2**32),
    )
    @settings(deadline=None, max_examples=30)
    def test_loads_become_even(self, weights: list[float], seed: int) -> None:
        """Requests that stay under way are spread as the members weigh."""
        names = [f"m{number}:1={weight}" for number, weight in enumerate(weights)]
        it = Stand(*names, choice="least_loaded")
        it.pool.rng.seed(seed)
        for _ in range(600):
            chosen = it.ask()
            it.loads[chosen] = it.loads.get(chosen, 0) + 1
        per_weight = [
            it.loads.get(f"m{number}:1", 0) / weight
            for number, weight in enumerate(weights)
        ]
        self.assertLess(max(per_weight), 1.35 * min(per_weight) + 8)

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

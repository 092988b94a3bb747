"""One origin: where it is, and how far it is trusted."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.proxy.member import MIN_CONFIDENCE, HealthRules, Member, parse_place


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

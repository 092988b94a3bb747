"""How `clinfra bench` counts."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from clinfra.shell.latencies import Latencies
from clinfra.shell.load import BadTarget, Target, Work


class LatencyTests(SynchronousTestCase):
    """Percentiles of many times."""

    @settings(deadline=None)
    @given(st.lists(st.floats(1e-6, 100), min_size=1), st.floats(0.01, 1))
    def test_percentiles(self, times: list[float], share: float) -> None:
        """They are right, up to one in a hundred more."""
        random.shuffle(times)
        latencies = Latencies()
        for each in times:
            latencies.add(each)
        times.sort()
        exact = times[min(len(times) - 1, max(0, -int(-len(times) * share // 1) - 1))]

        got = latencies.percentile(share)

        self.assertGreaterEqual(got, exact * 0.9999)
        self.assertLessEqual(got, exact * 1.0101)
        self.assertLessEqual(got, latencies.longest)

    def test_none(self) -> None:
        """Nothing measured is no trouble."""
        self.assertEqual((0, 0), (Latencies().mean, Latencies().percentile(0.5)))


class TargetTests(SynchronousTestCase):
    """What is asked for."""

    def test_urls(self) -> None:
        """Host, port, path and query are taken as they are."""
        target = Target.parse("http://h:81/a?b=c")

        self.assertEqual(("h", 81), (target.origin.host, target.origin.port))
        self.assertEqual(
            ("/a", "?b=c", "h:81"), (target.path, target.query, target.host)
        )
        self.assertEqual(443, Target.parse("https://h").origin.port)

    def test_bad_urls(self) -> None:
        """What is no URL is said so."""
        for url in (
            "x",
            "ftp://x/",
            "http://",
            "http://x:y/",
            "http://x/ü",
            "http://[",
        ):
            self.assertRaises(BadTarget, Target.parse, url)

    def test_names_of_puts(self) -> None:
        """Below a directory each PUT has a name; elsewhere all go to one."""
        below = Work(Target.parse("http://h/d/?ttl=60"), b"x", (), b"PUT", "r")
        at = Work(Target.parse("http://h/d"), b"x", (), b"PUT", "r")

        self.assertTrue(
            below.head(7).startswith(b"PUT /d/bench-r-7?ttl=60 HTTP/1.1\r\n")
        )
        self.assertFalse(below.alike)
        self.assertTrue(at.head(7).startswith(b"PUT /d HTTP/1.1\r\n"))
        self.assertTrue(at.alike)
        self.assertIn(b"\r\nContent-Length: 1\r\n", at.head(7))
        self.assertEqual(1, at.head(7).count(b"Host: h\r\n"))

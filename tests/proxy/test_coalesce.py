"""One fetch per key."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.proxy.coalesce import Coalescer


class CoalescerTests(SynchronousTestCase):
    """Flights and those who wait for them."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.coalescer = Coalescer(self.clock, 5.0)
        self.heard: list[Any] = []

    def test_landing(self) -> None:
        """The first fetches; the others hear of the outcome, once."""
        flight = self.coalescer.join(b"k", self.heard.append)
        assert flight is not None
        for _ in range(3):
            self.assertIsNone(self.coalescer.join(b"k", self.heard.append))
        flight.land("entry")
        flight.land("again")

        self.assertEqual(["entry"] * 3, self.heard)
        self.assertIsNotNone(self.coalescer.join(b"k", self.heard.append))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_leaving(self) -> None:
        """Who leaves hears nothing; the others do."""
        flight = self.coalescer.join(b"k", self.heard.append)
        assert flight is not None
        gone: list[Any] = []
        self.coalescer.join(b"k", gone.append)
        self.coalescer.join(b"k", self.heard.append)
        self.coalescer.leave(b"k", gone.append)
        flight.land("entry")

        self.assertEqual(([], ["entry"]), (gone, self.heard))

    def test_patience(self) -> None:
        """Who waited long enough is let go; who comes later waits anew."""
        self.coalescer.join(b"k", self.heard.append)
        self.coalescer.join(b"k", self.heard.append)
        self.clock.advance(5)
        self.assertEqual([None], self.heard)
        self.coalescer.join(b"k", self.heard.append)
        self.clock.advance(4)
        self.assertEqual([None], self.heard)
        self.clock.advance(1)
        self.assertEqual([None, None], self.heard)

    def test_doom(self) -> None:
        """A doomed flight still lands for its own; later askers start anew."""
        flight = self.coalescer.join(b"k", self.heard.append)
        assert flight is not None
        self.coalescer.join(b"k", self.heard.append)
        self.coalescer.doom(b"k")
        another = self.coalescer.join(b"k", self.heard.append)
        assert another is not None
        flight.land("old")

        self.assertTrue(flight.doomed)
        self.assertEqual(["old"], self.heard)
        self.assertIs(another, self.coalescer.flights[b"k"])

    def test_one_who_fails(self) -> None:
        """One who cannot go on does not keep the others from it."""
        flight = self.coalescer.join(b"k", self.heard.append)
        assert flight is not None

        def fail(outcome: Any) -> None:
            raise RuntimeError

        self.coalescer.join(b"k", fail)
        self.coalescer.join(b"k", self.heard.append)
        flight.land("entry")

        self.assertEqual(["entry"], self.heard)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

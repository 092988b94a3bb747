"""What names stand for: asked again in time, and kept when nobody answers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import DNSLookupError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.proxy.resolving import (
    Answer,
    NameWatch,
    is_address,
    resolving,
    system_resolver,
)
from clinfra.web.pool import Origin
from tests.web.origins import Dial


class Names:
    """A resolver that answers from a table."""

    def __init__(self) -> None:
        self.table: dict[str, Answer] = {}
        self.asked: list[str] = []

    def __call__(self, name: str) -> Deferred[Answer]:
        self.asked.append(name)
        if name in self.table:
            return succeed(self.table[name])
        return fail(DNSLookupError(name))


class NameWatchTests(SynchronousTestCase):
    """Asking again."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.names = Names()
        self.told: list[tuple[str, ...]] = []
        self.watch = NameWatch(self.clock, self.names, 30.0)
        self.watch.watch("a.test", self.told.append)
        self.addCleanup(self.watch.stop)

    def test_as_it_says(self) -> None:
        """An answer holds for its TTL; only what changes is told."""
        self.names.table["a.test"] = Answer(("10.0.0.1",), 5.0)
        self.watch.start()
        self.assertEqual([("10.0.0.1",)], self.told)
        self.clock.advance(4.9)
        self.assertEqual(1, len(self.names.asked))
        self.clock.advance(0.2)
        self.assertEqual(2, len(self.names.asked))
        self.assertEqual(1, len(self.told))
        self.names.table["a.test"] = Answer(("10.0.0.2",), 5.0)
        self.clock.advance(5)
        self.assertEqual([("10.0.0.1",), ("10.0.0.2",)], self.told)

    def test_bounds(self) -> None:
        """A TTL of nothing is a second, of a day an hour; none is the interval."""
        for ttl, seconds in ((0.0, 1.0), (86400.0, 3600.0), (None, 30.0)):
            self.names.table["a.test"] = Answer(("10.0.0.1",), ttl)
            self.watch.start()
            (call,) = self.clock.getDelayedCalls()
            self.assertEqual(seconds, call.getTime() - self.clock.seconds())
            self.watch.stop()

    def test_failures(self) -> None:
        """The last addresses are kept, and the name is asked again soon."""
        self.names.table["a.test"] = Answer(("10.0.0.1",), 5.0)
        self.watch.start()
        self.names.table.clear()
        self.clock.advance(5)
        self.clock.advance(5)
        self.assertEqual([("10.0.0.1",)], self.told)
        told = self.watch.report()["a.test"]
        self.assertEqual(("10.0.0.1",), told["addresses"])
        self.assertIn("a.test", told["failure"])
        self.names.table["a.test"] = Answer(("10.0.0.9",), 5.0)
        self.clock.advance(5)
        self.assertEqual(("10.0.0.9",), self.told[-1])
        self.assertNotIn("failure", self.watch.report()["a.test"])

    def test_one_question(self) -> None:
        """A name that several wait for is asked once."""
        more: list[tuple[str, ...]] = []
        self.names.table["a.test"] = Answer(("10.0.0.1",), 5.0)
        self.watch.watch("a.test", more.append)
        self.watch.start()
        self.assertEqual((1, [("10.0.0.1",)]), (len(self.names.asked), more))

    def test_stop(self) -> None:
        """Nothing is left behind."""
        self.watch.start()
        self.watch.stop()
        self.assertEqual([], self.clock.getDelayedCalls())


class SystemTests(SynchronousTestCase):
    """What the reactor finds."""

    def resolve(self, *addresses: Any) -> Deferred[Answer]:
        """Ask a reactor that finds these addresses."""

        class Resolver:
            def resolveHostName(self, receiver: Any, name: str) -> None:
                receiver.resolutionBegan(None)
                for address in addresses:
                    receiver.addressResolved(address)
                receiver.resolutionComplete()

        return system_resolver(SimpleNamespace(nameResolver=Resolver()))("a.test")

    def test_both_kinds(self) -> None:
        """IPv4 goes before IPv6; each address counts once."""
        four = [IPv4Address("TCP", host, 0) for host in ("10.0.0.2", "10.0.0.1")]
        six = IPv6Address("TCP", "fe80::1", 0)
        for found, expected in (
            ((six, *four, *four), ("10.0.0.1", "10.0.0.2")),
            ((six,), ("fe80::1",)),
        ):
            answer = self.successResultOf(self.resolve(*found))
            self.assertEqual(Answer(expected, None), answer)

    def test_none(self) -> None:
        """A name without addresses is an error."""
        self.failureResultOf(self.resolve(), DNSLookupError)


class Factory:
    """Hears whether a connection failed."""

    def __init__(self) -> None:
        self.failures: list[Any] = []

    def clientConnectionFailed(self, connector: Any, reason: Any) -> None:
        self.failures.append(reason)


class ConnectTests(SynchronousTestCase):
    """Connecting to names that are not resolved yet."""

    def setUp(self) -> None:
        self.dialled: list[Origin] = []
        self.factory: Any = Factory()

    def connect(self, resolve: Any, origin: Origin) -> Any:
        """Connect; what is dialled is written down."""

        def dial(origin: Origin, factory: Any, timeout: float) -> Dial:
            self.dialled.append(origin)
            return Dial(Clock(), factory, timeout)

        return resolving(dial, resolve)(origin, self.factory, 3.0)

    def test_addresses_pass(self) -> None:
        """What is an address, or a path, needs no asking."""
        names = Names()
        origins = [Origin("10.0.0.1", 80), Origin("::1", 80), Origin(unix_path="/x")]
        for origin in origins:
            self.connect(names, origin)
        self.assertEqual((origins, []), (self.dialled, names.asked))
        self.assertTrue(is_address("::1") and not is_address("a.test"))

    def test_name(self) -> None:
        """The certificate must still be for the name."""
        names = Names()
        names.table["a.test"] = Answer(("10.0.0.1",))
        self.connect(names, Origin("a.test", 80))
        self.assertEqual([Origin("10.0.0.1", 80, tls_name="a.test")], self.dialled)

    def test_unknown(self) -> None:
        """A name that is none is a connection that failed."""
        self.connect(Names(), Origin("a.test", 80))
        self.assertEqual(1, len(self.factory.failures))

    def test_given_up(self) -> None:
        """Whoever gives up hears so once, and nothing is dialled any more."""
        answer: Deferred[Answer] = Deferred()
        connector = self.connect(lambda name: answer, Origin("a.test", 80))
        connector.disconnect()
        answer.callback(Answer(("10.0.0.1",)))
        self.assertEqual((1, []), (len(self.factory.failures), self.dialled))

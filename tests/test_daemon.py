"""Starting and stopping, in order."""

from __future__ import annotations

import gc
import signal
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from twisted.application.service import Application, Service
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogEvent
from twisted.python.log import ILogObserver
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from clinfra.daemon import Daemon, Part, State
from clinfra.errors import StartupFailed
from clinfra.interfaces import IProduct
from clinfra.listening import Listener
from clinfra.logs import LineWriter
from clinfra.web.exchange import IExchange, Response
from clinfra.web.site import Site
from tests.web.clients import SMALL, Client, Handled, get


@implementer(IListeningPort)
class Port:
    """A port that tells when it is closed."""

    def __init__(self, host: str, port: int, closed: Callable[[], None]) -> None:
        self._address = IPv4Address("TCP", host, port)
        self._closed = closed

    def startListening(self) -> None:
        pass

    def stopListening(self) -> None:
        self._closed()

    def getHost(self) -> IPv4Address:
        return self._address


class Reactor(MemoryReactorClock):
    """Writes down what is bound; port 13 is taken, port 0 becomes 40000."""

    def __init__(self, happened: list[str]) -> None:
        super().__init__()
        self.happened = happened

    def listenTCP(
        self, port: int, factory: Any, backlog: int = 50, interface: str = ""
    ) -> Port:
        if port == 13:
            raise CannotListenError(interface, port, OSError(98, "Address in use"))
        self.happened.append(f"bind {port}")
        return Port(
            interface or "0.0.0.0",
            port or 40000,
            lambda: self.happened.append(f"unbind {port}"),
        )

    def begin(self) -> None:
        """Do what the reactor does first when it runs."""
        for hook, args, kwargs in self.whenRunningHooks:
            hook(*args, **kwargs)

    def callFromThread(self, call: Callable[..., None], *args: Any) -> None:
        self.callLater(0, call, *args)

    def stop(self) -> None:
        self.happened.append("reactor stop")


@implementer(IProduct)
class Product(Service):
    """Writes down what is done to it."""

    lane = None

    def __init__(self, name: str, happened: list[str]) -> None:
        self.name = name
        self.happened = happened
        self.trouble: Exception | None = None
        self.answering: Deferred[None] = Deferred()
        self.closing: Deferred[None] | None = None
        self.resource = Handled(self.respond)

    async def respond(self, exchange: IExchange) -> Response:
        await self.answering
        return Response(200, (), b"late")

    def open(self) -> None:
        self.happened.append(f"open {self.name}")
        if self.trouble is not None:
            raise self.trouble

    def report(self) -> Mapping[str, Any]:
        return {}

    def startService(self) -> None:
        self.happened.append(f"start {self.name}")

    def stopService(self) -> Deferred[None] | None:
        self.happened.append(f"stop {self.name}")
        return self.closing


class Refused(Exception):
    """The process would have ended."""


class DaemonTests(SynchronousTestCase):
    """The life of the process."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="clinfra-test-")
        self.addCleanup(directory.cleanup)
        self.addCleanup(gc.unfreeze)
        self.happened: list[str] = []
        self.announced: list[str] = []
        self.handlers: dict[int, Callable[..., None]] = {}
        self.reactor = Reactor(self.happened)
        self.writer = LineWriter(descriptor=-1)
        self.events: list[LogEvent] = []

        def refuse(error: Exception) -> NoReturn:
            raise Refused(str(error))

        self.daemon = Daemon(
            reactor=self.reactor,  # type: ignore[arg-type] # has what is used of it
            data_dir=Path(directory.name) / "data",
            stop_timeout_seconds=10,
            writer=self.writer,
            observer=self.events.append,  # type: ignore[arg-type] # a list observes
            announce=self.announced.append,
            refuse=refuse,
            hints=lambda: ["a hint"],
            handle_signal=self.handlers.__setitem__,
        )

    def add(self, name: str, *endpoints: str) -> Product:
        """Add a part to the daemon."""
        product = Product(name, self.happened)
        site = Site(product.resource, reactor=self.reactor, limits=SMALL)
        listeners = tuple(Listener(endpoint) for endpoint in endpoints)
        self.daemon.parts.append(Part(product, site, listeners))
        return product

    def start(self) -> None:
        """Do what twistd does, until the reactor runs."""
        self.daemon.privilegedStartService()
        self.daemon.startService()
        self.reactor.begin()
        self.addCleanup(self.writer.close)

    def test_order_of_start(self) -> None:
        """Everything is bound, then everything opened, then everything started."""
        self.add("blob", "tcp:1", "tcp:2")
        self.add("proxy", "tcp:3")

        self.start()

        self.assertEqual(
            "bind 1,bind 2,bind 3,open blob,open proxy,start blob,start proxy",
            ",".join(self.happened),
        )
        self.assertEqual(State.RUNNING, self.daemon.state)
        self.assertTrue(self.daemon.data_dir.is_dir())

    def test_announcement(self) -> None:
        """Where everything really listens is told, then that it is ready."""
        self.add("blob", "tcp:0:interface=127.0.0.1", "tcp:0")
        self.start()

        self.assertEqual(
            [
                "blob   http://127.0.0.1:40000/",
                "blob   http://0.0.0.0:40000/",
                f"data   {self.daemon.data_dir}",
                "a hint",
                "clinfra is ready",
            ],
            self.announced,
        )

    def test_origins(self) -> None:
        """The proxy learns where it reaches the others."""
        self.add("blob", "tcp:0")
        self.add("image", "haproxy:tcp:5")
        self.assertEqual({}, self.daemon.origins())

        self.start()

        self.assertEqual({"blob": "127.0.0.1:40000"}, self.daemon.origins())
        self.assertEqual([40000], self.daemon.ports("blob"))

    def test_busy_port(self) -> None:
        """A port that is taken is named, and nothing is opened."""
        self.add("blob", "tcp:13")

        with self.assertRaises(Refused) as caught:
            self.start()

        self.assertEqual(
            "cannot listen on tcp:13: Address in use", str(caught.exception)
        )
        self.assertEqual([], self.happened)

    def test_cannot_open(self) -> None:
        """A product that cannot start says why; the others are not started."""
        for trouble, sentence in (
            (StartupFailed("it is locked"), "it is locked"),
            (
                OSError(30, "Read-only file system", "/x/y"),
                "blob cannot start: /x/y: Read-only file system",
            ),
        ):
            self.setUp()
            self.add("blob").trouble = trouble
            self.add("proxy")

            with self.assertRaises(Refused) as caught:
                self.start()

            self.writer.close()
            self.assertEqual(sentence, str(caught.exception))
            self.assertEqual(["open blob"], self.happened)

    def test_data_dir(self) -> None:
        """A data directory that cannot be made is named."""
        self.add("blob")
        self.daemon.data_dir.write_text("a file")

        with self.assertRaises(Refused) as caught:
            self.start()

        self.writer.close()
        self.assertIn(f"{self.daemon.data_dir}: File exists", str(caught.exception))

    def test_order_of_stop(self) -> None:
        """First nobody listens any more, then products close, blob last."""
        self.add("blob", "tcp:1")
        self.add("image", "tcp:2")
        self.add("proxy", "tcp:3")
        self.start()
        del self.happened[:]

        stopped = self.daemon.stopService()

        self.assertEqual(
            "unbind 3,unbind 2,unbind 1,stop proxy,stop image,stop blob",
            ",".join(self.happened),
        )
        self.successResultOf(stopped)

    def test_products_take_their_time(self) -> None:
        """The next product closes only when the one before it has."""
        self.add("blob")
        proxy = self.add("proxy")
        self.start()
        proxy.closing = Deferred()

        stopped = self.daemon.stopService()
        self.assertNotIn("stop blob", self.happened)
        self.assertNoResult(stopped)
        proxy.closing.callback(None)

        self.assertIn("stop blob", self.happened)
        self.successResultOf(stopped)

    def test_requests_in_flight(self) -> None:
        """What is being answered is answered; then the products close."""
        blob = self.add("blob", "tcp:1")
        self.start()
        site = self.daemon.parts[0].site
        assert site is not None
        client = Client(site, self.reactor)
        client.send(get())

        stopped = self.daemon.stopService()
        self.reactor.advance(5)
        self.assertNotIn("stop blob", self.happened)
        blob.answering.callback(None)
        self.reactor.advance(1)
        self.reactor.advance(1)

        (answer,) = client.answers()
        self.assertEqual((200, b"late"), (answer.status, answer.body))
        self.assertTrue(client.closed)
        self.successResultOf(stopped)

    def test_requests_without_end(self) -> None:
        """All parts together wait no longer than the time-out."""
        self.add("blob", "tcp:1")
        self.add("proxy", "tcp:2")
        self.start()
        for part in self.daemon.parts:
            assert part.site is not None
            Client(part.site, self.reactor).send(get())

        stopped = self.daemon.stopService()
        for _ in range(9):
            self.reactor.advance(1)
        self.assertNoResult(stopped)
        self.reactor.advance(1.1)
        for _ in range(4):
            self.reactor.advance(0.01)

        self.successResultOf(stopped)
        self.assertEqual("stop blob", self.happened[-1])

    def test_failing_stop(self) -> None:
        """A product that fails to close does not keep the others from closing."""
        self.add("blob")
        proxy = self.add("proxy")
        self.start()
        proxy.closing = Deferred()

        stopped = self.daemon.stopService()
        proxy.closing.errback(RuntimeError("no"))

        self.successResultOf(stopped)
        self.assertEqual("stop blob", self.happened[-1])
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))

    def test_signals(self) -> None:
        """SIGTERM and SIGINT stop the reactor, once."""
        self.add("blob")
        self.start()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            self.handlers[number](number, None)
        for _ in range(3):
            self.reactor.advance(0)

        self.assertEqual(1, self.happened.count("reactor stop"))
        self.assertEqual(State.STOPPING, self.daemon.state)

    def test_in_few_words(self) -> None:
        """Whoever looks at handlers of signals need not word all that it holds.

        Twisted does when it starts a process, and Python makes text of those it does
        not know; with all blobs in memory that took seconds.
        """
        self.assertLess(len(repr(self.daemon._signalled)), 200)

    def test_observer(self) -> None:
        """twistd logs with the observer of our configuration."""
        application = Application("clinfra")

        self.daemon.setServiceParent(application)

        self.assertIs(self.daemon.observer, application.getComponent(ILogObserver))

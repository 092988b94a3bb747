"""The main process' end of a worker."""

from __future__ import annotations

import gc
import json
from collections.abc import Mapping, Sequence
from weakref import ref

from twisted.internet.error import ConnectionDone, ProcessTerminated
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from clinfra.workers.child import Child, hiring
from clinfra.workers.control import Control
from clinfra.workers.crew import Crew
from clinfra.workers.orders import Orders


class Process:
    """A process that only exists."""

    def closeStdin(self) -> None:
        """Nobody reads it."""


class Reactor(Clock):
    """Starts processes that only exist; keeps nobody alive."""

    def __init__(self) -> None:
        super().__init__()
        self.children: list[ref[Child]] = []
        self.lines: list[ref[Control]] = []

    def adoptStreamConnection(
        self, descriptor: int, family: int, factory: Factory
    ) -> None:
        """Connect one end of a line."""
        line = factory.buildProtocol(None)
        assert isinstance(line, Control)
        line.makeConnection(StringTransport())
        self.lines.append(ref(line))

    def spawnProcess(
        self,
        child: Child,
        executable: str,
        arguments: Sequence[str],
        env: Mapping[str, str] | None,
        childFDs: Mapping[int, int | str],
    ) -> Process:
        """Start one."""
        self.children.append(ref(child))
        return Process()


class EndTests(SynchronousTestCase):
    """A process is over."""

    def setUp(self) -> None:
        # What is gone while nobody looks for circles is gone at once.
        gc.disable()
        self.addCleanup(gc.enable)
        self.reactor = Reactor()
        orders = Orders("proxy", 0, 1, {}, {}, {})
        hire = hiring(self.reactor, lambda: orders, dict, "")
        self.crew = Crew.of("proxy", 1, hire, self.reactor)
        self.crew.start()
        self.say_ready()

    def say_ready(self) -> None:
        """Have the newest worker say that it is."""
        line = self.reactor.lines[-1]()
        assert line is not None
        report = {"requests": 3, "why": ["it is long"]}
        line.stringReceived(json.dumps({"do": "ready", "with": [report]}).encode())

    def first(self) -> tuple[Child | None, Control | None]:
        """Return the oldest worker's end of things, if there still is one."""
        return self.reactor.children[0](), self.reactor.lines[0]()

    def end_first(self) -> None:
        """Have the oldest worker's process end, and then its line."""
        child, line = self.first()
        assert child is not None and line is not None
        child.processEnded(Failure(ProcessTerminated(signal=9)))
        del child
        self.reactor.advance(0)
        line.connectionLost(Failure(ConnectionDone()))

    def test_killed(self) -> None:
        """Nothing is left of a worker that fell but what it counted."""
        self.end_first()
        self.assertEqual((None, None), self.first())
        self.assertEqual({"requests": 3}, self.crew.bygone)

    def test_replaced(self) -> None:
        """Nothing is left of a worker that was replaced."""
        replaced = self.crew.again(1.0)
        self.say_ready()
        self.successResultOf(replaced)
        self.end_first()
        self.assertEqual((None, None), self.first())

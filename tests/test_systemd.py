"""Telling systemd how things are."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.systemd import Notifier


class NotifierTests(SynchronousTestCase):
    """Notices go where the environment says."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.address = str(Path(directory.name) / "notify")
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(self.systemd.close)
        self.systemd.bind(self.address)
        self.systemd.setblocking(False)

    def notifier(self, **variables: str) -> Notifier:
        notifier = Notifier.take({"NOTIFY_SOCKET": self.address, **variables})
        self.addCleanup(notifier.close)
        return notifier

    def heard(self) -> list[str]:
        """Return what has arrived."""
        notices = []
        while True:
            try:
                notices.append(self.systemd.recv(4096).decode())
            except BlockingIOError:
                return notices

    def test_life(self) -> None:
        """Ready, reloading, ready again, stopping."""
        notifier = self.notifier()
        notifier.ready("serving proxy")
        notifier.reloading()
        notifier.stopping()
        ready, reloading, stopping = self.heard()
        self.assertEqual("READY=1\nSTATUS=serving proxy", ready)
        self.assertRegex(reloading, r"\ARELOADING=1\nMONOTONIC_USEC=[0-9]+\Z")
        self.assertTrue(stopping.startswith("STOPPING=1\n"))

    def test_abstract(self) -> None:
        """An address may be abstract."""
        name = f"clinfra-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind("\0" + name)
            systemd.setblocking(False)
            notifier = Notifier.take({"NOTIFY_SOCKET": "@" + name})
            self.addCleanup(notifier.close)
            notifier.ready("well")
            self.assertEqual(b"READY=1\nSTATUS=well", systemd.recv(4096))

    def test_watchdog(self) -> None:
        """It is fed three times as often as it must be, until the end."""
        clock = Clock()
        notifier = self.notifier(WATCHDOG_USEC="30000000")
        notifier.feed_watchdog(clock)
        clock.pump([1.0] * 20)
        self.assertEqual(["WATCHDOG=1"] * 3, self.heard())
        notifier.close()
        self.assertEqual([], clock.getDelayedCalls())

    def test_watchdog_of_another(self) -> None:
        """A watchdog that watches another process is not ours to feed."""
        clock = Clock()
        notifier = self.notifier(WATCHDOG_USEC="30000000", WATCHDOG_PID="1")
        notifier.feed_watchdog(clock)
        self.assertEqual([], clock.getDelayedCalls())

    def test_not_started_by_systemd(self) -> None:
        """Without an address nothing happens."""
        notifier = Notifier.take({})
        notifier.feed_watchdog(Clock())
        notifier.ready("alone")
        self.assertEqual([], self.heard())

    def test_children_are_not_told(self) -> None:
        """The variables are gone once they are read."""
        environment = {"NOTIFY_SOCKET": "x", "WATCHDOG_USEC": "1", "HOME": "/"}
        Notifier.take(environment)
        self.assertEqual({"HOME": "/"}, environment)

    def test_nobody_listens(self) -> None:
        """systemd being gone is not our trouble."""
        self.systemd.close()
        self.notifier().ready("anyway")

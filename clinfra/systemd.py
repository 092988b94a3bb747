"""Telling systemd how things are (sd_notify), when it started this process.

Datagrams of NAME=VALUE lines go to the socket that $NOTIFY_SOCKET names; without it
nothing is sent.  A watchdog that the unit asks for is fed from the reactor, so that it
bites when that hangs.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall

_PATIENCE_SECONDS = 0.5


@define(eq=False)
class Notifier:
    """Sends notices.

    Args:
        address: of systemd's socket: a path, or "@name" of an abstract one; empty
            sends nothing.
        watchdog_seconds: within which systemd wants to hear from us; 0 is never.
    """

    _address: str = ""
    _watchdog_seconds: float = 0.0
    _socket: socket.socket | None = field(default=None, init=False)
    _feeding: LoopingCall | None = field(default=None, init=False)

    @classmethod
    def take(cls, environment: MutableMapping[str, str]) -> Notifier:
        """Make the one that the environment asks for.

        The variables are taken out of it: child processes have nothing to notify of.
        """
        address = environment.pop("NOTIFY_SOCKET", "")
        microseconds = environment.pop("WATCHDOG_USEC", "0")
        watched = environment.pop("WATCHDOG_PID", str(os.getpid()))
        if watched != str(os.getpid()) or not microseconds.isdigit():
            microseconds = "0"
        return cls(address, int(microseconds) / 1e6)

    def ready(self, status: str) -> None:
        """Everything listens; also said after a reload."""
        self._send(READY=1, STATUS=status)

    def reloading(self) -> None:
        """A change is under way; `ready` ends it."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(RELOADING=1, MONOTONIC_USEC=now)

    def stopping(self) -> None:
        """Nothing more is accepted."""
        self._send(STOPPING=1, STATUS="finishing what is under way")

    def feed_watchdog(self, reactor: IReactorTime) -> None:
        """From now on, as often as it takes."""
        if self._address and self._watchdog_seconds:
            self._feeding = LoopingCall(self._send, WATCHDOG=1)
            self._feeding.clock = reactor
            self._feeding.start(self._watchdog_seconds / 3)

    def close(self) -> None:
        """Send no more."""
        if self._feeding is not None and self._feeding.running:
            self._feeding.stop()
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, **fields: Any) -> None:
        if not self._address:
            return
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            # Its queue is short, and READY must not be lost.
            self._socket.settimeout(_PATIENCE_SECONDS)
        text = "\n".join(f"{name}={value}" for name, value in fields.items())
        # Whoever does not listen need not know.
        with suppress(OSError):
            self._socket.sendto(text.encode(), self._address.replace("@", "\0", 1))

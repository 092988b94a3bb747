"""Log lines for syslog: one datagram each.

To a UNIX socket they go as the C library sends them ("<PRI>TIME TAG[PID]: MESSAGE"), by
UDP as RFC 5424 has them.  Like a file's they are written by a thread; what cannot be
sent is counted and dropped, and the socket is made anew for the next.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import UTC, datetime
from typing import Any

from attrs import define, field
from twisted.logger import LogLevel

from clinfra.logs import LineWriter

_FACILITIES = {"user": 1, "daemon": 3, **{f"local{n}": 16 + n for n in range(8)}}
_SEVERITIES = {
    LogLevel.critical: 2,
    LogLevel.error: 3,
    LogLevel.warn: 4,
    LogLevel.info: 6,
    LogLevel.debug: 7,
}

_PATIENCE_SECONDS = 1.0
_MOST_LOCAL_BYTES = 8192
_MOST_UDP_BYTES = 2048
"""What receivers are known to take."""

_TAG = "clinfra"


@define(eq=False)
class SyslogWriter(LineWriter):
    """Writes to syslog.

    Args:
        target: path of a UNIX socket, or host and port.
        facility: its number.
    """

    target: str | tuple[str, int] = field(kw_only=True)
    facility: int = field(kw_only=True)
    _socket: socket.socket | None = field(default=None, init=False)

    @classmethod
    def of(cls, target: str, facility: str) -> SyslogWriter:
        """Make one of what is configured: a path, or "udp:HOST:PORT"."""
        number = _FACILITIES[facility]
        if target.startswith("/"):
            return cls(target=target, facility=number)
        host, _, port = target.removeprefix("udp:").rpartition(":")
        return cls(target=(host.strip("[]"), int(port)), facility=number)

    def open(self) -> None:
        """Nothing to open: whoever listens may come later."""

    def write(
        self, line: str, *, soon: bool = False, level: LogLevel = LogLevel.info
    ) -> None:
        """Send a line; those of a traceback are sent one by one."""
        priority = f"<{self.facility * 8 + _SEVERITIES[level]}>"
        for each in line.rstrip("\n").split("\n"):
            super().write(priority + each, soon=soon)

    def reopen(self) -> None:
        """Make a new socket for the next line."""
        with self._lock:
            self._disconnect()

    def close(self) -> None:
        """Send what is pending, and close the socket."""
        super().close()
        self.reopen()

    def _put(self, lines: list[str]) -> None:
        """Send lines; never raises."""
        local = isinstance(self.target, str)
        head = _local_head() if local else _full_head()
        most = _MOST_LOCAL_BYTES if local else _MOST_UDP_BYTES
        lost, self.lost_lines = self.lost_lines, 0
        if lost:
            warning = f"<{self.facility * 8 + _SEVERITIES[LogLevel.warn]}>"
            lines = [f"{warning}{lost} log lines were lost", *lines]
        for number, line in enumerate(lines):
            priority, _, text = line.partition(">")
            message = f"{priority}>{head}{text}".encode("utf-8", "backslashreplace")
            try:
                self._connected().send(message[:most])
            except OSError:
                self._disconnect()
                unsent = len(lines) - number
                new = unsent - (lost > 0 and number == 0)
                self.lost_lines += new + (lost if new < unsent else 0)
                self.lost_in_all += new
                return

    def _connected(self) -> socket.socket:
        """Return the socket.  Raises OSError."""
        if self._socket is None:
            if isinstance(self.target, str):
                made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                address: Any = self.target
            else:
                host, port = self.target
                family, kind, protocol, _, address = socket.getaddrinfo(
                    host, port, type=socket.SOCK_DGRAM
                )[0]
                made = socket.socket(family, kind, protocol)
            made.settimeout(_PATIENCE_SECONDS)
            try:
                made.connect(address)
            except OSError:
                made.close()
                raise
            self._socket = made
        return self._socket

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _local_head() -> str:
    """Return "Nov 23 04:05:06 clinfra[7]: ", in local time and English."""
    now = time.localtime()
    month = "JanFebMarAprMayJunJulAugSepOctNovDec"[now.tm_mon * 3 - 3 : now.tm_mon * 3]
    clock = time.strftime("%H:%M:%S", now)
    return f"{month} {now.tm_mday:2} {clock} {_TAG}[{os.getpid()}]: "


def _full_head() -> str:
    """Return version, time, host, program and process, as RFC 5424 has them."""
    stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
    return f"1 {stamp} {socket.gethostname()} {_TAG} {os.getpid()} - - "

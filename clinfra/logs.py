"""What the process writes down: its events, and the file that all logs go to.

Nothing here knows a product; one line per request is `access_log`'s.  Formatting
happens where the event happens; writing is done by one thread, so that neither a slow
disk nor a stalled pipe holds the reactor, and a full disk costs lines, never service
(how many is written once there is room).

Both logs escape whatever is not plain printable text, so nobody can forge a line,
and show no value whose name sounds like a secret.
"""

from __future__ import annotations

import json
import os
import re
import select
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from attrs import define, field
from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
)
from twisted.python.failure import Failure
from zope.interface import implementer

from clinfra.config import LoggingConfig

PENDING_BYTES = 8 << 20
"""Most that waits for the disk; what comes on top is counted and dropped."""

FLUSH_SECONDS = 0.5
"""How long an access-log line may wait to be written with others."""

_SECRET_WORDS = (
    r"passw|secret|token|authori[sz]ation|cookie|signature|credential|api_?key"
)
_SECRET_NAME = re.compile(_SECRET_WORDS, re.IGNORECASE)
_SECRET_QUERY = re.compile(
    rf"([?&](?:[^=&?]*(?:{_SECRET_WORDS})[^=&?]*|sig|key|auth)=)[^&]*", re.IGNORECASE
)
_NOT_GRAPHIC = re.compile(r"[^!-~]")
_CONTROL = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_HIDDEN = "***"


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def escape_word(text: str) -> str:
    """Return text as one printable ASCII word (no blanks)."""
    if text.isalnum() and text.isascii():
        return text
    return _NOT_GRAPHIC.sub(_escaped, text) if _NOT_GRAPHIC.search(text) else text


def escape_line(text: str) -> str:
    """Return text that cannot break out of its line or move a terminal's cursor."""
    return _CONTROL.sub(_escaped, text)


def hide_secrets(target: str) -> str:
    """Return a request target without the values of parameters that sound secret."""
    return _SECRET_QUERY.sub(rf"\1{_HIDDEN}", target) if "=" in target else target


@define(eq=False)
class LineWriter:
    """Lines appended to a file by a thread; before `start` they are written at once.

    A file that was renamed or removed (log rotation) is opened anew.

    Args:
        path: file to append to; None writes to `descriptor`.
        descriptor: of an open file, standard output by default.
    """

    path: Path | None = None
    descriptor: int = field(
        factory=lambda: sys.__stdout__.fileno() if sys.__stdout__ else 1
    )
    lost_lines: int = 0
    lost_in_all: int = 0
    _pending: list[str] = field(factory=list)
    _pending_bytes: int = 0
    _torn: bool = False
    _wake: threading.Event = field(factory=threading.Event)
    _lock: threading.Lock = field(factory=threading.Lock)
    _thread: threading.Thread | None = None
    _closing: bool = False

    def open(self) -> None:
        """Open the file.  Raises OSError."""
        if self.path is not None:
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self.descriptor = os.open(self.path, flags, 0o640)

    def start(self) -> None:
        """Write in a thread from now on (call after any fork)."""
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(
        self, line: str, *, soon: bool = False, level: LogLevel = LogLevel.info
    ) -> None:
        """Append a line (newline included), from any thread.

        Args:
            soon: wake the writer now; otherwise within FLUSH_SECONDS.
            level: for those who keep lines by their importance; it is in the line, too.
        """
        if self._pending_bytes > PENDING_BYTES:
            self.lost_lines += 1
            self.lost_in_all += 1
            return
        self._pending_bytes += len(line)
        self._pending.append(line)
        if self._thread is None:
            self.flush()
        elif soon:
            self._wake.set()

    def flush(self) -> None:
        """Write all that is pending; never raises."""
        with self._lock:
            # Both steps are atomic, and others only add to the end.
            lines = self._pending[:]
            del self._pending[: len(lines)]
            self._pending_bytes = 0
            if lines:
                self._put(lines)

    def _put(self, lines: list[str]) -> None:
        """Write lines; never raises."""
        lost, self.lost_lines = self.lost_lines, 0
        preface = "\n" if self._torn else ""
        if lost:
            preface += f"{lost} log lines were lost\n"
        text = preface + "".join(lines)
        data = memoryview(text.encode("utf-8", "backslashreplace"))
        done = 0
        try:
            self._reopen_if_moved()
            while done < len(data):
                done += self._write(data[done:])
        except OSError:
            # A full disk, a closed pipe: say so once there is room again.
            lines_lost = bytes(data[max(done, len(preface)) :]).count(b"\n")
            self.lost_lines += lines_lost
            self.lost_in_all += lines_lost
            if done < len(preface):
                self.lost_lines += lost
        if done:
            self._torn = data[done - 1] != ord("\n")

    def _write(self, data: memoryview) -> int:
        try:
            return os.write(self.descriptor, data)
        except BlockingIOError:
            # Somebody made our standard output non-blocking; give it a moment.
            if not select.select([], [self.descriptor], [], 1)[1]:
                raise
            return 0

    def reopen(self) -> None:
        """Write to a new file if the old one was moved away, now."""
        with self._lock:
            self._reopen_if_moved()

    def _reopen_if_moved(self) -> None:
        if self.path is None:
            return
        ours = os.fstat(self.descriptor)
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            there = None
        if there is None or (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            old = self.descriptor
            try:
                self.open()
            except OSError:
                return  # no right any more to make a new one: the old one goes on
            os.close(old)

    def _run(self) -> None:
        while not self._closing:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            self.flush()
        self.flush()

    def close(self) -> None:
        """Write what is pending, waiting at most two seconds for a stalled reader."""
        if self._thread is not None:
            self._closing = True
            self._wake.set()
            self._thread.join(2)
            if self._thread.is_alive():
                return
            self._thread = None
        self.flush()


def _stamp(seconds: float) -> str:
    """Return UTC as RFC 3339 with milliseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds * 1000) % 1000:03d}Z"


def _without_secrets(event: LogEvent) -> LogEvent:
    if any(_SECRET_NAME.search(name) for name in event):
        return {
            name: _HIDDEN if _SECRET_NAME.search(name) else value
            for name, value in event.items()
        }
    return event


def _namespace(event: LogEvent) -> str:
    """Return whose event it is; "-" for those of the old twisted.python.log."""
    namespace = event.get("log_namespace", "-")
    return "-" if namespace == "log_legacy" else str(namespace)


def format_text(event: LogEvent) -> str:
    """Return "TIME LEVEL NAMESPACE: MESSAGE", a traceback indented below."""
    event = _without_secrets(event)
    level = event.get("log_level") or LogLevel.info
    line = (
        f"{_stamp(event.get('log_time', 0.0))} {level.name}"
        f" {escape_word(_namespace(event))}: {escape_line(formatEvent(event))}\n"
    )
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        trace = failure.getTraceback().rstrip().split("\n")
        line += "".join(f"    {escape_line(each)}\n" for each in trace)
    return line


def plain(value: object) -> object:
    """Return a value as JSON has it, or as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return str(value)


def format_json(event: LogEvent) -> str:
    """Return an event as a JSON object: time, level, namespace, event, its fields."""
    event = _without_secrets(event)
    level = event.get("log_level") or LogLevel.info
    record: dict[str, object] = {
        "time": _stamp(event.get("log_time", 0.0)),
        "level": level.name,
        "namespace": _namespace(event),
        "event": formatEvent(event),
    }
    for name, value in event.items():
        if not name.startswith("log_") and name not in _LEGACY and name not in record:
            record[name] = plain(value)
    failure = event.get("log_failure")
    if isinstance(failure, Failure):
        record["traceback"] = failure.getTraceback()
    return json.dumps(record) + "\n"


_LEGACY = frozenset(
    ("format", "message", "time", "isError", "failure", "why", "system", "log_legacy")
)
"""Keys that twisted.python.log adds to events for observers of its own kind."""


@implementer(ILogObserver)
@define(eq=False)
class EventLog:
    """Events as lines."""

    _write: Callable[..., None]
    _format: Callable[[LogEvent], str]

    def __call__(self, event: LogEvent) -> None:
        try:
            line = self._format(event)
        except Exception as error:
            # An event whose fields cannot be shown must not take the log with it.
            line = f"an event could not be formatted: {escape_line(repr(error))}\n"
        level = event.get("log_level") or LogLevel.info
        self._write(line, soon=True, level=level)


def make_event_log(config: LoggingConfig, writer: LineWriter) -> ILogObserver:
    """Return the observer that [logging] asks for."""
    form = format_json if config.format == "json" else format_text
    level = LogLevel.levelWithName(config.level)
    predicate = LogLevelFilterPredicate(defaultLogLevel=level)
    if level is LogLevel.info:
        # Each port's and factory's start is Twisted's business; `debug` shows it.
        for namespace in ("twisted", "log_legacy"):
            predicate.setLogLevelForNamespace(namespace, LogLevel.warn)
    return FilteringLogObserver(EventLog(writer.write, form), [predicate])

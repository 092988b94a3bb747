"""The log says what happened, on one line, and never stands in the way."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import ILogObserver, LogEvent, LogLevel
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import LoggingConfig
from clinfra.logs import (
    PENDING_BYTES,
    LineWriter,
    escape_line,
    escape_word,
    format_json,
    format_text,
    hide_secrets,
    make_event_log,
)

WHEN = 1_795_325_396.25
STAMP = "2026-11-22T05:29:56"


def event(text: str, level: str = "info", **fields: object) -> LogEvent:
    """Return an event as twisted.logger makes them."""
    return {
        "log_format": text,
        "log_level": LogLevel.levelWithName(level),
        "log_namespace": "clinfra.blob",
        "log_time": WHEN,
        **fields,
    }


def failure(message: str) -> Failure:
    """Return a Failure with a traceback."""
    try:
        raise RuntimeError(message)
    except RuntimeError:
        return Failure()


def observe(config: LoggingConfig) -> tuple[ILogObserver, Callable[[], list[str]]]:
    """Return an observer, and what it has written."""
    descriptor = os.memfd_create("log")
    writer = LineWriter(descriptor=descriptor)

    def lines() -> list[str]:
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return os.pread(file.fileno(), 1 << 20, 0).decode().splitlines()

    return make_event_log(config, writer), lines


class EventTests(SynchronousTestCase):
    """Structured events."""

    def test_text(self) -> None:
        """A line has time, level, namespace and the message with its fields."""
        self.assertEqual(
            f"{STAMP}.250Z warn clinfra.blob: volume 3 is full\n",
            format_text(event("volume {number} is full", "warn", number=3)),
        )

    def test_json(self) -> None:
        """A JSON line has them as fields, and those of the event by name."""
        line = format_json(event("volume {number} is full", number=3, name=b"\xff"))

        self.assertEqual(1, line.count("\n"))
        self.assertEqual(
            {
                "time": f"{STAMP}.250Z",
                "level": "info",
                "namespace": "clinfra.blob",
                "event": "volume 3 is full",
                "number": 3,
                "name": "\\xff",
            },
            json.loads(line),
        )

    def test_traceback(self) -> None:
        """A failure's traceback is below in text, inside in JSON."""
        bad = event("oh", "critical", log_failure=failure("a\nb"))

        text, parsed = format_text(bad), json.loads(format_json(bad))

        self.assertIn("RuntimeError: a", text)
        self.assertIn("RuntimeError: a\nb", parsed["traceback"])
        for line in text.rstrip("\n").split("\n")[1:]:
            self.assertTrue(line.startswith("    "), line)

    def test_secrets(self) -> None:
        """Fields that sound secret are hidden, in the message as well."""
        shown = event("login {password}", password="hunter2", auth_token="t0ps3cret")

        for form in (format_text, format_json):
            self.assertNotIn("hunter2", form(shown))
            self.assertNotIn("t0ps3cret", form(shown))

    @given(st.text())
    @settings(deadline=None)
    def test_one_event_one_line(self, text: str) -> None:
        """Whatever stands in a field, an event cannot look like two."""
        line = format_text(event("{x}", x=text))

        self.assertEqual(1, len(line.encode("utf-8", "replace").splitlines()))
        self.assertEqual(1, len(line.splitlines()))
        self.assertEqual(1, len(format_json(event("{x}", x=text)).splitlines()))

    def test_levels(self) -> None:
        """Events below the level are dropped; Twisted's own chatter at info too."""
        expected = {
            "debug": ["debug", "info", "warn", "Starting"],
            "info": ["info", "warn"],
            "warn": ["warn"],
        }
        for level, seen in expected.items():
            observer, lines = observe(LoggingConfig(level=level))
            for each in ("debug", "info", "warn"):
                observer(event(each, each))
            observer(event("Starting", log_namespace="twisted.internet.tcp"))

            self.assertEqual(seen, [line.split()[-1] for line in lines()])

    def test_unformattable(self) -> None:
        """An event that cannot be shown is told of, and does no harm."""

        class Odd:
            def __repr__(self) -> str:
                raise ValueError("no")

            __str__ = __repr__

        for form in ("text", "json"):
            observer, lines = observe(LoggingConfig(format=form))
            observer(event("{odd}", odd=Odd()))

            self.assertEqual(1, len(lines()))


class EscapingTests(SynchronousTestCase):
    """Hostile bytes in what is logged."""

    def test_words(self) -> None:
        """Words are printable ASCII."""
        self.assertEqual("/a\\x20b\\x0a\\xff\\x1b[2J", escape_word("/a b\n\xff\x1b[2J"))

    def test_lines(self) -> None:
        """Lines keep blanks and letters, and lose what moves a terminal's cursor."""
        self.assertEqual("naïve\\x0aé \\x1b[2J", escape_line("naïve\né \x1b[2J"))

    def test_secrets_in_targets(self) -> None:
        """Values of parameters that sound secret are hidden, others kept."""
        self.assertEqual(
            "/a?size=1&sig=***&access_token=***&x=2",
            hide_secrets("/a?size=1&sig=abc&access_token=t%20s&x=2"),
        )
        self.assertEqual("/a?b", hide_secrets("/a?b"))

    def test_secrets_in_hostile_targets(self) -> None:
        """Hiding takes no long time, however odd the target."""
        for odd in ("?" * 16000, "&token" * 3000, "a=" * 8000, "?token&" * 2000 + "="):
            hide_secrets(odd + "=")


class LineWriterTests(SynchronousTestCase):
    """Lines to a file."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="clinfra-test-")
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "log"

    def writer(self) -> LineWriter:
        writer = LineWriter(self.path)
        writer.open()
        self.addCleanup(lambda: os.close(writer.descriptor))
        return writer

    def test_before_start(self) -> None:
        """What is written before the thread starts is there at once."""
        self.writer().write("a\n")

        self.assertEqual("a\n", self.path.read_text())

    def test_thread(self) -> None:
        """What the thread was given is there when the writer is closed, in order."""
        writer = self.writer()
        writer.start()
        for number in range(1000):
            writer.write(f"{number}\n", soon=number % 100 == 0)
        writer.close()

        self.assertEqual(
            "".join(f"{number}\n" for number in range(1000)), self.path.read_text()
        )

    def test_rotation(self) -> None:
        """A file that was moved away is made anew."""
        writer = self.writer()
        writer.write("a\n")
        self.path.rename(self.path.with_suffix(".1"))
        writer.write("b\n")

        self.assertEqual("a\n", self.path.with_suffix(".1").read_text())
        self.assertEqual("b\n", self.path.read_text())

    def test_rotation_without_rights(self) -> None:
        """When no new file can be made, the old one goes on."""
        writer = self.writer()
        moved = self.path.with_suffix(".1")
        self.path.rename(moved)
        self.path.mkdir()
        writer.write("a\n")

        self.assertEqual("a\n", moved.read_text())

    def test_full_disk(self) -> None:
        """A full disk costs lines, not service; how many is told later."""
        writer = LineWriter(descriptor=os.open("/dev/full", os.O_WRONLY))
        for _ in range(3):
            writer.write("lost\n")
        os.close(writer.descriptor)
        writer.descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT)
        self.addCleanup(os.close, writer.descriptor)

        writer.write("kept\n")

        self.assertEqual(
            ["3 log lines were lost", "kept"], self.path.read_text().splitlines()
        )

    def test_torn_line(self) -> None:
        """A line that was cut by a full disk does not swallow the next one."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        os.set_blocking(writing, False)
        writer = LineWriter(descriptor=writing)
        writer.write("x" * 100_000 + "\n")
        os.close(writing)
        writer.descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT)
        self.addCleanup(os.close, writer.descriptor)

        writer.write("kept\n")

        self.assertEqual(
            ["", "1 log lines were lost", "kept"], self.path.read_text().splitlines()
        )

    def test_stalled_reader(self) -> None:
        """A pipe that nobody reads costs bounded memory, and does not hold the end."""
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        writer = LineWriter(descriptor=writing)
        writer.start()
        line = "x" * 65535 + "\n"

        for _ in range(3 * PENDING_BYTES // len(line)):
            writer.write(line)
        writer.close()
        writer.write("the last word\n")

        data = b""
        while b"the last word\n" not in data and len(data) < 3 * PENDING_BYTES:
            data += os.read(reading, 1 << 20)
        self.assertIn(b" log lines were lost\n", data)
        self.assertLess(len(data), 2 * PENDING_BYTES)

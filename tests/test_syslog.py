"""Log lines for syslog, read at the other end."""

from __future__ import annotations

import re
import socket
import tempfile
from pathlib import Path

from twisted.logger import LogLevel
from twisted.trial.unittest import SynchronousTestCase

from clinfra import config
from clinfra.errors import ConfigProblems
from clinfra.logs import make_event_log
from clinfra.settings import load
from clinfra.syslog import SyslogWriter
from tests.test_logs import event


class SyslogTests(SynchronousTestCase):
    """A writer, and whoever listens."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory(prefix="clinfra-test-")
        self.addCleanup(directory.cleanup)
        self.path = Path(directory.name) / "log"

    def listen(self) -> socket.socket:
        """Return a socket as /dev/log is one."""
        made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.addCleanup(made.close)
        made.settimeout(5)
        made.bind(str(self.path))
        return made

    def writer(self, target: str, facility: str = "daemon") -> SyslogWriter:
        writer = SyslogWriter.of(target, facility)
        writer.open()
        self.addCleanup(writer.close)
        return writer

    def test_local(self) -> None:
        """To a UNIX socket lines go as the C library sends them."""
        listener = self.listen()
        self.writer(str(self.path)).write("a line\n")

        self.assertRegex(
            listener.recv(9999),
            rb"^<30>[A-Z][a-z]{2} [ 0-9]\d \d\d:\d\d:\d\d clinfra\[\d+\]: a line$",
        )

    def test_udp(self) -> None:
        """By UDP they go as RFC 5424 has them."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
            listener.bind(("127.0.0.1", 0))
            listener.settimeout(5)
            port = listener.getsockname()[1]
            self.writer(f"udp:127.0.0.1:{port}", "local7").write("naïve\n")

            message = listener.recv(9999).decode()

        stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00"
        self.assertRegex(message, rf"^<190>1 {stamp} \S+ clinfra \d+ - - naïve$")

    def test_levels(self) -> None:
        """How important an event is, is the severity of its lines."""
        listener = self.listen()
        writer = self.writer(str(self.path))
        observe = make_event_log(config.LoggingConfig(level="debug"), writer)
        for level in ("critical", "error", "warn", "info", "debug"):
            observe(event("it is so", level))

        told = [listener.recv(9999).partition(b">")[0] for _ in range(5)]
        self.assertEqual([b"<26", b"<27", b"<28", b"<30", b"<31"], told)

    def test_lines_of_a_traceback(self) -> None:
        """A message of many lines is as many messages."""
        listener = self.listen()
        self.writer(str(self.path)).write("one\n    two\n", level=LogLevel.error)

        told = [listener.recv(9999).decode() for _ in range(2)]
        self.assertEqual(
            ["one", "    two"], [each.partition("]: ")[2] for each in told]
        )
        self.assertTrue(all(each.startswith("<27>") for each in told))

    def test_long_lines(self) -> None:
        """What no receiver takes is cut."""
        listener = self.listen()
        self.writer(str(self.path)).write("x" * 100_000 + "\n")

        self.assertEqual(8192, len(listener.recv(99_999)))

    def test_nobody_there(self) -> None:
        """Nobody has to listen; whoever comes later hears how much was missed."""
        writer = self.writer(str(self.path))
        writer.write("lost\n")
        writer.write("lost, too\n")
        listener = self.listen()
        writer.write("heard\n")

        told = [listener.recv(9999).decode() for _ in range(2)]
        texts = [each.partition("]: ")[2] for each in told]
        self.assertEqual(["2 log lines were lost", "heard"], texts)
        self.assertEqual(2, writer.lost_in_all)

    def test_listener_restarted(self) -> None:
        """A syslog that was started anew is found again."""
        listener = self.listen()
        writer = self.writer(str(self.path))
        writer.write("one\n")
        listener.close()
        self.path.unlink()
        writer.write("lost\n")
        again = self.listen()
        writer.write("two\n")

        self.assertTrue(again.recv(9999).endswith(b"1 log lines were lost"))
        self.assertTrue(again.recv(9999).endswith(b"two"))

    def test_in_a_thread(self) -> None:
        """All that was written is there when it is closed."""
        listener = self.listen()
        writer = self.writer(str(self.path))
        writer.start()
        for number in range(5):
            writer.write(f"{number}\n")
        writer.close()

        numbers = [re.findall(rb"\d$", listener.recv(9999)) for _ in range(5)]
        self.assertEqual([[b"%d" % number] for number in range(5)], numbers)


class ConfigTests(SynchronousTestCase):
    """What [logging] takes."""

    def problems(self, *assignments: str) -> list[str]:
        try:
            load([], assignments=assignments)
        except ConfigProblems as wrong:
            return list(wrong.problems)
        return []

    def test_good(self) -> None:
        """A path, or a host and port."""
        for good in ("/dev/log", "udp:localhost:514", "udp:[::1]:514"):
            self.assertEqual([], self.problems(f"logging.syslog={good}"))

    def test_bad(self) -> None:
        """Anything else is wrong; so is a file beside it, and an odd network."""
        for bad in ("dev/log", "udp:localhost", "tcp:localhost:514"):
            (problem,) = self.problems(f"logging.syslog={bad}")
            self.assertIn("logging.syslog", problem)
        (problem,) = self.problems("logging.syslog=/dev/log", "logging.file=x.log")
        self.assertIn("there is a file already", problem)
        (problem,) = self.problems('logging.trace_from=["10.0.0.0/99"]')
        self.assertIn("logging.trace_from", problem)

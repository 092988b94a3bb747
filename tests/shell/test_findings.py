"""What `clinfra doctor` finds."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import Config, Endpoint
from clinfra.shell import checks_here, checks_running
from clinfra.shell.findings import (
    Finding,
    Grade,
    advice,
    as_json,
    finding_lines,
    good,
    wrong,
)
from tests.shell.reports import proxy, status


def told(findings: Iterable[Finding], grade: Grade = Grade.WRONG) -> list[str]:
    """Return what is found of a grade; each that is not good has a remedy."""
    found = list(findings)
    assert all(each.remedy or each.grade is Grade.GOOD for each in found), found
    return [each.sentence for each in found if each.grade is grade]


class FindingTests(SynchronousTestCase):
    """How findings are told."""

    def test_lines(self) -> None:
        """A sentence, and below it what to do."""
        lines = list(finding_lines([good("a"), advice("b", "c"), wrong("\x1b", "d")]))

        self.assertEqual(
            [
                "good    a",
                "advice  b",
                "        → c",
                "wrong   \\x1b",
                "        → d",
            ],
            lines,
        )

    def test_json(self) -> None:
        """Programs get the same."""
        self.assertEqual(
            [{"grade": "wrong", "finding": "a", "remedy": "b"}],
            as_json([wrong("a", "b")]),
        )


class RunningTests(SynchronousTestCase):
    """What /status tells of trouble."""

    def running(self, grade: Grade = Grade.WRONG, **products: Any) -> list[str]:
        return told(checks_running.running(status(**products), "1.0"), grade)

    def test_nothing(self) -> None:
        """A process that is well has nothing wrong."""
        self.assertEqual([], self.running(proxy=proxy(), blob={}, image={}))
        self.assertEqual([], told(checks_running.readiness([])))

    def test_not_ready(self) -> None:
        """Reasons are told one by one."""
        self.assertEqual(
            ["not ready: blob: x"], told(checks_running.readiness(["blob: x"]))
        )

    def test_old_version(self) -> None:
        """An upgrade that was not followed by a restart is noticed."""
        findings = checks_running.running(status(), "2.0")

        self.assertEqual(["clinfra 1.0 runs, 2.0 is installed"], [*told(findings, ADV)])

    def test_origins(self) -> None:
        """Members that are down or failing are told, with why."""
        (line,) = self.running(proxy=proxy(state="down", last_failure="refused"))
        self.assertEqual("origin 10.0.0.2:80 of web is down: refused", line)
        (line,) = self.running(proxy=proxy(state="open"))
        self.assertIn("asked only now and then", line)
        (line,) = self.running(ADV, proxy=proxy(state="maintenance"))
        self.assertIn("kept from being asked", line)

    def test_memcached_and_rules(self) -> None:
        """A memcached that is away, and rules that could not be read."""
        report = proxy()
        report["modules"]["DirectCache"]["memcached"] = {"m:1": False}
        report["rules"] = {"directory": "/r", "problems": ["x.py: wrong"]}

        self.assertEqual(
            [
                "the proxy does not reach memcached m:1",
                "new rules in /r are not in use: x.py: wrong",
            ],
            self.running(proxy=report),
        )

    def test_workers(self) -> None:
        """Missing ones are wrong, fallen ones worth a look."""
        crew = {"wanted": 2, "ready": 1, "falls": 3}

        self.assertEqual(
            ["1 of 2 workers of image are ready"], self.running(image={"crew": crew})
        )
        self.assertEqual(
            ["workers of image have fallen 3 times"],
            self.running(ADV, image={"crew": crew}),
        )

    def test_crowded(self) -> None:
        """A listener that is nearly full refuses soon."""
        crowded = status(proxy={})
        crowded["listeners"]["proxy"]["connections"] = 95

        self.assertEqual(
            ["proxy has 95 of 100 connections in use"],
            told(checks_running.running(crowded, "1.0")),
        )

    def test_blob(self) -> None:
        """Clocks, damage, replicas that are away, and a fence."""
        report = {
            "clock": {"trouble": "it is 1970 here"},
            "scrub": {"damaged": 2, "quarantined": 2, "healed": 1},
            "handoff": {"waiting": 4, "oldest_seconds": 7200, "unreadable": 1},
            "replicas": {"b": {"parked": 5}},
            "rejoin": {"fenced": True},
        }

        self.assertEqual(
            [
                "clock: it is 1970 here",
                "1 damaged blobs were put in quarantine and not healed",
                "4 changes wait for replicas that are away, the oldest for 2 h 0 min",
                "1 kept changes cannot be read",
                "replica b refused 5 changes",
                "this replica was away for too long and serves nothing it cannot prove",
            ],
            self.running(blob=report),
        )


ADV = Grade.ADVICE


class HereTests(SynchronousTestCase):
    """What is looked at on this machine."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="clinfra-test-"))
        self.addCleanup(shutil.rmtree, self.directory)

    def test_packages(self) -> None:
        """What runs the tests is new enough."""
        self.assertEqual([], told(checks_here.packages()))

    def test_data_dir(self) -> None:
        """Ours alone; one that is not there will be made; a file is none."""
        self.assertEqual([], told(checks_here.data_dir(self.directory / "a" / "b", 1)))
        self.assertEqual([], told(checks_here.data_dir(self.directory, 1), ADV))
        os.chmod(self.directory, 0o755)
        (line,) = told(checks_here.data_dir(self.directory, 1), ADV)
        self.assertIn("open to other users", line)
        file = self.directory / "file"
        file.touch()
        (line,) = told(checks_here.data_dir(file, 1))
        self.assertIn("is no directory", line)

    def test_room(self) -> None:
        """Less than blobs need is wrong."""
        (line,) = told(checks_here.data_dir(self.directory, 1 << 60))

        self.assertIn("blobs are refused below", line)

    def test_ports(self) -> None:
        """Before it runs ports must be free; when it runs they must answer."""
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            taken = self.configuration(f"tcp:{port}:interface=127.0.0.1")
            (line,) = told(checks_here.ports(taken, running=False))
            self.assertIn("Address already in use", line)
            self.assertEqual([], told(checks_here.ports(taken, running=True)))
        (line,) = told(checks_here.ports(taken, running=True))
        self.assertIn("takes no connections", line)
        self.assertEqual([], told(checks_here.ports(taken, running=False)))

    def configuration(self, endpoint: str) -> Config:
        """Return one whose blob store listens there, and nothing else does."""
        whole = Config(image=None, proxy=None, admin=None)
        assert whole.blob is not None
        blob = attrs.evolve(whole.blob, listen=(Endpoint(endpoint),))
        return attrs.evolve(whole, blob=blob)

    def test_memcached(self) -> None:
        """It must answer, and as memcached does."""
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            node = f"127.0.0.1:{listening.getsockname()[1]}"

            def serve() -> None:
                for answer in (b"VERSION 1.6\r\n", b"SSH-2.0\r\n"):
                    connection, _ = listening.accept()
                    connection.recv(100)
                    connection.sendall(answer)
                    connection.close()

            thread = threading.Thread(target=serve)
            thread.start()
            self.assertEqual([], told(checks_here.memcached([node], 5)))
            (line,) = told(checks_here.memcached([node], 5))
            self.assertIn("is no memcached", line)
            thread.join()
        (line,) = told(checks_here.memcached([node], 5))
        self.assertIn("cannot be reached: Connection refused", line)

    def test_secrets(self) -> None:
        """A key that everybody may read is none."""
        file = self.directory / "key"
        file.touch(0o644)
        (line,) = told(checks_here.secrets([file]))
        self.assertIn("everybody may read it", line)
        file.chmod(0o640)
        self.assertEqual([], told(checks_here.secrets([file])))
        (line,) = told(checks_here.secrets([self.directory / "none"]))
        self.assertIn("No such file", line)

    def test_limits(self) -> None:
        """Files, memory and the clock are looked at, whatever they are like here."""
        for findings in (
            checks_here.descriptors(Config()),
            checks_here.memory(Config()),
            checks_here.clock(clustered=True),
            checks_here.heic(["JPEG", "HEIC"]),
        ):
            told(findings)

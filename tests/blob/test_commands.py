"""What `clinfra blob …` prints and how it ends, against simulated clusters."""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from clinfra.blob import topology
from clinfra.blob.client import BlobClient
from clinfra.blob.command_line import EXIT_STATUS, add_commands, execute, make_client
from clinfra.blob.commands import Session
from clinfra.errors import ConfigProblems
from clinfra.progress import Progress, amount, bar
from clinfra.web.pool import Pool
from tests.sim.cluster import CLIENT, Cluster, cluster_file

LAYOUT = [[2], [1]]


class CommandTests(SynchronousTestCase):
    """Commands that know the whole cluster."""

    def setUp(self) -> None:
        self.cluster = Cluster(LAYOUT)
        self.addCleanup(self.cluster.close)
        directory = TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.here = Path(directory.name)
        self.err = ""

    def run_command(self, *typed: str) -> tuple[int, str]:
        """Return exit status and output; messages are in `err`."""
        parser = argparse.ArgumentParser()
        add_commands(parser.add_subparsers())
        arguments = parser.parse_args(typed)
        clock = self.cluster.clock
        client = BlobClient.of_cluster(
            topology.read(cluster_file(LAYOUT), None, "f"),
            reactor=clock,
            pool=Pool(clock, None, self.cluster.network.connector(CLIENT)),
        )
        out, err = io.StringIO(), io.StringIO()
        session = Session(client, arguments, True, out, err)
        status: int = self.cluster.finish(Deferred.fromCoroutine(execute(session)))
        client.close()
        self.cluster.run(1)
        self.err = err.getvalue()
        return status, out.getvalue()

    def told(self, *typed: str) -> list[Any]:
        """Return what a command tells in JSON, line by line."""
        status, out = self.run_command(*typed, "--json")
        self.assertEqual(0, status, self.err)
        return [json.loads(line) for line in out.splitlines()]

    def file(self, name: str, content: bytes = b"hello") -> str:
        path = self.here / name
        path.write_bytes(content)
        return str(path)

    def test_put_and_get(self) -> None:
        """A file goes in under its name, and comes out the same."""
        content = bytes(range(256)) * 8192
        status, out = self.run_command("put", self.file("ü ?.bin", content))
        self.assertEqual((0, "00000_ü ?.bin\n"), (status, out))

        target = self.here / "copy"
        status, out = self.run_command("get", "00000_ü ?.bin", "-o", str(target))
        self.assertEqual((0, ""), (status, out))
        self.assertEqual(content, target.read_bytes())
        self.assertEqual({"ü ?.bin", "copy"}, {p.name for p in self.here.iterdir()})

    def test_put_options(self) -> None:
        """Name, time to live and type are the caller's; the answer is the info."""
        path = self.file("x")
        (told,) = self.told("put", path, "--name", "n", "--ttl", "60", "--type", "a/b")

        self.assertEqual(("00000_n", 5), (told["name"], told["size"]))
        self.assertEqual("a/b", told["content_type"])
        self.assertGreater(told["deleted"], 0)
        (again,) = self.told("put", path, "--name", "00000_m", "--encoded")
        self.assertEqual("00000_m", again["name"])

    def test_from_a_pipe(self) -> None:
        """Standard input needs a name, and is sent like a file."""
        self.patch(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"piped")))
        self.assertEqual((1, ""), self.run_command("put", "-"))
        self.assertIn("--name", self.err)

        self.assertEqual(0, self.run_command("put", "-", "--name", "p")[0])
        (told,) = self.told("info", "00000_p")
        self.assertEqual(5, told["size"])

    def test_failed_get(self) -> None:
        """A get that fails leaves what was there, and nothing half."""
        target = self.here / "kept"
        target.write_bytes(b"before")

        status, _ = self.run_command("get", "00000_none", "-o", str(target))

        self.assertEqual((3, "404 Not Found\n"), (status, self.err))
        self.assertEqual([target], list(self.here.iterdir()))
        self.assertEqual(b"before", target.read_bytes())

    def test_info_and_delete(self) -> None:
        """Several names are each told of; the exit status is the worst."""
        for name in ("a", "b"):
            self.run_command("put", self.file(name))
        status, out = self.run_command("info", "00000_a", "00000_none", "00000_b")

        self.assertEqual(3, status)
        self.assertEqual("00000_none: 404 Not Found\n", self.err)
        self.assertIn("name      00000_a\nsize      5\n", out)
        self.assertIn("name      00000_b\n", out)
        self.assertEqual((0, ""), self.run_command("delete", "00000_a", "00000_b"))
        self.assertEqual(3, self.run_command("get", "00000_a")[0])

    def test_locate(self) -> None:
        """Where a name belongs is told without asking anybody."""
        for host in self.cluster.hosts.values():
            self.cluster.crash(host)
        status, out = self.run_command("locate", "cat.jpg")

        self.assertEqual(0, status)
        self.assertEqual(
            [
                "00000_cat.jpg",
                "cluster 0, bucket 0: c0b0r0 (10.0.0.0:80), c0b0r1 (10.0.0.1:80)",
                "cluster 1, bucket 0: c1b0r0 (10.1.0.0:80)",
            ],
            out.splitlines(),
        )
        (told,) = self.told("locate", "000_x", "--encoded")
        self.assertEqual([0], [place["cluster"] for place in told["places"]])
        self.assertEqual(1, self.run_command("locate", "009_x", "--encoded")[0])

    def test_status(self) -> None:
        """Every replica tells how it is; one that does not is told of."""
        told = self.told("status")
        self.assertEqual(
            ["c0b0r0", "c0b0r1", "c1b0r0"], [each["replica"] for each in told]
        )

        self.assertEqual(3, self.run_command("status", "nobody")[0])

        self.cluster.crash(self.cluster.hosts["c0b0r1"])
        status, out = self.run_command("status")
        self.assertEqual(4, status)
        self.assertEqual(2, len(out.splitlines()))
        self.assertTrue(out.startswith("c0b0r0  cluster 0, bucket 0: "))
        self.assertIn("c0b0r1: ", self.err)

    def test_list(self) -> None:
        """A replica's blobs, by time."""
        self.run_command("put", self.file("a"))
        self.run_command("put", self.file("b"), "--ttl", "60")
        self.cluster.run(5)

        rows = self.told("list", "c1b0r0")
        self.assertEqual(["00000_a", "00000_b"], [row["name"] for row in rows])
        _, out = self.run_command("list", "c0b0r0")
        self.assertRegex(out, r"^2027-01-15T08:0\d:\d\d  never {16}00000_a\n")
        stamp = str(rows[1]["modified"])
        self.assertEqual(rows[1:], self.told("list", "c1b0r0", "--start", stamp))
        self.assertEqual(rows[:1], self.told("list", "c1b0r0", "--stop", stamp))

    def test_set_off(self) -> None:
        """Sync and purge are asked for, at some or all replicas."""
        status, out = self.run_command("sync", "c0b0r1", "--source", "c0b0r0")
        self.assertEqual((0, "c0b0r1: queued\n"), (status, out))
        told = self.told("purge")
        self.assertEqual(3, len(told))
        self.assertEqual(1, self.run_command("sync", "c0b0r1", "--source", "a b")[0])
        self.assertEqual({"replica": "c0b0r0", "queued": True}, told[0])

    def test_look_after(self) -> None:
        """Checking, sending and the quarantine are at hand, at some or all replicas."""
        status, out = self.run_command("scrub")
        self.assertEqual(
            (0, ["c0b0r0: queued", "c0b0r1: queued", "c1b0r0: queued"]),
            (status, out.splitlines()),
        )
        self.assertEqual((0, "c0b0r1: queued\n"), self.run_command("buffer", "c0b0r1"))
        self.run_command("put", self.file("a", b"abc"))
        self.cluster.run(5)
        service = self.cluster.hosts["c0b0r0"].service
        assert service is not None
        row = service.replica.index.get("00000_a")
        assert row is not None
        service.scrubber.quarantine.keep(row, "it has rotted", [b"ab"])

        (told,) = self.told("quarantine")
        self.assertEqual(
            ("c0b0r0", "00000_a", 2), (told["replica"], told["name"], told["kept"])
        )
        _, out = self.run_command("quarantine", "c0b0r0")
        self.assertRegex(out, r"^\w{32}  \S+  2 B of 3 B  00000_a: it has rotted\n$")
        self.assertEqual(
            [0, 0], [each["discarded"] for each in self.told("discard", "x")[1:]]
        )
        status, out = self.run_command("discard", told["id"], "c0b0r0")
        self.assertEqual((0, "c0b0r0: 1 discarded\n"), (status, out))
        self.assertEqual((0, ""), self.run_command("quarantine"))
        self.assertEqual(3, len(self.told("discard", "all")))

    def test_help(self) -> None:
        """Each command's help tells its exit statuses, and that it can do JSON."""
        commands = argparse.ArgumentParser().add_subparsers()
        add_commands(commands)
        self.assertLess(12, len(commands.choices))
        for name, parser in commands.choices.items():
            text = " ".join(parser.format_help().split())
            self.assertIn(EXIT_STATUS, text, name)
            self.assertIn("--json", text, name)

    def test_configcheck(self) -> None:
        """A cluster file to be is compared by every replica; grave changes are 1."""
        path = self.file("same", cluster_file(LAYOUT).encode())
        status, out = self.run_command("configcheck", path)
        self.assertEqual(0, status)
        self.assertEqual(["c0b0r0: OK", "c0b0r1: OK", "c1b0r0: OK"], out.splitlines())

        path = self.file("more", cluster_file([[3], [1]]).encode())
        status, out = self.run_command("configcheck", path, "c1b0r0")
        self.assertEqual(
            (0, "c1b0r0: replica (0,0,c0b0r2) added\n"), (status, out), self.err
        )

        path = self.file("less", cluster_file([[2]]).encode())
        status, out = self.run_command("configcheck", path, "c0b0r0")
        self.assertEqual(
            (1, "c0b0r0: catastrophic: cluster (1) removed\n"), (status, out)
        )
        self.assertEqual(1, self.run_command("configcheck", self.file("bad"))[0])

    def test_nobody(self) -> None:
        """Nobody to be reached is an exit status of its own."""
        path = self.file("x")
        for host in self.cluster.hosts.values():
            self.cluster.crash(host)

        for typed in (("put", path), ("get", "00000_x"), ("delete", "00000_x")):
            self.assertEqual(4, self.run_command(*typed)[0], typed)
            self.assertTrue(self.err)

    def test_refused(self) -> None:
        """What is refused, here or there, is 1 and one sentence."""
        for typed in (
            ("put", self.file("_x")),
            ("put", str(self.here / "none")),
            ("get", "plain"),
        ):
            self.assertEqual((1, ""), self.run_command(*typed), typed)
            self.assertEqual(1, self.err.count("\n"), self.err)

    def test_bad_cluster(self) -> None:
        """A cluster file that is none is refused with everything wrong in it."""
        for content in (None, b"{", b"\xff", b"{}"):
            path = self.here / "cluster"
            if content is not None:
                path.write_bytes(content)
            arguments = argparse.Namespace(cluster=path, timeout=1.0)
            with self.assertRaises(ConfigProblems):
                make_client(arguments, self.cluster.clock)


class ProgressTests(SynchronousTestCase):
    """The bar."""

    def test_amounts(self) -> None:
        """Bytes as people read them."""
        self.assertEqual(
            ["0 B", "1023 B", "1.0 KiB", "1.5 MiB", "5.0 GiB", "2.0 TiB"],
            [amount(n) for n in (0, 1023, 1024, 3 << 19, 5 << 30, 2 << 40)],
        )

    def test_bar(self) -> None:
        """How much, how fast, how long still."""
        self.assertEqual(
            f"x  [{'#' * 15}{'.' * 15}]  50 %  1.0 MiB, 512.0 KiB/s, 0:02 left",
            bar("x", 1 << 20, 2 << 20, 2.0),
        )
        self.assertEqual("x  10 B, 0 B/s", bar("x", 10, None, 0.0))

    def test_shown_when_long(self) -> None:
        """What is over soon shows nothing; then ten times a second; then it is gone."""
        stream, now = io.StringIO(), [0.0]
        progress = Progress(stream, "x", 100, lambda: now[0])
        progress.tell(10)
        now[0] = 0.9
        progress.tell(20)
        progress.end()
        self.assertEqual("", stream.getvalue())

        now[0] = 1.0
        progress.tell(30)
        now[0] = 1.05
        progress.tell(40)
        self.assertEqual(1, stream.getvalue().count("\r"))
        progress.end()
        self.assertTrue(stream.getvalue().endswith(" \r"))

    def test_no_terminal(self) -> None:
        """Without a terminal there is no bar."""
        progress = Progress(None, "x", 100, lambda: 0.0)
        progress.tell(10)
        progress.end()

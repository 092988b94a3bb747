"""Blocker, and the files its lists are in."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import ModuleConfig
from clinfra.errors import ConfigProblems
from clinfra.proxy.lists import LOOK_SECONDS, ListFile
from tests.proxy.stage import Stage, response

FRESH = "Cache-Control: max-age=600"


class Directory(SynchronousTestCase):
    """A directory for lists."""

    def setUp(self) -> None:
        self.directory = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.directory)

    def write(self, name: str, *lines: str) -> str:
        """Write a file, surely another than before."""
        path = self.directory / name
        before = path.stat().st_mtime_ns if path.exists() else 0
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.utime(path, ns=(before + 10**9, before + 10**9))
        return str(path)


class BlockerTests(Directory):
    """Who and what is refused."""

    def stage(self, *rules: dict[str, Any], **config: Any) -> Stage:
        """Return a stage whose origin's answers are kept."""
        self.module = ModuleConfig(use="Blocker", options={"rules": rules})
        stage = Stage(
            self, lambda asked: response(b"ok", FRESH), first=(self.module,), **config
        )
        stage.proxy.startService()
        self.addCleanup(stage.proxy.stopService)
        return stage

    def statuses(self, stage: Stage, *requests: tuple[str, ...]) -> list[int]:
        """Return the statuses of requests: target and fields."""
        return [stage.get(*each).status for each in requests]

    def test_rules_in_order(self) -> None:
        """The first rule that holds decides."""
        stage = self.stage(
            {"paths": ["/open/*"], "allow": True},
            {"headers": {"User-Agent": "*bot*"}, "status": 410, "text": "Go away."},
            {"cookies": {"banned": "*"}},
            {"query": {"cmd": "~[;|]"}, "status": 400},
        )
        robot = "User-Agent: a bot"
        self.assertEqual(
            [200, 410, 200, 403, 400],
            self.statuses(
                stage,
                ("/a",),
                ("/a", robot),
                ("/open/a", robot),
                ("/a", "Cookie: banned=1"),
                ("/a?cmd=ls%3Brm",),
            ),
        )
        self.assertEqual(b"Go away.\n", stage.get("/a", robot).body)

    def test_clients_behind_a_proxy(self) -> None:
        """A blocked client is refused what is in memory, other clients get it."""
        stage = self.stage(
            {"networks": ["203.0.113.0/24"], "name": "bad net"},
            trusted_proxies=("192.0.2.7",),
        )
        good, bad = ("X-Forwarded-For: 198.51.100." + n for n in ("1", "2"))
        bad = "X-Forwarded-For: 203.0.113.9"
        requests = [("/a", good), ("/a", good), ("/a", bad), ("/a", good)]

        self.assertEqual([200, 200, 403, 200], self.statuses(stage, *requests))
        self.assertEqual(1, len(stage.asked))
        report = stage.proxy.report()["modules"]["Blocker"]
        self.assertEqual({"bad net": 1}, report["refused"])

    def test_lists(self) -> None:
        """Of clients, of keys that are known, of paths in any disguise."""
        networks = self.write("networks", "# bad ones", "192.0.2.0/30", "", "10.0.0.1")
        keys = self.write("keys", "abc # ours", "team-*")
        paths = self.write("paths", "/wp-admin*")
        stage = self.stage(
            {"file": networks},
            {
                "paths": ["/api/*"],
                "file": keys,
                "of": "header:X-Key",
                "unlisted": True,
                "status": 401,
            },
            {"file": paths, "of": "path", "status": 404},
        )
        self.assertEqual(
            [200, 401, 401, 200, 200, 404, 404],
            self.statuses(
                stage,
                ("/a",),
                ("/api/a",),
                ("/api/a", "X-Key: abcd"),
                ("/api/a", "X-Key: abc"),
                ("/api/a", "X-Key: team-7"),
                ("/wp-admin/x",),
                ("//%77p-admin/x",),
            ),
        )

    def test_changed_lists(self) -> None:
        """A changed file holds within seconds, also for what is in memory."""
        networks = self.write("networks", "10.0.0.0/8")
        stage = self.stage({"file": networks})
        self.assertEqual([200, 200], self.statuses(stage, ("/a",), ("/a",)))

        self.write("networks", *(f"10.{n >> 8}.{n & 255}.0/24" for n in range(3000)))
        stage.pass_time(LOOK_SECONDS + 1)
        self.assertEqual([200], self.statuses(stage, ("/a",)))

        self.write("networks", "192.0.2.0/24")
        stage.pass_time(LOOK_SECONDS + 1)
        self.assertEqual([403], self.statuses(stage, ("/a",)))

    def test_bad_changes(self) -> None:
        """A file that becomes wrong, or is gone, leaves the list as it was."""
        networks = self.write("networks", "192.0.2.0/24")
        stage = self.stage({"file": networks})
        self.write("networks", "10.0.0.0/8", "10.0.0.0/99")
        stage.pass_time(LOOK_SECONDS + 1)

        self.assertEqual([403], self.statuses(stage, ("/a",)))
        (problem,) = stage.proxy.report()["modules"]["Blocker"]["lists"].values()
        self.assertTrue(problem.startswith(f"{networks}:2: "), problem)

        os.unlink(networks)
        stage.pass_time(LOOK_SECONDS + 1)
        self.assertEqual([403], self.statuses(stage, ("/a",)))

    def test_page(self) -> None:
        """Operators' own page for what is refused."""
        module = ModuleConfig("Blocker", {"rules": [{"paths": ["/x"]}]})
        stage = Stage(
            self,
            first=(module,),
            modules={"Exceptions": {"request_blocked": {"content": "Not you."}}},
        )
        answer = stage.get("/x")
        self.assertEqual((403, b"Not you."), (answer.status, answer.body))

    def test_mistakes(self) -> None:
        """What is wrong is told at once, with its place."""
        bad = self.write("bad", "10.0.0.0/8", "nonsense")
        for rule, expected in (
            ({}, "rules[0]: this would refuse everything"),
            ({"file": bad}, f"rules[0]: {bad}:2: "),
            ({"file": "/no/such"}, "rules[0]: /no/such: No such file"),
            ({"file": bad, "of": "moon"}, 'rules[0]: of: "moon" is not'),
            ({"networks": ["x"]}, "rules[0]: 'x' does not appear"),
            ({"paths": ["/"], "status": 200}, "rules[0].status: 200 is less"),
        ):
            with self.assertRaises(ConfigProblems) as caught:
                self.stage(rule)
            self.assertIn(expected, str(caught.exception))


class ListFileTests(Directory):
    """Reading long lists."""

    def test_a_little_at_a_time(self) -> None:
        """A long list is read over many turns; until the end the old one holds."""
        path = self.write("list", "old")
        values = ListFile(Path(path), of_networks=False)
        values.read()
        self.write("list", *(f"name-{n}" for n in range(5000)))
        self.assertTrue(values.changed())
        clock, done = Clock(), list[str]()
        values.reread(clock, lambda: done.append("done"))
        self.assertTrue(values.values.has("old"))
        self.assertFalse(done)
        clock.advance(0)

        self.assertTrue(done)
        self.assertEqual(5000, len(values.values))
        self.assertFalse(values.changed())

    def test_changed_while_being_read(self) -> None:
        """What was begun to be read before is not what holds in the end."""
        path = self.write("list", "old")
        values = ListFile(Path(path), of_networks=False)
        values.read()
        clock, done = Clock(), list[str]()
        self.write("list", *(f"name-{n}" for n in range(5000)))
        values.reread(clock, lambda: done.append("first"))
        self.write("list", "new")
        values.reread(clock, lambda: done.append("second"))
        clock.advance(0)

        self.assertEqual(["second"], done)
        self.assertTrue(values.values.has("new") and len(values.values) == 1)

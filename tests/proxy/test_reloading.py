"""Rules from files that are exchanged while the proxy runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from clinfra.config import ModuleConfig
from clinfra.errors import ConfigProblems
from tests.proxy.stage import Stage, response
from tests.proxy.test_blocker import Directory

FRESH = "Cache-Control: max-age=600"

GREETER = (
    "from clinfra.proxy.rules import RuleModule",
    "from clinfra.proxy.message import Reply",
    "class Greeter(RuleModule):",
    "    head_only = True",
    "    stopped = 0",
    "    def received(self, request):",
    "        if request.path == '/hi':",
    "            return Reply(200, body=b'GREETING')",
    "    def stop(self):",
    "        Greeter.stopped += 1",
)


class ReloadTests(Directory):
    """All or nothing, and nobody is cut off."""

    def stage(self, **more: Any) -> Stage:
        """Return a stage that runs with these rules."""
        stage = Stage(
            self,
            more.pop("script", lambda asked: response(b"page", FRESH)),
            rules_dir=str(self.directory),
            **more,
        )
        stage.proxy.startService()
        self.addCleanup(stage.proxy.stopService)
        return stage

    def greet(self, greeting: str) -> None:
        """Write a module that greets so."""
        lines = [line.replace("GREETING", greeting) for line in GREETER]
        self.write("greeter.py", *lines)

    def problems(self, stage: Stage) -> list[str]:
        """Return what the report says is wrong."""
        found: list[str] = stage.proxy.report()["rules"]["problems"]
        return found

    def test_python(self) -> None:
        """A changed module takes the place of the old one, which is stopped."""
        self.greet("one")
        stage = self.stage()
        old = stage.proxy.pipeline.modules[0]
        self.assertEqual(b"one", stage.get("/hi").body)

        self.greet("two")
        stage.pass_time(3)

        self.assertEqual(b"two", stage.get("/hi").body)
        self.assertEqual((1, 0), (old.stopped, stage.proxy.pipeline.modules[0].stopped))

        (self.directory / "greeter.py").unlink()
        stage.pass_time(3)
        self.assertEqual(b"page", stage.get("/hi").body)
        self.assertEqual(2, stage.proxy.report()["rules"]["reloads"])

    def test_old_imports(self) -> None:
        """What was imported from files that are another now is let go of."""

        def imported() -> int:
            return sum(
                str(self.directory) in str(getattr(module, "__file__", ""))
                for module in list(sys.modules.values())
            )

        self.greet("one")
        stage = self.stage()
        for greeting in ("two", "three"):
            self.greet(greeting)
            stage.pass_time(3)
            self.assertEqual(1, imported())
        self.assertEqual(b"three", stage.get("/hi").body)

    def test_options(self) -> None:
        """TOML files add to what modules are told; what is in memory obeys at once."""
        stage = self.stage(
            modules={"Redirector": {"moves": [["/old$", "/old", "/new"]]}}
        )
        self.assertEqual([200, 200], [stage.get("/a").status for _ in range(2)])
        cache = stage.proxy.report()["modules"]["DirectCache"]["entries"]

        self.write(
            "10-moves.toml",
            "[Redirector]",
            'moves = [["/a$", "/a", "/b"]]',
            "[[Redirector.rules]]",
            'paths = ["/tea"]',
            "status = 410",
        )
        self.write("20-block.toml", "[[Blocker.rules]]", 'paths = ["/x"]')
        stage.pass_time(3)

        statuses = [stage.get(path).status for path in ("/a", "/old", "/tea", "/x")]
        self.assertEqual([301, 301, 410, 403], statuses)
        report = stage.proxy.report()
        self.assertEqual([], report["rules"]["problems"])
        self.assertEqual(cache, report["modules"]["DirectCache"]["entries"])

    def test_bad_files(self) -> None:
        """The old rules stay while anything is wrong, and the report says what."""
        self.greet("one")
        stage = self.stage()
        for name, lines, expected in (
            ("bad.py", ("import os", "this is no Python"), "bad.py:2: "),
            ("bad.toml", ("[Redirector]", "moves = ["), "bad.toml:"),
            (
                "bad.toml",
                ("[Redirector]", 'moves = [["(", "a", "b"]]'),
                "bad.toml: Redirector.moves[0]: '(' is not a regular expression",
            ),
            ("bad.toml", ("[Redirect]",), "bad.toml: Redirect: there is no rule"),
            ("bad.toml", ("[[Redirector.rules]]", "x = 1"), "rules[0].x: there is no"),
            ("bad.toml", ("x = 1",), "bad.toml: x: tables"),
            ("bad.toml", ("[DirectCache]", "grace = 1"), "DirectCache"),
        ):
            self.greet(expected[:5])
            self.write(name, *lines)
            stage.pass_time(3)

            self.assertEqual(b"one", stage.get("/hi").body, expected)
            self.assertIn(expected, "\n".join(self.problems(stage)))
            Path(self.directory / name).unlink()
        self.flushLoggedErrors()
        self.greet("fine")
        stage.pass_time(3)
        self.assertEqual(b"fine", stage.get("/hi").body)
        self.assertEqual([], self.problems(stage))

    def test_fixed_modules(self) -> None:
        """Modules that hold what must not be lost are not exchanged; it says so."""
        stage = self.stage()
        self.write("cache.toml", "[DirectCache]", 'pass_ttl = "9s"')
        stage.pass_time(3)

        (problem,) = self.problems(stage)
        self.assertIn("DirectCache is set up once, at start", problem)

    def test_modules_that_cannot_start(self) -> None:
        """One that raises when it is set up or started changes nothing."""
        self.greet("one")
        stage = self.stage()
        for hook in ("attach(self, surroundings)", "start(self)"):
            self.write(
                "broken.py",
                "class Broken:",
                "    def received(self, request): return None",
                f"    def {hook}: raise ValueError('no luck')",
            )
            stage.pass_time(3)
            (problem,) = self.problems(stage)
            self.assertIn("no luck", problem)
            self.assertEqual(b"one", stage.get("/hi").body)

    def test_requests_under_way(self) -> None:
        """They end by the rules they began with; the old are stopped after them."""
        self.write(
            "stamp.py",
            "class Stamp:",
            "    stopped = False",
            "    def stop(self): self.stopped = True",
            "    def response(self, request): request.reply.set(b'X-Rules', b'old')",
        )
        stage = self.stage(script=lambda asked: None)
        old = stage.proxy.pipeline.modules[0]
        client = stage.ask("/a")
        (self.directory / "stamp.py").unlink()
        stage.pass_time(3)
        self.assertEqual((1, False), (stage.proxy.pipeline.active, old.stopped))

        stage.asked[0].line.send(response(b"late"))
        stage.turn()
        (answer,) = client.answers()

        self.assertEqual("old", answer.fields["X-Rules"])
        self.assertEqual((0, True), (stage.proxy.pipeline.active, old.stopped))

    def test_state_stays(self) -> None:
        """A module whose class and options are the same is the same."""
        module = ModuleConfig("Throttler", {"limits": [{"rate": 0.1}]})
        stage = self.stage(first=(module,))
        self.assertEqual(200, stage.get("/a").status)
        self.greet("one")
        stage.pass_time(3)

        self.assertEqual(b"one", stage.get("/hi").body)
        self.assertEqual(429, stage.get("/a").status)

    def test_at_start(self) -> None:
        """What is wrong in a file at start is a start-up error with file and line."""
        self.write("bad.toml", "[Redirector]", "", "moves = [[")
        with self.assertRaises(ConfigProblems) as caught:
            self.stage()
        self.assertIn("bad.toml:3: ", str(caught.exception))

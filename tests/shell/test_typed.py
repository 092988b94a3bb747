"""What is typed: usage, answers in JSON, and completion."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from clinfra.cli import main

CHECK_KIND = "proxy.pools.NAME.check.kind"


class Typing(SynchronousTestCase):
    """Runs commands in this process."""

    def typed(self, *words: str, status: int = 0) -> str:
        """Return what is printed."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                got = main(words)
            except SystemExit as end:
                assert isinstance(end.code, int)
                got = end.code
        self.assertEqual(status, got, f"{words}: {out.getvalue()}{err.getvalue()}")
        return out.getvalue()

    def json(self, *words: str, status: int = 0) -> Any:
        """Return what is printed as JSON."""
        return json.loads(self.typed(*words, "--json", status=status))


class TypedTests(Typing):
    """`clinfra …`."""

    def test_usage(self) -> None:
        """Exit status 2 for what cannot be meant."""
        for words in (
            ("bench", "no URL"),
            ("bench", "http://x/", "--put-file", "/none/such"),
            ("bench", "http://x/", "--seconds", "-1"),
            ("bench", "http://x/", "--header", "none"),
            ("status", "--watch", "soon"),
            ("completion", "csh"),
            ("explain", "ftp://x/"),
            ("proxy", "modules", "Nobody"),
            (),
        ):
            self.typed(*words, status=2)

    def test_explain(self) -> None:
        """The lines that people see, for programs."""
        told = self.json("explain", "http://x.example/")

        self.assertEqual("http://x.example/", told["url"])
        self.assertEqual("GET http://x.example/", told["lines"][0])

    def test_check(self) -> None:
        """Whether it is good, and if not why."""
        self.assertEqual({"good": True, "problems": []}, self.json("check"))
        told = self.json("check", "--set", "blob.colour=1", status=1)
        self.assertEqual(["--set: blob.colour: there is no such key"], told["problems"])

    def test_config(self) -> None:
        """Every key has its name, its default and its sentence."""
        keys = {each["name"]: each for each in self.json("config")}

        self.assertEqual('"128MiB"', keys["proxy.cache.hot_bytes"]["default"])
        self.assertIsNone(keys["blob.ttl"]["default"])
        self.assertEqual(["off", "http", "tcp"], keys[CHECK_KIND]["choices"])
        self.assertIn("proxy.routes[].prefix", keys)

    def test_sign(self) -> None:
        """An address, and until when it holds."""
        key = 'image.signing_keys=["sixteen bytes at least"]'
        words = ("image", "sign", "--set", key, "/000_x/640x")
        plain = self.typed(*words).strip()

        self.assertEqual({"address": plain, "expires": None}, self.json(*words))

    def test_modules(self) -> None:
        """What a rule module is for and what it is told."""
        told = self.json("proxy", "modules", "Throttler")["Throttler"]

        self.assertTrue(told["about"].startswith("Throttler: "))
        self.assertIn("limits[].rate", {each["name"] for each in told["options"]})


class CompletionTests(Typing):
    """`clinfra completion`."""

    def test_every_shell(self) -> None:
        """Each of them has a script that knows the commands."""
        for shell in ("bash", "zsh", "fish"):
            self.assertIn("doctor", self.typed("completion", shell))

    def test_bash(self) -> None:
        """It completes commands, options, and commands of commands."""
        directory = tempfile.mkdtemp(prefix="clinfra-test-")
        self.addCleanup(shutil.rmtree, directory)
        script = Path(directory) / "clinfra"
        script.write_text(self.typed("completion", "bash"), encoding="utf-8")
        for words, offered in (
            (("clinfra", "stat"), "status"),
            (("clinfra", "status", "--wat"), "--watch"),
            (("clinfra", "blob", "reb"), "rebuild-index"),
        ):
            self.assertEqual([offered], completed(script, *words))


def completed(script: Path, *words: str) -> list[str]:
    """Return what bash offers for the last of these words."""
    line = " ".join(words)
    commands = (
        f"source {script}; COMP_WORDS=({line}); COMP_CWORD={len(words) - 1};"
        f" COMP_LINE='{line}'; COMP_POINT=${{#COMP_LINE}};"
        ' $(complete -p clinfra | grep -o "_shtab[a-z_]*") clinfra;'
        " printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    done = subprocess.run(
        ["bash", "-c", commands], capture_output=True, text=True, check=True
    )
    return done.stdout.split()

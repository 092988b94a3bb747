"""`clinfra image sign` prints addresses that the service takes."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from clinfra.cli import main
from clinfra.image.signing import Keys
from tests.image.support import new_directory

KEY = "a key of good length"


class SignTests(SynchronousTestCase):
    def run_command(self, *arguments: str, key: str = KEY) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        given = ["--set", f'image.signing_keys=["{key}"]'] if key else []
        with redirect_stdout(out), redirect_stderr(err):
            try:
                status = main(["image", "sign", *arguments, *given])
            except SystemExit as stop:
                status = int(str(stop.code))
        return status, out.getvalue(), err.getvalue()

    def verify(self, line: str) -> int | None:
        path, _, query = line.strip().encode().partition(b"?")
        return Keys.of([KEY]).verify(path, query, time.time())

    def test_sign(self) -> None:
        """An address holds for ever, or as long as it is told to."""
        status, line, _ = self.run_command("/000_abxyl0kjyow/640x_webp")
        self.assertEqual(0, status)
        self.assertTrue(line.startswith("/000_abxyl0kjyow/640x_webp?s="))
        self.assertIsNone(self.verify(line))
        for text in ("1h", "3600"):
            _, line, _ = self.run_command("/000_x/640x.png", "--expires", text)
            expires = self.verify(line)
            assert expires is not None
            self.assertTrue(3590 < expires - time.time() <= 3600)

    def test_fetch(self) -> None:
        """Addresses of elsewhere are quoted, so that nothing of them is lost."""
        url = "https://example.com/a b.jpg?x=1&y=2#z"
        status, line, _ = self.run_command("640x", "--fetch", url)
        self.assertEqual(0, status)
        self.assertIn("/fetch/640x/https%3A%2F%2Fexample.com%2Fa%20b.jpg%3Fx%3D1", line)
        self.verify(line)

    def test_presets(self) -> None:
        """Presets can be signed by their names."""
        preset = ("--set", 'image.presets={card = "64x"}')
        self.assertEqual(0, self.run_command("/000_x/card.webp", *preset)[0])

    def test_refused(self) -> None:
        """What would not be taken is not signed."""
        for arguments, sentence in (
            (("/000_x/640x_nonsense",), "nonsense"),
            (("640x",), "not a path"),
            (("/000_x/640x", "--fetch", "https://example.com/"), "PATH a recipe"),
            (("640x", "--fetch", "file:///etc/passwd"), "http or https"),
            (("/000_x/640x", "--expires", "soon"), "duration"),
        ):
            status, line, words = self.run_command(*arguments)
            self.assertEqual((2, ""), (status, line))
            self.assertIn(sentence, words)
            self.assertNotIn(KEY, words)

    def test_keys(self) -> None:
        """Without a key, or with a bad one, the reason is told and the key is not."""
        status, _, words = self.run_command("/000_x/640x", key="")
        self.assertEqual((1, True), (status, "there is no key" in words))
        status, _, words = self.run_command("/000_x/640x", key="short")
        self.assertEqual((1, False), (status, "short" in words.split()))
        path = Path(new_directory(self), "keys")
        file = ("--set", f'image.signing_keys_file="{path}"')
        status, _, words = self.run_command("/000_x/640x", *file)
        self.assertEqual((1, True), (status, "signing_keys_file" in words))
        path.write_text("another key, newer\n")
        _, line, _ = self.run_command("/000_x/640x", *file)
        signed = Keys.of(["another key, newer"]).sign(b"/000_x/640x").decode()
        self.assertEqual(signed, line.strip())

"""The lists of what may be asked for are checked before anything starts."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import ImageConfig
from clinfra.errors import ConfigProblems
from clinfra.image.allowed import Allowed
from clinfra.image.service import check
from tests.image.support import new_directory


class AllowedTests(SynchronousTestCase):
    def test_problems(self) -> None:
        """Everything that is wrong is told at once, with its key."""
        config = ImageConfig(
            presets={"card": "huge", "info": "64x", "a/b": "64x", "vast": "9999x9999c"},
            recipes=("64x", "64x_nonsense", "0x0"),
            auto_formats=("webp", "png"),
            signing_keys=("short",),
            mezzanine="300x_webp,900x900,900x900,9000x9000",
            fetch_hosts=("example.com", "https://example.com/"),
            signing_keys_file="/nowhere/at/all",
        )
        problems = self.assertRaises(ConfigProblems, check, config).problems
        for words in (
            "image.presets.card: 'huge'",
            "image.presets: 'info'",
            "image.presets: 'a/b'",
            "image.presets.vast: '9999x9999c'",
            "image.recipes: '64x_nonsense'",
            "image.recipes: '0x0'",
            "image.auto_formats: 'png'",
            "image.signing_keys: a key has",
            "image.mezzanine: 300x_webp is not a JPEG",
            "image.mezzanine: 300x_webp lacks a side",
            "image.mezzanine: 900x900 is not smaller",
            "image.mezzanine: 9000x9000 is over",
            "image.signing_keys_file: No such file",
            "image.fetch_hosts: 'https://example.com/'",
        ):
            self.assertTrue(any(words in each for each in problems), words)
        self.assertFalse(any("'short'" in each for each in problems))

    def test_unsigned_fetches(self) -> None:
        """What only signed addresses can use needs a key."""
        config = ImageConfig(fetch_hosts=("example.com",))
        problems = self.assertRaises(ConfigProblems, check, config).problems
        self.assertIn("image.signing_keys", problems[0])

    def test_keys_file(self) -> None:
        """Keys come from a file, one in each line, and before those configured."""
        path = Path(new_directory(self), "keys")
        path.write_text("the newest key of all\n\nthe newer key of all \n")
        config = ImageConfig(
            signing_keys_file=str(path), signing_keys=("the oldest key of all",)
        )
        allowed = check(config)
        self.assertEqual(3, len(allowed.keys))
        newest = Allowed.of(ImageConfig(signing_keys=("the newest key of all",)))
        self.assertEqual(newest.keys.sign(b"/x"), allowed.keys.sign(b"/x"))
        path.write_bytes(b"\xff" * 20)
        self.assertRaises(ConfigProblems, check, config)

    def test_secrets(self) -> None:
        """Keys are in no text that is made of a configuration."""
        config = ImageConfig(signing_keys=("the newest key of all",))
        self.assertNotIn("newest", repr(config))
        self.assertNotIn("newest", repr(check(config)))

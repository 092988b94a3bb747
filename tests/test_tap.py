"""The command line of `twistd clinfra`, and what is composed of it."""

from __future__ import annotations

import gc
import io
import tempfile
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from clinfra import config
from clinfra.daemon import Daemon
from clinfra.tap import Options, compose


class OptionsTests(SynchronousTestCase):
    """Options of the command line."""

    def test_nothing(self) -> None:
        """Without options everything has its default."""
        options = Options()
        options.parseOptions([])

        self.assertEqual(config.Config(), options.configuration)

    def test_everything(self) -> None:
        """Files and assignments in their order, and the data directory."""
        with tempfile.TemporaryDirectory(prefix="clinfra-test-") as directory:
            for name, ttl in (("x.toml", 1), ("y.toml", 2)):
                (Path(directory) / name).write_text(f"[blob]\nttl={ttl}\n")
            options = Options()
            options.parseOptions(
                [
                    *("--config", f"{directory}/x.toml", "-c", f"{directory}/y.toml"),
                    *("--set", "blob.purge_interval=3", "--data-dir", "d"),
                ]
            )

        blob = options.configuration.blob
        assert blob is not None
        self.assertEqual((2, 3), (blob.ttl, blob.purge_interval))
        self.assertEqual("d", options.configuration.data_dir)
        self.assertIsNone(options.configuration.proxy)

    def test_mistakes(self) -> None:
        """All that is wrong is told, what products find included, and no help."""
        told = io.StringIO()
        with redirect_stderr(told), self.assertRaises(SystemExit) as caught:
            Options().parseOptions(
                [
                    *("--set", "blob.ttl=x", "--set", "image.formats=['XBM']"),
                    *("--set", "proxy.modules=[{use='Odd'}]"),
                ]
            )

        self.assertEqual(1, caught.exception.code)
        lines = told.getvalue().splitlines()[1:]
        keys = [line.removeprefix("--set: ").split(": ")[0] for line in lines]
        self.assertEqual(
            ["blob.ttl", "image.formats", "proxy.modules[0].use"], sorted(keys)
        )

    def test_help(self) -> None:
        """The help shows what to type."""
        self.assertIn("twistd -n clinfra", str(Options()))


class Reactor(MemoryReactorClock):
    """Has threads in name."""

    def getThreadPool(self) -> None:
        return None

    def callFromThread(self, *arguments: Any) -> None:
        raise AssertionError("nothing runs here")


class CompositionTests(SynchronousTestCase):
    """What is put together."""

    def compose(self, **changes: Any) -> Daemon:
        self.addCleanup(gc.unfreeze)
        return compose(config.Config(**changes), reactor=Reactor())

    def test_everything(self) -> None:
        """Every part, blob first and admin last, each at its place; nothing runs."""
        daemon = self.compose(data_dir="somewhere")

        self.assertEqual(
            {
                "blob": ["tcp:8081:interface=127.0.0.1"],
                "image": ["tcp:8082:interface=127.0.0.1"],
                "proxy": ["tcp:8080:interface=127.0.0.1"],
                "admin": ["tcp:8090:interface=127.0.0.1"],
            },
            {
                part.name: [each.endpoint for each in part.listeners]
                for part in daemon.parts
            },
        )
        self.assertEqual(
            ["blob", "image", "proxy", "admin"], [part.name for part in daemon.parts]
        )
        self.assertEqual(Path("somewhere").absolute(), daemon.data_dir)
        self.assertFalse(Path("somewhere").exists())

    def test_chosen_parts(self) -> None:
        """Only what is configured is made."""
        daemon = self.compose(blob=None, image=None, admin=None)

        self.assertEqual(["proxy"], [part.name for part in daemon.parts])
        self.assertEqual({}, daemon.origins())

    def test_image_with_blobs_elsewhere(self) -> None:
        """An image service can keep its results in another process."""
        daemon = self.compose(
            image=config.ImageConfig(blob_url="http://192.0.2.1:8081/"),
            blob=None,
            proxy=None,
        )

        self.assertEqual(["image", "admin"], [part.name for part in daemon.parts])
        pulse, client = daemon.closing
        self.assertIn("Pulse", repr(pulse))
        self.assertIn("BlobClient", repr(client))

    def test_access_log_is_optional(self) -> None:
        """[logging] access = false , and nobody who counts: sites tell nobody."""
        for wanted in (True, False):
            daemon = self.compose(
                logging=config.LoggingConfig(access=wanted),
                admin=config.AdminConfig(metrics=wanted),
            )

            for part in daemon.parts:
                assert part.site is not None
                self.assertEqual(wanted, part.site.access_log is not None)

    def test_log_that_cannot_be_written(self) -> None:
        """A log file that cannot be opened ends the process at once."""
        with self.assertRaises(SystemExit) as caught:
            self.compose(logging=config.LoggingConfig(file="/dev/null/log"))

        self.assertEqual(1, caught.exception.code)

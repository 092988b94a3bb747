"""What is installed is what a user needs, and twistd sees it."""

from __future__ import annotations

import subprocess
import sys
from configparser import ConfigParser
from importlib.metadata import entry_points, metadata
from pathlib import Path

from twisted.application.reactors import IReactorInstaller
from twisted.application.service import IServiceMaker, ServiceMaker
from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent
TWISTD = Path(sys.executable).with_name("twistd")


def run(*command: str) -> str:
    """Return what a command prints; it must succeed."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout


def read_setup() -> ConfigParser:
    """Return what the distribution is made by."""
    config = ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


class PackagingTests(SynchronousTestCase):
    """The installed distribution."""

    def test_metadata(self) -> None:
        """Name, licence, Python and the packages everything stands on."""
        about = metadata("clinfra")

        self.assertEqual("clinfra", about["Name"])
        self.assertEqual("Apache-2.0", about["License-Expression"] or about["License"])
        self.assertEqual(">=3.11", about["Requires-Python"])
        needed = " ".join(about.get_all("Requires-Dist") or ())
        for name in ("Twisted", "treq", "Pillow", "pymemcache", "attrs"):
            self.assertIn(name, needed)

    def test_packages(self) -> None:
        """Every package is named: one that is not would be installed nowhere."""
        named = read_setup()["options"]["packages"].split()
        there = {
            ".".join(path.parent.relative_to(ROOT).parts)
            for path in (ROOT / "clinfra").rglob("*.py")
        }

        self.assertEqual(sorted({*there, "twisted.plugins"}), sorted(named))

    def test_data(self) -> None:
        """Every file that is no module is named as data of its package."""
        named = {
            (package, name)
            for package, names in read_setup()["options.package_data"].items()
            for name in names.split()
        }
        there = {
            (".".join(path.parent.relative_to(ROOT).parts), path.name)
            for path in (ROOT / "clinfra").rglob("*.*")
            if path.suffix not in (".py", ".pyc")
        }

        self.assertEqual(there, named)

    def test_command(self) -> None:
        """The `clinfra` command is there."""
        (command,) = entry_points(group="console_scripts", name="clinfra")

        self.assertEqual("clinfra.cli:main", command.value)

    def test_plugins(self) -> None:
        """The service and the reactor are named, not loaded."""
        services = {
            each.tapname: each
            for each in getPlugins(IServiceMaker)
            if isinstance(each, ServiceMaker)
        }
        reactors = {each.shortName for each in getPlugins(IReactorInstaller)}

        self.assertEqual("clinfra.tap", services["clinfra"].module)
        self.assertIn("clinfra", reactors)

    def test_twistd_lists_it(self) -> None:
        """`twistd --help` names the command and the reactor."""
        self.assertIn("Blob store, image service", run(str(TWISTD), "--help"))
        self.assertIn("lean poll loop", run(str(TWISTD), "--help-reactors"))

    def test_help(self) -> None:
        """`twistd clinfra --help` explains options, defaults and examples."""
        text = run(str(TWISTD), "clinfra", "--help")

        for each in ("--config", "--set", "--data-dir", "8080", "Examples:"):
            self.assertIn(each, text)

    def test_help_imports_no_product(self) -> None:
        """Asking for help loads no product and installs no reactor."""
        code = (
            "import sys; from clinfra.tap import Options; str(Options());"
            "print([m for m in sys.modules if m.startswith(('clinfra.blob.',"
            "'clinfra.image.', 'clinfra.proxy.', 'PIL')) or m == "
            "'twisted.internet.reactor'])"
        )

        self.assertEqual("[]\n", run(sys.executable, "-c", code))

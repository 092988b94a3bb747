"""The reference of the configuration says what holds."""

from __future__ import annotations

import contextlib
import re
import tempfile
import textwrap
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from clinfra import config
from clinfra.reference import reference
from clinfra.settings import load
from clinfra.tap import check

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "etc" / "clinfra.toml"


class ReferenceTests(SynchronousTestCase):
    """etc/clinfra.toml."""

    def test_up_to_date(self) -> None:
        """The file is what `clinfra config` prints."""
        self.assertEqual(
            reference(),
            REFERENCE.read_text(encoding="utf-8"),
            "run: clinfra config > etc/clinfra.toml",
        )

    def test_means_the_defaults(self) -> None:
        """Running with the reference is running without any file."""
        self.assertEqual(config.Config(), load([REFERENCE]))

    def test_examples_are_good(self) -> None:
        """What stands in comments as examples can be uncommented."""
        text = "\n".join(
            line[line.rindex("# ") + 2 :] if line.startswith("# ") else line
            for line in REFERENCE.read_text(encoding="utf-8").splitlines()
            if re.fullmatch(r"(?:# ){0,2}(?:\[.*\]|\w+ = .+)", line)
        )
        with tempfile.TemporaryDirectory(prefix="clinfra-test-") as directory:
            path = Path(directory) / "x.toml"
            path.write_text(text, encoding="utf-8")
            result = load([path])

        assert result.proxy is not None
        self.assertEqual(config.ProxyConfig().routes, result.proxy.routes)
        self.assertEqual(config.ProxyConfig().modules, result.proxy.modules)
        self.assertEqual({"NAME": config.PoolConfig()}, result.proxy.pools)

    def test_the_readmes_configuration(self) -> None:
        """What the README shows as a configuration is a good one, where it is run."""
        readme = (ROOT / "README.rst").read_text(encoding="utf-8")
        blocks = re.findall(r"code-block:: toml\n\n((?:    .*\n|\n)+)", readme)

        with (
            tempfile.TemporaryDirectory(prefix="clinfra-test-") as directory,
            contextlib.chdir(directory),
        ):
            for text in blocks:
                path = Path("x.toml")
                path.write_text(textwrap.dedent(text), encoding="utf-8")
                load([path], check=check)
        self.assertEqual(1, len(blocks))

    def test_every_key_has_a_sentence(self) -> None:
        """Every key is told in one sentence, with its full stop."""
        for each in vars(config).values():
            for field in getattr(each, "__attrs_attrs__", ()):
                doc = field.metadata.get("doc")
                if doc is not None:
                    self.assertTrue(doc.endswith("."), f"{each.__name__}.{field.name}")

"""Finding and making rule modules, and everything that can be wrong with them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.plugin import getPlugins
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import (
    CacheConfig,
    ModuleConfig,
    Pattern,
    PoolConfig,
    ProxyConfig,
    RouteConfig,
)
from clinfra.errors import ConfigProblems
from clinfra.proxy.loading import BUILT_IN, check_modules, load_modules
from clinfra.proxy.rules import RuleModuleMaker
from tests.proxy.stage import Stage
from tests.support import ROOT

SAMPLE = ROOT / "etc" / "rules.d" / "example.py.sample"


class LoadingTests(SynchronousTestCase):
    """Each way to name a module."""

    def setUp(self) -> None:
        self.rules_dir = Path(self.mktemp())
        self.rules_dir.mkdir(parents=True)
        self.addCleanup(shutil.rmtree, self.rules_dir.parts[0])

    def write(self, name: str, *lines: str) -> Path:
        """Write a file of rules."""
        path = self.rules_dir / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    def load(self, *uses: str, **options: Mapping[str, Any]) -> list[Any]:
        """Load modules."""
        configs = tuple(ModuleConfig(use, options.get(use, {})) for use in uses)
        return load_modules(configs, str(self.rules_dir), lambda: PLUGINS)

    def problems(self, *uses: str, **options: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with modules."""
        with self.assertRaises(ConfigProblems) as caught:
            self.load(*uses, **options)
        return list(caught.exception.problems)

    def test_built_in(self) -> None:
        """Every built-in module is found by its name and needs no options."""
        names = [type(module).__name__ for module in self.load(*BUILT_IN)]

        self.assertEqual(list(BUILT_IN), names)

    def test_dotted_path(self) -> None:
        """A class anywhere on the Python path."""
        (module,) = self.load("clinfra.proxy.modules.welcome.Welcome")

        self.assertEqual("Welcome", type(module).__name__)

    def test_plugin(self) -> None:
        """A Twisted plug-in gives a class a name."""
        (module,) = self.load("Hello")

        self.assertEqual("Welcome", type(module).__name__)

    def test_plugin_package(self) -> None:
        """Plug-ins are found in any clinfra/plugins directory on the Python path."""
        place = self.rules_dir / "clinfra" / "plugins"
        place.mkdir(parents=True)
        (place / "ours.py").write_text(
            "from clinfra.proxy.rules import RuleModuleMaker\n"
            "hi = RuleModuleMaker('Hi', 'clinfra.proxy.modules.welcome.Welcome')\n",
            encoding="utf-8",
        )
        code = (
            "from clinfra.proxy.loading import load_modules, rule_plugins\n"
            "from clinfra.config import ModuleConfig\n"
            "print(load_modules((ModuleConfig('Hi'),), '', rule_plugins))\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONPATH": f"{self.rules_dir.resolve()}:{ROOT}"},
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertIn("Welcome", run.stdout, run.stderr)

    def test_drop_in(self) -> None:
        """Classes dropped into rules_dir run first; named ones in their place."""
        self.write("b.py", "class Late:", "  def received(self, request): pass")
        self.write(
            "a.py",
            "class Early:",
            "  def received(self, request): pass",
            "class NoRule: pass",
        )
        names = [type(module).__name__ for module in self.load("Welcome")]
        self.assertEqual(["Early", "Late", "Welcome"], names)
        for named in ("Late", "b.py:Late"):
            names = [type(module).__name__ for module in self.load("Welcome", named)]
            self.assertEqual(["Early", "Welcome", "Late"], names)

    def test_options(self) -> None:
        """A class with a Config is made with one of its table."""
        self.write(
            "a.py",
            "from attrs import frozen",
            "from clinfra.config import Seconds, key",
            "@frozen",
            "class Options:",
            "  wait: Seconds = key(1, 'How long.')",
            "class Slow:",
            "  Config = Options",
            "  def __init__(self, config): self.config = config",
            "  def received(self, request): pass",
        )
        (module,) = self.load("Slow", Slow={"wait": "2m"})
        self.assertEqual(120, module.config.wait)

        (problem,) = self.problems("Slow", Slow={"wait": "soon", "wiat": 3})[:1]
        self.assertTrue(problem.startswith("proxy.modules[0].wait: "), problem)

    def test_problems_come_together(self) -> None:
        """Everything wrong is told at once, with its place."""
        bad = self.write("bad.py", "import os", "this is no Python")
        broken = self.write("broken.py", "import os", "", "raise KeyError('x')")
        problems = self.problems(
            "Nope",
            "no.such.module.Class",
            "clinfra.proxy.modules.welcome.Nobody",
            "missing.py:X",
            "Redirector",
            "Welcome",
            "",
            Redirector={"moves": [["(", "a", "b"], ["a"]], "hm": 1},
            Welcome={"colour": "red"},
        )
        text = "\n".join(problems)
        for expected in (
            f"{bad.resolve()}:2: ",
            f"{broken.resolve()}:3: KeyError",
            'proxy.modules[0].use: there is no rule module "Nope"',
            "proxy.modules[1].use: ",
            "proxy.modules[2].use: there is no Nobody in ",
            "proxy.modules[3].use: there is no file ",
            "proxy.modules[4].hm: ",
            "proxy.modules[5]: Welcome has no options, but here are colour",
            "proxy.modules[6].use: which module?",
        ):
            self.assertIn(expected, text)

    def test_pools_routes_and_networks(self) -> None:
        """So is what is wrong outside the modules."""
        config = ProxyConfig(
            pools={"p": PoolConfig(members=("a", "b:80=x"))},
            routes=(
                RouteConfig(pool="q", match=Pattern("x")),
                RouteConfig(pool="p"),
            ),
            default_pool="r",
            trusted_proxies=("10.0.0.0/99",),
            cache=CacheConfig(memcached=("nowhere",)),
        )
        with self.assertRaises(ConfigProblems) as caught:
            check_modules(config)
        places = [problem.partition(": ")[0] for problem in caught.exception.problems]
        self.assertEqual(
            [
                "proxy.pools.p.members[0]",
                "proxy.pools.p.members[1]",
                "proxy.routes[0].pool",
                "proxy.routes[1]",
                "proxy.default_pool",
                "proxy.trusted_proxies[0]",
                "proxy.cache.memcached[0]",
            ],
            places,
        )

    def test_placement_that_is_not_known(self) -> None:
        """BlobForwarder needs a cluster file; that shows before anything runs."""
        with self.assertRaises(ConfigProblems):
            Stage(self, modules={"BlobForwarder": {"match": ["x"]}})

    def test_sample(self) -> None:
        """The sample in etc/rules.d works when it is dropped in."""
        shutil.copy(SAMPLE, self.rules_dir / "teapot.py")
        stage = Stage(self, rules_dir=str(self.rules_dir))

        coffee, other = stage.get("/coffee"), stage.get("/other")

        self.assertEqual((418, b"I'm a teapot.\n"), (coffee.status, coffee.body))
        self.assertEqual("short and stout", other.fields["X-Pot"])
        self.assertEqual(200, other.status)


PLUGINS = [RuleModuleMaker("Hello", "clinfra.proxy.modules.welcome.Welcome")]


class ImportTests(SynchronousTestCase):
    """What importing does."""

    def test_no_reactor(self) -> None:
        """Importing the service installs no reactor."""
        code = (
            "import sys, clinfra.proxy.service\n"
            "print('twisted.internet.reactor' in sys.modules)\n"
        )
        run = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        self.assertEqual("False\n", run.stdout)

    def test_plugin_directory(self) -> None:
        """Our own plug-in directory is empty, and can be asked."""
        import clinfra.plugins
        from clinfra.interfaces import IRuleModuleMaker

        self.assertEqual([], list(getPlugins(IRuleModuleMaker, clinfra.plugins)))

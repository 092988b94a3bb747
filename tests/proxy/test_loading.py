"""Finding and making rule modules, and everything that can be wrong with them."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import ref

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
from tests.proxy.stage import Stage, response
from tests.support import ROOT

SAMPLE = ROOT / "etc" / "rules.d" / "example.py.sample"


class RulesDirectory(SynchronousTestCase):
    """A directory of rules."""

    def setUp(self) -> None:
        self.rules_dir = Path(self.mktemp())
        self.rules_dir.mkdir(parents=True)
        self.addCleanup(shutil.rmtree, self.rules_dir.parts[0])

    def write(self, name: str, *lines: str) -> Path:
        """Write a file of rules."""
        path = self.rules_dir / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path


class LoadingTests(RulesDirectory):
    """Each way to name a module."""

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

    def test_when(self) -> None:
        """A module is asked only about what its table says it is for."""
        stage = Stage(
            self,
            lambda asked: response(b"x", "Cache-Control: max-age=60"),
            first=(
                ModuleConfig(
                    "Redirector",
                    {
                        "when": {"hosts": ["*.example.com"], "networks": ["::/0"]},
                        "moves": [["^", "^.*$", "/never"]],
                    },
                ),
                ModuleConfig(
                    "Redirector",
                    {
                        "when": {"paths": ["/a"], "networks": ["192.0.2.0/24"]},
                        "moves": [["^", "^.*$", "example.com/b"]],
                    },
                ),
            ),
        )
        statuses = [stage.get(path).status for path in ("/a", "/b", "/b", "/a")]
        self.assertEqual([301, 200, 200, 301], statuses)
        self.assertGreater(stage.proxy.pipeline.hits + len(stage.asked), 0)
        self.assertIn("Redirector", type(stage.proxy.pipeline.modules[0]).__name__)

        for when, expected in (
            ({"host": ["x"]}, "proxy.modules[0].when.host: there is no such key"),
            ({"paths": ["~("]}, "proxy.modules[0].when: '(' is not a regular"),
            ({"match": "("}, "proxy.modules[0].when.match: '(' is not a regular"),
            ({"networks": ["x"]}, "proxy.modules[0]"),
            ("/a", "proxy.modules[0].when: a table is needed"),
        ):
            options = {"Welcome": {"when": when}}
            self.assertIn(expected, self.problems("Welcome", **options)[0])

    def test_when_takes_too_long(self) -> None:
        """A condition that is given up is answered 400, by whatever pages there are."""
        stage = Stage(
            self, modules={"Exceptions": {"when": {"match": "(a|aa)+$(?!x)"}}}
        )
        stage.dead.add("o1:80")
        self.assertEqual(503, stage.get("/" + "a" * 200 + "b").status)
        stage = Stage(
            self, modules={"Redirector": {"when": {"match": "(a|aa)+$(?!x)"}}}
        )
        self.assertEqual(200, stage.get("/b").status)

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


class SampleTests(RulesDirectory):
    """The larger samples in etc/rules.d."""

    def test_canary(self) -> None:
        """Drawn visitors keep their version, from its own pool and cache."""
        shutil.copy(SAMPLE.with_name("canary.py.sample"), self.rules_dir / "canary.py")
        self.write("canary.toml", "[Canary]", 'pool = "new"', "share = 100")
        stage = Stage(
            self,
            lambda asked: response(asked.origin.encode(), "Cache-Control: max-age=9"),
            rules_dir=str(self.rules_dir),
            pools={
                "origin": PoolConfig(members=("o1:80",)),
                "new": PoolConfig(members=("o2:80",)),
            },
        )
        drawn = stage.get("/a")
        self.assertEqual(b"o2:80", drawn.body)
        cookie = "version=new"
        self.assertTrue(drawn.fields["Set-Cookie"].startswith(cookie))
        for _ in range(3):
            again = stage.get("/a", f"Cookie: {cookie}")
            self.assertEqual(b"o2:80", again.body)
            self.assertNotIn("Set-Cookie", again.fields)
            self.assertEqual(b"o1:80", stage.get("/a", "Cookie: version=old").body)
        self.assertEqual(2, len(stage.asked))
        self.assertTrue(stage.get("/a").fields["Set-Cookie"].startswith(cookie))
        self.assertGreater(stage.proxy.pipeline.hits, 0)
        report = stage.proxy.report()["modules"]["Canary"]
        self.assertEqual({"drawn": {"new": 2, "old": 0}}, report)

        self.write("canary.toml", "[Canary]", 'pool = "nowhere"')
        with self.assertRaises(ConfigProblems):
            Stage(self, rules_dir=str(self.rules_dir))

    def test_options(self) -> None:
        """What the sample of a TOML file says is what happens."""
        sample = SAMPLE.with_name("example.toml.sample")
        shutil.copy(sample, self.rules_dir / "a.toml")
        stage = Stage(self, rules_dir=str(self.rules_dir))

        def get(target: str, *fields: str) -> tuple[int, str | None]:
            answer = stage.get(target, *fields, host="www.example.com")
            return answer.status, answer.fields["Location"]

        phone = "User-Agent: Some iPhone"
        for asked, expected in (
            (("/article/7",), (301, "http://www.example.com/news/7")),
            (("/summer-sale/x",), (410, None)),
            (("/a", phone), (302, "http://m.example.com/")),
            (("/a", phone, "Cookie: desktop=1"), (200, None)),
            (("/x/y.php",), (404, None)),
            (("/a",), (200, None)),
        ):
            self.assertEqual(expected, get(*asked), asked)
        statuses = [get(f"/search?{n}")[0] for n in range(12)]
        self.assertEqual([200] * 10 + [429] * 2, statuses)


class CheckingTests(SynchronousTestCase):
    """A configuration is only looked at, as every reload does."""

    def test_nothing_left(self) -> None:
        """Modules are gone at once, not when Python looks for circles."""
        gc.disable()
        self.addCleanup(gc.enable)
        configs = tuple(ModuleConfig(use, {}) for use in BUILT_IN)
        config = ProxyConfig(modules=configs)
        made = [ref(each.module) for each in check_modules(config)]
        self.assertEqual(len(BUILT_IN), len(made))
        self.assertEqual([], [each() for each in made if each() is not None])


class VersionsTests(RulesDirectory):
    """A file of rules is edited, again and again."""

    def test_old_ones(self) -> None:
        """Of what nobody exchanges for the next, only some versions are kept."""
        before = len(sys.modules)
        for number in range(20):
            self.write("one.py", f"NUMBER = {number}", *RULE)
            load_modules((), str(self.rules_dir))
        self.assertLess(len(sys.modules) - before, 10)


RULE = (
    "from clinfra.proxy.rules import RuleModule",
    "class One(RuleModule):",
    "    def received(self, request):",
    "        pass",
)

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

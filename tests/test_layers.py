"""The layers of the house hold: who may import whom, and who stays pure.

    tap → <product>.service → <product>.resource → <product>.* → web
                                       → logs, settings → interfaces, config, errors

Read with `ast`, so that imports inside functions count as well.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).resolve().parent.parent / "clinfra"
PRODUCTS = ("blob", "image", "proxy", "admin")
MOST_LINES = 450

GROUND = {"errors", "config", "interfaces"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "keys": set(),
    "proxy_config": {"keys"},
    "config": {"keys", "proxy_config"},
    "interfaces": {"errors"},
    "patterns": {"errors"},
    "schema": {"errors", "config", "patterns"},
    "settings": {"errors", "config", "schema"},
    "reference": {"config"},
    "web": GROUND,
    "progress": set(),
    "console": GROUND | {"web"},
    "blob": GROUND | {"web", "console", "progress"},
    "image": GROUND | {"web", "progress"},
    "proxy": GROUND | {"web", "settings", "plugins", "patterns"},
    "admin": GROUND | {"web", "console", "metrics"},
    "plugins": set(),
    "logs": GROUND,
    "syslog": GROUND | {"logs"},
    "tally": set(),
    "access_log": GROUND | {"web", "logs", "tally"},
    "metrics": GROUND | {"tally", "workers"},
    "workers": GROUND | {"web"},
    "listening": GROUND | {"web", "workers"},
    "systemd": set(),
    "daemon": GROUND | {"web", "logs", "listening", "systemd"},
    "reloading": GROUND | {"assembly", "listening", "schema", "settings", "workers"},
    "shell": GROUND | {"web", "progress"},
    "cli": GROUND
    | {"settings", "schema", "reference", "tap", "blob", "image", "proxy", "shell"},
}
"""What each room may import besides itself."""

COMPOSERS = {"tap", "assembly", ""}
"""Those who may import everything."""

IMPURE = {
    "asyncio",
    "http.client",
    "multiprocessing",
    "select",
    "selectors",
    "socket",
    "sqlite3",
    "subprocess",
    "tempfile",
    "threading",
    "twisted",
    "urllib.request",
    "zope",
}
"""What no pure module imports: other systems, other processes, other times."""

SURELY_PURE = {
    "blob.merge",
    "blob.names",
    "blob.stamps",
    "blob.topology",
    "image.accept",
    "image.allowed",
    "image.elsewhere",
    "image.geometry",
    "image.signing",
    "image.sizes",
    "image.sources",
    "image.turns",
    "proxy.freshness",
    "proxy.key",
    "patterns",
    "proxy.routes",
    "web.chunked",
    "web.conditional",
    "web.headers",
    "web.heads",
    "web.ranges",
}
"""These must say "Pure" of themselves; any module that says so is held to it."""


@frozen
class Module:
    """One file: its dotted name below clinfra, and what it imports."""

    name: str
    path: Path
    doc: str
    lines: int
    imports: frozenset[str]
    top_level: frozenset[str]

    @property
    def room(self) -> str:
        return self.name.partition(".")[0]

    @property
    def pure(self) -> bool:
        return re.search(r"(?:^|[.\n] *)Pure\b", self.doc) is not None

    def ours(self) -> Iterator[str]:
        """Yield the modules of clinfra that it imports, below clinfra."""
        for name in self.imports:
            if name.startswith("clinfra."):
                yield name.removeprefix("clinfra.")


def _imports(nodes: Iterator[ast.AST], files: set[str]) -> frozenset[str]:
    """Return full names; of `from package import module` the module's."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                ours = whole.startswith("clinfra.")
                names.add(whole if not ours or whole in files else node.module)
    return frozenset(names)


def _dotted(path: Path) -> str:
    parts = ("clinfra", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def _read() -> list[Module]:
    paths = sorted(ROOT.rglob("*.py"))
    files = {_dotted(path) for path in paths}
    modules = []
    for path in paths:
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text, str(path))
        modules.append(
            Module(
                name=_dotted(path).removeprefix("clinfra").removeprefix("."),
                path=path,
                doc=ast.get_docstring(tree) or "",
                lines=text.count("\n"),
                imports=_imports(ast.walk(tree), files),
                top_level=_imports(iter(tree.body), files),
            )
        )
    return modules


MODULES = _read()
BY_NAME = {each.name: each for each in MODULES}


class LayerTests(SynchronousTestCase):
    """Imports only point down."""

    def test_rooms(self) -> None:
        """Each room imports only rooms below it; products never one another."""
        for module in MODULES:
            if module.room in COMPOSERS:
                continue
            for name in module.ours():
                room = name.partition(".")[0]
                if room != module.room:
                    self.assertIn(room, ALLOWED[module.room], f"{module.name}: {name}")

    def test_every_room_is_known(self) -> None:
        """A new room has to be given its place here."""
        rooms = {each.room for each in MODULES} - COMPOSERS

        self.assertEqual(set(), rooms - ALLOWED.keys())

    def test_service_over_resource_over_domain(self) -> None:
        """Only tap and assembly know services, and only services know resources."""
        for module in MODULES:
            for name in module.ours():
                room, _, file = name.partition(".")
                if room not in PRODUCTS:
                    continue
                if file == "service":
                    self.assertIn(module.name, COMPOSERS, f"{module.name}: {name}")
                if file == "resource":
                    self.assertTrue(module.name.endswith("service"), name)

    def test_reactor(self) -> None:
        """Only tap imports the reactor, and only inside a function."""
        for module in MODULES:
            self.assertNotIn("twisted.internet.reactor", module.top_level, module.name)
            if "twisted.internet.reactor" in module.imports:
                self.assertEqual("tap", module.name)

    def test_plugin_is_strings_only(self) -> None:
        """The plug-in file imports nothing of clinfra."""
        path = ROOT.parent / "twisted" / "plugins" / "clinfra_plugin.py"
        tree = ast.parse(path.read_text(encoding="utf-8"))

        imports = _imports(ast.walk(tree), set())

        self.assertEqual([], [each for each in imports if "clinfra" in each])
        self.assertEqual([], [each for each in imports if "internet" in each])


class PurityTests(SynchronousTestCase):
    """Pure modules need nothing but their arguments."""

    def test_they_say_so(self) -> None:
        """The modules that have to be pure say that they are."""
        saying = {each.name for each in MODULES if each.pure}

        self.assertEqual(set(), (SURELY_PURE & BY_NAME.keys()) - saying)

    def test_they_are(self) -> None:
        """A pure module imports no I/O, no Twisted, and nothing impure of ours."""
        for module in MODULES:
            if not module.pure:
                continue
            for name in module.imports:
                parts = name.split(".")
                prefixes = {".".join(parts[: n + 1]) for n in range(len(parts))}
                self.assertEqual(set(), prefixes & IMPURE, module.name)
            for name in module.ours():
                if name not in GROUND:
                    self.assertTrue(BY_NAME[name].pure, f"{module.name}: {name}")


class ShapeTests(SynchronousTestCase):
    """Files stay small, few levels deep, and say what they are."""

    def test_depth(self) -> None:
        """Packages are one level deep; only proxy.modules is a drawer of its own."""
        for module in MODULES:
            levels = module.name.count(".")
            deep = module.name.startswith("proxy.modules")

            self.assertLessEqual(levels, 2 if deep else 1, module.name)

    def test_length(self) -> None:
        """A file is not longer than one can keep in mind."""
        long = {each.name: each.lines for each in MODULES if each.lines > MOST_LINES}

        self.assertEqual({}, long)

    def test_docstrings(self) -> None:
        """Every file begins by saying what it is."""
        self.assertEqual([], [each.name for each in MODULES if not each.doc])

    def test_names(self) -> None:
        """No file has a name that says nothing."""
        banned = {"utils", "util", "common", "helpers", "base", "misc", "core"}
        banned |= {"manager", "handler", "processor", "engine"}

        self.assertEqual(
            [], [each.name for each in MODULES if each.path.stem in banned]
        )

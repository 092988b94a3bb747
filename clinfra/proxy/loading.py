"""Finding and making rule modules.

`use` in the configuration is, in this order:

* a built-in's name: "Redirector";
* a file and a class in it: "block.py:Block", relative to `rules_dir`;
* the name of a class in a file of `rules_dir`: "Block";
* the name of a Twisted plug-in under `clinfra.plugins` (see rules.RuleModuleMaker);
* a dotted path: "mycompany.rules.Block".

Classes in `rules_dir/*.py` that the configuration does not name run before all others,
in the order of the files' names.  All problems are reported together, those of a file
with its name and line.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.plugin import getPlugins

import clinfra.plugins
from clinfra.config import ModuleConfig, ProxyConfig
from clinfra.errors import ConfigProblems
from clinfra.interfaces import IRuleModuleMaker
from clinfra.proxy.clients import TrustedProxies
from clinfra.proxy.connections import name_server_of, pool_problems
from clinfra.proxy.phases import PHASES
from clinfra.proxy.routes import Route
from clinfra.proxy.rules import RuleModule
from clinfra.settings import structure
from clinfra.web.pool import Origin

BUILT_IN = {
    "BlobForwarder": "clinfra.proxy.modules.blob_forwarder",
    "Blocker": "clinfra.proxy.modules.blocker",
    "DirectCache": "clinfra.proxy.modules.direct_cache",
    "Exceptions": "clinfra.proxy.modules.exceptions",
    "Forwarder": "clinfra.proxy.modules.forwarder",
    "HeaderStamper": "clinfra.proxy.modules.header_stamper",
    "Logger": "clinfra.proxy.modules.logger",
    "Redirector": "clinfra.proxy.modules.redirector",
    "StatusPage": "clinfra.proxy.modules.status_page",
    "Throttler": "clinfra.proxy.modules.throttler",
    "Welcome": "clinfra.proxy.modules.welcome",
}

BUILT_IN_POOLS = ("blob", "image")
"""The pools of this process's own services."""


def check_modules(config: ProxyConfig) -> list[Any]:
    """Check what only the proxy knows of its configuration; return its modules.

    Raises:
        errors.ConfigProblems: everything that is wrong.
    """
    problems = list(_problems(config))
    modules: list[Any] = []
    try:
        modules = load_modules(config.modules, config.rules_dir, rule_plugins)
    except ConfigProblems as found:
        problems += found.problems
    if problems:
        raise ConfigProblems(problems)
    return modules


def rule_plugins() -> Iterable[Any]:
    """Return the plug-ins under `clinfra.plugins`."""
    return getPlugins(IRuleModuleMaker, clinfra.plugins)


def _problems(config: ProxyConfig) -> Iterator[str]:
    """Yield what is wrong with pools, routes and networks, a line each."""
    for name, pool in config.pools.items():
        for problem in pool_problems(pool):
            yield f"proxy.pools.{name}.{problem}"
    pools = {*config.pools, *BUILT_IN_POOLS}
    for number, route in enumerate(config.routes):
        try:
            Route.of(route)
        except ValueError as error:
            yield f"proxy.routes[{number}]: {error}"
        if route.pool and route.pool not in pools:
            yield f'proxy.routes[{number}].pool: there is no pool "{route.pool}"'
    if config.default_pool and config.default_pool not in pools:
        yield f'proxy.default_pool: there is no pool "{config.default_pool}"'
    for number, server in enumerate(config.nameservers):
        try:
            name_server_of(server)
        except ValueError as error:
            yield f"proxy.nameservers[{number}]: {error}"
    for number, network in enumerate(config.trusted_proxies):
        try:
            TrustedProxies.parse((network,))
        except ValueError as error:
            yield f"proxy.trusted_proxies[{number}]: {error}"
    for number, server in enumerate(config.cache.memcached):
        try:
            Origin.parse(server)
        except ValueError as error:
            yield f"proxy.cache.memcached[{number}]: {error}"


def load_modules(
    configs: Sequence[ModuleConfig],
    rules_dir: str,
    plugins: Callable[[], Iterable[Any]] = lambda: (),
) -> list[Any]:
    """Return the modules, made and in order.

    Args:
        configs: `proxy.modules`.
        rules_dir: directory of drop-in files; "" for none.
        plugins: returns the rules.RuleModuleMaker plug-ins there are.

    Raises:
        errors.ConfigProblems: everything that is wrong.
    """
    loading = _Loading(rules_dir, plugins)
    return loading.load(configs)


@define(eq=False)
class _Loading:
    rules_dir: str
    plugins: Callable[[], Iterable[Any]]
    problems: list[str] = field(factory=list)
    dropped_in: dict[str, type[Any]] = field(factory=dict)

    def load(self, configs: Sequence[ModuleConfig]) -> list[Any]:
        self._read_rules_dir()
        listed: list[Any] = []
        used: set[type[Any]] = set()
        for number, config in enumerate(configs):
            where = f"proxy.modules[{number}]"
            found = self._find(config.use, where)
            if found is not None:
                used.add(found)
                listed.append(self._make(found, config.options, where))
        first = [
            self._make(found, {}, f"proxy.rules_dir: {name}")
            for name, found in self.dropped_in.items()
            if found not in used
        ]
        if self.problems:
            raise ConfigProblems(self.problems)
        return [*first, *listed]

    def _read_rules_dir(self) -> None:
        if not self.rules_dir:
            return
        directory = Path(self.rules_dir)
        try:
            # Not glob: it takes a directory that cannot be read for an empty one.
            files = sorted(each for each in directory.iterdir() if each.match("*.py"))
        except OSError as error:
            self.problems.append(f"proxy.rules_dir: {directory}: {error.strerror}")
            return
        for path in files:
            for found in self._classes_of(path):
                if found.__name__ in self.dropped_in:
                    self.problems.append(
                        f"{path}: there is another {found.__name__} in {directory}"
                    )
                self.dropped_in[found.__name__] = found

    def _classes_of(self, path: Path) -> list[type[Any]]:
        module = self._import_file(path)
        if module is None:
            return []
        return [
            value
            for value in vars(module).values()
            if isinstance(value, type)
            and value.__module__ == module.__name__
            and is_rule_module(value)
        ]

    def _import_file(self, path: Path) -> Any:
        """Import a file under a name of its own; None when that fails."""
        path = path.resolve()
        name = f"clinfra_rules_{sha256(bytes(path)).hexdigest()[:12]}_{path.stem}"
        if name in sys.modules:
            return sys.modules[name]
        spec = spec_from_file_location(name, path)
        if spec is None or spec.loader is None:
            self.problems.append(f"{path}: this is not a Python file")
            return None
        module = module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[name]
            self.problems.append(_import_problem(error, str(path)))
            return None
        return module

    def _find(self, use: str, where: str) -> type[Any] | None:
        if not use:
            self.problems.append(f"{where}.use: which module?")
            return None
        if use in BUILT_IN:
            return self._named(BUILT_IN[use], use, where)
        file_name, colon, class_name = use.rpartition(":")
        if colon and file_name.endswith(".py"):
            return self._in_file(file_name, class_name, where)
        if use in self.dropped_in:
            return self.dropped_in[use]
        for plugin in self.plugins():
            if IRuleModuleMaker(plugin).name == use:
                use = plugin.module
                break
        module_name, dot, class_name = use.rpartition(".")
        if not dot:
            names = ", ".join(sorted(BUILT_IN))
            self.problems.append(
                f'{where}.use: there is no rule module "{use}"; built in are {names}'
            )
            return None
        return self._named(module_name, class_name, where)

    def _in_file(self, file_name: str, class_name: str, where: str) -> type[Any] | None:
        path = Path(self.rules_dir) / file_name
        if not path.is_file():
            self.problems.append(f"{where}.use: there is no file {path}")
            return None
        module = self._import_file(path)
        return None if module is None else self._checked(module, class_name, where)

    def _named(self, module_name: str, class_name: str, where: str) -> type[Any] | None:
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            self.problems.append(f"{where}.use: {_import_problem(error, module_name)}")
            return None
        return self._checked(module, class_name, where)

    def _checked(self, module: Any, class_name: str, where: str) -> type[Any] | None:
        found = getattr(module, class_name, None)
        if isinstance(found, type) and is_rule_module(found):
            return found
        place = getattr(module, "__file__", module.__name__)
        self.problems.append(
            f"{where}.use: {class_name} in {place} is not a rule module"
            if found is not None
            else f"{where}.use: there is no {class_name} in {place}"
        )
        return None

    def _make(self, found: type[Any], options: Mapping[str, Any], where: str) -> Any:
        config_class = getattr(found, "Config", None)
        try:
            if config_class is not None:
                return found(structure(config_class, options, where))
            if options:
                names = ", ".join(sorted(options))
                self.problems.append(
                    f"{where}: {found.__name__} has no options, but here are {names}"
                )
            return found()
        except ConfigProblems as problems:
            self.problems += [
                problem if problem.startswith(where) else f"{where}.{problem}"
                for problem in problems.problems
            ]
        except Exception as error:
            self.problems.append(
                f"{where}: {found.__name__} cannot be made: {_describe(error)}"
            )
        return None


def is_rule_module(found: type[Any]) -> bool:
    """Whether a class has any hook of its own."""
    return any(
        getattr(found, phase, None) not in (None, getattr(RuleModule, phase))
        for phase in PHASES
    )


def _import_problem(error: BaseException, place: str) -> str:
    """Return one line with file and line of what went wrong in an import."""
    if isinstance(error, SyntaxError):
        return f"{error.filename}:{error.lineno}: {error.msg}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "importlib" not in frame.filename]
    if own and own[-1].filename != __file__:
        place = f"{own[-1].filename}:{own[-1].lineno}"
    return f"{place}: {_describe(error)}"


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__

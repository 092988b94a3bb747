"""Finding and making rule modules.

`use` in the configuration is, in this order:

* a built-in's name: "Redirector";
* a file and a class in it: "block.py:Block", relative to `rules_dir`;
* the name of a class in a file of `rules_dir`: "Block";
* the name of a Twisted plug-in under `clinfra.plugins` (see rules.RuleModuleMaker);
* a dotted path: "mycompany.rules.Block".

Classes in `rules_dir/*.py` that the configuration does not name run before all others,
in the order of the files' names.  Tables in `rules_dir/*.toml` are further options of
the modules they name; a module that is not there yet comes first as well.  All problems
are reported together, those of a file with its name and line.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field, frozen
from twisted.plugin import getPlugins

import clinfra.plugins
from clinfra.config import ModuleConfig, ProxyConfig
from clinfra.errors import ConfigProblems
from clinfra.interfaces import IRuleModuleMaker
from clinfra.proxy.clients import TrustedProxies
from clinfra.proxy.conditional import limited
from clinfra.proxy.conditions import Condition, When
from clinfra.proxy.connections import name_server_of, pool_problems
from clinfra.proxy.routes import Route
from clinfra.proxy.rule_files import (
    RuleFiles,
    describe,
    import_file,
    import_problem,
    is_rule_module,
    merge,
    read_rule_files,
)
from clinfra.settings import structure
from clinfra.web.pool import Origin

BUILT_IN = {
    "BlobForwarder": "clinfra.proxy.modules.blob_forwarder",
    "Blocker": "clinfra.proxy.modules.blocker",
    "DirectCache": "clinfra.proxy.modules.direct_cache",
    "Exceptions": "clinfra.proxy.modules.exceptions",
    "Forwarder": "clinfra.proxy.modules.forwarder",
    "HeaderStamper": "clinfra.proxy.modules.header_stamper",
    "Compressor": "clinfra.proxy.modules.compressor",
    "Logger": "clinfra.proxy.modules.logger",
    "Redirector": "clinfra.proxy.modules.redirector",
    "StatusPage": "clinfra.proxy.modules.status_page",
    "Throttler": "clinfra.proxy.modules.throttler",
    "Welcome": "clinfra.proxy.modules.welcome",
}

BUILT_IN_POOLS = ("blob", "image")
"""The pools of this process's own services."""


@frozen(eq=False)
class Loaded:
    """A module that was made, and of what."""

    kind: type[Any]
    options: Mapping[str, Any]
    module: Any


def check_modules(config: ProxyConfig, previous: Sequence[Loaded] = ()) -> list[Loaded]:
    """Check what only the proxy knows of its configuration; return its modules.

    Args:
        previous: those there are: they are kept where class and options are the same.

    Raises:
        errors.ConfigProblems: everything that is wrong.
    """
    problems = list(_problems(config))
    loaded: list[Loaded] = []
    try:
        loading = _Loading(config.rules_dir, rule_plugins, previous)
        loaded = loading.load(config.modules)
    except ConfigProblems as found:
        problems += found.problems
    if problems:
        raise ConfigProblems(problems)
    return loaded


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
    loading = _Loading(rules_dir, plugins, ())
    return [loaded.module for loaded in loading.load(configs)]


@define(eq=False)
class _Entry:
    """A module that is to be made."""

    kind: type[Any]
    options: Mapping[str, Any]
    where: str


@define(eq=False)
class _Loading:
    rules_dir: str
    plugins: Callable[[], Iterable[Any]]
    previous: Sequence[Loaded]
    problems: list[str] = field(factory=list)
    files: RuleFiles = field(factory=RuleFiles)

    def load(self, configs: Sequence[ModuleConfig]) -> list[Loaded]:
        if self.rules_dir:
            self.files = read_rule_files(Path(self.rules_dir))
            self.problems += self.files.problems
        listed: list[_Entry] = []
        for number, config in enumerate(configs):
            where = f"proxy.modules[{number}]"
            found = self._find(config.use, where)
            if found is not None:
                listed.append(_Entry(found, config.options, where))
        used = {entry.kind for entry in listed}
        first = [
            _Entry(found, {}, f"proxy.rules_dir: {name}")
            for name, found in self.files.classes.items()
            if found not in used
        ]
        self._add_tables(first, listed)
        loaded = [self._loaded(entry) for entry in (*first, *listed)]
        if self.problems:
            raise ConfigProblems(self.problems)
        return loaded

    def _add_tables(self, first: list[_Entry], listed: list[_Entry]) -> None:
        """Add the options of TOML files to the modules they are for."""
        for table in self.files.tables:
            where = f"{table.path}: {table.module}"
            found = self._find(table.module, where, said_by="")
            if found is None:
                continue
            before = len(self.problems)
            # Made of this file's options alone, what is wrong is known to be from it.
            self._make(found, table.options, where)
            if len(self.problems) > before:
                continue
            entry = next((e for e in (*first, *listed) if e.kind is found), None)
            if entry is None:
                first.append(_Entry(found, table.options, where))
                continue
            try:
                entry.options = merge(entry.options, table.options)
            except ValueError as error:
                self.problems.append(f"{where}.{error}")

    def _loaded(self, entry: _Entry) -> Loaded:
        for known in self.previous:
            if known.kind is entry.kind and known.options == entry.options:
                self.previous = [each for each in self.previous if each is not known]
                return known
        module = self._make(entry.kind, entry.options, entry.where)
        return Loaded(entry.kind, entry.options, module)

    def _find(self, use: str, where: str, said_by: str = ".use") -> type[Any] | None:
        where += said_by
        if not use:
            self.problems.append(f"{where}: which module?")
            return None
        if use in BUILT_IN:
            return self._named(BUILT_IN[use], use, where)
        file_name, colon, class_name = use.rpartition(":")
        if colon and file_name.endswith(".py"):
            return self._in_file(file_name, class_name, where)
        if use in self.files.classes:
            return self.files.classes[use]
        for plugin in self.plugins():
            if IRuleModuleMaker(plugin).name == use:
                use = plugin.module
                break
        module_name, dot, class_name = use.rpartition(".")
        if not dot:
            names = ", ".join(sorted(BUILT_IN))
            self.problems.append(
                f'{where}: there is no rule module "{use}"; built in are {names}'
            )
            return None
        return self._named(module_name, class_name, where)

    def _in_file(self, file_name: str, class_name: str, where: str) -> type[Any] | None:
        path = Path(self.rules_dir) / file_name
        if not path.is_file():
            self.problems.append(f"{where}: there is no file {path}")
            return None
        try:
            module = import_file(path)
        except ValueError as problem:
            # What is in rules_dir has been complained of.
            if str(problem) not in self.problems:
                self.problems.append(str(problem))
            return None
        return self._checked(module, class_name, where)

    def _named(self, module_name: str, class_name: str, where: str) -> type[Any] | None:
        try:
            module = importlib.import_module(module_name)
        except Exception as error:
            self.problems.append(f"{where}: {import_problem(error, module_name)}")
            return None
        return self._checked(module, class_name, where)

    def _checked(self, module: Any, class_name: str, where: str) -> type[Any] | None:
        found = getattr(module, class_name, None)
        if isinstance(found, type) and is_rule_module(found):
            return found
        place = getattr(module, "__file__", module.__name__)
        self.problems.append(
            f"{where}: {class_name} in {place} is not a rule module"
            if found is not None
            else f"{where}: there is no {class_name} in {place}"
        )
        return None

    def _make(self, found: type[Any], options: Mapping[str, Any], where: str) -> Any:
        config_class = getattr(found, "Config", None)
        try:
            when, options = _without_when(config_class, options)
            if when is not None:
                condition = self._condition(when, f"{where}.when")
                module = self._make(found, options, where)
                if module is None or condition is None:
                    return None
                return limited(module, condition)
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
                f"{where}: {found.__name__} cannot be made: {describe(error)}"
            )
        return None

    def _condition(self, when: Mapping[str, Any], where: str) -> Condition | None:
        try:
            return Condition(structure(When, when, where))
        except ConfigProblems as problems:
            self.problems += problems.problems
        except ValueError as error:
            self.problems.append(f"{where}: {error}")
        return None


def _without_when(
    config_class: Any, options: Mapping[str, Any]
) -> tuple[Mapping[str, Any] | None, Mapping[str, Any]]:
    """Return what limits a module, if anything does, and its own options."""
    own = config_class is not None and hasattr(attrs.fields(config_class), "when")
    if own or "when" not in options:
        return None, options
    rest = dict(options)
    when = rest.pop("when")
    if not isinstance(when, Mapping):
        raise ConfigProblems([f"when: a table is needed, not {when!r}"])
    return when, rest

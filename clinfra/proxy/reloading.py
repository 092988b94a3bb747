"""Rules that are exchanged while the proxy runs.

`rules_dir` is looked at every few seconds.  When a file in it was changed, added or
removed, all modules are made anew of the configuration and what is there now; those of
the same class and the same options stay, with all they know.  It is all or nothing: if
anything is wrong, the rules stay as they were, and the log and the report say why.
Requests under way end by the rules they began with.

A thousand rules take a tenth of a second to be made: that is done in a thread, which
lets go of the interpreter often, so that requests hardly wait for it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure

from clinfra.errors import ConfigProblems
from clinfra.proxy.lists import Watch
from clinfra.proxy.loading import Loaded, check_modules
from clinfra.proxy.pipeline import Pipeline
from clinfra.proxy.rule_files import describe, forget_imports, version_of
from clinfra.proxy.rules import Surroundings
from clinfra.web.streams import Threads

log = Logger()

_SWITCH_SECONDS = 0.0005
"""How long the reactor waits for the thread that makes rules, each time it has to."""


class Reloader:
    """Keeps the rules in use as the files in `rules_dir` say.

    Args:
        loaded: the modules in use.

    Attributes:
        problems: what is wrong with the files as they are now.
        reloads: how often rules were exchanged.
    """

    def __init__(
        self, loaded: Sequence[Loaded], pipeline: Pipeline, surroundings: Surroundings
    ) -> None:
        config = surroundings.config
        self._loaded = list(loaded)
        self._pipeline = pipeline
        self._surroundings = surroundings
        self._directory = Path(config.rules_dir) if config.rules_dir else None
        self._version = self._look()
        self._threads = Threads.of(surroundings.reactor)
        self._making: Deferred[None] | None = None
        self._watch: Watch | None = None
        if self._directory is not None and config.rules_reload:
            reactor = surroundings.reactor
            self._watch = Watch(reactor, self.look, config.rules_reload)
        self.problems: Sequence[str] = ()
        self.reloads = 0

    def start(self) -> None:
        """Begin to look."""
        if self._watch is not None:
            self._watch.start()

    def stop(self) -> None:
        """Look no more; what is being made is not used."""
        if self._watch is not None:
            self._watch.stop()
        if self._making is not None:
            self._making.cancel()

    def look(self) -> None:
        """Exchange the rules if files have changed, and are not being read already."""
        version = self._look()
        if version != self._version and self._making is None:
            self._version = version
            self._reload()

    def _reload(self) -> None:
        """Make the modules anew; exchange the rules, or say what is wrong."""
        if self._threads is None:
            made = maybeDeferred(self._make)
        else:
            reactor, pool = self._threads.reactor, self._threads.pool
            made = deferToThreadPool(reactor, pool, _in_small_slices, self._make)
        self._making = used = made.addCallback(self._exchange)
        used.addCallbacks(self._exchanged, self._refused)

    def _make(self) -> list[Loaded]:
        return check_modules(self._surroundings.config, previous=self._loaded)

    def _exchanged(self, result: None) -> None:
        self._making = None
        self.problems = ()

    def _refused(self, failure: Failure) -> None:
        self._making = None
        if failure.check(CancelledError):
            return
        if not isinstance(failure.value, ConfigProblems):
            log.failure("Making the rules anew failed.", failure=failure)
            return
        self.problems = failure.value.problems
        for problem in self.problems:
            log.error("The rules stay as they were: {problem}", problem=problem)

    def report(self) -> Mapping[str, Any]:
        """Return what the admin pages show."""
        if self._directory is None:
            return {}
        return {
            "directory": str(self._directory),
            "reloads": self.reloads,
            "problems": list(self.problems),
        }

    def _look(self) -> object:
        return None if self._directory is None else version_of(self._directory)

    def _exchange(self, loaded: Sequence[Loaded]) -> None:
        before = {id(each.module) for each in self._loaded}
        after = {id(each.module) for each in loaded}
        new = [each.module for each in loaded if id(each.module) not in before]
        old = [each.module for each in self._loaded if id(each.module) not in after]
        fixed = sorted({_name(each) for each in (*new, *old) if not _reloadable(each)})
        if fixed:
            raise ConfigProblems(
                [
                    f"{name} is set up once, at start: what is new about it in"
                    f" {self._directory} needs a restart (with workers, SIGHUP)"
                    for name in fixed
                ]
            )
        if not new and not old and list(loaded) == self._loaded:
            return
        attach_modules(new, self._surroundings)
        started: list[Any] = []
        for module in new:
            try:
                _call(module, "start")
            except Exception as error:
                for each in started:
                    stop_module(each)
                problem = f"{_name(module)} cannot start: {describe(error)}"
                raise ConfigProblems([problem]) from error
            started.append(module)
        replaced = self._pipeline.use([each.module for each in loaded])
        self._loaded = list(loaded)
        self.reloads += 1
        if self._directory is not None:
            forget_imports(
                self._directory, {each.kind.__module__ for each in self._loaded}
            )
        log.info(
            "The rules were exchanged: {new} new, {old} gone",
            new=", ".join(map(_name, new)) or "none",
            old=", ".join(map(_name, old)) or "none",
        )
        replaced.retire(_stopper(old))


def attach_modules(modules: Sequence[Any], surroundings: Surroundings) -> None:
    """Hand the surroundings to every module.  Raises ConfigProblems."""
    problems: list[str] = []
    for module in modules:
        try:
            _call(module, "attach", surroundings)
        except ConfigProblems as found:
            problems += [
                f"proxy.modules.{_name(module)}.{problem}" for problem in found.problems
            ]
        except Exception as error:
            problems.append(
                f"proxy.modules.{_name(module)}: cannot be set up: {describe(error)}"
            )
    if problems:
        raise ConfigProblems(problems)


def _in_small_slices(make: Callable[[], list[Loaded]]) -> list[Loaded]:
    """Call it so that other threads need not wait for long at a time."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    try:
        return make()
    finally:
        sys.setswitchinterval(usual)


def stop_module(module: Any) -> Any:
    """Stop a module; the Deferred fires when it has stopped, whatever happens."""
    stop = getattr(module, "stop", None)
    stopping = maybeDeferred(stop if stop is not None else lambda: None)
    return stopping.addErrback(
        lambda failure: log.failure("A rule module failed to stop.", failure=failure)
    )


def _stopper(modules: Sequence[Any]) -> Callable[[], None]:
    def stop() -> None:
        for module in modules:
            stop_module(module)

    return stop


def _call(module: Any, name: str, *arguments: Any) -> None:
    method = getattr(module, name, None)
    if method is not None:
        method(*arguments)


def _reloadable(module: Any) -> bool:
    return bool(getattr(module, "reloadable", True))


def _name(module: Any) -> str:
    return type(module).__name__

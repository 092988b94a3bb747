"""Changing a process that runs: new workers with the configuration as it is now.

SIGHUP reads and checks the configuration.  If anything is wrong with it, that is logged
and nothing changes.  Else the workers are replaced; what only a restart can change is
named in the log.  SIGUSR2 replaces the workers as they are: they are started from what
is installed now.  SIGUSR1 has log files opened anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from clinfra import config
from clinfra.assembly import READERS, Assembly, workers_of
from clinfra.errors import ConfigProblems, StartupFailed
from clinfra.listening import Listener
from clinfra.schema import to_table
from clinfra.settings import SECTIONS
from clinfra.workers.crew import Crew, ReplacingFailed

log = Logger()


@define(eq=False)
class Reloading:
    """Does what signals ask for.

    Args:
        assembly: of this process.
        read_again: reads and checks the configuration; raises ConfigProblems.
    """

    _assembly: Assembly
    _read_again: Callable[[], config.Config]
    _changing: bool = field(default=False, init=False)
    _next: config.Config | None = field(default=None, init=False)

    def reload(self) -> None:
        """Have the configuration read again, and obeyed."""
        try:
            new = self._read_again()
        except ConfigProblems as problems:
            for problem in problems.problems:
                log.error("the new configuration is wrong: {problem}", problem=problem)
            log.error("the old configuration stays in force")
            notifier = self._assembly.daemon.notifier
            notifier.reloading()
            notifier.ready("the new configuration is wrong; the old one is in force")
            return
        self._begin(new)

    def renew(self) -> None:
        """Replace the workers by new ones with the same configuration."""
        self._begin(self._assembly.configuration)

    def reopen_logs(self) -> None:
        """Open log files anew, here and in the workers."""
        self._assembly.writer.reopen()
        for part in self._assembly.crews.values():
            if part.product.crew is not None:
                self._run(part.product.crew.ask_all("reopen_logs"))

    def _begin(self, new: config.Config) -> None:
        """Change one after the other; of several that have to wait, the last counts."""
        self._next = new
        if not self._changing:
            self._run(self._change_all())

    async def _change_all(self) -> None:
        self._changing = True
        daemon = self._assembly.daemon
        daemon.notifier.reloading()
        try:
            while self._next is not None:
                new, self._next = self._next, None
                await self._change(new)
        finally:
            self._changing = False
            daemon.notifier.ready(daemon.status())

    def _run(self, work: Any) -> None:
        Deferred.fromCoroutine(work).addErrback(
            lambda why: log.failure("while changing the workers", failure=why)
        )

    async def _change(self, new: config.Config) -> None:
        assembly = self._assembly
        old = assembly.configuration
        restart = sorted(_needs_restart(old, new))
        if restart:
            log.warn("only a restart changes {keys}", keys=", ".join(restart))
        elif not assembly.crews:
            log.info("SIGHUP changes nothing: no product here has workers")
        changed = []
        for name, part in assembly.crews.items():
            crew: Crew | None = part.product.crew
            if crew is None or not workers_of(new, name):
                continue
            try:
                added = self._listen_also(name, new)
            except StartupFailed as trouble:
                log.error(
                    "{name} is not changed: {trouble}", name=name, trouble=trouble
                )
                continue
            before, part.listeners = part.listeners, added
            grace = new.stop_timeout
            hire = assembly.hiring(name, new)
            try:
                await crew.replace(hire, workers_of(new, name), grace)
            except ReplacingFailed as trouble:
                if part.product.crew is None:
                    return  # everything stops
                log.error(
                    "{name} is not changed: {trouble}", name=name, trouble=trouble
                )
                await _close(part.listeners, but=before)
                part.listeners = before
                continue
            await _close(before, but=part.listeners)
            changed.append(name)
        if changed:
            assembly.configuration = new
            log.info("new workers serve {names}", names=", ".join(changed))

    def _listen_also(self, name: str, new: config.Config) -> tuple[Listener, ...]:
        """Return the listeners a part shall have; new ones are bound.

        Raises StartupFailed; then none is.
        """
        if name == READERS:
            return self._assembly.crews[name].listeners  # they are the blob store's
        known = {each.endpoint: each for each in self._assembly.crews[name].listeners}
        wanted = []
        try:
            for endpoint in getattr(new, name).listen:
                listener = known.get(endpoint)
                if listener is None:
                    listener = Listener(endpoint)
                    listener.hold(self._assembly.reactor)
                wanted.append(listener)
        except StartupFailed:
            for listener in wanted:
                if listener.endpoint not in known:
                    self._run(listener.close())
            raise
        return tuple(wanted)


async def _close(listeners: tuple[Listener, ...], *, but: tuple[Listener, ...]) -> None:
    for listener in listeners:
        if listener not in but:
            await listener.close()


def _needs_restart(old: config.Config, new: config.Config) -> Iterator[str]:
    """Yield the keys whose change no worker can bring about."""
    by_workers = {
        name for name in SECTIONS if workers_of(old, name) and workers_of(new, name)
    }
    before, after = dict(_keys(to_table(old))), dict(_keys(to_table(new)))
    for key in {**before, **after}:
        count = key == "blob.read_workers"
        if count and workers_of(old, READERS) and workers_of(new, READERS):
            continue
        section = key.partition(".")[0]
        if before.get(key) != after.get(key) and section not in by_workers:
            yield key


def _keys(table: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{path}{name}.")
        else:
            yield path + name, value

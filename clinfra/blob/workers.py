"""Where work that may wait for a disk is done: reader threads, or here in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool

T = TypeVar("T")


class Workers(Protocol):
    """Runs functions that may block."""

    def start(self) -> None:
        """Begin."""

    def stop(self) -> None:
        """End; what runs is waited for."""

    def run(self, function: Callable[..., T], *arguments: object) -> Deferred[T]:
        """Return what a function returns."""


@define(eq=False)
class ThreadWorkers:
    """A few threads of our own, so that nobody else's slow work delays reads."""

    _reactor: IReactorFromThreads
    _threads: int = 4
    _pool: ThreadPool = field(init=False)

    @_pool.default
    def _make_pool(self) -> ThreadPool:
        return ThreadPool(0, self._threads, name="blob readers")

    def start(self) -> None:
        """Begin."""
        self._pool.start()

    def stop(self) -> None:
        """End; what runs is waited for."""
        if self._pool.started:
            self._pool.stop()

    def run(self, function: Callable[..., T], *arguments: object) -> Deferred[T]:
        """Run a function in one of the threads."""
        return deferToThreadPool(self._reactor, self._pool, function, *arguments)


@define(eq=False)
class InlineWorkers:
    """Runs everything at once, in the caller's thread: for tests and tools."""

    def start(self) -> None:
        """Nothing to begin."""

    def stop(self) -> None:
        """Nothing to end."""

    def run(self, function: Callable[..., T], *arguments: object) -> Deferred[T]:
        """Run a function now."""
        return execute(function, *arguments)

"""What tests with real processes and a turning reactor need."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, cast

from pytest_twisted import ensureDeferred
from twisted.internet import reactor
from twisted.internet.task import deferLater


def in_reactor(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test that is a coroutine while the reactor turns."""
    return cast(Callable[..., None], ensureDeferred(test))


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Let the reactor turn until something holds."""
    for _ in range(int(seconds / 0.01)):
        if condition():
            return
        await deferLater(reactor, 0.01)
    raise AssertionError(f"not within {seconds} s")


def alive(pid: int) -> bool:
    """Say whether a process is there and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False

"""The phases of a request's life, and the hooks that the modules have for each.

    received → route → lookup → (hit | stale | miss | pass) → forward → response
             → store → deliver → done

What happens in them is said in `pipeline`, which runs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from clinfra.proxy.rules import hook_of

NEXT = {
    "received": "route",
    "route": "lookup",
    "stale": "forward",
    "miss": "forward",
    "pass_": "forward",
    "forward": "response",
    "response": "store",
    "store": "deliver",
    "hit": "deliver",
}
"""What follows a phase; `lookup` is followed by its outcome."""

PHASES = (*NEXT, "lookup", "deliver", "failed", "done")

AFTER_ANSWER = {
    "received": "deliver",
    "route": "deliver",
    "lookup": "hit",
    "stale": "deliver",
    "miss": "deliver",
    "pass_": "deliver",
    "forward": "response",
}
"""Where an answer goes on to from the phase it was made in."""

_OF_A_PASS = ("pass_", "forward", "response", "store", "deliver")
"""What a request goes through that the cache has nothing to do with."""

OUTCOMES = {
    "": "pass_",
    "hit": "hit",
    "stale": "stale",
    "miss": "miss",
    "pass": "pass_",
}
"""The phase that follows `lookup`, by `request.outcome`."""

Hook = Callable[..., Any]


class ActiveRules:
    """Modules at work: their hooks by phase, listed once.

    A phase that nobody has a hook for costs nothing.  Requests end by the rules they
    began with: those that a reload has replaced are retired when the last one is over.

    Args:
        numbers: given to requests, to tell them apart.

    Attributes:
        modules: in order.
        hooks: by phase.
        plannable: all that decides where a request goes depends on its head alone.
        memoable: so does whether it is a plain hit that nobody wants to see.
        repeatable: what becomes of a pass depends on its head and its answer's alone.
        under_way: requests (and passages) by which they still go, in the order in
            which they began, and their numbers.
    """

    def __init__(self, modules: Sequence[object], numbers: Iterator[int]) -> None:
        self.modules = tuple(modules)
        self.hooks: dict[str, tuple[Hook, ...]] = {
            phase: tuple(hook for module in modules if (hook := hook_of(module, phase)))
            for phase in PHASES
        }
        self.plannable = all(
            getattr(module, "head_only", False)
            for module in modules
            if any(hook_of(module, phase) for phase in ("received", "route", "lookup"))
        )
        self.memoable = (
            self.plannable
            and not self.hooks["done"]
            and all(
                getattr(module, "ignores_hits", False)
                for module in modules
                if hook_of(module, "hit") or hook_of(module, "deliver")
            )
        )
        self.repeatable = not self.hooks["done"] and all(
            getattr(module, "by_heads", False)
            for module in modules
            if any(hook_of(module, phase) for phase in _OF_A_PASS)
        )
        self.under_way: dict[Any, int] = {}
        self._numbers = numbers
        self._retired: Callable[[], None] | None = None

    def retire(self, retired: Callable[[], None]) -> None:
        """They have been replaced: call back when the last request is over."""
        self._retired = retired
        if not self.under_way:
            retired()

    def begin(self, request: object) -> None:
        """A request goes by these rules from now on."""
        self.under_way[request] = next(self._numbers)

    def over(self, request: object) -> None:
        """It is over."""
        del self.under_way[request]
        if self._retired is not None and not self.under_way:
            self._retired()

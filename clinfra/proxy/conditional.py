"""A rule module that is asked about some requests only.

Any module's table in the configuration may say when it is for:

    [[proxy.modules]]
    use = "HeaderStamper"
    when = { hosts = ["*.example.com"], networks = ["10.0.0.0/8"] }

The condition is looked at in each phase, as the request is then.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from clinfra.patterns import PatternTooSlow
from clinfra.proxy.conditions import Condition
from clinfra.proxy.message import Request
from clinfra.proxy.phases import PHASES, Hook
from clinfra.proxy.rules import hook_of

_AT_THE_END = ("failed", "done")


class Conditional:
    """Stands before a module; what is no hook is the module's own."""

    def __init__(self, module: Any, condition: Condition) -> None:
        self.module = module
        self._condition = condition
        for phase in PHASES:
            hook = hook_of(module, phase)
            if hook is not None:
                setattr(self, phase, partial(self._ask, hook))
        for phase in _AT_THE_END:
            hook = hook_of(module, phase)
            if hook is not None:
                setattr(self, phase, partial(self._ask_at_the_end, hook))
        if condition.by_client:
            self.received = self._received_by_client

    def __getattr__(self, name: str) -> Any:
        if name in PHASES:
            raise AttributeError(name)
        return getattr(self.module, name)

    def _ask(self, hook: Hook, request: Request, *more: Any) -> Any:
        return hook(request, *more) if self._condition.holds(request) else None

    def _ask_at_the_end(self, hook: Hook, request: Request, *more: Any) -> Any:
        """As `_ask`, when it may be the condition that has failed."""
        try:
            return self._ask(hook, request, *more)
        except PatternTooSlow:
            return None

    def _received_by_client(self, request: Request) -> Any:
        request.ask_for_others()
        hook = hook_of(self.module, "received")
        return None if hook is None else self._ask(hook, request)


def limited(module: Any, condition: Condition) -> Any:
    """Return a module of the same name that is asked when a condition holds."""
    kind = type(type(module).__name__, (Conditional,), {})
    return kind(module, condition)

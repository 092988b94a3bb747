"""Which pool a request goes to.

Pure.  Routes are tried in order and the first match wins; a route matches by a path
prefix, by a regular expression searched in host_path, or by both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from attrs import frozen

from clinfra.config import RouteConfig
from clinfra.patterns import Compiled, PatternSet, compile_pattern
from clinfra.proxy.message import Request


@frozen
class Route:
    """One way to a pool."""

    pool: str
    prefix: str
    pattern: Compiled | None
    strip_prefix: bool

    @classmethod
    def of(cls, config: RouteConfig) -> Route:
        """Make one of its configuration.  Raises ValueError with a plain sentence."""
        if not config.pool:
            raise ValueError("a route needs a pool")
        if not config.prefix and not config.match:
            raise ValueError("a route needs a prefix or a match")
        if config.strip_prefix and not config.prefix.endswith("/"):
            raise ValueError('a prefix that is stripped must end with "/"')
        return cls(
            config.pool,
            config.prefix,
            compile_pattern(config.match) if config.match else None,
            config.strip_prefix,
        )

    def matches(self, request: Request) -> bool:
        """Whether this request goes here."""
        if not request.target.startswith(self.prefix):
            return False
        return (
            self.pattern is None or self.pattern.search(request.host_path) is not None
        )


_FEW = 8
"""So many routes are tried one by one sooner than looked up."""


class Routes:
    """All routes, in order; many of them cost about what a few do."""

    def __init__(self, routes: Sequence[Route], default_pool: str = "") -> None:
        self._routes = tuple(routes)
        self._default_pool = default_pool
        many = len(self._routes) > _FEW
        self._prefixes = _Numbered(
            {
                number: "^" + re.escape(route.prefix)
                for number, route in enumerate(routes)
                if many and route.prefix
            }
        )
        self._patterns = _Numbered(
            {
                number: route.pattern.text
                for number, route in enumerate(routes)
                if many and not route.prefix and route.pattern is not None
            }
        )
        self._many = many

    @classmethod
    def of(cls, configs: Sequence[RouteConfig], default_pool: str) -> Routes:
        """Make them of the configuration.  Raises ValueError with a plain sentence."""
        return cls([Route.of(config) for config in configs], default_pool)

    def choose(self, request: Request) -> bool:
        """Set the pool of a request and what to ask it for; False without a pool.

        The request keeps its target: cache keys, later rules and logs go by what the
        client asked for.
        """
        for route in self._candidates(request):
            if route.matches(request):
                if route.strip_prefix:
                    skipped = len(route.prefix) - 1
                    request.forward_target = request.target[skipped:]
                request.pool = route.pool
                return True
        request.pool = self._default_pool
        return bool(self._default_pool)

    def _candidates(self, request: Request) -> Sequence[Route]:
        """Return the routes that may match, in order."""
        if not self._many:
            return self._routes
        numbers = self._prefixes.matching(request.target)
        if self._patterns:
            numbers = sorted((*numbers, *self._patterns.matching(request.host_path)))
        return [self._routes[number] for number in numbers]


class _Numbered:
    """Patterns with numbers of their own, in order."""

    def __init__(self, patterns: Mapping[int, str]) -> None:
        self._numbers = list(patterns)
        self._set = PatternSet(list(patterns.values()))

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def matching(self, text: str) -> list[int]:
        return [self._numbers[found] for found in self._set.matching(text)]

"""Which pool a request goes to.

Pure.  Routes are tried in order and the first match wins; a route matches by a path
prefix, by a regular expression searched in host_path, or by both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import frozen

from clinfra.config import RouteConfig
from clinfra.patterns import Compiled, any_of, compile_pattern
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


@frozen
class Routes:
    """All routes; `any_pattern` answers "none of them" in one go where possible."""

    routes: tuple[Route, ...]
    default_pool: str = ""
    any_pattern: Callable[[str], object] | None = None

    @classmethod
    def of(cls, configs: Sequence[RouteConfig], default_pool: str) -> Routes:
        """Make them of the configuration.  Raises ValueError with a plain sentence."""
        routes = tuple(Route.of(config) for config in configs)
        patterns = [route.pattern.text for route in routes if route.pattern]
        search = None
        if len(patterns) == len(routes) > 1:
            search = any_of(patterns)
        return cls(routes, default_pool, search)

    def choose(self, request: Request) -> bool:
        """Set the pool of a request and what to ask it for; False without a pool.

        The request keeps its target: cache keys, later rules and logs go by what the
        client asked for.
        """
        if self.any_pattern is None or self.any_pattern(request.host_path):
            for route in self.routes:
                if route.matches(request):
                    if route.strip_prefix:
                        skipped = len(route.prefix) - 1
                        request.forward_target = request.target[skipped:]
                    request.pool = route.pool
                    return True
        request.pool = self.default_pool
        return bool(self.default_pool)

"""Finding the rules that hold for a request without asking each of them.

Pure.  Each rule is filed under the one thing it asks that is likeliest to leave it out:
its pattern, a path, a host, a named value, a network.  Patterns, globs and prefixes of
a kind are one automaton, literals a table; so a thousand rules cost about what ten do.
Rules that are filed under nothing (only a method, only what must not be) are always
asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from clinfra.patterns import PatternSet
from clinfra.proxy.conditions import Condition, Text, paths_of, value_of
from clinfra.proxy.message import Request
from clinfra.proxy.networks import NetworkTable


class _Texts:
    """Numbers of rules by texts that a value may match."""

    def __init__(self) -> None:
        self._literals: dict[str, list[int]] = {}
        self._patterns: list[str] = []
        self._numbers: list[int] = []
        self._set: PatternSet | None = None

    def add(self, text: Text, number: int) -> None:
        if text.literal is not None:
            self._literals.setdefault(text.literal, []).append(number)
        else:
            self.add_pattern(text.pattern, number)

    def add_pattern(self, pattern: str, number: int) -> None:
        self._patterns.append(pattern)
        self._numbers.append(number)

    def __bool__(self) -> bool:
        return bool(self._literals or self._patterns)

    def seal(self) -> None:
        self._set = PatternSet(self._patterns) if self._patterns else None

    def find(self, value: str) -> Iterator[int]:
        yield from self._literals.get(value, ())
        if self._set is not None:
            for found in self._set.matching(value):
                yield self._numbers[found]


class RuleIndex:
    """Conditions, in order.

    Attributes:
        by_client: some depend on who asks.
    """

    def __init__(self, conditions: Sequence[Condition]) -> None:
        self._conditions = tuple(conditions)
        self._host_paths = _Texts()
        self._paths = _Texts()
        self._hosts = _Texts()
        self._named: dict[tuple[str, str], _Texts] = {}
        self._networks: NetworkTable[int] = NetworkTable()
        self._always: list[int] = []
        for number, condition in enumerate(self._conditions):
            self._file(number, condition)
        kinds = (self._host_paths, self._paths, self._hosts, *self._named.values())
        for texts in kinds:
            texts.seal()
        self.by_client = any(condition.by_client for condition in conditions)

    def _file(self, number: int, condition: Condition) -> None:
        named = next((each for each in condition.named if not each[2].negated), None)
        if condition.match is not None:
            self._host_paths.add_pattern(condition.match.text, number)
        elif condition.paths:
            for text in condition.paths:
                self._paths.add(text, number)
        elif named is not None:
            kind, name, text = named
            self._named.setdefault((kind, name), _Texts()).add(text, number)
        elif condition.hosts:
            for text in condition.hosts:
                self._hosts.add(text, number)
        elif condition.by_client:
            for network in condition.networks:
                self._networks.add(network, number)
        else:
            self._always.append(number)

    def __len__(self) -> int:
        return len(self._conditions)

    def matching(self, request: Request, first: int = 0) -> Iterator[int]:
        """Yield the numbers of the rules that hold, in order.

        Args:
            first: rules before this one are not asked.

        Raises patterns.PatternTooSlow.
        """
        found = set(self._always)
        if self._host_paths:
            found.update(self._host_paths.find(request.host_path))
        if self._paths:
            for path in paths_of(request.target):
                found.update(self._paths.find(path))
        if self._hosts:
            found.update(self._hosts.find(request.host))
        for (kind, name), texts in self._named.items():
            value = value_of(request, kind, name)
            if value is not None:
                found.update(texts.find(value))
        if self._networks:
            found.update(self._networks.find(request.client_ip))
        if not found:
            return
        for number in sorted(found):
            if number >= first and self._conditions[number].holds(request):
                yield number

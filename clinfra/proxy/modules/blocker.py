"""Blocker: refuses requests by who sends them, and by what they ask for.

Rules are gone through in order and the first that holds decides: it refuses, or with
`allow` lets the request through.  A rule says what it matches as all rules do (see
`conditions`); or it has a file with a list (see `lists`), and `of` says what is looked
up in it:

    [[proxy.modules]]
    use = "Blocker"
    [[proxy.modules.rules]]
    networks = ["10.0.0.0/8"]
    allow = true
    [[proxy.modules.rules]]
    file = "/etc/clinfra/blocked-networks.txt"
    of = "client"
    [[proxy.modules.rules]]
    paths = ["/api/*"]
    file = "/etc/clinfra/api-keys.txt"
    of = "header:X-Api-Key"
    unlisted = true
    status = 401

Files are read again when they change; a bad line leaves the list as it was.  How often
each rule refused is in the report; the access log has `blocked=NAME`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from attrs import define, frozen

from clinfra.config import key
from clinfra.errors import Blocked, ConfigProblems
from clinfra.proxy.conditions import Condition, When, paths_of, value_of
from clinfra.proxy.lists import ListFile, Watch
from clinfra.proxy.message import Reply, Request
from clinfra.proxy.rule_hits import RuleHits, told
from clinfra.proxy.rule_index import RuleIndex
from clinfra.proxy.rules import RuleModule, Surroundings

_MOST_CLIENTS = 16384
_KINDS = ("header", "cookie", "query")


@frozen
class Rule(When):
    """One rule: when it holds, and that the request is refused then."""

    name: str = key("", "For logs and reports; its number if not given.")
    allow: bool = key(False, "Let the request through instead.")
    file: str = key("", "File with a list, one entry a line.")
    of: str = key(
        "client",
        "What is looked up in it: client, host, path, header:NAME, cookie:NAME or"
        " query:NAME.",
    )
    unlisted: bool = key(False, "Hold for what is not in the file instead.")
    status: int = key(403, "Of the answer.", least=400, most=599)
    text: str = key("", "Text of the answer.")


@frozen
class Options:
    """Options of Blocker."""

    rules: tuple[Rule, ...] = key((), "Rules; the first that holds decides.")


@define(eq=False)
class _Rule:
    """A rule at work."""

    rule: Rule
    name: str
    condition: Condition
    list: ListFile | None
    hits: RuleHits

    @property
    def by_client(self) -> bool:
        """It depends on who asks."""
        listed = self.list is not None and self.rule.of == "client"
        return listed or self.condition.by_client

    def holds(self, request: Request) -> bool:
        """Whether the file, if any, says so too."""
        if self.list is None:
            return True
        has = self.list.values.has
        listed = any(has(value) for value in self._values(request))
        return listed is not self.rule.unlisted

    def touches(self, client: str) -> bool:
        """Whether a client is in any of the networks that this rule knows."""
        if self.condition.networks.find(client) is not None:
            return True
        return (
            self.list is not None
            and self.rule.of == "client"
            and self.list.values.has(client) is not self.rule.unlisted
        )

    def _values(self, request: Request) -> Sequence[str]:
        """Return what is to be looked up."""
        of = self.rule.of
        if of == "client":
            return (request.client_ip,)
        if of == "host":
            return (request.host,)
        if of == "path":
            return paths_of(request.target)
        kind, _, name = of.partition(":")
        value = value_of(request, kind, name.lower() if kind == "header" else name)
        return () if value is None else (value,)


class Blocker(RuleModule):
    """Refuses requests."""

    Config = Options
    head_only = True

    def __init__(self, config: Options) -> None:
        problems: list[str] = []
        self._rules: list[_Rule] = []
        for number, rule in enumerate(config.rules):
            try:
                self._rules.append(_made(rule, rule.name or str(number)))
            except ValueError as error:
                problems.append(f"rules[{number}]: {error}")
        if problems:
            raise ConfigProblems(problems)
        self._index = RuleIndex([rule.condition for rule in self._rules])
        self._by_client = any(rule.by_client for rule in self._rules)
        self._lists = [rule.list for rule in self._rules if rule.list is not None]
        self._touched: dict[str, bool] = {}
        if not self._rules:
            # A hook that does nothing would still cost something.
            self.received = None  # type: ignore[method-assign,assignment] # see above
        self._watch: Watch | None = None

    def attach(self, surroundings: Surroundings) -> None:
        """Take what is needed."""
        self._reactor = surroundings.reactor
        self._pipeline = surroundings.pipeline
        self._client_of = surroundings.client_of

    def start(self) -> None:
        """Watch the files."""
        if self._lists:
            self._watch = Watch(self._reactor, self._look)
            self._watch.start()

    def stop(self) -> None:
        """Watch no more."""
        if self._watch is not None:
            self._watch.stop()

    def received(self, request: Request) -> Reply | None:
        """Refuse the request, or let it go on."""
        for number in self._index.matching(request):
            rule = self._rules[number]
            if not rule.holds(request):
                continue
            request.count(rule.hits)
            if rule.rule.allow:
                break
            request.exchange.notes["blocked"] = rule.name
            return _refusal(rule.rule)
        if self._by_client:
            request.gates = (*request.gates, self._gate(request.client_ip))
        return None

    def report(self) -> Mapping[str, Any]:
        """Return how often each rule held and refused, and what is in the files."""
        return {
            "rules": told(rule.hits for rule in self._rules),
            "refused": {
                rule.name: rule.hits.count
                for rule in self._rules
                if not rule.rule.allow
            },
            "lists": {
                str(each.path): each.problem or f"{len(each.values)} entries"
                for each in self._lists
            },
        }

    def _gate(self, remembered: str) -> Any:
        """Return what says whether another client's equal head goes the same way.

        It does when it is the same client, or when no rule knows either of them.
        """
        unknown = not self._touches(remembered)

        def gate(exchange: Any) -> bool:
            client = self._client_of(exchange)
            return client == remembered or (unknown and not self._touches(client))

        return gate

    def _touches(self, client: str) -> bool:
        known = self._touched.get(client)
        if known is None:
            if len(self._touched) >= _MOST_CLIENTS:
                self._touched.clear()
            known = any(rule.touches(client) for rule in self._rules)
            self._touched[client] = known
        return known

    def _look(self) -> None:
        for each in self._lists:
            if each.changed():
                each.reread(self._reactor, self._changed)

    def _changed(self) -> None:
        self._touched.clear()
        self._pipeline.forget()


def _made(rule: Rule, name: str) -> _Rule:
    """Return a rule at work.  Raises ValueError."""
    condition = Condition(rule)
    hits = RuleHits(name, _described(rule))
    if not rule.file:
        if condition.empty and not rule.allow:
            raise ValueError("this would refuse everything")
        return _Rule(rule, name, condition, None, hits)
    kind, colon, value = rule.of.partition(":")
    named = kind in _KINDS and bool(value)
    if not named and (colon or kind not in ("client", "host", "path")):
        raise ValueError(f'of: "{rule.of}" is not what can be looked up')
    values = ListFile(Path(rule.file), of_networks=rule.of == "client")
    values.read()
    return _Rule(rule, name, condition, values, hits)


def _described(rule: Rule) -> str:
    """Return a rule in a line, for people."""
    said = rule.described()
    if rule.file:
        said += f"; {rule.of} {'not ' if rule.unlisted else ''}in {rule.file}"
    return f"{said} → {'let through' if rule.allow else rule.status}"


def _refusal(rule: Rule) -> Reply:
    if rule.status == 403 and not rule.text:
        raise Blocked("This request is not allowed here.")
    phrase = HTTPStatus(rule.status).phrase if rule.status in _STATUSES else "Refused"
    return Reply(
        rule.status,
        ((b"Content-Type", b"text/plain; charset=utf-8"),),
        (rule.text or phrase).encode("utf-8") + b"\n",
        served_by="Blocker",
    )


_STATUSES = frozenset(status.value for status in HTTPStatus)

"""HeaderStamper: sets and drops header fields, both ways, by rules.

Of each list only the first rule that holds is applied.  Changes to answers
are made before they are kept: a Cache-Control stamped here governs the cache.  So they
must be the same for everybody; what depends on the client is stamped on the way out,
which makes hits take the longer way.  ETag, conditional requests and connections are
left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen
from twisted.logger import Logger

from clinfra.config import key
from clinfra.errors import ConfigProblems
from clinfra.proxy.conditions import Condition, When
from clinfra.proxy.message import Reply, Request
from clinfra.proxy.rule_hits import RuleHits, told
from clinfra.proxy.rule_index import RuleIndex
from clinfra.proxy.rules import RuleModule, Surroundings
from clinfra.web.headers import HOP_BY_HOP, is_token

_ZANY_RANGE_BYTES = 64
_MOST_SHOWN = 200
_NOT_FOR_RULES = HOP_BY_HOP | {b"content-length"}
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


@frozen
class Stamp(When):
    """One rule: when it holds (see `conditions`), and what is changed."""

    set: Mapping[str, str] = key((), "Fields to set.")
    drop: tuple[str, ...] = key((), "Fields to drop.")


@frozen
class Options:
    """Options of HeaderStamper."""

    modify_request_headers: tuple[Stamp, ...] = key((), "Rules for what origins get.")
    modify_response_headers: tuple[Stamp, ...] = key((), "Rules for answers.")
    modify_delivered_headers: tuple[Stamp, ...] = key(
        (), "Rules for all answers on their way out, kept ones and pages included."
    )
    remote_ip_header: str = key(
        "", "Field with the client's address; believed from trusted proxies only."
    )


class _Rules:
    """Rules and what each of them changes."""

    def __init__(self, name: str, stamps: Sequence[Stamp], problems: list[str]) -> None:
        self._stamps = stamps
        self._changes = [
            _changes(f"{name}[{number}]", stamp, problems)
            for number, stamp in enumerate(stamps)
        ]
        conditions = []
        for number, stamp in enumerate(stamps):
            try:
                conditions.append(Condition(stamp))
            except ValueError as error:
                problems.append(f"{name}[{number}]: {error}")
        self._index = RuleIndex(conditions)
        self.hits = [
            RuleHits(f"{name}[{number}]", stamp.described())
            for number, stamp in enumerate(stamps)
        ]

    def apply(self, request: Request, message: Request | Reply) -> None:
        """Make the changes of the first rule that holds."""
        number = next(self._index.matching(request), None)
        if number is not None:
            request.count(self.hits[number])
            for name, value in self._changes[number]:
                message.set(name, value)

    def rows(self) -> list[dict[str, str]]:
        """Return what is changed when, to look at."""
        return [
            {
                "when": self._stamps[number].described(),
                "header": name.decode("latin-1"),
                "new value": "(dropped)" if value is None else value.decode("latin-1"),
            }
            for number, changes in enumerate(self._changes[:_MOST_SHOWN])
            for name, value in changes
        ]

    def __len__(self) -> int:
        return len(self._changes)


class HeaderStamper(RuleModule):
    """Stamps header fields."""

    Config = Options
    by_heads = True
    log = Logger()

    def __init__(self, config: Options) -> None:
        problems: list[str] = []
        self._request_rules = _Rules(
            "modify_request_headers", config.modify_request_headers, problems
        )
        self._response_rules = _Rules(
            "modify_response_headers", config.modify_response_headers, problems
        )
        self._delivered_rules = _Rules(
            "modify_delivered_headers", config.modify_delivered_headers, problems
        )
        for number, stamp in enumerate(config.modify_response_headers):
            if stamp.networks or stamp.cookies:
                problems.append(
                    f"modify_response_headers[{number}]: what is kept for all cannot"
                    " depend on networks or cookies; modify_delivered_headers can"
                )
        if problems:
            raise ConfigProblems(problems)
        if not self._delivered_rules:
            # A hook that does nothing would still keep hits from the fast lane.
            self.deliver = None  # type: ignore[method-assign,assignment] # see above
        self._remote_ip = config.remote_ip_header.lower().encode("latin-1")
        # Whose field the address is from is not in the head.
        self.head_only = not self._remote_ip

    def attach(self, surroundings: Surroundings) -> None:
        """Learn whom to trust."""
        self._trusted = surroundings.trusted

    def received(self, request: Request) -> None:
        """Learn the client's address; take note of strange ranges."""
        if self._remote_ip and self._trusted.trusts(request.exchange.client_ip):
            value = request.get(self._remote_ip)
            if value is not None:
                request.client_ip = self._trusted.client(
                    request.exchange.client_ip, (value,)
                )
        asked = request.head.index.get(b"range")
        if asked is not None and len(asked[0]) > _ZANY_RANGE_BYTES:
            self.log.info(
                "A zany Range from {client}: {range}",
                client=request.client_ip,
                range=asked[0],
            )

    def forward(self, request: Request) -> None:
        """Stamp what the origin gets."""
        if self._request_rules:
            self._request_rules.apply(request, request)

    def response(self, request: Request) -> None:
        """Stamp the answer."""
        if self._response_rules and request.reply is not None:
            self._response_rules.apply(request, request.reply)

    def deliver(self, request: Request) -> None:
        """Stamp whatever is sent."""
        if request.reply is not None:
            self._delivered_rules.apply(request, request.reply)

    def report(self) -> Mapping[str, Any]:
        """Return how many requests each rule held for."""
        kinds = (self._request_rules, self._response_rules, self._delivered_rules)
        return {"rules": told(hits for rules in kinds for hits in rules.hits)}

    def listing(self) -> Mapping[str, Any]:
        """Return the rules, a row for each field."""
        return {
            "modify_request_headers": self._request_rules.rows(),
            "modify_response_headers": self._response_rules.rows(),
            "modify_delivered_headers": self._delivered_rules.rows(),
        }


def _changes(
    where: str, stamp: Stamp, problems: list[str]
) -> list[tuple[bytes, bytes | None]]:
    changes: list[tuple[bytes, bytes | None]] = []
    for text, value in (
        *((dropped, None) for dropped in stamp.drop),
        *dict(stamp.set).items(),
    ):
        name = text.encode("latin-1", "replace")
        if not is_token(name):
            problems.append(f'{where}: "{text}" is not the name of a field')
        elif name.lower() in _NOT_FOR_RULES:
            problems.append(f"{where}: {text} is not for rules to change")
        elif value is not None and not _VALUE.fullmatch(value):
            problems.append(f"{where}: the value of {text} cannot be sent")
        else:
            changes.append((name, None if value is None else value.encode("latin-1")))
    return changes

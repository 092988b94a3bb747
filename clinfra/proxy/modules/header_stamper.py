"""HeaderStamper: sets and drops header fields, both ways, by regular expression.

Of each list only the first rule that matches host/path is applied.  Changes to answers
are made before they are kept: a Cache-Control stamped here governs the cache.  ETag,
conditional requests and connections are left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from attrs import frozen
from twisted.logger import Logger

from clinfra.config import Pattern, key
from clinfra.errors import ConfigProblems
from clinfra.proxy.message import Reply, Request
from clinfra.proxy.rules import RuleModule, Surroundings
from clinfra.web.headers import HOP_BY_HOP, is_token

_ZANY_RANGE_BYTES = 64
_NOT_FOR_RULES = HOP_BY_HOP | {b"content-length"}
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


@frozen
class Stamp:
    """One rule."""

    match: Pattern = key(Pattern(""), "Regular expression searched in host/path.")
    set: Mapping[str, str] = key((), "Fields to set.")
    drop: tuple[str, ...] = key((), "Fields to drop.")


@frozen
class Options:
    """Options of HeaderStamper."""

    modify_request_headers: tuple[Stamp, ...] = key((), "Rules for what origins get.")
    modify_response_headers: tuple[Stamp, ...] = key((), "Rules for answers.")
    remote_ip_header: str = key(
        "", "Field with the client's address; believed from trusted proxies only."
    )


@frozen
class _Rule:
    match: re.Pattern[str]
    fields: tuple[tuple[bytes, bytes | None], ...]

    def apply(self, message: Request | Reply) -> None:
        for name, value in self.fields:
            message.set(name, value)


class HeaderStamper(RuleModule):
    """Stamps header fields."""

    Config = Options
    by_heads = True
    log = Logger()

    def __init__(self, config: Options) -> None:
        problems: list[str] = []
        self._request_rules = _rules(
            "modify_request_headers", config.modify_request_headers, problems
        )
        self._response_rules = _rules(
            "modify_response_headers", config.modify_response_headers, problems
        )
        if problems:
            raise ConfigProblems(problems)
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
        for rule in self._request_rules:
            if rule.match.search(request.host_path):
                rule.apply(request)
                return

    def response(self, request: Request) -> None:
        """Stamp the answer."""
        reply = request.reply
        for rule in self._response_rules:
            if reply is not None and rule.match.search(request.host_path):
                rule.apply(reply)
                return


def _rules(name: str, stamps: Sequence[Stamp], problems: list[str]) -> list[_Rule]:
    rules = []
    for number, stamp in enumerate(stamps):
        where = f"{name}[{number}]"
        fields: list[tuple[bytes, bytes | None]] = []
        for text, value in (
            *((dropped, None) for dropped in stamp.drop),
            *dict(stamp.set).items(),
        ):
            field_name = text.encode("latin-1", "replace")
            if not is_token(field_name):
                problems.append(f'{where}: "{text}" is not the name of a field')
            elif field_name.lower() in _NOT_FOR_RULES:
                problems.append(f"{where}: {text} is not for rules to change")
            elif value is not None and not _VALUE.fullmatch(value):
                problems.append(f"{where}: the value of {text} cannot be sent")
            else:
                raw = None if value is None else value.encode("latin-1")
                fields.append((field_name, raw))
        rules.append(_Rule(re.compile(stamp.match), tuple(fields)))
    return rules

"""Questions about requests, as programs put them; the console's are such."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from clinfra.errors import InvalidRequest
from clinfra.proxy.explaining import Question
from clinfra.web.headers import is_token
from clinfra.web.heads import BadHead, Field, Fields

MOST_FIELDS = 100
_KEYS = frozenset(("url", "method", "client", "fields", "status", "answer"))


def read_question(told: Mapping[str, Any]) -> Question:
    """Return the question that a JSON object puts; raises InvalidRequest.

    "url" is needed; "method", "client" and "status" have defaults; "fields" of the
    request and "answer", fields of the origin's, are lists of "NAME: VALUE".
    """
    unknown = sorted(set(told) - _KEYS)
    if unknown:
        raise InvalidRequest(f"Not something to ask: {unknown[0][:100]!r}.")
    url, method = _text(told, "url", ""), _text(told, "method", "GET").upper()
    if not url:
        raise InvalidRequest("A URL is needed.")
    if not is_token(method.encode("latin-1", "replace")):
        raise InvalidRequest("That is not a method.")
    client = _text(told, "client", "127.0.0.1")
    try:
        ip_address(client)
    except ValueError:
        raise InvalidRequest("The client is not an address.") from None
    status = told.get("status", 200)
    if not isinstance(status, int) or not 200 <= status <= 599:
        raise InvalidRequest("The status is not a number from 200 to 599.")
    question = Question(
        url, method, _fields(told, "fields"), client, status, _fields(told, "answer")
    )
    try:
        question.head()
    except BadHead as bad:
        raise InvalidRequest(
            f"Answered {bad.status} before any rule: {bad.sentence}"
        ) from None
    except ValueError as error:
        raise InvalidRequest(f"Not a URL: {error}.") from None
    return question


def _text(told: Mapping[str, Any], name: str, default: str) -> str:
    value = told.get(name, default)
    if not isinstance(value, str) or len(value) > 8192:
        raise InvalidRequest(f"{name} has to be a text.")
    return value.strip() or default


def _fields(told: Mapping[str, Any], name: str) -> Fields:
    lines = told.get(name, [])
    if not isinstance(lines, list) or len(lines) > MOST_FIELDS:
        raise InvalidRequest(f"{name} has to be a list of at most {MOST_FIELDS}.")
    return tuple(_field(line) for line in lines)


def _field(line: object) -> Field:
    field, colon, value = line.partition(":") if isinstance(line, str) else ("", "", "")
    raw = field.strip().encode("latin-1", "replace")
    if not colon or not is_token(raw) or set(value) & set("\r\n\0"):
        raise InvalidRequest("What is needed is 'NAME: VALUE', one a line.")
    return raw, value.strip().encode("latin-1", "replace")

"""Exceptions: the pages shown when something goes wrong.

The events are the original's; without a page of the operator's, the original's text is
shown with the status that is right.  Trouble found before the pipeline (a head that
cannot be read) is answered by the listener itself.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from clinfra import errors
from clinfra.config import key
from clinfra.proxy.message import Reply, Request
from clinfra.proxy.rules import RuleModule
from clinfra.web.resource import trouble_response


@frozen
class Page:
    """What is shown."""

    status: int = key(0, "Status of the answer; 0 leaves it.", most=599)
    content: str = key("", "Body of the answer.")
    content_type: str = key("text/plain; charset=utf-8", "Its type.")
    headers: Mapping[str, str] = key((), "Further header fields.")


@frozen
class Options:
    """Options of Exceptions: a page for each event."""

    client_idle_timeout: Page | None = key(None, "408: the client is too slow.")
    failed_to_parse_request: Page | None = key(None, "400: the request is malformed.")
    max_request_length_exceeded: Page | None = key(None, "413: it is too large.")
    admin_port_required: Page | None = key(None, "403: not here.")
    request_blocked: Page | None = key(None, "403: a rule keeps it out.")
    request_throttled: Page | None = key(None, "429: more than a limit allows.")
    not_found: Page | None = key(None, "404: nothing of that name.")
    failed_to_parse_response: Page | None = key(None, "502: an origin broke off.")
    origin_timeout: Page | None = key(None, "504: an origin does not answer.")
    origin_connect_maintenance_mode: Page | None = key(
        None, "503: operators want no origin to be asked."
    )
    origin_connect_max_retries: Page | None = key(None, "503: no origin answers.")
    rule_failed: Page | None = key(None, "500: a rule module failed.")


_EVENTS: tuple[tuple[type[errors.Trouble], str, str], ...] = (
    (
        errors.RequestTimeout,
        "client_idle_timeout",
        "Time to perform request exceeded.  Please try again.\n",
    ),
    (
        errors.TooLarge,
        "max_request_length_exceeded",
        "Your request couldn't be processed, it is too large.\n",
    ),
    (errors.InvalidRequest, "failed_to_parse_request", ""),
    (errors.Blocked, "request_blocked", ""),
    (errors.Throttled, "request_throttled", ""),
    (errors.Forbidden, "admin_port_required", ""),
    (errors.NotFound, "not_found", ""),
    (
        errors.OriginTimeout,
        "origin_timeout",
        "Unable to process request, please try again.\n",
    ),
    (
        errors.OriginFailed,
        "failed_to_parse_response",
        "Unable to process request, please try again.\n",
    ),
    (errors.Maintenance, "origin_connect_maintenance_mode", ""),
    (errors.Overloaded, "origin_connect_max_retries", ""),
    (errors.Trouble, "rule_failed", ""),
)
"""Trouble, its event, and the text shown instead of its own sentence."""


class Exceptions(RuleModule):
    """Shows pages for trouble."""

    Config = Options

    def __init__(self, config: Options) -> None:
        self._config = config

    def failed(self, request: Request, trouble: errors.Trouble) -> Reply:
        """Return the page for a trouble."""
        plain = trouble_response(trouble)
        assert isinstance(plain.body, bytes)
        event, text = next(
            (event, text) for kind, event, text in _EVENTS if isinstance(trouble, kind)
        )
        page: Page | None = getattr(self._config, event)
        if page is None:
            body = text.encode("utf-8") or plain.body
            return Reply(plain.status, plain.fields, body, served_by="Exceptions")
        fields = [pair for pair in plain.fields if pair[0].lower() != b"content-type"]
        fields.append((b"Content-Type", page.content_type.encode("latin-1")))
        for name, value in dict(page.headers).items():
            fields.append((name.encode("latin-1"), value.encode("latin-1")))
        return Reply(
            page.status or plain.status,
            tuple(fields),
            page.content.encode("utf-8"),
            served_by="Exceptions",
        )

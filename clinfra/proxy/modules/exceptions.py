"""Exceptions: the pages shown when something goes wrong.

The events are the original's; without a page of the operator's, the original's text is
shown with the status that is right.  Trouble found before the pipeline (a head that
cannot be read) is answered by the listener itself.

A page is text in the configuration, or a file:

    [[proxy.modules]]
    use = "Exceptions"
    directory = "/etc/clinfra/pages"
    [proxy.modules.request_throttled]
    content = "Slow down, please."

In `directory` files are found by event or status: "origin_timeout.html", "503.html";
the event comes first, and what the configuration says before both.  Files are read
again when they change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from math import inf
from mimetypes import guess_type
from pathlib import Path
from typing import Any

import attrs
from attrs import define, frozen
from twisted.logger import Logger

from clinfra import errors
from clinfra.config import key
from clinfra.errors import ConfigProblems
from clinfra.proxy.message import Reply, Request
from clinfra.proxy.rules import RuleModule, Surroundings
from clinfra.web.headers import is_token
from clinfra.web.heads import Fields
from clinfra.web.resource import trouble_response


@frozen
class Page:
    """What is shown."""

    status: int = key(0, "Status of the answer; 0 leaves it.", most=599)
    content: str = key("", "Body of the answer.")
    file: str = key("", "File with the body.")
    content_type: str = key(
        "", "Its type; if not given, what the file's name says, or plain text."
    )
    headers: Mapping[str, str] = key((), "Further header fields.")


@frozen
class Options:
    """Options of Exceptions: a page for each event."""

    directory: str = key("", "Directory with pages named by event or status.")
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


_PLAIN = "text/plain; charset=utf-8"
_MOST_BYTES = 1 << 20
_LOOK_SECONDS = 2.0


class _File:
    """The body of a page in a file."""

    log = Logger()

    def __init__(self, path: Path) -> None:
        self.path = path
        guessed, coding = guess_type(path.name)
        kind = guessed if guessed and not coding else "application/octet-stream"
        self.kind = f"{kind}; charset=utf-8" if kind.startswith("text/") else kind
        self._body = self._read()
        self._version = self._look()
        self._looked_at = -inf

    def body(self, now: float) -> bytes:
        """Return it, as it is now; as it was when it cannot be read any more."""
        if now - self._looked_at > _LOOK_SECONDS:
            self._looked_at = now
            version = self._look()
            if version != self._version:
                self._version = version
                try:
                    self._body = self._read()
                except ValueError as problem:
                    self.log.warn("{problem}; the old page stays", problem=str(problem))
        return self._body

    def _look(self) -> object:
        try:
            status = os.stat(self.path)
        except OSError as error:
            return error.strerror
        return (status.st_mtime_ns, status.st_size)

    def _read(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                raw = file.read(_MOST_BYTES + 1)
        except OSError as error:
            raise ValueError(f"{self.path}: {error.strerror}") from error
        if len(raw) > _MOST_BYTES:
            raise ValueError(f"{self.path}: is larger than {_MOST_BYTES} bytes")
        return raw


@define(eq=False)
class _Shown:
    """A page at work."""

    status: int
    kind: str
    fields: Fields
    body: Callable[[float], bytes]

    @classmethod
    def of(cls, page: Page) -> _Shown:
        """Make one of its configuration.  Raises ValueError."""
        if page.content and page.file:
            raise ValueError("either content or file")
        fields = []
        for name, value in dict(page.headers).items():
            pair = (
                name.encode("latin-1", "replace"),
                value.encode("latin-1", "replace"),
            )
            if not is_token(pair[0]) or set(pair[1]) & set(b"\r\n\0"):
                raise ValueError(f"headers: {name} cannot be sent")
            fields.append(pair)
        if page.file:
            file = _File(Path(page.file))
            kind = page.content_type or file.kind
            return cls(page.status, kind, tuple(fields), file.body)
        content = page.content.encode("utf-8")
        kind = page.content_type or _PLAIN
        return cls(page.status, kind, tuple(fields), lambda now: content)


class Exceptions(RuleModule):
    """Shows pages for trouble."""

    Config = Options

    def __init__(self, config: Options) -> None:
        problems: list[str] = []
        self._pages: dict[str, _Shown] = {}
        for attribute in attrs.fields(Options):
            page = getattr(config, attribute.name)
            if isinstance(page, Page):
                try:
                    self._pages[attribute.name] = _Shown.of(page)
                except ValueError as error:
                    problems.append(f"{attribute.name}: {error}")
        if config.directory:
            self._add_directory(Path(config.directory), problems)
        if problems:
            raise ConfigProblems(problems)

    def attach(self, surroundings: Surroundings) -> None:
        """Take the clock."""
        self._now = surroundings.reactor.seconds

    def failed(self, request: Request, trouble: errors.Trouble) -> Reply:
        """Return the page for a trouble."""
        plain = trouble_response(trouble)
        assert isinstance(plain.body, bytes)
        event, text = next(
            (event, text) for kind, event, text in _EVENTS if isinstance(trouble, kind)
        )
        page = self._pages.get(event) or self._pages.get(str(plain.status))
        if page is None:
            body = text.encode("utf-8") or plain.body
            return Reply(plain.status, plain.fields, body, served_by="Exceptions")
        fields = [pair for pair in plain.fields if pair[0].lower() != b"content-type"]
        fields.append((b"Content-Type", page.kind.encode("latin-1")))
        return Reply(
            page.status or plain.status,
            (*fields, *page.fields),
            page.body(self._now()),
            served_by="Exceptions",
        )

    def report(self) -> Mapping[str, Any]:
        """Return which events and statuses have pages of the operator's."""
        return {"pages": sorted(self._pages)}

    def _add_directory(self, directory: Path, problems: list[str]) -> None:
        events = {event for _, event, _ in _EVENTS}
        try:
            paths = sorted(directory.iterdir())
        except OSError as error:
            problems.append(f"directory: {directory}: {error.strerror}")
            return
        for path in paths:
            name = path.stem
            if name not in events and not (name.isdigit() and len(name) == 3):
                continue
            try:
                self._pages.setdefault(name, _Shown.of(Page(file=str(path))))
            except ValueError as error:
                problems.append(f"directory: {error}")

"""Asks the admin listener, from a command that waits for the answer."""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import define

from clinfra.config import AdminConfig, Config

DEFAULT_ADMIN = "http://127.0.0.1:8090"
URL_VARIABLE = "CLINFRA_ADMIN"
TOKEN_VARIABLE = "CLINFRA_ADMIN_TOKEN"
MOST_BYTES = 64 << 20
"""Longest answer that is read."""

_TCP = re.compile(r"(?:haproxy:)?tcp6?:(?:port=)?(\d+)(?::|$)")
_INTERFACE = re.compile(r":interface=((?:[^:\\]|\\.)*)")
_UNIX = re.compile(r"unix:(?:address=)?([^:]+)")


class Unreached(Exception):
    """Nobody answered, or not as an admin listener does; a plain sentence."""


class Refused(Exception):
    """The admin listener does not do that; its sentence."""


class _UnixConnection(HTTPConnection):
    """HTTP over a UNIX socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


@define(eq=False)
class Admin:
    """One admin listener.

    Args:
        url: "http://HOST:PORT" or "unix:/PATH".
        timeout: longest silence, in seconds.
        token: secret of operators; empty when none is needed.
    """

    url: str
    timeout: float = 10.0
    token: str = ""

    def ask(self, target: str, question: Any = None) -> tuple[int, bytes]:
        """GET a page, or POST a question as JSON; return status and body.

        Raises Unreached.
        """
        connection = self._connection()
        fields = {"Accept": "application/json, text/plain", "Connection": "close"}
        if self.token:
            fields["Authorization"] = f"Bearer {self.token}"
        method, body = ("GET", None)
        if question is not None:
            method, body = "POST", json.dumps(question)
            fields["Content-Type"] = "application/json"
        try:
            connection.request(method, target, body, headers=fields)
            response = connection.getresponse()
            answer = response.read(MOST_BYTES + 1)
        except (OSError, HTTPException) as error:
            raise Unreached(f"{self.url} does not answer: {_why(error)}") from None
        finally:
            connection.close()
        if len(answer) > MOST_BYTES:
            raise Unreached(f"{self.url} answers with more than {MOST_BYTES} bytes")
        if response.status == 401:
            raise Unreached(
                f"{self.url} wants the operators' token: give the configuration with"
                f" --config, or the token in the environment as {TOKEN_VARIABLE}"
            )
        return response.status, answer

    def status(self) -> Mapping[str, Any]:
        """Return what /status tells.  Raises Unreached."""
        answered, body = self.ask("/status")
        try:
            told = json.loads(body)
        except ValueError:
            told = None
        if answered != 200 or not isinstance(told, dict) or "products" not in told:
            raise Unreached(f"{self.url} is no admin listener of clinfra: {answered}")
        return told

    def unready(self) -> list[str]:
        """Return why it cannot serve now; nothing when it can.  Raises Unreached."""
        answered, body = self.ask("/health/ready")
        if answered == 200:
            return []
        lines = body.decode("utf-8", "replace").splitlines()
        return [line.strip() for line in lines if line.strip()] or [f"HTTP {answered}"]

    def explain(self, question: Mapping[str, Any]) -> list[str]:
        """Return what the proxy's rules make of a request.

        Raises Unreached, and Refused with the listener's own sentence.

        Args:
            question: see `admin.console`.
        """
        answered, body = self.ask("/explain", question)
        try:
            lines = json.loads(body)["lines"]
        except (ValueError, TypeError, KeyError):
            sentence = body[:500].decode("utf-8", "replace").strip()
            raise Refused(sentence or f"HTTP {answered}") from None
        return [str(line) for line in lines]

    def _connection(self) -> HTTPConnection:
        if self.url.startswith("unix:"):
            return _UnixConnection(self.url.removeprefix("unix:"), self.timeout)
        try:
            parts = urlsplit(self.url)
            host, port = parts.hostname, parts.port or 80
        except ValueError:
            host, port, parts = None, 0, urlsplit("")
        if parts.scheme != "http" or not host or parts.path not in ("", "/"):
            raise Unreached(f"{self.url!r} is neither http://HOST:PORT nor unix:/PATH")
        return HTTPConnection(host, port, timeout=self.timeout)


def _why(error: Exception) -> str:
    """Return what went wrong, as one knows it from other programs."""
    if isinstance(error, TimeoutError):
        return "timed out"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def place_of(endpoint: str) -> str | None:
    """Return where to reach what listens at an endpoint; None when that is not told."""
    if found := _TCP.match(endpoint):
        interface = _INTERFACE.search(endpoint)
        host = interface[1].replace("\\", "") if interface else ""
        if host in ("", "0.0.0.0"):
            host = "127.0.0.1"
        elif ":" in host:
            host = "[::1]" if host == "::" else f"[{host}]"
        return f"http://{host}:{found[1]}" if int(found[1]) else None
    if found := _UNIX.match(endpoint):
        return f"unix:{found[1]}"
    return None


def find_admin(
    url: str | None,
    configuration: Config | None,
    timeout: float,
    environment: Mapping[str, str] = os.environ,
) -> Admin:
    """Return the listener that is meant: the one given, the configured, the
    environment's, the usual.

    Raises Unreached when the configuration's cannot be found out, or has none.
    """
    section = configuration.admin if configuration is not None else None
    if url is None and configuration is not None:
        if section is None:
            raise Unreached("the configuration has no [admin]; give --admin URL")
        places = filter(None, map(place_of, section.listen))
        url = next(places, None)
        if url is None:
            raise Unreached("where [admin] listens cannot be told; give --admin URL")
    token = environment.get(TOKEN_VARIABLE, "")
    if not token and section is not None:
        token = _configured_token(section)
    url = url or environment.get(URL_VARIABLE) or DEFAULT_ADMIN
    return Admin(url.rstrip("/"), timeout, token)


def _configured_token(section: AdminConfig) -> str:
    """Return the secret of an [admin]; empty when it has none or cannot be read."""
    if not section.token_file:
        return section.token
    try:
        return Path(section.token_file).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""

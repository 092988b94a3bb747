"""The page's files as answers.

The page is the same everywhere; what it is told (`settings`) says what it shows:

* "token": to be sent as X-Console-Token with whatever changes something;
* "actions": whether anything can be changed;
* "admin": whether /status and what else the admin listener has is there;
* "cluster": beginning of the paths of the blob store's admin requests, `_status` and so
  on; absent when there is none.
"""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from importlib.resources import files
from string import Template
from typing import Final

from clinfra.errors import MethodNotAllowed
from clinfra.web.exchange import Response
from clinfra.web.heads import Fields

FILES: Final = (
    "console.css",
    "console.js",
    "charts.js",
    "cluster.js",
    "image.js",
    "overview.js",
    "parts.js",
    "proxy.js",
)

_SAFE: Final[Fields] = (
    (b"Cache-Control", b"no-store"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)
_KINDS: Final[Mapping[str, Fields]] = {
    "css": ((b"Content-Type", b"text/css; charset=utf-8"), *_SAFE),
    "js": ((b"Content-Type", b"text/javascript; charset=utf-8"), *_SAFE),
}
_HTML: Final[Fields] = (
    (b"Content-Type", b"text/html; charset=utf-8"),
    (
        b"Content-Security-Policy",
        # No text becomes markup or script, whatever a blob or a header is called.
        b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
        b" img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none';"
        b" require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (b"Referrer-Policy", b"no-referrer"),
    (b"Cross-Origin-Opener-Policy", b"same-origin"),
    *_SAFE,
)


class ConsolePage:
    """Answers requests for the page and its files.

    Args:
        path: of the page.
        place: path of the page's files, e.g. "/console/".
        settings: what the page is told.
    """

    def __init__(self, path: str, place: str, settings: Mapping[str, object]) -> None:
        directory = files("clinfra.console")
        page = Template((directory / "console.html").read_text("utf-8"))
        told = html.escape(json.dumps(settings))
        text = page.substitute(place=html.escape(place), settings=told)
        self._answers = {path.encode("ascii"): Response(200, _HTML, text.encode())}
        for name in FILES:
            kind = _KINDS[name.rpartition(".")[2]]
            answer = Response(200, kind, (directory / name).read_bytes())
            self._answers[(place + name).encode("ascii")] = answer

    def respond(self, method: bytes, path: bytes) -> Response | None:
        """Return the page or a file of it; None when it is neither.

        Raises MethodNotAllowed.
        """
        answer = self._answers.get(path)
        if answer is not None and method not in (b"GET", b"HEAD"):
            raise MethodNotAllowed(["GET", "HEAD"])
        return answer

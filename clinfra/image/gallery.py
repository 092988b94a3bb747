"""A page to look at the service with: pictures put there, and a playground of recipes.

    GET /                the page; gallery.css and gallery.js beside it
    GET /gallery/sign    the address of a recipe of a picture

Any recipe costs work, so strangers need a signature for most.  The playground signs
what it asks for with a key of its own, made at start and known to nobody: such an
address ends with the process, or within two hours.  Who gets one is `image.gallery`;
besides, whoever asks must have been given the page and be no page of another site.
Signing changes nothing, so it is a GET: a POST to any path is an upload.
"""

from __future__ import annotations

import hmac
import html
import json
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from secrets import token_urlsafe
from string import Template
from typing import Final
from urllib.parse import parse_qs

from clinfra.config import ImageConfig
from clinfra.errors import Forbidden, InvalidRequest
from clinfra.image import heic
from clinfra.image.allowed import Allowed
from clinfra.image.routes import Route
from clinfra.image.signing import Keys
from clinfra.image.sizes import parse_recipe
from clinfra.web.exchange import IExchange, Response
from clinfra.web.foreign import is_from_here, refuse_foreign
from clinfra.web.heads import Fields

_HOUR: Final = 3600
_NAME: Final = re.compile(r"[0-9A-Za-z_]{1,80}")

_SAFE: Final[Fields] = (
    (b"Cache-Control", b"no-store"),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Cross-Origin-Resource-Policy", b"same-origin"),
)
_JSON: Final[Fields] = ((b"Content-Type", b"application/json"), *_SAFE)
_CSS: Final[Fields] = ((b"Content-Type", b"text/css; charset=utf-8"), *_SAFE)
_JAVASCRIPT: Final[Fields] = (
    (b"Content-Type", b"text/javascript; charset=utf-8"),
    *_SAFE,
)
_HTML: Final[Fields] = (
    (b"Content-Type", b"text/html; charset=utf-8"),
    (
        b"Content-Security-Policy",
        # No text becomes markup or script, whatever a picture is called.
        b"default-src 'none'; script-src 'self'; style-src 'self';"
        b" img-src 'self' blob: data:; connect-src 'self'; base-uri 'none';"
        b" form-action 'none'; frame-ancestors 'none';"
        b" require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (b"Referrer-Policy", b"no-referrer"),
    *_SAFE,
)


class Gallery:
    """The page and what it asks for.

    Args:
        allowed: verifies with `key`, too.
        key: to sign with.
        now: unix seconds.
    """

    def __init__(
        self,
        config: ImageConfig,
        *,
        allowed: Allowed,
        key: str,
        now: Callable[[], float],
    ) -> None:
        self._open = config.gallery == "open"
        self._allowed = allowed
        self._keys = Keys.of([key])
        self._now = now
        self._token = token_urlsafe(16)
        directory = files("clinfra.image")
        page = Template((directory / "gallery.html").read_text("utf-8"))
        told = json.dumps(self._settings(config))
        self._pages = {
            b"/": Response(
                200, _HTML, page.substitute(settings=html.escape(told)).encode()
            ),
            b"/gallery.css": Response(
                200, _CSS, (directory / "gallery.css").read_bytes()
            ),
            b"/gallery.js": Response(
                200, _JAVASCRIPT, (directory / "gallery.js").read_bytes()
            ),
        }

    def _settings(self, config: ImageConfig) -> dict[str, object]:
        """Return what the script has to know."""
        return {
            "token": self._token,
            "sizes": list(config.sizes),
            "presets": sorted(self._allowed.presets),
            "quality": config.quality,
            "formats": heic.openable(config.formats),
            "max_bytes": config.max_bytes,
            "ttl_seconds": config.ttl,
        }

    def routes(self) -> Sequence[Route]:
        """Return what is answered here; the first of all routes."""
        return (
            Route(re.compile(rb"/(?:gallery\.(?:css|js))?"), self._answer_page),
            Route(re.compile(rb"/gallery/sign"), self._answer_sign),
        )

    async def _answer_page(
        self, exchange: IExchange, match: re.Match[bytes]
    ) -> Response:
        """Answer with the page or a part of it."""
        self._check(exchange)
        return self._pages[match[0]]

    async def _answer_sign(
        self, exchange: IExchange, match: re.Match[bytes]
    ) -> Response:
        """Answer with the address of a recipe, which may also be a preset's name.

        In JSON: "url", relative to the page; "recipe", canonical; and "expires", in
        unix seconds, or null when anybody may ask for it.
        """
        self._check(exchange)
        refuse_foreign(exchange)
        given = exchange.head.get(b"x-gallery-token") or b""
        if not hmac.compare_digest(given, self._token.encode()):
            raise Forbidden("The service was started anew: please reload this page.")
        query = parse_qs(exchange.head.query.decode("latin-1"))
        name, text = (query.get(key, [""])[-1] for key in ("name", "recipe"))
        if not _NAME.fullmatch(name):
            raise InvalidRequest("Not the name of a picture.")
        recipe, address, expires = self._address(name, text)
        told = {"url": address.lstrip("/"), "recipe": recipe, "expires": expires}
        return Response(200, _JSON, json.dumps(told).encode())

    def _address(self, name: str, text: str) -> tuple[str, str, int | None]:
        try:
            asked = self._allowed.resolve(text, b"", b"", self._now())
        except Forbidden:
            recipe = parse_recipe(text).name
            # The same for an hour, so that the browser need not ask again.
            expires = (int(self._now()) // _HOUR + 2) * _HOUR
            path = f"/{name}/{recipe}".encode("ascii")
            return recipe, self._keys.sign(path, expires).decode("ascii"), expires
        recipe = asked.recipe.name
        return recipe, f"/{name}/{recipe if asked.fixed else text}", None

    def _check(self, exchange: IExchange) -> None:
        """Refuse whoever this page is not for."""
        if not (self._open or is_from_here(exchange)):
            raise Forbidden(
                "The gallery is for browsers on the service's own machine"
                " (image.gallery)."
            )

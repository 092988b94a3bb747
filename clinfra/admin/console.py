"""The console's page, and what it asks for besides /status.

    GET /               the page; its files are below /console/
    GET /cache?page=URL what the cache has of a page, as JSON
    POST /explain       what the proxy's rules make of a request: a JSON object with
                        "url" and perhaps "method", "client", "fields" (a list of
                        "NAME: VALUE"), "status" and "answer" (fields, of the origin's
                        made-up answer); the answer has "lines"
    /cluster/_COMMAND/REPLICA
                        the admin requests of the blob store (`blob.admin`); those that
                        set something off by POST

Whether somebody may ask is looked at before (`access`).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final
from urllib.parse import parse_qs, unquote

from attrs import define, field

from clinfra.admin.access import Access
from clinfra.console.page import ConsolePage
from clinfra.errors import InvalidRequest, MethodNotAllowed, NotFound, TooLarge
from clinfra.interfaces import IClusterAdmin, IPurge
from clinfra.web.exchange import IExchange, Response
from clinfra.web.heads import Fields

Explain = Callable[[Mapping[str, Any]], Awaitable[Sequence[str]]]
"""Returns lines about a request; see POST /explain.  Raises errors.Trouble."""

HostPaths = Callable[[IExchange, Sequence[str]], Sequence[str]]
"""Returns what pages may be cached under."""

MOST_QUESTION_BYTES: Final = 64 << 10
MOST_LINES: Final = 2000

_CLUSTER: Final = b"/cluster/"
_JSON: Final[Fields] = (
    (b"Content-Type", b"application/json"),
    (b"Cache-Control", b"no-store"),
    (b"X-Content-Type-Options", b"nosniff"),
)


@define(eq=False)
class Console:
    """Answers what is the console's.

    Args:
        cluster: the blob store, if it runs in this process.
        explain: asks the proxy's rules, if there is a proxy.
        cache: its cache.
        host_paths: turns URLs into what the cache knows.
    """

    _access: Access
    _cluster: IClusterAdmin | None
    _explain: Explain | None
    _cache: IPurge | None
    _host_paths: HostPaths
    _page: ConsolePage = field(init=False)

    @_page.default
    def _make_page(self) -> ConsolePage:
        settings: dict[str, object] = {
            "admin": True,
            "token": self._access.page_token,
            "actions": self._access.config.actions,
            "proxy": self._cache is not None,
        }
        if self._cluster is not None:
            settings["cluster"] = _CLUSTER.decode("ascii")
        return ConsolePage("/", "/console/", settings)

    async def respond(self, exchange: IExchange) -> Response | None:
        """Answer what is the console's; None for everything else."""
        method, path = exchange.head.method, exchange.head.path
        if (answer := self._page.respond(method, path)) is not None:
            return answer
        if path.startswith(_CLUSTER):
            return await self._administer(exchange, path)
        if path == b"/cache":
            return await self._look_up(exchange)
        if path == b"/explain":
            return await self._tell(exchange)
        return None

    async def _administer(self, exchange: IExchange, path: bytes) -> Response:
        """Have the blob store answer."""
        if self._cluster is None:
            raise NotFound("No blob store runs in this process.")
        asked = unquote(path[len(_CLUSTER) :].decode("latin-1"))
        command = asked.partition("/")[0]
        if self._cluster.changes(command):
            if exchange.head.method != b"POST":
                raise MethodNotAllowed(["POST"])
            self._access.check_change(exchange)
            exchange.notes["blob"] = asked
        elif exchange.head.method not in (b"GET", b"HEAD"):
            raise MethodNotAllowed(["GET", "HEAD"])
        answer: Response = await self._cluster.administer(exchange, asked)
        return answer

    async def _look_up(self, exchange: IExchange) -> Response:
        """Tell what the cache has of a page."""
        if exchange.head.method not in (b"GET", b"HEAD"):
            raise MethodNotAllowed(["GET", "HEAD"])
        if self._cache is None:
            raise NotFound("No proxy runs in this process.")
        query = parse_qs(exchange.head.query.decode("latin-1"), max_num_fields=10)
        pages = query.get("page", [])
        if len(pages) != 1:
            raise InvalidRequest("One page is needed: /cache?page=URL")
        host_paths = self._host_paths(exchange, pages)
        found = await self._cache.look_up(host_paths)
        return _json({"pages": list(host_paths), "found": list(found)})

    async def _tell(self, exchange: IExchange) -> Response:
        """Tell what would happen to a request."""
        if exchange.head.method != b"POST":
            raise MethodNotAllowed(["POST"])
        self._access.check_page(exchange)
        if self._explain is None:
            raise NotFound("No proxy runs in this process.")
        try:
            told = json.loads(await _read(exchange))
        except (ValueError, RecursionError):
            raise InvalidRequest("The question is not JSON.") from None
        if not isinstance(told, dict):
            raise InvalidRequest("The question is not a JSON object.")
        lines = await self._explain(told)
        return _json({"lines": list(lines[:MOST_LINES])})


def _json(value: object) -> Response:
    return Response(200, _JSON, json.dumps(value).encode("ascii") + b"\n")


async def _read(exchange: IExchange) -> bytes:
    body = bytearray()
    while piece := await exchange.body.read():
        body += piece
        if len(body) > MOST_QUESTION_BYTES:
            raise TooLarge(f"The question is over {MOST_QUESTION_BYTES} bytes.")
    return bytes(body)

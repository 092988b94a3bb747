"""The admin pages over HTTP.

    GET /               the console, and what it asks for: see `console`
    GET /health/live    200 while the process runs
    GET /health/ready   200 when it can serve, else 503 and the reasons, a line each
    GET /metrics        the same numbers for Prometheus, by names that last
    GET /status         JSON: version, state, uptime, each product's report
    GET /history        JSON: what the console's charts draw of the last five minutes
    PURGE URL-or-path   forget the page of that Host and path (with a body: the pages
                        it lists, one per line)
    POST /purge         forget the pages of the body, one per line
    POST /purge/prefixes, /purge/tags
                        forget the pages whose host and path begin like that, or that
                        have one of these tags, one per line
    GET /maintenance    which origins are kept from being asked, as JSON
    PUT /maintenance/POOL/MEMBER
                        ask this member no more; DELETE asks it again.  The same for a
                        whole pool (/maintenance/POOL), and all of them (/maintenance).
                        Until the process ends: the configuration says what lasts.

Purges answer "N/M pages purged": N were cached, of M named; by prefixes and tags, N is
what this process had in memory.  With the field "Soft-Purge: 1" pages are not forgotten
but stale from now on.  Nothing changes by GET, and web pages of other origins cannot
purge.  Who may ask for what is in `access`.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from clinfra import errors
from clinfra.admin.access import Access
from clinfra.admin.console import Console, Explain
from clinfra.admin.pages import Namer, split_list
from clinfra.interfaces import IClusterAdmin, IMaintenance, IPurge
from clinfra.web.exchange import IExchange, Response
from clinfra.web.heads import Fields
from clinfra.web.resource import Resource

_MAINTENANCE = b"/maintenance"

MOST_BODY_BYTES = 1 << 20
"""Longest list of pages."""

_SAFE: Fields = (
    (b"Cache-Control", b"no-store"),
    (b"X-Content-Type-Options", b"nosniff"),
)
_TEXT: Fields = ((b"Content-Type", b"text/plain; charset=utf-8"), *_SAFE)
_JSON: Fields = ((b"Content-Type", b"application/json"), *_SAFE)


class AdminResource(Resource):
    """Answers every request to the admin listener.

    Args:
        access: who may ask.
        status: returns what /status shows.
        history: returns what /history shows.
        unready: returns why the process cannot serve now; nothing when it can.
        purge: the cache, if there is one.
        proxy_ports: returns where the proxy listens.
        default_port: the port that host_paths leave out.
        maintenance: the proxy's origins, if there is a proxy.
        metrics: returns the content type and body of /metrics, by what a client
            accepts; None when there is no such page.
        cluster: the blob store, if it runs here.
        explain: asks the proxy's rules, if there is a proxy.
    """

    def __init__(
        self,
        *,
        access: Access,
        status: Callable[[], Mapping[str, Any]],
        unready: Callable[[], Sequence[str]],
        purge: IPurge | None,
        proxy_ports: Callable[[], Collection[int]],
        default_port: int,
        maintenance: IMaintenance | None = None,
        metrics: Callable[[str], tuple[str, bytes]] | None = None,
        cluster: IClusterAdmin | None = None,
        explain: Explain | None = None,
        history: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        super().__init__()
        self._access = access
        self._console = Console(access, cluster, explain, purge, self._host_paths)
        self._maintenance = maintenance
        self._metrics = metrics
        self._unready = unready
        self._purge = purge
        self._proxy_ports = proxy_ports
        self._default_port = default_port
        self._pages: dict[bytes, Callable[[], Response]] = {
            b"/health/live": self._live,
            b"/health/ready": self._ready,
            b"/status": lambda: _json(status()),
            b"/history": lambda: _json(history()),
        }
        self._actions: dict[bytes, Callable[[IExchange], Awaitable[Response]]] = {
            b"/purge": self._purge_list,
            b"/purge/prefixes": self._purge_prefixes,
            b"/purge/tags": self._purge_tags,
        }

    async def respond(self, exchange: IExchange) -> Response:
        """Answer a page, or do what is asked."""
        method, path = exchange.head.method, exchange.head.path
        if (refusal := self._access.check(exchange)) is not None:
            return refusal
        if method == b"PURGE":
            return await self._purge_page(exchange)
        if path == _MAINTENANCE or path.startswith(_MAINTENANCE + b"/"):
            return await self._maintain(exchange, method, path)
        if path == b"/metrics" and self._metrics is not None:
            if method not in (b"GET", b"HEAD"):
                raise errors.MethodNotAllowed(["GET", "HEAD"])
            accept = (exchange.head.get(b"accept") or b"").decode("latin-1")
            content_type, body = self._metrics(accept)
            fields: Fields = ((b"Content-Type", content_type.encode()), *_SAFE)
            return Response(200, fields, body)
        if page := self._pages.get(path):
            if method not in (b"GET", b"HEAD"):
                raise errors.MethodNotAllowed(["GET", "HEAD"])
            return page()
        if action := self._actions.get(path):
            if method != b"POST":
                raise errors.MethodNotAllowed(["POST"])
            return await action(exchange)
        if (answer := await self._console.respond(exchange)) is not None:
            return answer
        raise errors.NotFound("There is no such page here.")

    def _live(self) -> Response:
        return Response(200, _TEXT, b"alive\n")

    def _ready(self) -> Response:
        reasons = self._unready()
        if reasons:
            return Response(503, _TEXT, ("\n".join(reasons) + "\n").encode())
        return Response(200, _TEXT, b"ready\n")

    async def _maintain(
        self, exchange: IExchange, method: bytes, path: bytes
    ) -> Response:
        if method not in (b"GET", b"HEAD", b"PUT", b"DELETE"):
            raise errors.MethodNotAllowed(["GET", "HEAD", "PUT", "DELETE"])
        if self._maintenance is None:
            raise errors.NotFound("No proxy runs in this process.")
        if method in (b"PUT", b"DELETE"):
            self._access.check_change(exchange)
            names = path[len(_MAINTENANCE) + 1 :].decode("latin-1").split("/", 1)
            pool, member = (*map(unquote, names), "")[:2]
            await self._maintenance.maintain(pool, member, method == b"PUT")
            exchange.notes["maintenance"] = "/".join(names)
        return _json(await self._maintenance.maintained())

    async def _purge_page(self, exchange: IExchange) -> Response:
        head = exchange.head
        if head.content_length != 0:
            return await self._purge_list(exchange)
        page = (head.host + head.target).decode("latin-1")
        return await self._forget(exchange, [page])

    async def _purge_list(self, exchange: IExchange) -> Response:
        return await self._forget(exchange, await _read_list(exchange))

    async def _purge_prefixes(self, exchange: IExchange) -> Response:
        prefixes = await _read_list(exchange)
        host_paths = self._host_paths(exchange, prefixes)
        known = await self._cache(exchange).purge(
            (), prefixes=host_paths, soft=_is_soft(exchange)
        )
        return _purged(exchange, known, "by prefix")

    async def _purge_tags(self, exchange: IExchange) -> Response:
        tags = await _read_list(exchange)
        bad = next((tag for tag in tags if " " in tag or "," in tag), None)
        if bad is not None:
            raise errors.InvalidRequest(f"Not a tag: {bad[:100]!r}.")
        known = await self._cache(exchange).purge(
            (), tags=tags, soft=_is_soft(exchange)
        )
        return _purged(exchange, known, "by tag")

    def _cache(self, exchange: IExchange) -> IPurge:
        self._access.check_change(exchange)
        if self._purge is None:
            raise errors.NotFound("No proxy runs in this process: nothing to purge.")
        return self._purge

    def _host_paths(self, exchange: IExchange, pages: Sequence[str]) -> list[str]:
        namer = Namer(self._proxy_ports(), self._default_port, exchange.local_port)
        return [name for page in pages for name in namer.host_paths(page)]

    async def _forget(self, exchange: IExchange, pages: Sequence[str]) -> Response:
        cache = self._cache(exchange)
        host_paths = self._host_paths(exchange, pages)
        known = await cache.purge(host_paths, soft=_is_soft(exchange))
        exchange.notes["purged"] = f"{min(known, len(pages))}/{len(pages)}"
        sentence = f"{min(known, len(pages))}/{len(pages)} pages purged\n"
        return Response(200, _TEXT, sentence.encode())


def _json(value: Any) -> Response:
    # Not indented: that takes six times as long, and leaves circles behind.
    text = json.dumps(value, default=str)
    return Response(200, _JSON, text.encode() + b"\n")


async def _read_list(exchange: IExchange) -> list[str]:
    """Return the lines of a request's body."""
    body = bytearray()
    while piece := await exchange.body.read():
        body += piece
        if len(body) > MOST_BODY_BYTES:
            raise errors.TooLarge(f"The list is over {MOST_BODY_BYTES} bytes.")
    return split_list(bytes(body))


def _is_soft(exchange: IExchange) -> bool:
    """Whether pages are to be stale rather than gone."""
    said = exchange.head.get(b"soft-purge")
    return said is not None and said not in (b"0", b"")


def _purged(exchange: IExchange, known: int, how: str) -> Response:
    exchange.notes["purged"] = f"{known} {how}"
    sentence = f"{known} pages in memory purged {how}; memcached is told\n"
    return Response(200, _TEXT, sentence.encode())

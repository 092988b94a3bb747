"""StatusPage: what the proxy is doing, for people; off unless `match` is given.

    [[proxy.modules]]
    use = "StatusPage"
    match = "/proxy-status$"
    networks = ["127.0.0.0/8", "::1", "10.0.0.0/8"]

It shows the requests under way and what every module reports and lists; pools of
origins are a tree that opens.  With `?json` the same is there for programs.  Only
clients in `networks` see it, and nobody through a proxy that is not among
`trusted_proxies`: for others the page is not there.
"""

from __future__ import annotations

import json
import os
import socket
from base64 import b64encode
from collections.abc import Iterator, Mapping
from hashlib import sha256
from html import escape
from typing import Any

from attrs import frozen

from clinfra.config import Pattern, ProxyConfig, key
from clinfra.errors import ConfigProblems
from clinfra.patterns import compile_pattern
from clinfra.proxy.active import active
from clinfra.proxy.message import Reply, Request
from clinfra.proxy.networks import Networks
from clinfra.proxy.rules import RuleModule, Surroundings
from clinfra.proxy.showing import hit_share, html, pool_tree
from clinfra.web.heads import Field

_MOST_SHOWN = 200
_FORWARDED = (b"x-forwarded-for", b"forwarded", b"via")

_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222;
       background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin: 1.6rem 0 .4rem; }
nav a { margin-right: 1rem; } table { border-collapse: collapse; margin: .3rem 0; }
td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top;
         border-bottom: 1px solid #8884; overflow-wrap: anywhere; }
th { font-weight: 600; } summary { cursor: pointer; } details { margin-left: 1rem; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; }
       a { color: #8bf; } }
"""

_STYLE_HASH = b64encode(sha256(_STYLE.encode("utf-8")).digest())
_POLICY = (
    b"default-src 'none'; base-uri 'none'; form-action 'none';"
    b" frame-ancestors 'none'; style-src 'sha256-%b'" % _STYLE_HASH
)
_SAFE: tuple[Field, ...] = (
    (b"Cache-Control", b"private, no-store"),
    (b"Content-Security-Policy", _POLICY),
    (b"X-Content-Type-Options", b"nosniff"),
    (b"Referrer-Policy", b"no-referrer"),
)


@frozen
class Options:
    """Options of StatusPage."""

    match: Pattern = key(
        Pattern(""), "Regular expression searched in host/path; empty is off."
    )
    networks: tuple[str, ...] = key(
        ("127.0.0.0/8", "::1/128"), "Networks of clients that may see it."
    )
    title: str = key("clinfra", "Title of the page.")


class StatusPage(RuleModule):
    """Shows what is going on."""

    Config = Options
    head_only = True
    reloadable = False

    def __init__(self, config: Options) -> None:
        self._config = config
        self._match = compile_pattern(config.match)
        try:
            self._networks = Networks(config.networks)
        except ValueError as error:
            raise ConfigProblems([f"networks: {error}"]) from error
        if not config.match:
            # A hook that does nothing would still cost something.
            self.received = None  # type: ignore[method-assign,assignment] # see above

    def attach(self, surroundings: Surroundings) -> None:
        """Take what is shown."""
        self._pipeline = surroundings.pipeline
        self._now = surroundings.reactor.seconds
        self._began = self._now()
        self._listeners = list(map(str, surroundings.config.listen))
        self._routes = _routes(surroundings.config)

    def received(self, request: Request) -> Reply | None:
        """Answer with the page, if that is asked for by somebody who may see it."""
        if (
            request.method not in (b"GET", b"HEAD")
            or self._match.search(request.host_path.partition("?")[0]) is None
            or self._networks.find(request.client_ip) is None
            or _through_strangers(request)
        ):
            return None
        sections = dict(self._sections())
        if request.target.partition("?")[2] == "json":
            kind, body = b"application/json", json.dumps(sections, default=str)
        else:
            kind, body = b"text/html; charset=utf-8", self._page(_drawn(sections))
        return Reply(
            200,
            ((b"Content-Type", kind), *_SAFE),
            body.encode("utf-8"),
            served_by="StatusPage",
        )

    def _sections(self) -> Iterator[tuple[str, Any]]:
        """Yield what there is to show, by title."""
        pipeline = self._pipeline
        yield (
            "Server Statistics",
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "uptime": _duration(self._now() - self._began),
                "listeners": self._listeners,
                "requests served": pipeline.requests + pipeline.hits + pipeline.passes,
                "of these from memory": pipeline.hits,
                "requests active": pipeline.active,
            },
        )
        yield "Active Requests", list(self._active())
        listings = {
            type(module).__name__: module.listing()
            for module in pipeline.modules
            if hasattr(module, "listing")
        }
        for name, report in pipeline.reports():
            if name.startswith("StatusPage"):
                continue
            listing = listings.get(name, {})
            if name == "Forwarder":
                listing = {**listing, "routes": self._routes}
            if report or listing:
                yield name, {**report, **listing}

    def _active(self) -> Iterator[Mapping[str, Any]]:
        """Yield the requests under way as they are shown."""
        for row in active(self._pipeline, self._now(), _MOST_SHOWN):
            yield {
                name.replace("_", " "): _size(value) if "bytes" in name else value
                for name, value in row.items()
            }

    def _page(self, sections: Mapping[str, Any]) -> str:
        title = escape(self._config.title)
        links = "".join(
            f'<a href="#{number}">{escape(name)}</a>'
            for number, name in enumerate(sections)
        )
        shown = "".join(
            f'<h2 id="{number}">{escape(name)}</h2>{html(value)}'
            for number, (name, value) in enumerate(sections.items())
        )
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            f"<title>{title}</title><style>{_STYLE}</style></head>"
            f"<body><h1>{title}</h1><nav>{links}</nav>{shown}</body></html>\n"
        )


def _through_strangers(request: Request) -> bool:
    """Whether it came through a proxy that is not trusted: who asks is not known."""
    seen_through = request.client_ip != request.exchange.client_ip
    return not seen_through and any(name in request.head.index for name in _FORWARDED)


def _drawn(sections: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections with what is better seen than read."""
    drawn = dict(sections)
    for name, value in sections.items():
        if name == "DirectCache":
            drawn[name] = {"share of hits": hit_share(value), **value}
        elif name == "Forwarder":
            drawn[name] = {**value, "pools": pool_tree(value["pools"])}
    return drawn


def _routes(config: ProxyConfig) -> list[dict[str, str]]:
    """Return which requests go to which pool."""
    rows = [
        {"prefix": route.prefix, "match": str(route.match), "pool": route.pool}
        for route in config.routes
    ]
    return [*rows, {"prefix": "(Default)", "match": "", "pool": config.default_pool}]


def _duration(seconds: float) -> str:
    """Return e.g. "1d 2h 3min 4s"."""
    whole = int(seconds)
    parts = (
        (whole // 86400, "d"),
        (whole // 3600 % 24, "h"),
        (whole // 60 % 60, "min"),
    )
    return " ".join([*(f"{n}{unit}" for n, unit in parts if n), f"{whole % 60}s"])


def _size(count: float) -> str:
    """Return bytes in the unit that suits them."""
    for unit in ("B", "KB", "MB", "GB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1024
    return f"{count:.2f} TB"

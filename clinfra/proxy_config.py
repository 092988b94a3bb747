"""The keys of [proxy]; everybody takes these classes from `config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import frozen

from clinfra.keys import Bytes, Endpoint, Limits, Pattern, Seconds, key, table


@frozen
class CacheConfig:
    """The proxy's cache: a hot tier in this process over memcached."""

    memcached: tuple[str, ...] = key(
        (), 'Servers as "host:port"; none means the hot tier only.'
    )
    memcached_timeout: Seconds = key(
        Seconds(0.25), "An answer later than this is a miss."
    )
    memcached_retry: Seconds = key(Seconds(5), "A dead server is asked again after.")
    hot_bytes: Bytes = key(Bytes(128 << 20), "Memory of the hot tier.")
    hot_object_bytes: Bytes = key(Bytes(1 << 20), "Largest answer in the hot tier.")
    object_bytes: Bytes = key(Bytes(16 << 20), "Largest answer cached at all.")
    grace: Seconds = key(
        Seconds(3600), "How long past freshness an answer is kept for validation."
    )


@frozen
class PoolConfig:
    """A pool of origins."""

    members: tuple[str, ...] = key(
        (), 'Origins as "host:port" or "host:port=weight"; "unix:/path" also.'
    )
    connect_timeout: Seconds = key(Seconds(3), "Time to connect.")
    response_timeout: Seconds = key(Seconds(60), "Longest silence before the head.")
    read_timeout: Seconds = key(Seconds(60), "Longest silence inside the body.")
    attempts: int = key(3, "Tries of one request, the first included.", least=1)
    idle_connections: int = key(64, "Connections kept open for reuse, per member.")
    idle_timeout: Seconds = key(Seconds(4), "How long they are kept.")
    max_connections: int = key(1024, "Most connections per member.", least=1)


@frozen
class RouteConfig:
    """Which requests go to which pool; the first match wins."""

    pool: str = key("", "Name of the pool.")
    match: Pattern = key(Pattern(""), "Regular expression searched in host/path.")
    prefix: str = key("", "Path prefix to match; checked before `match`.")
    strip_prefix: bool = key(False, "Remove `prefix` from the path.")


@frozen
class ModuleConfig:
    """One rule module in the pipeline; further keys are the module's own."""

    use: str = key(
        "", "A built-in's name, a dotted path, a plug-in's name or FILE.py:Class."
    )
    options: Mapping[str, Any] = attrs.field(factory=dict)


@frozen
class ProxyConfig:
    """The caching reverse proxy."""

    listen: tuple[Endpoint, ...] = key(
        (Endpoint("tcp:8080:interface=127.0.0.1"),), "Where the proxy listens."
    )
    default_host: str = key("localhost", "Host of requests that name none.")
    default_port: int = key(
        80, "Port left out of host/path when rules match.", least=1, most=65535
    )
    trusted_proxies: tuple[str, ...] = key(
        (), "Networks whose X-Forwarded-For and X-Forwarded-Proto are believed."
    )
    rules_dir: str = key("", "Directory of drop-in rule modules (*.py).")
    modules: tuple[ModuleConfig, ...] = key(
        tuple(
            ModuleConfig(use=name)
            for name in (
                "Logger",
                "Welcome",
                "Redirector",
                "HeaderStamper",
                "DirectCache",
                "BlobForwarder",
                "Forwarder",
                "Exceptions",
            )
        ),
        "The rule modules, in order.",
    )
    pools: Mapping[str, PoolConfig] = key(
        attrs.Factory(dict), 'Pools by name; "blob" and "image" are there by default.'
    )
    routes: tuple[RouteConfig, ...] = key(
        (
            RouteConfig(pool="blob", prefix="/blob/", strip_prefix=True),
            RouteConfig(pool="image", prefix="/image/", strip_prefix=True),
        ),
        "Routes, in order.",
    )
    default_pool: str = key("", "Pool of requests that no route matches.")
    cache: CacheConfig = table(CacheConfig, "The cache.")
    limits: Limits = table(Limits, "What the proxy listener accepts.")

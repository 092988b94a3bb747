"""The keys of [proxy]; everybody takes these classes from `config`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs
from attrs import frozen

from clinfra.keys import (
    Bytes,
    Endpoint,
    Limits,
    Pattern,
    Processes,
    Seconds,
    key,
    table,
)


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
class CheckConfig:
    """How the members of a pool are checked, besides by the requests they answer."""

    kind: str = key(
        "off",
        "off; http: ask for `path`; tcp: only connect.",
        choices=("off", "http", "tcp"),
    )
    path: str = key("/", "What is asked for, by GET.")
    host: str = key(
        "", "Host of the question; empty means the pool's, or the member's own name."
    )
    interval: Seconds = key(Seconds(5), "Between two checks of a member.", least=0.1)
    timeout: Seconds = key(
        Seconds(2), "A member that takes longer has failed the check.", least=0.05
    )
    statuses: tuple[int, ...] = key(
        (200, 204), "Good answers, by status.", least=100, most=599
    )
    text: str = key("", "What a good answer has in its body; empty is anything.")
    rise: int = key(2, "Good checks in a row after which a member is up.", least=1)
    fall: int = key(3, "Bad checks in a row after which it is down.", least=1)


@frozen
class PoolConfig:
    """A pool of origins."""

    members: tuple[str, ...] = key(
        (), 'Origins as "host:port" or "host:port=weight"; "unix:/path" also.'
    )
    backups: tuple[str, ...] = key(
        (), "Origins that are asked only when too few members can be."
    )
    host: str = key(
        "", "Host that the members are sent; empty means what the client sent."
    )
    choice: str = key(
        "least_loaded",
        "Who is asked: least_loaded of two; random, by weight and confidence;"
        " round_robin; hash, always the same member for equal keys.",
        choices=("least_loaded", "random", "round_robin", "hash"),
    )
    hash_key: str = key(
        "host_path", "For hash: host_path, path, client_ip, header:NAME, cookie:NAME."
    )
    connect_timeout: Seconds = key(Seconds(3), "Time to connect, TLS included.")
    response_timeout: Seconds = key(Seconds(60), "Longest silence before the head.")
    read_timeout: Seconds = key(Seconds(60), "Longest silence inside the body.")
    spool_uploads: bool = key(
        True,
        "Take request bodies in before a member is asked: slow senders then tie up"
        ' none.  Never for "blob" and "image" of this process, which take them as they'
        " come.",
    )
    spool_answers: bool = key(
        True,
        "Take answers from members as fast as they come, and keep what slow clients"
        ' do not take yet.  Never for "blob" and "image" of this process.',
    )
    tunnel_timeout: Seconds = key(
        Seconds(3600), "Longest silence of a WebSocket, both ways.", least=1
    )
    attempts: int = key(3, "Tries of one request, the first included.", least=1)
    retry_time: Seconds = key(
        Seconds(10), "No try of a request begins later than this after its first."
    )
    retry_budget: float = key(
        0.2,
        "Most tries again, as a share of the requests; ten are always allowed, and one"
        " more each second.",
        most=10,
    )
    retry_statuses: tuple[int, ...] = key(
        (),
        "Answers to GET and HEAD that count as failures: another member is asked.",
        least=400,
        most=599,
    )
    circuit_failures: int = key(
        5,
        "Failures in a row after which a member is only tried now and then; 0 is"
        " never.",
    )
    circuit_pause: Seconds = key(
        Seconds(5), "Between such trials, as long as others can be asked.", least=0.1
    )
    slow_start: Seconds = key(
        Seconds(0), "How long a member that is back gets less than its share."
    )
    panic_threshold: float = key(
        0.5,
        "With a smaller part of the members up, what checks say is not believed.",
        most=1,
    )
    idle_connections: int = key(64, "Connections kept open for reuse, per member.")
    idle_timeout: Seconds = key(Seconds(4), "How long they are kept.")
    max_connections: int = key(1024, "Most connections per member.", least=1)
    max_queue: int = key(1024, "Most requests waiting for one, per member.")
    queue_timeout: Seconds = key(Seconds(3), "Longest such wait.")
    maintenance: bool = key(
        False, "Ask nobody: answer from the cache, or that we are at work."
    )
    tls: bool = key(False, "Speak TLS with the members.")
    tls_verify: bool = key(
        True, "Check their certificates; without, anybody may be in between."
    )
    tls_name: str = key(
        "",
        "Name to ask for (SNI) and to find in the certificate; empty means the"
        " member's host.",
    )
    tls_ca_file: str = key(
        "", "PEM file of who may have signed it; empty means who the system trusts."
    )
    tls_certificate_file: str = key("", "PEM file of the certificate that we show.")
    tls_key_file: str = key(
        "", "PEM file of its key; empty means it is in the same file."
    )
    check: CheckConfig = table(CheckConfig, "Active checks.")


@frozen
class SpoolConfig:
    """Bodies kept on disk while those who send or take them are slow."""

    directory: str = key("", "Where, in files without names; empty means in data_dir.")
    max_bytes: Bytes = key(
        Bytes(1 << 30), "Most of all of them together; without room, bodies stream."
    )
    answer_bytes: Bytes = key(Bytes(256 << 20), "Most of one answer; its origin waits.")


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
    workers: Processes = key(
        Processes(0),
        'Processes that take requests, a number or "auto"; 0: the main process does.',
        most=1024,
    )
    default_host: str = key("localhost", "Host of requests that name none.")
    default_port: int = key(
        80, "Port left out of host/path when rules match.", least=1, most=65535
    )
    trusted_proxies: tuple[str, ...] = key(
        (),
        "Networks whose X-Forwarded-For, X-Forwarded-Proto and Forwarded are believed.",
    )
    rules_dir: str = key(
        "", "Directory of drop-in rule modules (*.py) and options of modules (*.toml)."
    )
    rules_reload: Seconds = key(
        Seconds(2), "How often it is looked at for changes; 0 is never."
    )
    modules: tuple[ModuleConfig, ...] = key(
        tuple(
            ModuleConfig(use=name)
            for name in (
                "Logger",
                "Welcome",
                "Redirector",
                "HeaderStamper",
                "Compressor",
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
    maintenance: bool = key(
        False, "Ask no origin at all: answer from the cache, or that we are at work."
    )
    nameservers: tuple[str, ...] = key(
        (),
        'DNS servers ("10.0.0.2" or "10.0.0.2:5353") for the names of members, asked'
        " again as they say; none means as the system does.",
    )
    resolve_interval: Seconds = key(
        Seconds(30), "How often the system is asked, which does not say.", least=1
    )
    upgrades: tuple[str, ...] = key(
        ("websocket",),
        "Protocols that clients may switch to: what follows goes both ways as it is.",
    )
    cache: CacheConfig = table(CacheConfig, "The cache.")
    spool: SpoolConfig = table(SpoolConfig, "Bodies on their way.")
    limits: Limits = table(Limits, "What the proxy listener accepts.")

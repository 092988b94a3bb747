"""The proxy put together: what it is made of, when it starts and stops."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import quote, urlsplit

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.config import ProxyConfig
from clinfra.errors import ConfigProblems, NotFound
from clinfra.interfaces import IMaintenance, IProduct, IPurge
from clinfra.proxy.active import active
from clinfra.proxy.arrival import Arrivals
from clinfra.proxy.cache import PageCache
from clinfra.proxy.clients import TrustedProxies
from clinfra.proxy.coalesce import Coalescer
from clinfra.proxy.connections import Connections, name_server_of
from clinfra.proxy.hot_tier import HotTier
from clinfra.proxy.loading import check_modules
from clinfra.proxy.memcached import Memcached
from clinfra.proxy.message import join_host_path, split_authority
from clinfra.proxy.origins import Origins
from clinfra.proxy.pipeline import Pipeline
from clinfra.proxy.reloading import Reloader, attach_modules, stop_module
from clinfra.proxy.resolving import Resolve, dns_resolver, system_resolver
from clinfra.proxy.resource import ProxyResource
from clinfra.proxy.rules import Surroundings
from clinfra.web.pool import Connect, connector
from clinfra.web.spool import Spool
from clinfra.web.streams import Threads

_MOST_ACTIVE = 50
"""Requests under way that are reported."""

_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


@implementer(IProduct, IPurge, IMaintenance)
class ProxyService(Service):
    """The caching reverse proxy.

    Attributes:
        reloader: exchanges the rules.
        lane: answers every request, hits from memory first.
        resource: does the same as a twisted.web resource.
    """

    name = "proxy"

    def __init__(
        self,
        config: ProxyConfig,
        pipeline: Pipeline,
        surroundings: Surroundings,
        reloader: Reloader,
    ) -> None:
        self.pipeline = pipeline
        self.lane = pipeline.lane
        self.resource = ProxyResource(pipeline)
        self._config = config
        self._surroundings = surroundings
        self.reloader = reloader

    def open(self) -> None:
        """Nothing to open: everything was checked when it was made."""

    def startService(self) -> None:
        """Connect to memcached; start the modules."""
        super().startService()
        memcached = self._surroundings.cache.memcached
        if memcached is not None:
            memcached.start()
        self._surroundings.connections.start()
        for module in self.pipeline.modules:
            start = getattr(module, "start", None)
            if start is not None:
                start()
        self.reloader.start()

    def stopService(self) -> Deferred[Any]:
        """Stop the modules, let go of whoever waits, disconnect."""
        super().stopService()
        self.reloader.stop()
        self._surroundings.coalescer.land_all()
        stopping = [stop_module(module) for module in self.pipeline.modules]
        stopping.append(self._surroundings.connections.stop())
        stopped: Deferred[Any] = DeferredList(stopping, consumeErrors=True)

        def disconnect(results: list[tuple[bool, Any]]) -> Deferred[Any] | None:
            for good, result in results:
                if not good:
                    Logger().failure("A rule module failed to stop.", failure=result)
            memcached = self._surroundings.cache.memcached
            return None if memcached is None else memcached.stop()

        return stopped.addCallback(disconnect)

    def report(self) -> Mapping[str, Any]:
        """Return what the admin pages show."""
        pipeline = self.pipeline
        return {
            "requests": pipeline.requests + pipeline.hits + pipeline.passes,
            "active": pipeline.active,
            "under_way": active(
                pipeline, self._surroundings.reactor.seconds(), _MOST_ACTIVE
            ),
            "spool": self._surroundings.spool.report(),
            "modules": dict(pipeline.reports()),
            "rules": self.reloader.report(),
        }

    async def purge(
        self,
        urls: Sequence[str] = (),
        *,
        prefixes: Sequence[str] = (),
        tags: Sequence[str] = (),
        soft: bool = False,
    ) -> int:
        """Forget pages; see interfaces.IPurge.

        Args:
            urls: URLs, or host/paths as rules see them; prefixes also.
        """
        port = self._config.default_port
        host_paths = [host_path_of(url, port) for url in urls]
        beginnings = [host_path_of(prefix, port) for prefix in prefixes]
        known = 0
        for module in self.pipeline.modules:
            purge = getattr(module, "purge", None)
            if purge is not None:
                known += await purge(
                    host_paths, prefixes=beginnings, tags=tags, soft=soft
                )
        return known

    async def look_up(self, urls: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        """Return what is kept of pages; see interfaces.IPurge."""
        host_paths = [host_path_of(url, self._config.default_port) for url in urls]
        found: list[Mapping[str, Any]] = []
        for module in self.pipeline.modules:
            look_up = getattr(module, "look_up", None)
            if look_up is not None:
                found += await look_up(host_paths)
        return found

    async def maintain(self, pool: str, member: str, out: bool) -> None:
        """Take origins out, or back in; see interfaces.IMaintenance."""
        origins = self._surroundings.origins
        if pool:
            found = origins.pool(pool)
            if found is None:
                raise NotFound(f'There is no pool "{pool}".')
            if not found.maintain(out, member):
                raise NotFound(f'There is no member "{member}" in the pool "{pool}".')
        else:
            origins.maintain(out)
        Logger().info(
            "{what} is taken {way} by an operator",
            what=f"{pool} {member}".strip() or "everything",
            way="out" if out else "back in",
        )

    async def maintained(self) -> Mapping[str, Any]:
        """Return what is out."""
        return self._surroundings.origins.maintained()


def host_path_of(url: str, default_port: int) -> str:
    """Return the host/path of a URL, or a host/path in its normal form."""
    url = url.strip()
    if "://" not in url:
        url = "http://" + url
    parts = urlsplit(url)
    host, port = split_authority(parts.netloc)
    target = parts.path or "/"
    if parts.query or url.partition("#")[0].endswith("?"):
        target += "?" + parts.query
    # As listeners make them of targets with raw bytes in them.
    target = quote(target, safe=_PRINTABLE)
    return join_host_path(host, 0 if port == default_port else port, target)


def make_proxy_service(
    config: ProxyConfig,
    *,
    reactor: Any,
    data_dir: Path,
    builtin_pools: Callable[[], Mapping[str, str]],
    locate: Callable[[str], Sequence[str]] | None = None,
    rng: Random | None = None,
    connect: Connect | None = None,
    resolve: Resolve | None = None,
) -> ProxyService:
    """Return the proxy.

    Args:
        reactor: connects and tells the time.
        data_dir: for modules that keep something, and for bodies on their way.
        builtin_pools: returns "blob" and "image" → "host:port" once they listen.
        locate: returns the replicas' "host:port" of an encoded blob name; raises
            ValueError for a bad one.
        rng: draws origins and makes identifiers.
        connect: how to connect to origins and memcached; default `connector`.
        resolve: how to look up the names of origins; default as configured.

    Raises:
        errors.ConfigProblems: everything that is wrong.
    """
    rng = rng or Random()
    loaded = check_modules(config)
    modules = [each.module for each in loaded]
    connect = connect or connector(reactor)
    cache_config = config.cache
    memcached = None
    if cache_config.memcached:
        memcached = Memcached(
            cache_config.memcached,
            reactor,
            connect,
            cache_config.memcached_timeout,
            cache_config.memcached_retry,
            rng,
        )
    cache = PageCache(
        HotTier(cache_config.hot_bytes, cache_config.hot_object_bytes),
        memcached,
        rng,
        cache_config.grace,
        refresh_seconds=10.0,
    )
    trusted = TrustedProxies.parse(config.trusted_proxies)
    arrivals = Arrivals(
        config.default_host, config.default_port, trusted, switchable(config)
    )
    pipeline = Pipeline(modules, reactor=reactor, arrivals=arrivals)
    origins = Origins(config.pools, builtin_pools, rng, reactor.seconds)
    origins.maintain(config.maintenance)
    surroundings = Surroundings(
        reactor=reactor,
        config=config,
        origins=origins,
        cache=cache,
        coalescer=Coalescer(reactor),
        trusted=trusted,
        connections=Connections(
            origins,
            reactor,
            connect,
            rng,
            resolve or _resolver(config, reactor),
            config.resolve_interval,
        ),
        client_of=arrivals.client,
        rng=rng,
        data_dir=data_dir,
        spool=Spool(
            Path(config.spool.directory or data_dir / "spool"),
            config.spool.max_bytes,
            reactor.seconds,
            Threads.of(reactor),
        ),
        locate=locate,
        pipeline=pipeline,
    )
    attach_modules(modules, surroundings)
    reloader = Reloader(loaded, pipeline, surroundings)
    return ProxyService(config, pipeline, surroundings, reloader)


def _resolver(config: ProxyConfig, reactor: Any) -> Resolve | None:
    """Return how to look up names; None when the reactor cannot (in tests)."""
    if config.nameservers:
        servers = [name_server_of(each) for each in config.nameservers]
        return dns_resolver(servers, reactor)
    return system_resolver(reactor) if hasattr(reactor, "nameResolver") else None


def switchable(config: ProxyConfig) -> frozenset[bytes]:
    """Return the protocols that clients may switch to.  Raises ConfigProblems."""
    names = [name.lower().encode("latin-1", "replace") for name in config.upgrades]
    problems = [
        f'proxy.upgrades: "{text}" cannot be tunnelled'
        for text, name in zip(config.upgrades, names, strict=True)
        if not re.fullmatch(rb"[!#$%&'*+\-.^_`|~0-9a-z]+(/[0-9a-z.]+)?", name)
        or name.partition(b"/")[0] in (b"h2c", b"http", b"tls")
    ]
    if problems:
        raise ConfigProblems(problems)
    return frozenset(names)

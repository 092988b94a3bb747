"""What ties pools of origins to the network: connections, names and checks.

`origins` decides who is asked; here is how they are reached.  Pools whose settings are
equal share their connections.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from clinfra.config import PoolConfig
from clinfra.proxy.choosing import read_hash_key
from clinfra.proxy.member import Member, parse_place
from clinfra.proxy.origin_pool import OriginPool
from clinfra.proxy.origins import Origins
from clinfra.proxy.probing import Prober
from clinfra.proxy.resolving import NameWatch, Resolve, is_address, resolving
from clinfra.web.pool import Connect, Origin, Pool, PoolSettings
from clinfra.web.tls import TlsSettings, tls_connector

log = Logger()


@define(eq=False)
class Connections:
    """Reaches the members of pools.

    Args:
        origins: the pools.
        reactor: connects and tells the time.
        connect: how to connect without TLS.
        rng: spreads checks.
        resolve: looks names up; None leaves that to the reactor.
        resolve_seconds: how long its answers hold when they do not say.
    """

    origins: Origins
    reactor: Any
    connect: Connect
    rng: Random
    resolve: Resolve | None = None
    resolve_seconds: float = 30.0
    _clients: dict[tuple[PoolSettings, TlsSettings | None], Pool] = field(
        factory=dict, init=False
    )
    _connects: dict[TlsSettings | None, Connect] = field(factory=dict, init=False)
    _probers: list[Prober] = field(factory=list, init=False)
    _names: NameWatch | None = field(default=None, init=False)

    def start(self) -> None:
        """Begin to look up names, and to check members."""
        pools = self.origins.configured()
        if self.resolve is not None:
            self._names = NameWatch(self.reactor, self.resolve, self.resolve_seconds)
            for pool in pools:
                self._watch(pool, self._names)
            self._names.start()
        for pool in pools:
            if pool.config.check.kind != "off":
                prober = Prober(
                    pool,
                    reactor=self.reactor,
                    connect=self._connect(_tls(pool.config)),
                    origin_of=origin_of,
                    rng=self.rng,
                )
                self._probers.append(prober)
                prober.start()

    def stop(self) -> Deferred[Any]:
        """Close every connection; fires when all are gone."""
        if self._names is not None:
            self._names.stop()
        probers, self._probers = self._probers, []
        return DeferredList(
            [
                *(prober.stop() for prober in probers),
                *(client.close() for client in self._clients.values()),
            ],
            consumeErrors=True,
        )

    def client(self, pool: OriginPool) -> Pool:
        """Return the connections of a pool, made when they are first asked for."""
        made: Pool | None = pool.client
        if made is None:
            config = pool.config
            settings = PoolSettings(
                connect_timeout=config.connect_timeout,
                response_timeout=config.response_timeout,
                read_timeout=config.read_timeout,
                idle_timeout=config.idle_timeout,
                idle_connections=config.idle_connections,
                max_connections=config.max_connections,
                waiting=config.max_queue,
                waiting_timeout=config.queue_timeout,
            )
            tls = _tls(config)
            client = self._clients.get((settings, tls))
            if client is None:
                client = Pool(self.reactor, settings, self._connect(tls))
                self._clients[settings, tls] = client
            pool.client = made = client
            pool.noted = partial(_log_circuit, pool)
            pool.load = lambda member: client.load(member.origin or origin_of(member))
        return made

    def report(self) -> dict[str, Any]:
        """Return what the admin pages show."""
        told: dict[str, Any] = {
            "connections": [client.report() for client in self._clients.values()]
        }
        if self._names is not None:
            told["names"] = self._names.report()
        return told

    def _connect(self, tls: TlsSettings | None) -> Connect:
        connect = self._connects.get(tls)
        if connect is None:
            connect = self.connect
            if tls is not None:
                connect = tls_connector(self.reactor, settings=tls)
            if self.resolve is not None:
                connect = resolving(connect, self.resolve)
            self._connects[tls] = connect
        return connect

    def _watch(self, pool: OriginPool, names: NameWatch) -> None:
        for place in pool.places:
            if not is_address(place.host):
                names.watch(place.host, partial(pool.resolved, place))


def _log_circuit(pool: OriginPool, member: Member) -> None:
    if member.opened:
        log.warn(
            "{pool}: {member} fails, and is only tried now and then: {why}",
            pool=pool.name,
            member=member.name,
            why=member.last_failure,
        )
    else:
        log.info("{pool}: {member} answers again", pool=pool.name, member=member.name)


def origin_of(member: Member) -> Origin:
    """Return a member's address as `web.pool` wants it."""
    origin: Origin | None = member.origin
    if origin is None:
        place = member.place
        name = place.host if member.address != place.host else ""
        origin = Origin(member.address, place.port, place.path, name)
        member.origin = origin
    return origin


def _tls(config: PoolConfig) -> TlsSettings | None:
    if not config.tls:
        return None
    return TlsSettings(
        config.tls_verify,
        config.tls_name,
        config.tls_ca_file,
        config.tls_certificate_file,
        config.tls_key_file,
    )


def name_server_of(text: str) -> tuple[str, int]:
    """Read "10.0.0.2", "10.0.0.2:5353" or "[::1]:53".  Raises ValueError."""
    host, port = text, "53"
    if not is_address(text):
        host, _, port = text.rpartition(":")
        host = host.strip("[]")
    if (
        not host
        or not is_address(host)
        or not port.isdigit()
        or not 0 < int(port) < 65536
    ):
        raise ValueError(f'"{text}" is not the address of a DNS server')
    return host, int(port)


def pool_problems(config: PoolConfig) -> Iterator[str]:
    """Yield what is wrong with a pool, "key: sentence"."""
    for key in ("members", "backups"):
        for number, text in enumerate(getattr(config, key)):
            try:
                place = parse_place(text)
            except ValueError as error:
                yield f"{key}[{number}]: {error}"
                continue
            if place.path and config.tls:
                yield f'{key}[{number}]: "{text}": TLS over UNIX sockets is not spoken'
    if not _HOST.fullmatch(config.host):
        yield f'host: "{config.host}" is no host'
    try:
        read_hash_key(config.hash_key)
    except ValueError as error:
        yield f"hash_key: {error}"
    if not config.check.path.startswith("/") or not config.check.path.isascii():
        yield 'check.path: a path begins with "/"'
    tls = _tls(config)
    if tls is None:
        used = [key for key in _TLS_FILES if getattr(config, key)]
        for key in used:
            yield f"{key}: only used with tls = true"
        return
    if tls.key_file and not tls.certificate_file:
        yield "tls_key_file: the key of which certificate?"
    for key, read in (("tls_ca_file", tls.trust), ("tls_certificate_file", tls.own)):
        try:
            read()
        except ValueError as error:
            yield f"{key}: {error}"


_HOST = re.compile(r"[A-Za-z0-9.:_\[\]-]*", re.ASCII)
_TLS_FILES = ("tls_ca_file", "tls_certificate_file", "tls_key_file", "tls_name")

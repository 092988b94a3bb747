"""The names of origins: what they stand for now, asked again before it changes.

DNS servers say how long their answers hold; the system's resolver (hosts file, search
domains and all) does not, so that it is asked at a fixed pace.  A name that cannot be
resolved keeps the addresses it had: an origin is not gone because DNS is.  Of a name
with both kinds of addresses, those of IPv4 are taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from socket import AF_INET6, inet_ntop
from typing import Any

from attrs import define, field, frozen
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.error import DNSLookupError
from twisted.internet.interfaces import (
    IAddress,
    IConnector,
    IDelayedCall,
    IHostResolution,
    IResolutionReceiver,
)
from twisted.internet.protocol import ClientFactory
from twisted.logger import Logger
from twisted.names import dns
from twisted.names.client import Resolver
from twisted.names.error import DomainError
from twisted.python.failure import Failure
from zope.interface import implementer

from clinfra.web.pool import Connect, Origin

log = Logger()

LEAST_SECONDS = 1.0
MOST_SECONDS = 3600.0
"""Bounds of what servers say."""
_TRY_AGAIN_SECONDS = 5.0
_TIMEOUTS = (1, 2, 3)
"""Seconds that DNS servers are waited for, try by try."""
_MOST_ADDRESSES = 64


@frozen
class Answer:
    """What a name stands for.

    Attributes:
        addresses: IP addresses, in order; never none.
        ttl: for how many seconds; None when nobody said.
    """

    addresses: tuple[str, ...]
    ttl: float | None = None


Resolve = Callable[[str], Deferred[Answer]]
"""Looks a name up; fails with an Exception when that does not work."""


def is_address(host: str) -> bool:
    """Whether there is nothing to look up."""
    return not host or isIPAddress(host) or isIPv6Address(host)


def system_resolver(reactor: Any) -> Resolve:
    """Return how to ask the system."""

    def resolve(name: str) -> Deferred[Answer]:
        told: Deferred[Answer] = Deferred()
        reactor.nameResolver.resolveHostName(_Collector(name, told), name)
        return told

    return resolve


@implementer(IResolutionReceiver)
class _Collector:
    def __init__(self, name: str, told: Deferred[Answer]) -> None:
        self._name = name
        self._told = told
        self._found: list[IAddress] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """Nothing to do."""

    def addressResolved(self, address: IAddress) -> None:
        self._found.append(address)

    def resolutionComplete(self) -> None:
        if self._told.called:
            return
        hosts: list[tuple[bool, str]] = [
            (isinstance(each, IPv6Address), getattr(each, "host", ""))
            for each in self._found
        ]
        addresses = [host for is_v6, host in hosts if not is_v6] or [
            host for _, host in hosts
        ]
        if addresses:
            self._told.callback(Answer(_tidy(addresses)))
        else:
            self._told.errback(DNSLookupError(self._name))


def dns_resolver(servers: Sequence[tuple[str, int]], reactor: Any) -> Resolve:
    """Return how to ask DNS servers, one after the other."""
    resolver = Resolver(servers=list(servers), timeout=_TIMEOUTS, reactor=reactor)

    async def look_up(name: str) -> Answer:
        for ask, kind in (
            (resolver.lookupAddress, dns.A),
            (resolver.lookupIPV6Address, dns.AAAA),
        ):
            records, _, _ = await ask(name)
            found = [each.payload for each in records if each.type == kind]
            if found:
                ttl = min(each.ttl for each in records)
                addresses = [
                    payload.dottedQuad()
                    if kind == dns.A
                    else inet_ntop(AF_INET6, payload.address)
                    for payload in found
                ]
                return Answer(_tidy(addresses), float(ttl))
        raise DNSLookupError(name)

    def resolve(name: str) -> Deferred[Answer]:
        return Deferred.fromCoroutine(look_up(name))

    return resolve


def _tidy(addresses: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted(set(addresses)))[:_MOST_ADDRESSES]


def resolving(connect: Connect, resolve: Resolve) -> Connect:
    """Return how to connect to names as well, looked up by `resolve`.

    For the time before the first answer, and for members that nobody watches.
    """

    def connect_to(
        origin: Origin, factory: ClientFactory, timeout: float
    ) -> IConnector:
        if is_address(origin.host):
            return connect(origin, factory, timeout)
        return _Lookup(connect, resolve, origin, factory, timeout)

    return connect_to


@implementer(IConnector)
class _Lookup:
    """A connection whose address is being looked up."""

    def __init__(
        self,
        connect: Connect,
        resolve: Resolve,
        origin: Origin,
        factory: ClientFactory,
        timeout: float,
    ) -> None:
        self._connect = connect
        self._origin = origin
        self._factory = factory
        self._timeout = timeout
        self._connector: IConnector | None = None
        self._given_up = False
        resolve(origin.host).addCallbacks(self._found, self._not_found)

    def _found(self, answer: Answer) -> None:
        if not self._given_up:
            origin = Origin(
                answer.addresses[0],
                self._origin.port,
                tls_name=self._origin.tls_name or self._origin.host,
            )
            self._connector = self._connect(origin, self._factory, self._timeout)

    def _not_found(self, reason: Failure) -> None:
        if not self._given_up:
            self._given_up = True
            self._factory.clientConnectionFailed(self, reason)

    def disconnect(self) -> None:
        """Give up."""
        if self._connector is not None:
            self._connector.disconnect()
        else:
            self._not_found(Failure(DNSLookupError(self._origin.host)))

    def stopConnecting(self) -> None:
        """Give up."""
        self.disconnect()

    def connect(self) -> None:
        """It is being done."""

    def getDestination(self) -> Any:
        """Return where to, as far as it is known."""
        return self._origin


@define(eq=False)
class Name:
    """A name that is watched.

    Attributes:
        told: called with its addresses whenever they are known anew.
        addresses: the last ones.
        failure: why they could not be looked up the last time; "" if they could.
    """

    name: str
    told: list[Callable[[tuple[str, ...]], None]] = field(factory=list)
    addresses: tuple[str, ...] = ()
    ttl: float = 0.0
    failure: str = ""
    timer: IDelayedCall | None = None


class NameWatch:
    """Keeps asking what names stand for.

    Args:
        reactor: wakes us.
        resolve: looks names up.
        interval_seconds: how long answers hold that do not say.
    """

    def __init__(self, reactor: Any, resolve: Resolve, interval_seconds: float) -> None:
        self._reactor = reactor
        self._resolve = resolve
        self._interval = interval_seconds
        self._names: dict[str, Name] = {}
        self._running = False

    def watch(self, host: str, told: Callable[[tuple[str, ...]], None]) -> None:
        """Tell of the addresses of `host` from now on; before `start`."""
        self._names.setdefault(host, Name(host)).told.append(told)

    def start(self) -> None:
        """Begin to ask."""
        self._running = True
        for name in self._names.values():
            self._ask(name)

    def stop(self) -> None:
        """Ask no more."""
        self._running = False
        for name in self._names.values():
            if name.timer is not None:
                name.timer.cancel()
                name.timer = None

    def report(self) -> dict[str, Any]:
        """Return what the admin pages show."""
        told: dict[str, Any] = {}
        for name in self._names.values():
            told[name.name] = {"addresses": name.addresses, "ttl": name.ttl}
            if name.failure:
                told[name.name]["failure"] = name.failure
        return told

    def _ask(self, name: Name) -> None:
        name.timer = None
        asked = self._resolve(name.name)
        asked.addCallback(self._answered, name).addErrback(self._failed, name)

    def _answered(self, answer: Answer, name: Name) -> None:
        if not self._running:
            return
        wait = self._interval if answer.ttl is None else answer.ttl
        name.ttl = min(MOST_SECONDS, max(LEAST_SECONDS, wait))
        name.timer = self._reactor.callLater(name.ttl, self._ask, name)
        name.failure = ""
        if answer.addresses != name.addresses:
            if name.addresses:
                log.info(
                    "{name} is now {addresses}.",
                    name=name.name,
                    addresses=", ".join(answer.addresses),
                )
            name.addresses = answer.addresses
            for told in name.told:
                told(answer.addresses)

    def _failed(self, failure: Failure, name: Name) -> None:
        if not failure.check(DNSLookupError, DomainError, OSError):
            log.failure("A name could not be looked up.", failure=failure)
        elif not name.failure:
            log.warn(
                "{name} cannot be looked up; its last addresses are used: {reason}",
                name=name.name,
                reason=failure.getErrorMessage(),
            )
        if not self._running:
            return
        name.failure = failure.getErrorMessage() or type(failure.value).__name__
        wait = min(_TRY_AGAIN_SECONDS, self._interval)
        name.timer = self._reactor.callLater(wait, self._ask, name)

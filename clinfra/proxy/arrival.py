"""How an exchange becomes the request that rules see."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from attrs import define, frozen

from clinfra.proxy.clients import TrustedProxies, hops_of, proto_of
from clinfra.proxy.message import Request, split_authority
from clinfra.proxy.rule_hits import RuleHits
from clinfra.web.exchange import IExchange, IOwnExchange
from clinfra.web.headers import meant_for_all, split_list
from clinfra.web.heads import Fields, RequestHead


@frozen
class Arrivals:
    """Makes requests of exchanges.

    Attributes:
        default_host: of requests that name none.
        default_port: left out of host_path.
        trusted: proxies whose X-Forwarded-* are believed.
        upgrades: protocols that clients may switch to, in lower case.
    """

    default_host: str
    default_port: int
    trusted: TrustedProxies
    upgrades: Collection[bytes] = ()

    def peer_matters(self, head: RequestHead) -> bool:
        """Whether it depends on who sends a head what request it makes."""
        return bool(self.trusted.networks) and (
            b"x-forwarded-proto" in head.index or b"forwarded" in head.index
        )

    def client(self, exchange: IExchange) -> str:
        """Return the client's address, trusted proxies seen through."""
        peer: str = exchange.client_ip
        if self.trusted.networks and self.trusted.trusts(peer):
            return self.trusted.client(peer, _hops(exchange.head))
        return peer

    def request(self, exchange: IExchange) -> Request:
        """Make the request of an exchange."""
        head: RequestHead = exchange.head
        authority = head.host or self.default_host.encode("latin-1")
        host, _ = split_authority(authority.decode("latin-1"))
        port: int = exchange.local_port
        client_ip: str = exchange.client_ip
        scheme = "https" if exchange.secure else "http"
        if self.trusted.networks and self.trusted.trusts(client_ip):
            client_ip = self.trusted.client(client_ip, _hops(head))
            proto = head.get(b"x-forwarded-proto")
            if proto is None and b"forwarded" in head.index:
                proto = proto_of(head.index[b"forwarded"])
            if proto is not None and proto.lower() in (b"http", b"https"):
                scheme = proto.lower().decode("ascii")
        request = Request(
            exchange,
            head,
            head.method,
            host or self.default_host,
            0 if port == self.default_port else port,
            head.target.decode("latin-1"),
            scheme,
            authority,
            meant_for_all(head.fields, head.index),
            client_ip,
        )
        if (
            b"upgrade" in head.index
            and IOwnExchange.providedBy(exchange)
            and exchange.can_switch
        ):
            request.upgrade = wanted_protocol(head, self.upgrades)
        return request


def wanted_protocol(head: RequestHead, known: Collection[bytes]) -> bytes:
    """Return the first protocol a client wants to switch to that is known, or b""."""
    options = [value.lower() for value in split_list(head.get(b"connection") or b"")]
    if b"upgrade" in options:
        for wanted in split_list(head.get(b"upgrade") or b""):
            if wanted.lower() in known:
                return wanted
    return b""


def _hops(head: RequestHead) -> tuple[bytes, ...]:
    """Return the hops that a request came by, as a trusted proxy tells them."""
    hops = head.index.get(b"x-forwarded-for")
    if hops is None:
        return hops_of(head.index.get(b"forwarded", ()))
    return hops


@define(eq=False)
class Plan:
    """What the phases up to `lookup` made of a request that was passed.

    Attributes:
        counted: the hits of the rules that made that of it.
        way: the short way for the next (see `passage`), once it is known.
    """

    host: str
    port: int
    target: str
    scheme: str
    authority: bytes
    fields: Fields
    client_ip: str
    pool: str
    forward_target: str
    local_port: int
    secure: bool
    peer: str
    gates: tuple[Callable[[IExchange], bool], ...]
    holds: Callable[[], bool]
    state: Callable[[], Any]
    counted: tuple[RuleHits, ...]
    way: Any = None

    @classmethod
    def of(
        cls, request: Request, holds: Callable[[], bool], state: Callable[[], Any]
    ) -> Plan:
        """Make one of a request that is being passed.

        Args:
            holds: says whether it still goes that way.
            state: makes the cache_state of an equal request.
        """
        exchange = request.exchange
        return cls(
            request.host,
            request.port,
            request.target,
            request.scheme,
            request.authority,
            request.fields,
            request.client_ip,
            request.pool,
            request.forward_target,
            exchange.local_port,
            exchange.secure,
            exchange.client_ip,
            request.gates,
            holds,
            state,
            request.counted,
        )

    def applies(self, exchange: IExchange) -> bool:
        """Whether an exchange with an equal head goes the same way."""
        return (
            exchange.local_port == self.local_port
            and exchange.secure == self.secure
            and exchange.client_ip == self.peer
            and self.holds()
            and (not self.gates or all(gate(exchange) for gate in self.gates))
        )

    def request(self, exchange: IExchange) -> Request:
        """Return its request as it was after `lookup`."""
        head = exchange.head
        request = Request(
            exchange,
            head,
            head.method,
            self.host,
            self.port,
            self.target,
            self.scheme,
            self.authority,
            self.fields,
            self.client_ip,
            self.pool,
        )
        request.plan = self
        request.forward_target = self.forward_target
        request.outcome = "pass"
        request.cache_state = self.state()
        return request

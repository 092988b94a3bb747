"""Who the client is, when proxies we trust stand between.

Pure.  X-Forwarded-For is believed only as far as trusted networks wrote it: from the
right, the first address that is not a trusted proxy is the client.  Forwarded (RFC
7239) says the same where proxies write that instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from attrs import field, frozen

from clinfra.web.headers import quote, split_list, unquote

Network = IPv4Network | IPv6Network


_KNOWN_ADDRESSES = 4096


@frozen
class TrustedProxies:
    """Networks whose X-Forwarded-* fields are believed."""

    networks: tuple[Network, ...]
    _known: dict[str, bool] = field(factory=dict, init=False, eq=False, repr=False)

    @classmethod
    def parse(cls, texts: Iterable[str]) -> TrustedProxies:
        """Make one of "10.0.0.0/8", "::1", ....  Raises ValueError."""
        return cls(tuple(ip_network(text, strict=False) for text in texts))

    def trusts(self, address: str) -> bool:
        """Whether a peer of this address is one of our proxies."""
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= _KNOWN_ADDRESSES:
                self._known.clear()
            known = self._known[address] = self._covers(address)
        return known

    def _covers(self, address: str) -> bool:
        try:
            ip = ip_address(address)
        except ValueError:
            return False
        mapped = getattr(ip, "ipv4_mapped", None)
        return any(
            (mapped or ip) in network
            for network in self.networks
            if network.version == (mapped or ip).version
        )

    def client(self, peer: str, forwarded_for: Sequence[bytes]) -> str:
        """Return the client's address.

        Args:
            peer: address of the TCP connection.
            forwarded_for: the values of X-Forwarded-For, in order, or `hops_of`
                Forwarded.
        """
        if not self.networks or not forwarded_for or not self.trusts(peer):
            return peer
        client = peer
        hops = b",".join(forwarded_for).decode("latin-1").split(",")
        for hop in reversed(hops):
            address = address_of(hop.strip())
            if not address:
                return client
            client = address
            if not self.trusts(client):
                return client
        return client


def address_of(hop: str) -> str:
    """Return the address of a hop, without its port and brackets; "" of no address."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        address = ip_address(hop)
    except ValueError:
        return ""
    return str(getattr(address, "ipv4_mapped", None) or address)


@lru_cache(maxsize=256)
def hops_of(forwarded: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """Return the `for` of each hop that Forwarded tells of, in order; b"" without."""
    return tuple(hop.get(b"for", b"") for hop in _elements(forwarded))


@lru_cache(maxsize=256)
def proto_of(forwarded: tuple[bytes, ...]) -> bytes:
    """Return the scheme that the last hop of Forwarded was asked by, b"" if unsaid."""
    elements = _elements(forwarded)
    return elements[-1].get(b"proto", b"").lower() if elements else b""


@lru_cache(maxsize=256)
def hosts_of(forwarded: tuple[bytes, ...]) -> frozenset[bytes]:
    """Return the hosts that any hop of Forwarded says it was asked for."""
    return frozenset(hop[b"host"] for hop in _elements(forwarded) if b"host" in hop)


def _elements(forwarded: tuple[bytes, ...]) -> list[dict[bytes, bytes]]:
    elements = []
    for element in split_list(b",".join(forwarded)):
        pairs = (pair.partition(b"=") for pair in split_list(element, b";"))
        elements.append({name.lower(): unquote(value) for name, _, value in pairs})
    return elements


def forwarded_element(peer: str, scheme: str, host: bytes) -> bytes:
    """Return what we add to Forwarded: who asked us, by what, for which host."""
    node = f"[{peer}]" if ":" in peer else peer or "unknown"
    return b"for=%b;proto=%b;host=%b" % (
        quote(node.encode("latin-1")) if ":" in peer else node.encode("latin-1"),
        scheme.encode("latin-1"),
        quote(host),
    )

"""Who the client is, when proxies we trust stand between.

Pure.  X-Forwarded-For is believed only as far as trusted networks wrote it: from the
right, the first address that is not a trusted proxy is the client.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from attrs import frozen

Network = IPv4Network | IPv6Network


@frozen
class TrustedProxies:
    """Networks whose X-Forwarded-* fields are believed."""

    networks: tuple[Network, ...]

    @classmethod
    def parse(cls, texts: Iterable[str]) -> TrustedProxies:
        """Make one of "10.0.0.0/8", "::1", ....  Raises ValueError."""
        return cls(tuple(ip_network(text, strict=False) for text in texts))

    def trusts(self, address: str) -> bool:
        """Whether a peer of this address is one of our proxies."""
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
            forwarded_for: the values of X-Forwarded-For, in order.
        """
        if not self.networks or not forwarded_for or not self.trusts(peer):
            return peer
        client = peer
        hops = b",".join(forwarded_for).decode("latin-1").split(",")
        for hop in reversed(hops):
            address = hop.strip()
            try:
                client = str(ip_address(address))
            except ValueError:
                return client
            if not self.trusts(client):
                return client
        return client

"""Sets of addresses: which networks of a list a client is in.

Pure.  Networks are kept by their length: a client is looked for once per length there
is, however many networks there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Generic, TypeVar

V = TypeVar("V")

_WIDTH = {4: 32, 6: 128}


class NetworkTable(Generic[V]):
    """Values by network."""

    def __init__(self) -> None:
        self._lengths: dict[int, dict[int, dict[int, list[V]]]] = {4: {}, 6: {}}

    def add(self, text: str, value: V) -> None:
        """Add a value for "10.0.0.0/8", "192.0.2.7", "2001:db8::/32", ...

        Raises ValueError.
        """
        network = ip_network(text.strip(), strict=False)
        shift = _WIDTH[network.version] - network.prefixlen
        number = int(network.network_address) >> shift
        by_length = self._lengths[network.version].setdefault(shift, {})
        by_length.setdefault(number, []).append(value)

    def find(self, address: str) -> list[V]:
        """Return the values of all networks an address is in; none for no address."""
        parsed = _parse(address)
        if parsed is None:
            return []
        version, number = parsed
        found: list[V] = []
        for shift, networks in self._lengths[version].items():
            found += networks.get(number >> shift, ())
        return found

    def __len__(self) -> int:
        return sum(
            len(networks)
            for lengths in self._lengths.values()
            for networks in lengths.values()
        )


class Networks:
    """A set of networks."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._table: NetworkTable[str] = NetworkTable()
        self._texts: list[str] = []
        for text in texts:
            self.add(text)

    def add(self, text: str) -> None:
        """Add one.  Raises ValueError."""
        self._table.add(text, text)
        self._texts.append(text)

    def find(self, address: str) -> str | None:
        """Return a network that an address is in, as it was written."""
        found = self._table.find(address)
        return found[0] if found else None

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)


def network_of(address: str, ipv4_bits: int, ipv6_bits: int) -> str:
    """Return the network of so many bits an address is in; "" stays so."""
    parsed = _parse(address)
    if parsed is None:
        return address
    version, number = parsed
    bits = ipv4_bits if version == 4 else ipv6_bits
    shift = _WIDTH[version] - bits
    made = IPv4Address if version == 4 else IPv6Address
    return f"{made(number >> shift << shift)}/{bits}"


@lru_cache(maxsize=16384)
def _parse(address: str) -> tuple[int, int] | None:
    """Return version and number; of an IPv4 address in IPv6 clothes, IPv4's."""
    try:
        ip = ip_address(address)
    except ValueError:
        return None
    mapped = getattr(ip, "ipv4_mapped", None)
    ip = mapped or ip
    return ip.version, int(ip)

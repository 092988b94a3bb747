"""Where pictures may be fetched from: which URLs, hosts and addresses.

Pure.  A fetch reaches what whoever asks for it could not: this machine, and the
networks behind it.  So hosts are on a list, and what their names stand for is checked
once more, address by address: only what is public on the Internet is connected to.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final
from urllib.parse import urljoin, urlsplit

from attrs import frozen

from clinfra.errors import Forbidden, InvalidRequest

_PORTS: Final = {"http": 80, "https": 443}
_LONGEST: Final = 2000
_HOST: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?")
_ENTRY: Final = re.compile(
    r"(?P<wild>\*\.)?(?:\[(?P<v6>[0-9a-f:.]+)\]|(?P<name>[a-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?"
)

# All addresses of the IPv6 Internet are in the first; the others have uses of their
# own, or carry an IPv4 address, which may be any.
_GLOBAL: Final = IPv6Network("2000::/3")
_SPECIAL: Final = tuple(
    map(IPv6Network, ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"))
)


@frozen
class Url:
    """Something to fetch.

    Attributes:
        text: all of it, ASCII.
        host: lower-case name, or an address as it is usually written.
        address: what the host is already, if it is no name.
    """

    text: str
    secure: bool
    host: str
    port: int
    address: str | None


def parse_url(text: str, base: Url | None = None) -> Url:
    """Read a URL.

    Args:
        base: what a redirect is relative to.

    Raises:
        InvalidRequest: it is none of http or https, or a strange one.
    """
    if len(text) > _LONGEST or not all("!" <= letter <= "~" for letter in text):
        raise InvalidRequest("This URL is too long, or has characters to be quoted.")
    if "\\" in text:
        raise InvalidRequest("A URL has no backslashes.")
    try:
        parts = urlsplit(urljoin(base.text, text) if base is not None else text)
        port = parts.port
    except ValueError as error:
        raise InvalidRequest("This is not a URL.") from error
    host = (parts.hostname or "").lower()
    if parts.scheme not in _PORTS or not host:
        raise InvalidRequest("Only URLs of http and https are fetched.")
    if "@" in parts.netloc:
        raise InvalidRequest("A URL with a name or password in it is not fetched.")
    try:
        address: str | None = str(ip_address(host))
        host = address or ""
    except ValueError:
        address = None
        if not _HOST.fullmatch(host):
            raise InvalidRequest("This is not the name of a host.") from None
    whole = parts._replace(fragment="", path=parts.path or "/").geturl()
    return Url(
        whole,
        parts.scheme == "https",
        host,
        _PORTS[parts.scheme] if port is None else port,
        address,
    )


@frozen
class Hosts:
    """The hosts that are on the list.

    Attributes:
        entries: name or address, whether its subdomains are meant instead, and the
            port; None for the usual ones.
    """

    entries: tuple[tuple[str, bool, int | None], ...]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Hosts:
        """Read "host", "host:port" and "*.example.com".  Raises ValueError."""
        entries = []
        for text in texts:
            match = _ENTRY.fullmatch(text.lower())
            port = int(match["port"]) if match and match["port"] else None
            if match is None or (port is not None and not 0 < port < 65536):
                raise ValueError(f"{text!r} is not a host, host:port or *.domain")
            host = match["name"] or str(ip_address(match["v6"]))
            entries.append((host, match["wild"] is not None, port))
        return cls(tuple(entries))

    def check(self, url: Url) -> None:
        """Raise Forbidden when a URL's host is not on the list."""
        for host, wild, port in self.entries:
            same = url.host.endswith("." + host) if wild else url.host == host
            usual = url.port in _PORTS.values() if port is None else url.port == port
            if same and usual:
                return
        raise Forbidden(f"Nothing is fetched from {url.host}:{url.port}.")


def check_public(host: str, addresses: Sequence[str]) -> None:
    """Raise Forbidden unless there are addresses and every one of them is public."""
    if not addresses or not all(map(is_public, addresses)):
        raise Forbidden(f"{host} is not on the public Internet.")


def is_public(text: str) -> bool:
    """Tell whether an address is one that anybody could connect to."""
    try:
        address: IPv4Address | IPv6Address = ip_address(text)
    except ValueError:
        return False
    if isinstance(address, IPv4Address):
        return address.is_global and not (address.is_multicast or address.is_reserved)
    return (
        address.scope_id is None
        and address in _GLOBAL
        and not any(address in network for network in _SPECIAL)
        and address.is_global
    )

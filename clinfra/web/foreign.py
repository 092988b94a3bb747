"""Telling what a browser sends for a page of somebody else's site, or from elsewhere.

Whoever changes something by a plain request has to ask this first: any page on the
web can have a browser send one to 127.0.0.1.  Sessions and tokens are not its concern.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address

from clinfra.errors import Forbidden
from clinfra.web.exchange import IExchange

_LOCAL = re.compile(rb"(?:localhost|[0-9.]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")
"""Hosts that no foreign web page can have as its own by a trick with DNS."""

_SENT_ON = (b"via", b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip")
"""Fields of which a proxy adds at least one, if it wants to be noticed."""


def is_own_host(host: bytes, names: Collection[bytes] = ()) -> bool:
    """Tell whether a Host is none that a stranger can have point here.

    Addresses and localhost are not, and neither are `names`, in lower case and without
    a port.
    """
    host = host.lower()
    if _LOCAL.fullmatch(host) is not None:
        return True
    return host.partition(b":")[0].rstrip(b".") in names


def is_from_browser(exchange: IExchange) -> bool:
    """Tell whether a browser has sent it, as all of them say of what changes things."""
    index = exchange.head.index
    return b"origin" in index or b"sec-fetch-site" in index


def refuse_foreign(exchange: IExchange, names: Collection[bytes] = ()) -> None:
    """Refuse what a browser sends for a page of another origin.

    Programs send neither of the fields that browsers do.  Raises errors.Forbidden.

    Args:
        names: see `is_own_host`; pages of one of these may come over TLS from a proxy.
    """
    head = exchange.head
    origin = head.get(b"origin")
    site = head.get(b"sec-fetch-site")
    schemes = {b"https://" if exchange.secure else b"http://"}
    if names and _LOCAL.fullmatch(head.host) is None:
        schemes.add(b"https://")
    same = origin is None or (
        any(origin == scheme + head.host for scheme in schemes)
        and is_own_host(head.host, names)
    )
    if not same or site not in (None, b"same-origin", b"none"):
        raise Forbidden("This is not done for pages of other origins.")


def is_from_here(exchange: IExchange) -> bool:
    """Tell whether a request was made on this machine, for a name of this machine.

    Not what a proxy here sends on for others, nor over a UNIX socket, behind which
    there is always one; a proxy that says nothing of itself cannot be told.
    """
    head = exchange.head
    try:
        near = ip_address(exchange.client_ip).is_loopback
    except ValueError:
        return False
    direct = all(head.get(name) is None for name in _SENT_ON)
    return near and direct and _LOCAL.fullmatch(head.host) is not None

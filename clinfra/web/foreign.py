"""Telling what a browser sends for a page of somebody else's site.

Whoever changes something by a plain request has to ask this first: any page on the
web can have a browser send one to 127.0.0.1.  Sessions and tokens are not its concern.
"""

from __future__ import annotations

import re

from clinfra.errors import Forbidden
from clinfra.web.exchange import IExchange

_LOCAL = re.compile(rb"(?:localhost|[0-9.]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")
"""Hosts that no foreign web page can have as its own by a trick with DNS."""


def refuse_foreign(exchange: IExchange) -> None:
    """Refuse what a browser sends for a page of another origin.

    Programs send neither of the fields that browsers do.  Raises errors.Forbidden.
    """
    head = exchange.head
    origin = head.get(b"origin")
    site = head.get(b"sec-fetch-site")
    scheme = b"https://" if exchange.secure else b"http://"
    same = origin is None or (
        origin == scheme + head.host and _LOCAL.fullmatch(head.host) is not None
    )
    if not same or site not in (None, b"same-origin", b"none"):
        raise Forbidden("This is not done for pages of other origins.")

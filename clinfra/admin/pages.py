"""Which pages a purge names.  Pure.

The cache knows a page by its host_path: host in lower case, the port of the proxy's
listener unless that is the default one, then the target.  Operators name pages by URL,
by host and path, or by sending PURGE for the page to the admin listener; all of that
is brought to host_paths here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from attrs import frozen

from clinfra.errors import InvalidRequest, TooLarge

MOST_PAGES = 10_000
"""In one request."""

_PAGE = re.compile(
    r"(?:https?://)?(?P<host>\[[0-9a-f:.]+\]|[^\s/:\[\]?#]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][^\s#]*)?(?:#.*)?",
    re.IGNORECASE,
)


@frozen
class Namer:
    """Turns what operators write into host_paths.

    Args:
        proxy_ports: where the proxy listens.
        default_port: the port that host_paths leave out.
        admin_port: where the request came in; as the port of a page it means none.
    """

    proxy_ports: Collection[int]
    default_port: int
    admin_port: int

    def host_paths(self, page: str) -> list[str]:
        """Return every host_path a page may be cached under.

        Raises errors.InvalidRequest.
        """
        match = _PAGE.fullmatch(page)
        if match is None:
            raise InvalidRequest(f"Not a URL or host/path: {page[:100]!r}.")
        host = match["host"].lower().rstrip(".")
        target = match["target"] or "/"
        if not target.startswith("/"):
            target = "/" + target
        port = int(match["port"] or 0)
        ports: Iterable[int] = (port,)
        if port in (0, self.admin_port):
            ports = self.proxy_ports or (self.default_port,)
        return [
            host + ("" if each == self.default_port else f":{each}") + target
            for each in dict.fromkeys(ports)
        ]


def split_list(body: bytes) -> list[str]:
    """Return the pages of a newline-separated list, each once.

    Raises errors.InvalidRequest and errors.TooLarge.
    """
    try:
        lines = body.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise InvalidRequest("The list of pages is not UTF-8.") from None
    pages = list(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if len(pages) > MOST_PAGES:
        raise TooLarge(f"More than {MOST_PAGES} pages in one request.")
    return pages

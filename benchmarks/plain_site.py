"""A peer: twisted.web as it comes.

Serves the bodies of `peers.BODIES` from memory under /hot/ with an ordinary Resource,
and /pass/ through an unmodified ReverseProxyResource.

    python -m benchmarks.plain_site PORT ORIGIN_PORT
"""

from __future__ import annotations

import sys

from twisted.internet import reactor
from twisted.internet.endpoints import serverFromString
from twisted.web.proxy import ReverseProxyResource
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from benchmarks.peers import BODIES

ENDPOINT = "tcp:{port}:interface=127.0.0.1:backlog=4096"


class Plain(Resource):
    """The shortest Resource that serves bytes."""

    isLeaf = True

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.body = body

    def render_GET(self, request: Request) -> bytes:
        """Answer with the body."""
        request.setHeader(b"content-type", b"application/octet-stream")
        return self.body


class QuietSite(Site):
    """A Site without an access log: the peer is given every advantage."""

    def log(self, request: object) -> None:
        """Drop the line."""


def main(port: int, origin_port: int) -> None:
    """Serve until a signal comes."""
    root = Resource()
    hot = Resource()
    for name, body in BODIES.items():
        hot.putChild(name.encode(), Plain(body))
    root.putChild(b"hot", hot)
    root.putChild(b"pass", ReverseProxyResource("127.0.0.1", origin_port, b"/pass"))
    endpoint = serverFromString(reactor, ENDPOINT.format(port=port))
    endpoint.listen(QuietSite(root))
    reactor.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

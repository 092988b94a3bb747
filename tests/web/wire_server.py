"""A server for the tests over real sockets: `python -m tests.web.wire_server`.

Prints its port once it listens.  Options: `stock` for the default reactor and
transports, `tls` with a PEM file for TLS, `at` with an endpoint string.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from clinfra.errors import Forbidden
from clinfra.web.exchange import FileBody, IExchange, Response
from clinfra.web.resource import Resource
from clinfra.web.site import Site
from clinfra.web.transport import make_eager

BIG = 1 << 30
"""Bytes of the big answer, and of the largest upload."""


class Wire(Resource):
    """Takes uploads and drops them; gives small, large and endless answers."""

    def __init__(self, big_path: str) -> None:
        super().__init__()
        self._big_path = big_path

    async def respond(self, exchange: IExchange) -> Response:
        path = exchange.head.path
        if path == b"/refuse":
            raise Forbidden("Not here.")
        if exchange.head.method == b"PUT":
            length = 0
            while piece := await exchange.body.read():
                length += len(piece)
            return Response(201, (), b"%d" % length)
        if path == b"/big":
            fd = os.open(self._big_path, os.O_RDONLY)
            return Response(200, (), FileBody(fd, 0, BIG, lambda: os.close(fd)))
        if path == b"/at-once":
            return Response(200, (), b"a" * (8 << 20))
        if path == b"/who":
            who = f"{exchange.client_ip} {exchange.local_port} {exchange.secure}"
            return Response(200, (), who.encode())
        return Response(200, ((b"Content-Type", b"text/plain"),), b"small")


def main() -> None:
    """Serve until killed."""
    big_path, *options = sys.argv[1:]
    if "stock" not in options:
        from clinfra.web.reactor import install

        install()
    from twisted.internet import reactor as the_reactor
    from twisted.internet import ssl
    from twisted.internet.endpoints import serverFromString

    reactor: Any = the_reactor
    site = Site(Wire(big_path), reactor=reactor)
    if "tls" in options:
        with open(options[-1], "rb") as file:
            pair = ssl.PrivateCertificate.loadPEM(file.read())
        port = reactor.listenSSL(0, site, pair.options(), interface="127.0.0.1")
        make_eager(port)  # below TLS
    elif "at" in options:
        listening: list[Any] = []
        serverFromString(reactor, options[-1]).listen(site).addCallback(
            listening.append
        )
        (port,) = listening
        make_eager(port)
    else:
        port = reactor.listenTCP(0, site, interface="127.0.0.1", backlog=2048)
        if "stock" not in options:
            make_eager(port)
    print(getattr(port.getHost(), "port", 0), flush=True)
    reactor.run()


if __name__ == "__main__":
    main()

"""Fetching over real sockets: names, connections and certificates."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet import reactor, ssl
from twisted.web.resource import Resource
from twisted.web.server import Site

from clinfra.errors import Forbidden, OriginFailed
from clinfra.image.elsewhere import Hosts, Url, parse_url
from clinfra.image.fetching import Fetcher, connector, resolver
from tests.image.live import in_reactor
from tests.web.test_wire_tls import make_certificate


class Elsewhere(Resource):
    """Serves as many bytes as its path says, and notes the hosts asked for."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.hosts: list[bytes | None] = []

    def render_GET(self, request: Any) -> bytes:
        self.hosts.append(request.getHeader(b"host"))
        request.setHeader(b"Content-Type", b"image/jpeg")
        return bytes(int(request.path.strip(b"/")))


async def public(host: str) -> Sequence[str]:
    return ["93.184.216.34"]


@asynccontextmanager
async def elsewhere(context: Any = None) -> AsyncIterator[tuple[Elsewhere, int]]:
    """Serve on 127.0.0.1, with TLS if a context is given."""
    root = Elsewhere()
    site = Site(root)
    net = cast(Any, reactor)
    if context is None:
        port = net.listenTCP(0, site, interface="127.0.0.1")
    else:
        port = net.listenSSL(0, site, context, interface="127.0.0.1")
    try:
        yield root, port.getHost().port
    finally:
        await port.stopListening()


def fetcher(directory: Path, port: int, **changes: Any) -> Fetcher:
    """Return a fetcher that takes this machine for a public one."""

    def connect(url: Url, address: str) -> Any:
        return connector(reactor)(url, "127.0.0.1")

    values = {"resolve": public, "connect": connect, **changes}
    hosts = Hosts.of([f"example.com:{port}", f"localhost:{port}"])
    return Fetcher(reactor, hosts, directory, 2_000_000, 10.0, **values)


@in_reactor
async def test_fetch(tmp_path: Path) -> None:
    """A picture of some size comes whole; what is larger does not."""
    async with elsewhere() as (root, port):
        fetch = fetcher(tmp_path, port).fetch
        spooled = await fetch(parse_url(f"http://example.com:{port}/2000000"))
        assert spooled.length == os.fstat(spooled.fd).st_size == 2_000_000
        spooled.close()
        assert root.hosts == [f"example.com:{port}".encode()]
        with pytest.raises(OriginFailed, match="too large"):
            await fetch(parse_url(f"http://example.com:{port}/2000001"))
    with pytest.raises(OriginFailed, match="cannot be reached"):
        await fetch(parse_url(f"http://example.com:{port}/1"))
    assert os.listdir(tmp_path) == []


@in_reactor
async def test_localhost(tmp_path: Path) -> None:
    """A name of this machine is resolved, and refused for what it stands for."""
    async with elsewhere() as (root, port):
        real = fetcher(tmp_path, port, resolve=resolver(reactor))
        with pytest.raises(Forbidden, match="public Internet"):
            await real.fetch(parse_url(f"http://localhost:{port}/1"))
        assert root.hosts == []


@in_reactor
async def test_certificate(tmp_path: Path) -> None:
    """A server that cannot prove its name is not believed."""
    pem = tmp_path / "server.pem"
    make_certificate(pem)
    context = ssl.PrivateCertificate.loadPEM(pem.read_bytes()).options()
    async with elsewhere(context) as (root, port):
        with pytest.raises(OriginFailed, match="cannot be reached"):
            await fetcher(tmp_path, port).fetch(
                parse_url(f"https://example.com:{port}/1")
            )
        assert root.hosts == []

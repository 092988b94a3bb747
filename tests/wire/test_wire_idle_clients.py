"""Ten thousand clients that keep their connections and mostly say nothing."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator

import pytest
from attrs import frozen

from tests.support import ClinfraProcess, wait_until
from tests.wire.raw import RawOrigin, ok

CLIENTS = 10_000
MOST_BYTES = 600_000_000
REQUEST = (
    b"GET /page HTTP/1.1\r\nHost: h\r\nUser-Agent: one of many\r\nAccept: */*\r\n\r\n"
)


@frozen
class Proxy:
    """A proxy with one page in its cache."""

    clinfra: ClinfraProcess
    origin: RawOrigin

    def connect(self) -> socket.socket:
        port = self.clinfra.ports["proxy"]
        return socket.create_connection(("127.0.0.1", port), 20)

    def resident_bytes(self) -> int:
        """Return the memory it has now."""
        with open(f"/proc/{self.clinfra.pid}/status") as status:
            line = next(line for line in status if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    def descriptors(self) -> int:
        """Return how many it has open."""
        return len(os.listdir(f"/proc/{self.clinfra.pid}/fd"))


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    """Run one, and let this process and that one have many descriptors."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with RawOrigin(lambda received: ok(b"p" * 1000, "Cache-Control: max-age=600")) as o:
        config = {
            "pools": {"o": {"members": [f"127.0.0.1:{o.port}"]}},
            "default_pool": "o",
            "limits": {"connections": CLIENTS, "idle_timeout": "5m"},
        }
        with ClinfraProcess({"proxy": config}) as clinfra:
            yield Proxy(clinfra, o)


def ask(connection: socket.socket) -> None:
    """Ask for the page on a connection that is kept."""
    connection.sendall(REQUEST)
    answer = b""
    while not answer.endswith(b"p" * 1000):
        data = connection.recv(65536)
        assert data, answer
        answer += data


def test_ten_thousand(proxy: Proxy) -> None:
    """They cost little, are all served again, and leave nothing behind."""
    with proxy.connect() as first:
        ask(first)
    before, descriptors = proxy.resident_bytes(), proxy.descriptors()
    clients: list[socket.socket] = []
    try:
        for _ in range(CLIENTS):
            clients.append(proxy.connect())
            ask(clients[-1])
        resident = proxy.resident_bytes()
        print(f"{resident / 1e6:.0f} MB; {(resident - before) / CLIENTS:.0f} each")
        assert resident < MOST_BYTES
        for client in clients:
            ask(client)
        assert proxy.resident_bytes() < MOST_BYTES
    finally:
        for client in clients:
            client.close()
    wait_until(lambda: proxy.descriptors() <= descriptors, "descriptors are closed")
    assert [each.target for each in proxy.origin.received] == ["/page"]

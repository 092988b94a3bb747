"""The proxy as a process of its own, between real origins, memcached and clients."""

from __future__ import annotations

import http.client
import json
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.proxy.test_encoding import decoded
from tests.support import ClinfraProcess, lasting_ports, memcached, wait_until


class RealOrigin:
    """An HTTP server in threads; `answer` decides what it says.

    Attributes:
        asked: the paths it was asked for.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.received = 0
        self.answer: Callable[[Any], None] = lambda handler: say(handler, b"hello")
        origin = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                origin.asked.append(self.path)
                origin.answer(self)

            def do_PUT(self) -> None:
                left = int(self.headers["Content-Length"])
                while left:
                    piece = self.rfile.read(min(left, 65536))
                    left -= len(piece)
                    origin.received += len(piece)
                say(self, b"thanks")

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            # Room for all that connect at once: the kernel drops who finds none.
            request_queue_size = 1024

        self.server = Server(("127.0.0.1", 0), Handler)
        self.port: int = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def say(handler: Any, body: bytes, *, length: int | None = None, **fields: str) -> None:
    """Answer 200."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in fields.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def origin() -> Iterator[RealOrigin]:
    """Run an origin."""
    made = RealOrigin()
    yield made
    made.close()


def proxy_config(*ports: int, cache: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return a configuration with everything routed to these origins."""
    return {
        "proxy": {
            "pools": {"o": {"members": [f"127.0.0.1:{port}" for port in ports]}},
            "routes": [{"pool": "o", "prefix": "/"}],
            "cache": cache or {},
        },
        "admin": {},
    }


def ask(
    clinfra: ClinfraProcess,
    path: str,
    method: str = "GET",
    product: str = "proxy",
    **fields: str,
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Send a request; return status, fields and body."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    port = clinfra.ports[product]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, headers=named)
        answer = connection.getresponse()
        return answer.status, answer.msg, answer.read()
    finally:
        connection.close()


def cacheable(handler: Any) -> None:
    """Answer with something to keep."""
    say(handler, handler.path.encode() * 50, Cache_Control="max-age=600")


def test_a_cold_stampede_is_one_fetch(origin: RealOrigin) -> None:
    """However many ask for a page at once, its origin is asked once."""

    def slowly(handler: Any) -> None:
        time.sleep(0.5)
        cacheable(handler)

    origin.answer = slowly
    with (
        ClinfraProcess(proxy_config(origin.port)) as clinfra,
        ThreadPoolExecutor(40) as threads,
    ):
        answers = list(threads.map(lambda _: ask(clinfra, "/page"), range(40)))

    assert [status for status, _, _ in answers] == [200] * 40
    assert {body for _, _, body in answers} == {b"/page" * 50}
    assert origin.asked == ["/page"]


def test_dead_origins(origin: RealOrigin) -> None:
    """One dead: nobody notices.  All dead: 503 with a page, soon."""
    (dead,) = lasting_ports(1)
    with ClinfraProcess(proxy_config(origin.port, dead)) as clinfra:
        statuses = {ask(clinfra, f"/{number}")[0] for number in range(30)}
        assert statuses == {200}
    with ClinfraProcess(proxy_config(dead)) as clinfra:
        status, _, body = ask(clinfra, "/")
        assert (status, body) == (
            503,
            b"Unable to process request, please try again.\n",
        )


def test_an_origin_that_cuts_its_answer(origin: RealOrigin) -> None:
    """The client sees a cut, and the page is not kept."""

    def cut(handler: Any) -> None:
        say(handler, b"half", length=8, Cache_Control="max-age=600")
        handler.close_connection = True

    with ClinfraProcess(proxy_config(origin.port)) as clinfra:
        origin.answer = cut
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            ask(clinfra, "/page")
        origin.answer = cacheable
        assert ask(clinfra, "/page")[2] == b"/page" * 50


def test_a_large_upload_streams(origin: RealOrigin) -> None:
    """What is sent through takes little memory."""
    with ClinfraProcess(proxy_config(origin.port)) as clinfra:
        connection = http.client.HTTPConnection("127.0.0.1", clinfra.ports["proxy"])
        pieces = (bytes(1 << 20) for _ in range(200))
        connection.request(
            "PUT", "/big", body=pieces, headers={"Content-Length": str(200 << 20)}
        )
        answer = connection.getresponse()
        assert (answer.status, answer.read()) == (200, b"thanks")
        connection.close()
        with open(f"/proc/{clinfra.pid}/status") as status:
            peak = next(line for line in status if line.startswith("VmHWM"))

    assert origin.received == 200 << 20
    assert int(peak.split()[1]) < 100 * 1024


def test_memcached_outlives_the_proxy(origin: RealOrigin) -> None:
    """After a restart pages come from memcached, those over a megabyte too."""
    big = bytes(range(256)) * 12_000
    origin.answer = lambda handler: say(handler, big, Cache_Control="max-age=600")
    with memcached() as server:
        cache = {
            "memcached": [f"127.0.0.1:{server.port}"],
            "memcached_timeout": "10s",
        }
        with ClinfraProcess(proxy_config(origin.port, cache=cache)) as clinfra:
            wait_for_memcached(clinfra)
            ask(clinfra, "/big")
            wait_until(lambda: items(server.port) >= 6, "memcached has all parts")
            clinfra.running.terminate()
            clinfra.restart()
            wait_for_memcached(clinfra)
            status, fields, body = ask(clinfra, "/big")

            assert (status, body == big) == (200, True)
            assert "hit" in fields["Cache-Status"]
            assert origin.asked == ["/big"]

            purged = ask(clinfra, "/big", "PURGE", "admin")
            assert purged[0] == 200, purged
            ask(clinfra, "/big")
            clinfra.running.terminate()
            assert origin.asked[1:] == ["/big"], purged


def items(port: int) -> int:
    """Return how many items a memcached has."""
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(b"stats\r\n")
        for line in connection.makefile("rb"):
            if line.startswith(b"STAT curr_items "):
                return int(line.split()[2])
    raise AssertionError("memcached told no statistics")


def wait_for_memcached(clinfra: ClinfraProcess) -> None:
    """Wait until the proxy says that it is connected."""
    clinfra.running.wait_for("is connected")


def test_memcached_stalls_dies_and_comes_back(origin: RealOrigin) -> None:
    """Pages are served promptly all the while."""
    origin.answer = cacheable
    with memcached() as server:
        cache = {
            "memcached": [f"127.0.0.1:{server.port}"],
            "memcached_retry": "200ms",
        }
        with ClinfraProcess(proxy_config(origin.port, cache=cache)) as clinfra:
            wait_for_memcached(clinfra)
            slowest = 0.0

            def load(pages: range) -> None:
                nonlocal slowest
                for number in pages:
                    began = time.monotonic()
                    status, _, body = ask(clinfra, f"/{number}")
                    slowest = max(slowest, time.monotonic() - began)
                    assert (status, body) == (200, f"/{number}".encode() * 50)

            load(range(20))
            server.signal(signal.SIGSTOP)
            load(range(10, 40))
            server.signal(signal.SIGCONT)
            load(range(30, 60))
            server.kill()
            load(range(50, 80))

    assert slowest < 5


def test_two_proxies_share_memcached(origin: RealOrigin) -> None:
    """One finds what the other kept, variant by variant; a purge reaches both."""

    def by_cookie(handler: Any) -> None:
        cookie = handler.headers["Cookie"] or "nobody"
        say(handler, cookie.encode(), Cache_Control="max-age=600", Vary="Cookie")

    def fetch(clinfra: ClinfraProcess, cookie: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", clinfra.ports["proxy"])
        try:
            fields = {"Cookie": cookie, "Host": "shared.example"}
            connection.request("GET", "/page", headers=fields)
            return connection.getresponse().read()
        finally:
            connection.close()

    origin.answer = by_cookie
    with memcached() as server:
        config = proxy_config(
            origin.port, cache={"memcached": [f"127.0.0.1:{server.port}"]}
        )
        config["proxy"]["modules"] = [
            {
                "use": "DirectCache",
                "hot_cache_refresh": "500ms",
                # Pages are named by the listener's port; here they are to be shared.
                "key_transformations": [[r":\d+/", "/"]],
            },
            {"use": "Forwarder"},
        ]
        with ClinfraProcess(config) as one, ClinfraProcess(config) as other:
            users = ("u=alice", "u=bob")
            for clinfra in (one, other):
                wait_for_memcached(clinfra)
                for user in users * 2:
                    assert fetch(clinfra, user) == user.encode()
            assert len(origin.asked) == 2

            assert ask(one, "http://shared.example/page", "PURGE", "admin")[0] == 200
            time.sleep(1.5)
            for clinfra in (other, one):
                for user in users:
                    assert fetch(clinfra, user) == user.encode()
            assert len(origin.asked) == 4


def test_slow_uploads_tie_up_no_origin(origin: RealOrigin) -> None:
    """However many send slowly, the origin is not even connected to before the end."""
    connections: list[object] = []
    accept = origin.server.process_request

    def accepted(connected: Any, address: Any) -> None:
        connections.append(address)
        accept(connected, address)

    origin.server.process_request = accepted  # type: ignore[assignment, method-assign] # to count
    size, senders = 3_000_000, 8
    with ClinfraProcess(proxy_config(origin.port)) as clinfra, ExitStack() as stack:
        slow = []
        for _ in range(senders):
            connected = stack.enter_context(
                socket.create_connection(("127.0.0.1", clinfra.ports["proxy"]), 20)
            )
            connected.sendall(
                b"PUT /slow HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size
            )
            connected.sendall(b"x" * (size - 1))
            slow.append(connected)
        wait_until(
            lambda: spooled(clinfra) > senders * (size - 300_000), "all are taken in"
        )
        assert connections == []
        for connected in slow:
            connected.sendall(b"x")
        for connected in slow:
            assert connected.recv(12) == b"HTTP/1.1 200"
        assert origin.received == senders * size
        wait_until(lambda: spooled(clinfra) == 0, "nothing is left")


def spooled(clinfra: ClinfraProcess) -> int:
    """Return how many bytes the proxy keeps on disk."""
    _, _, body = ask(clinfra, "/status", product="admin")
    kept: int = json.loads(body)["products"]["proxy"]["spool"]["bytes"]
    return kept


def test_slow_clients_hold_no_origin(origin: RealOrigin) -> None:
    """An origin is rid of a large answer before its client has begun to take it."""
    body = random.Random(1).randbytes(30_000_000)
    said = threading.Event()

    def tell(handler: Any) -> None:
        say(handler, body)
        said.set()

    origin.answer = tell
    with (
        ClinfraProcess(proxy_config(origin.port)) as clinfra,
        socket.create_connection(("127.0.0.1", clinfra.ports["proxy"]), 20) as slow,
    ):
        slow.sendall(b"GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert said.wait(20)
        assert spooled(clinfra) > 15_000_000
        answer = http.client.HTTPResponse(slow)
        answer.begin()
        assert answer.read() == body
        wait_until(lambda: spooled(clinfra) == 0, "nothing is left")


def test_compressed_once_for_each_coding(origin: RealOrigin) -> None:
    """Every client reads the page; its origin is asked once for each coding."""
    page = b"<p>the same again and again</p>" * 5000

    def tell(handler: Any) -> None:
        say(handler, page, Content_Type="text/html", Cache_Control="max-age=600")

    origin.answer = tell
    with ClinfraProcess(proxy_config(origin.port)) as clinfra:
        for accepted in ("gzip", "br, gzip", "zstd", "gzip, deflate, br") * 3:
            _, answer, body = ask(clinfra, "/page", Accept_Encoding=accepted)
            assert decoded(str(answer["Content-Encoding"]), body) == page
            assert len(body) < len(page) / 50
        assert ask(clinfra, "/page")[2] == page
    assert len(origin.asked) == 4

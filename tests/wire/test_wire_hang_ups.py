"""Clients and origins that hang up at any point; nothing is left of them.

Whoever leaves early must not cost a descriptor, must not have its half of an exchange
taken for somebody else's, and must not keep an origin at work.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from attrs import frozen

from tests.support import ClinfraProcess, wait_until
from tests.wire.raw import RawOrigin, Received, Say, ok, talk

GET = b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n"
PUT = (
    b"PUT /put HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 300_000
)
CHUNKS = (
    b"PUT /put HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"493e0\r\n" + b"x" * 300_000 + b"\r\n"
)
BIG = b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n" + b"y" * 1_000_000
SLOW = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"

LEAVING = {
    "after connecting": (b"", 0.0),
    "in the head": (b"GET / HTTP/1.1\r\nHo", 0.0),
    "after the head": (GET % b"/silent", 0.0),
    "while waiting": (GET % b"/silent", 0.2),
    "in an upload": (PUT, 0.0),
    "in a slow upload": (PUT, 0.2),
    "in a chunked upload": (CHUNKS, 0.1),
    "in a large answer": (GET % b"/big", 0.1),
    "in a slow answer": (GET % b"/slow", 0.2),
    "with more sent ahead": (GET % b"/silent" + GET % b"/never" * 50, 0.1),
}


def answer(received: Received) -> Say:
    """Play what is asked for."""
    match received.target.partition("?")[0]:
        case "/silent":
            return Say((), "silent")
        case "/big":
            return Say((BIG,), "silent")
        case "/slow":
            return Say((SLOW,), "silent")
    return ok(received.target.encode())


@frozen
class Front:
    """A proxy and the origin behind it."""

    origin: RawOrigin
    clinfra: ClinfraProcess

    @property
    def port(self) -> int:
        return self.clinfra.ports["proxy"]

    def descriptors(self) -> int:
        """Return how many the proxy has open."""
        return len(os.listdir(f"/proc/{self.clinfra.pid}/fd"))


@pytest.fixture(scope="module")
def front() -> Iterator[Front]:
    """Run both."""
    with RawOrigin(answer) as origin:
        pool = {
            "members": [f"127.0.0.1:{origin.port}"],
            "idle_timeout": "500ms",
            # Who has closed cannot be told from who only sends no more, until there is
            # something to send to it.
            "read_timeout": "2s",
        }
        proxy = {"pools": {"o": pool}, "default_pool": "o"}
        with ClinfraProcess({"proxy": proxy}) as clinfra:
            yield Front(origin, clinfra)


def leave(port: int, sent: bytes, after: float, reset: bool) -> None:
    """Send something, wait, and go without reading."""
    with socket.create_connection(("127.0.0.1", port), 10) as client:
        if reset:
            linger = struct.pack("ii", 1, 0)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        with contextlib.suppress(OSError):
            client.sendall(sent)
        time.sleep(after)


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
def test_clients(front: Front, reset: bool) -> None:
    """However and whenever a client goes, its origin is let go of soon."""
    wait_until(lambda: not front.origin.open, "nothing is under way")
    before = front.descriptors()
    with ThreadPoolExecutor(10) as threads:
        for sent, after in list(LEAVING.values()) * 3:
            threads.submit(leave, front.port, sent, after, reset)
    wait_until(lambda: not front.origin.open, "origins are let go of")
    wait_until(lambda: front.descriptors() <= before, "descriptors are closed")

    assert talk(front.port, GET % b"/after?1", shut=True).endswith(b"/after?1")
    assert "/never" not in {each.target for each in front.origin.received}
    assert "/put" not in {each.target for each in front.origin.received}
    assert front.origin.faults == []


def test_client_leaves_a_kept_connection(front: Front) -> None:
    """An answer that nobody wants any more is not the next one's."""
    for number in range(20):
        leave(front.port, GET % b"/slow" if number % 2 else GET % b"/big", 0.02, True)
        target = b"/after?%d" % number
        answer = talk(front.port, GET % target, shut=True)
        assert answer.endswith(b"\r\n\r\n" + target)


def test_nothing_was_logged_as_a_bug(front: Front) -> None:
    """People hang up; that is no failure."""
    assert "Traceback" not in front.clinfra.running.output
    assert "Unhandled" not in front.clinfra.running.output

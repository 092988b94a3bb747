"""Several proxies over two memcached: one fetch for all, and what a dead one costs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
import urllib.request
from collections.abc import Sequence
from typing import Any

from tests.proxy.test_wire_proxy import (
    RealOrigin,
    cacheable,
    origin,
    proxy_config,
    say,
)
from tests.support import ClinfraProcess, memcached, wait_until

__all__ = ["origin"]

REQUEST = b"GET %b HTTP/1.1\r\nHost: shared.example\r\nConnection: close\r\n\r\n"


def shared_config(port: int, servers: Sequence[Any], **options: Any) -> dict[str, Any]:
    """Return the configuration of one proxy of several."""
    names = [f"127.0.0.1:{server.port}" for server in servers]
    # However slow a machine is, none of these servers is to be taken for a dead one.
    cache = {
        "memcached": names,
        "memcached_retry": "200ms",
        "memcached_timeout": "10s",
    }
    config = proxy_config(port, cache=cache)
    config["proxy"]["modules"] = [
        # Pages are named by the listener's port; here they are to be shared.
        {"use": "DirectCache", "key_transformations": [[r":\d+/", "/"]], **options},
        {"use": "Forwarder"},
    ]
    return config


def ask_many(ports: Sequence[int], paths: Sequence[bytes]) -> list[tuple[int, bytes]]:
    """Ask for all paths at once, of the proxies in turn; return statuses and bodies."""

    async def ask(port: int, path: bytes) -> tuple[int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(REQUEST % path)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            return int(head.split(b" ", 2)[1]), body
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def ask_all() -> list[tuple[int, bytes]]:
        asking = (
            ask(ports[number % len(ports)], path) for number, path in enumerate(paths)
        )
        return await asyncio.wait_for(asyncio.gather(*asking), 60)

    return asyncio.run(ask_all())


def wait_for_both(*running: ClinfraProcess) -> None:
    """Wait until each proxy is connected to both memcached."""
    deadline = time.monotonic() + 20
    for clinfra in running:
        while clinfra.running.output.count("is connected") < 2:
            assert time.monotonic() < deadline, clinfra.running.output
            time.sleep(0.02)


def test_a_thousand_cold_requests_are_one_fetch(origin: RealOrigin) -> None:
    """Whichever process and connection they come by, their origin is asked once."""

    def slowly(handler: Any) -> None:
        time.sleep(0.7)
        cacheable(handler)

    origin.answer = slowly
    with memcached() as first, memcached() as second:
        # However slow a machine is, nobody is to be taken for one who died.
        config = shared_config(origin.port, (first, second), lease="30s")
        with (
            ClinfraProcess(config) as one,
            ClinfraProcess(config) as two,
            ClinfraProcess(config) as three,
        ):
            running = (one, two, three)
            wait_for_both(*running)
            ports = [clinfra.ports["proxy"] for clinfra in running]

            answers = ask_many(ports, [b"/page"] * 1000)

    assert set(answers) == {(200, b"/page" * 50)}
    assert origin.asked == ["/page"]


def test_a_dead_process_holds_nobody_up(origin: RealOrigin) -> None:
    """The lease of a process that is killed while it fetches ends by itself."""

    def never(handler: Any) -> None:
        time.sleep(8)
        cacheable(handler)

    origin.answer = never
    with memcached() as first, memcached() as second:
        config = shared_config(origin.port, (first, second), lease="2s")
        with ClinfraProcess(config) as other:
            with ClinfraProcess(config) as holder:
                wait_for_both(holder, other)
                port = holder.ports["proxy"]
                with socket.create_connection(("127.0.0.1", port)) as client:
                    client.sendall(REQUEST % b"/page")
                    wait_until(lambda: bool(origin.asked), "the origin is asked")
                    origin.answer = cacheable
                    holder.running.process.kill()
            began = time.monotonic()

            answers = ask_many([other.ports["proxy"]], [b"/page"] * 20)

            assert set(answers) == {(200, b"/page" * 50)}
            assert 0.5 < time.monotonic() - began < 7
    assert origin.asked == ["/page"] * 2


def test_a_dead_memcached_costs_hits_only(origin: RealOrigin) -> None:
    """One of two is killed under load: every request is answered, and soon."""
    origin.answer = lambda handler: say(
        handler, handler.path.encode() * 50, Cache_Control="max-age=600"
    )
    paths = [b"/%d" % (number % 60) for number in range(300)]
    right = [(200, path * 50) for path in paths]
    with memcached() as first, memcached() as second:
        # Nothing is kept in the processes: all hits are memcached's.
        config = shared_config(origin.port, (first, second), hot_cache_match=["never"])
        with ClinfraProcess(config) as one, ClinfraProcess(config) as two:
            wait_for_both(one, two)
            ports = [one.ports["proxy"], two.ports["proxy"]]
            assert ask_many(ports, paths) == right
            fetched = len(origin.asked)
            assert fetched <= 60 + 5

            second.kill()
            began = time.monotonic()
            for _ in range(3):
                assert ask_many(ports, paths) == right
            assert time.monotonic() - began < 10

            # What the other one has still comes from there.
            lost = {path for path in origin.asked[fetched:]}
            assert 0 < len(lost) < 60


def test_purges_reach_every_process(origin: RealOrigin) -> None:
    """By tag and by prefix, told to one process, and for what it never saw."""
    origin.answer = lambda handler: say(
        handler,
        handler.path.encode(),
        Cache_Control="max-age=600",
        Surrogate_Key=handler.path.strip("/").replace("/", " "),
    )
    paths = [b"/blog/a", b"/blog/b", b"/shop/a"]
    with memcached() as first, memcached() as second:
        config = shared_config(origin.port, (first, second), hot_cache_refresh="200ms")
        with ClinfraProcess(config) as one, ClinfraProcess(config) as two:
            wait_for_both(one, two)
            ports = [one.ports["proxy"], two.ports["proxy"]]

            def fetched() -> list[str]:
                origin.asked.clear()
                # One after the other: of pages that are the first ones with a tag at
                # the same moment, others fetch all but one again.
                for port in ports:
                    for path in paths:
                        assert ask_many([port], [path]) == [(200, path)]
                return sorted(origin.asked)

            assert fetched() == ["/blog/a", "/blog/b", "/shop/a"]
            assert fetched() == []
            for kind, text, again in (
                ("tags", "a", ["/blog/a", "/shop/a"]),
                ("prefixes", "shared.example/blog/", ["/blog/a", "/blog/b"]),
            ):
                assert b"memcached is told" in purge(two, kind, text)
                time.sleep(1.0)
                assert fetched() == again, kind
                assert fetched() == []


def purge(clinfra: ClinfraProcess, kind: str, text: str) -> bytes:
    """Have a process purge; return what it says."""
    url = f"http://127.0.0.1:{clinfra.ports['admin']}/purge/{kind}"
    with urllib.request.urlopen(url, text.encode(), timeout=60) as answer:
        said: bytes = answer.read()
        return said


def test_an_origin_that_dies_leaves_its_pages(origin: RealOrigin) -> None:
    """Stale pages are used while it is away, and while it is slow to answer."""
    origin.answer = lambda handler: say(
        handler, b"page", Cache_Control="max-age=1, stale-while-revalidate=60"
    )
    with ClinfraProcess(proxy_config(origin.port)) as clinfra:
        port = clinfra.ports["proxy"]
        assert ask_many([port], [b"/page"]) == [(200, b"page")]
        time.sleep(1.1)
        origin.answer = slowly
        began = time.monotonic()
        assert ask_many([port], [b"/page"] * 5) == [(200, b"page")] * 5
        assert time.monotonic() - began < 3
        wait_until(lambda: len(origin.asked) == 2, "the page is fetched anew")
        origin.close()
        time.sleep(2.2)
        assert ask_many([port], [b"/page"] * 3) == [(200, b"page")] * 3
        assert ask_many([port], [b"/other"])[0][0] in (502, 503)


def slowly(handler: Any) -> None:
    """Answer in good time, but not at once."""
    time.sleep(3)
    say(handler, b"page", Cache_Control="max-age=1")

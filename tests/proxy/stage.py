"""A whole proxy in memory: a client in front, scripted origins behind, time by hand."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.error import ConnectionRefusedError
from twisted.internet.protocol import ClientFactory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from clinfra.config import (
    CacheConfig,
    ModuleConfig,
    PoolConfig,
    ProxyConfig,
    RouteConfig,
)
from clinfra.proxy.service import ProxyService, make_proxy_service
from clinfra.web.headers import format_http_date
from clinfra.web.heads import RequestHead, parse_request_head
from clinfra.web.pool import Origin
from clinfra.web.site import Site
from tests.proxy.memory_server import MemoryServer
from tests.web.clients import Answer, Client
from tests.web.origins import Dial, Line

START = 1_700_000_000
"""Unix seconds at which every stage begins."""

Script = Callable[["Asked"], "bytes | None"]
"""What an origin answers a request; None: it says nothing, the test will."""


class Asked:
    """A request as an origin sees it."""

    def __init__(self, line: Line, origin: str, raw: bytes, body: bytes) -> None:
        self.line = line
        self.origin = origin
        self.head: RequestHead = parse_request_head(raw)
        self.body = body

    @property
    def target(self) -> bytes:
        """What is asked for."""
        return self.head.target

    def field(self, name: str) -> str | None:
        """Return a field."""
        value = self.head.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")


def response(
    body: bytes = b"hello",
    *fields: str,
    status: str = "200 OK",
    length: int | None = None,
) -> bytes:
    """Return a response with a Content-Length."""
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Length: {len(body) if length is None else length}",
        *fields,
    ]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


class Stage:
    """A proxy and everything around it.

    Attributes:
        script: what origins answer.
        asked: what they were asked, in order.
        dead: names of origins that refuse connections.

    Args:
        modules: options of the usual modules by their names.
        first: modules before them.
        pipeline: these instead of all that.
        clock: shared with other stages.
        servers: memcached servers by "host:port".
        config: of the proxy.
    """

    def __init__(
        self,
        test: SynchronousTestCase,
        script: Script | None = None,
        *,
        modules: Mapping[str, Mapping[str, Any]] | None = None,
        first: tuple[ModuleConfig, ...] = (),
        pipeline: tuple[ModuleConfig, ...] = (),
        clock: Clock | None = None,
        servers: Mapping[str, MemoryServer] | None = None,
        **config: Any,
    ) -> None:
        self.clock = clock or Clock()
        if clock is None:
            self.clock.advance(START)
        self.servers = servers or {}
        self.script: Script = script or (lambda asked: response())
        self.asked: list[Asked] = []
        self.dead: set[str] = set()
        self.dials: list[Origin] = []
        options = modules or {}
        locate = config.pop("locate", None)
        usual = ProxyConfig().modules
        settings: dict[str, Any] = {
            "default_port": 8080,
            "pools": {"origin": PoolConfig(members=("o1:80",))},
            "routes": (RouteConfig(pool="origin", prefix="/"),),
            "modules": pipeline
            or (
                *first,
                *(
                    ModuleConfig(use=each.use, options=options.get(each.use, {}))
                    for each in usual
                ),
            ),
            **config,
        }
        if self.servers and "cache" not in config:
            settings["cache"] = CacheConfig(memcached=tuple(self.servers))
        directory = Path(tempfile.mkdtemp())
        test.addCleanup(shutil.rmtree, directory)
        self.proxy: ProxyService = make_proxy_service(
            ProxyConfig(**settings),
            reactor=self.clock,
            data_dir=directory,
            builtin_pools=lambda: {},
            locate=locate,
            rng=Random(1),
            connect=self._connect,
        )
        if self.servers:
            self.proxy.startService()
            self.turn()
        self.site = Site(self.proxy.resource, reactor=self.clock, lane=self.proxy.lane)

    def client(self) -> Client:
        """Return a new connection to the proxy."""
        return Client(self.site, self.clock)

    def ask(
        self,
        target: str = "/",
        *fields: str,
        method: str = "GET",
        host: str = "example.com",
        body: bytes = b"",
        turns: int = 10,
    ) -> Client:
        """Send a request on a new connection and let the world turn."""
        client = self.client()
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *fields]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        client.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        self.turn(turns)
        return client

    def get(self, target: str = "/", *fields: str, **more: Any) -> Answer:
        """Send a request; return its answer."""
        client = self.ask(target, *fields, **more)
        (answer,) = client.answers(more.get("method", "GET"))
        return answer

    def turn(self, turns: int = 10) -> None:
        """Let the reactor turn a few times."""
        for _ in range(turns):
            self.clock.advance(0)

    def pass_time(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.pump([0.5] * round(seconds * 2))

    def date(self) -> str:
        """Return the Date field of now."""
        return "Date: " + format_http_date(int(self.clock.seconds())).decode()

    def _connect(self, origin: Origin, factory: ClientFactory, timeout: float) -> Dial:
        dial = Dial(self.clock, factory, timeout)
        self.dials.append(origin)
        if str(origin) in self.dead:
            self.clock.callLater(0, dial.refuse, ConnectionRefusedError())
        else:
            self.clock.callLater(0, self._accept, dial, origin)
        return dial

    def _accept(self, dial: Dial, origin: Origin) -> None:
        line = dial.accept()
        server = self.servers.get(str(origin))
        if server is not None:
            server.serve(line)
            return
        ScriptedOrigin(self, line, str(origin))


class ScriptedOrigin:
    """One connection to an origin that answers by the stage's script."""

    def __init__(self, stage: Stage, line: Line, name: str) -> None:
        self._stage = stage
        self._line = line
        self._name = name
        self._write = line.write
        self._received = b""
        line.write = self._written  # type: ignore[method-assign] # its origin listens
        self._received += line.take()
        self._look()

    def _written(self, data: bytes) -> None:
        self._received += data
        self._look()

    def _look(self) -> None:
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        raw = self._received[: end + 4]
        length = parse_request_head(raw).content_length
        if length is None:
            stop = self._received.find(b"\r\n0\r\n\r\n", end + 2)
            if stop < 0:
                return
            total = stop + 7
        else:
            total = end + 4 + length
        if len(self._received) < total:
            return
        body = self._received[end + 4 : total]
        self._received = self._received[total:]
        asked = Asked(self._line, self._name, raw, body)
        self._stage.asked.append(asked)
        answer = self._stage.script(asked)
        if answer is not None:
            self._stage.clock.callLater(0, self._line.send, answer)

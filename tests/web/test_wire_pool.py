"""The pool over real sockets, against origins that behave as told."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import pytest_twisted
from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from clinfra.errors import OriginFailed, OriginTimeout
from clinfra.web.chunked import LAST_CHUNK, encode_chunk
from clinfra.web.pool import Origin, Pool, PoolSettings
from tests.support import lasting_ports
from tests.web.origins import Body

Test = TypeVar("Test", bound=Callable[..., object])
on_the_reactor: Callable[[Test], Test] = pytest_twisted.ensureDeferred

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Scripted(Protocol):
    """One accepted connection: every read goes to the script."""

    received = b""
    requests = 0
    origin: ScriptedOrigin

    def connectionMade(self) -> None:
        self.origin.lines.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.received += data
        self.origin.script(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.origin.lost += 1

    def write(self, data: bytes) -> None:
        """Send some bytes."""
        assert self.transport is not None
        self.transport.write(data)

    def abort(self) -> None:
        """Reset the connection."""
        transport: Any = self.transport
        transport.abortConnection()


Script = Callable[[Scripted], None]


def answer_each(line: Scripted) -> None:
    """Answer each request without a body."""
    while b"\r\n\r\n" in line.received:
        _, _, line.received = line.received.partition(b"\r\n\r\n")
        line.requests += 1
        line.write(OK)


def answer_once_then_reset(line: Scripted) -> None:
    """Answer the first request, and reset the connection at the second."""
    if line.requests:
        line.abort()
    elif b"\r\n\r\n" in line.received:
        line.requests += 1
        line.write(OK)


@define(eq=False)
class ScriptedOrigin:
    """A listening origin and its connections."""

    script: Script
    lines: list[Scripted] = field(factory=list)
    lost: int = 0

    def factory(self) -> Factory:
        """Return what makes its connections."""

        def build(addr: object = None) -> Scripted:
            line = Scripted()
            line.origin = self
            return line

        factory = Factory()
        factory.noisy = False
        factory.buildProtocol = build  # type: ignore[method-assign] # instead of a class of its own
        return factory


@define(eq=False)
class Stage:
    """A pool, and origins that listen until the test is over."""

    reactor: Any
    pool: Pool
    ports: list[IListeningPort] = field(factory=list)

    def listen(self, script: Script) -> tuple[ScriptedOrigin, Origin]:
        """Start an origin on a free port."""
        scripted = ScriptedOrigin(script)
        port = self.reactor.listenTCP(0, scripted.factory(), interface="127.0.0.1")
        self.ports.append(port)
        return scripted, Origin("127.0.0.1", port.getHost().port)

    async def get(self, origin: Origin, method: bytes = b"GET") -> bytes:
        """Send a request and return the whole body of its response."""
        response = await self.pool.request(origin, method, b"/")
        return await response.read_all(1 << 20)

    def wait(self, seconds: float) -> Deferred[None]:
        """Let the reactor run."""
        return deferLater(self.reactor, seconds)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Let the reactor run until something holds, five seconds at most."""
        for _ in range(500):
            if condition():
                return
            await self.wait(0.01)
        raise AssertionError("it never came true")


@pytest.fixture
def stage(request: pytest.FixtureRequest) -> Stage:
    """A stage that is cleared after the test, leaving nothing behind."""
    from twisted.internet import reactor

    pool = Pool(
        reactor,
        PoolSettings(connect_timeout=2, response_timeout=0.3, read_timeout=0.3),
    )
    stage = Stage(reactor, pool)

    async def clear() -> None:
        await pool.close()
        for port in stage.ports:
            stopping = port.stopListening()
            if stopping is not None:
                await stopping

    request.addfinalizer(
        lambda: pytest_twisted.blockon(Deferred.fromCoroutine(clear()))
    )
    return stage


@on_the_reactor
async def test_one_connection_for_many_requests(stage: Stage) -> None:
    """Requests one after the other share one connection."""
    scripted, origin = stage.listen(answer_each)
    for _ in range(100):
        assert await stage.get(origin) == b"ok"

    assert [line.requests for line in scripted.lines] == [100]


@on_the_reactor
async def test_reset_at_the_second_request(stage: Stage) -> None:
    """A kept connection that is reset costs GET a second connection, POST an error."""
    scripted, origin = stage.listen(answer_once_then_reset)
    assert await stage.get(origin) == b"ok"
    assert await stage.get(origin) == b"ok"
    assert len(scripted.lines) == 2
    with pytest.raises(OriginFailed) as caught:
        await stage.get(origin, b"POST")

    assert not caught.value.replayable
    assert len(scripted.lines) == 2


@on_the_reactor
async def test_restart_of_the_origin(stage: Stage) -> None:
    """Connections closed while idle are noticed at once: nothing is lost."""
    scripted, origin = stage.listen(answer_each)
    assert await stage.get(origin, b"POST") == b"ok"
    scripted.lines[0].abort()
    await stage.until(lambda: stage.pool.report() == {})

    assert await stage.get(origin, b"POST") == b"ok"


@on_the_reactor
async def test_nobody_listens(stage: Stage) -> None:
    """A refused connection is told at once, as one that did nothing."""
    with pytest.raises(OriginFailed) as caught:
        await stage.get(Origin("127.0.0.1", lasting_ports(1)[0]), b"POST")

    assert caught.value.replayable
    with pytest.raises(OriginFailed):
        await stage.get(Origin(unix_path="/nowhere/at/all"))


@on_the_reactor
async def test_unix_socket(stage: Stage, tmp_path: Path) -> None:
    """An origin may be a UNIX socket."""
    path = str(tmp_path / "origin.sock")
    scripted = ScriptedOrigin(answer_each)
    stage.ports.append(stage.reactor.listenUNIX(path, scripted.factory()))
    for _ in range(3):
        assert await stage.get(Origin(unix_path=path)) == b"ok"

    assert [line.requests for line in scripted.lines] == [3]


@on_the_reactor
async def test_host_name(stage: Stage) -> None:
    """Names are looked up."""
    _, origin = stage.listen(answer_each)

    assert await stage.get(Origin("localhost", origin.port)) == b"ok"


@on_the_reactor
async def test_silence(stage: Stage) -> None:
    """An origin that says nothing, or stops in the middle, is given up in time."""
    scripted, origin = stage.listen(lambda line: None)
    with pytest.raises(OriginTimeout):
        await stage.get(origin)
    _, origin = stage.listen(lambda line: line.write(OK[:-1]))
    with pytest.raises(OriginTimeout):
        await stage.get(origin)

    await stage.until(lambda: scripted.lost == 1 and not stage.pool.report())


@on_the_reactor
async def test_cut_in_the_middle(stage: Stage) -> None:
    """A response cut short raises."""

    def cut(line: Scripted) -> None:
        line.write(OK[:-1])
        assert line.transport is not None
        line.transport.loseConnection()

    _, origin = stage.listen(cut)
    with pytest.raises(OriginFailed):
        await stage.get(origin)


@on_the_reactor
async def test_until_close(stage: Stage) -> None:
    """A body may end with the connection."""

    def until_close(line: Scripted) -> None:
        line.write(b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 200_000)
        assert line.transport is not None
        line.transport.loseConnection()

    _, origin = stage.listen(until_close)

    assert await stage.get(origin) == b"x" * 200_000


@define(eq=False)
class Moody:
    """A script: answers with the target, in any framing, at any pace, or dies."""

    rng: random.Random
    reactor: Any

    def __call__(self, line: Scripted) -> None:
        head, end, rest = line.received.partition(b"\r\n\r\n")
        if not end:
            return
        line.received = rest
        name = head.split(b" ")[1]
        body = name * self.rng.randint(1, 2000)
        answer = b"HTTP/1.1 200 OK\r\nX-Name: %b\r\n" % name
        framing = self.rng.randrange(5)
        if framing == 0:
            answer += b"Connection: close\r\n\r\n" + body
        elif framing <= 2:
            answer += b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        else:
            answer += b"Transfer-Encoding: chunked\r\n\r\n"
            while body:
                size = self.rng.randint(1, len(body))
                answer += encode_chunk(body[:size])
                body = body[size:]
            answer += LAST_CHUNK
        dies = self.rng.random() < 0.15
        if dies:
            answer = answer[: self.rng.randrange(len(answer))]
        cut = self.rng.randrange(len(answer) + 1)
        line.write(answer[:cut])
        self.reactor.callLater(
            self.rng.choice((0, 0, 0.002)), self.end, line, answer[cut:], dies, framing
        )

    def end(self, line: Scripted, rest: bytes, dies: bool, framing: int) -> None:
        """Send the rest, and die if that is the plan."""
        line.write(rest)
        if dies and framing:
            line.abort()
        elif not framing:
            if dies:
                line.abort()
            else:
                assert line.transport is not None
                line.transport.loseConnection()


@on_the_reactor
async def test_moody_origin(stage: Stage) -> None:
    """However an origin behaves, every whole answer is the answer to its request."""
    rng = random.Random(20)
    _, origin = stage.listen(Moody(rng, stage.reactor))
    outcomes = {"whole": 0, "failed": 0}

    async def visit(visitor: int) -> None:
        for number in range(25):
            name = b"/%d-%d;" % (visitor, number)
            try:
                response = await stage.pool.request(origin, b"GET", name)
                assert response.head.get(b"x-name") == name
                if rng.random() < 0.1:
                    response.abort()
                    continue
                body = await response.read_all(1 << 20)
            except OriginFailed:
                outcomes["failed"] += 1
                continue
            outcomes["whole"] += 1
            assert body == name * (len(body) // len(name))
            assert body

    await gatherResults(
        [Deferred.fromCoroutine(visit(visitor)) for visitor in range(20)]
    )

    assert outcomes["whole"] > 300
    assert outcomes["failed"] > 20
    # What was aborted last is told so on a later turn.
    await stage.until(lambda: stage.pool.load(origin) == 0)


@on_the_reactor
async def test_large_upload_to_a_slow_origin(stage: Stage) -> None:
    """What a slow origin does not take is not read from the sender either."""
    total = 0

    def count(line: Scripted) -> None:
        nonlocal total
        if b"\r\n\r\n" in line.received:
            _, _, line.received = line.received.partition(b"\r\n\r\n")
        total += len(line.received)
        line.received = b""
        if total == size:
            line.write(OK)

    piece = bytes(1 << 20)
    size = 64 << 20
    scripted, origin = stage.listen(count)
    body = Body(size)
    asked = Deferred.fromCoroutine(stage.pool.request(origin, b"PUT", b"/", (), body))
    await stage.until(lambda: bool(scripted.lines) and body.wanted)
    transport: Any = scripted.lines[0].transport
    transport.pauseProducing()
    for _ in range(64):
        body.feed(piece)
    await stage.wait(0.1)
    # Only what fits into the buffers of the kernel has been read.
    assert body.reads < 32
    transport.resumeProducing()
    response = await asked

    assert await response.read_all(10) == b"ok"
    assert total == size


@on_the_reactor
async def test_large_download_by_a_slow_reader(stage: Stage) -> None:
    """What the reader does not take stays with the origin."""
    size = 64 << 20

    class Producer:
        def __init__(self, line: Scripted) -> None:
            self.sent = 0
            self.going = True
            self.transport = cast(Any, line.transport)
            line.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
            self.transport.registerProducer(self, True)
            self.resumeProducing()

        def resumeProducing(self) -> None:
            self.going = True
            while self.going and self.sent < size:
                self.sent += 1 << 20
                self.transport.write(bytes(1 << 20))
            if self.sent == size:
                self.transport.unregisterProducer()

        def pauseProducing(self) -> None:
            self.going = False

        def stopProducing(self) -> None:
            self.going = False

    producers: list[Producer] = []
    _, origin = stage.listen(lambda line: producers.append(Producer(line)))
    response = await stage.pool.request(origin, b"GET", b"/")
    await stage.wait(0.7)
    assert producers[0].sent < 32 << 20
    total = 0
    while piece := await response.read():
        total += len(piece)

    assert total == size

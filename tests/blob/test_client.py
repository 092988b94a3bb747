"""The client library against whole clusters, in memory."""

from __future__ import annotations

import hashlib
import json
import random
from base64 import b64encode
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar, cast

from attrs import define
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from clinfra.blob import topology
from clinfra.blob.client import BlobClient, Concern
from clinfra.blob.servers import OneServer
from clinfra.errors import (
    ConfigProblems,
    InvalidRequest,
    NotFound,
    OriginFailed,
    Overloaded,
    TooLarge,
)
from clinfra.interfaces import IBlobs
from clinfra.web.exchange import IBody, IExchange, Response
from clinfra.web.pool import Origin, Pool, PoolSettings
from clinfra.web.site import Site
from tests.blob.support import LIMITS
from tests.sim.cluster import CLIENT, Cluster, Host, cluster_file
from tests.web.clients import Handled

T = TypeVar("T")

BIG = random.Random(1).randbytes(3 << 20)


@implementer(IBody)
@define(eq=False)
class Pieces:
    """A body in pieces; something may happen before one of them."""

    body: bytes
    before: Callable[[int], object]
    at: int = 0

    @property
    def length(self) -> int:
        return len(self.body)

    async def read(self) -> bytes:
        self.before(self.at)
        piece = self.body[self.at : self.at + (1 << 18)]
        self.at += len(piece)
        return piece


class ClientCase(SynchronousTestCase):
    """A simulated cluster and a client that knows all of it."""

    def start(self, *layout: list[int], **config: Any) -> None:
        """Start a cluster."""
        self.cluster = Cluster(layout, **config)
        self.addCleanup(self.cluster.close)
        self.hosts = self.cluster.hosts
        self.connect(layout)

    def connect(self, layout: Sequence[list[int]]) -> None:
        """Make a client that has no connections yet."""
        network, clock = self.cluster.network, self.cluster.clock
        self.pool = Pool(
            clock,
            PoolSettings(response_timeout=5.0, read_timeout=5.0),
            network.connector(CLIENT),
        )
        self.client = BlobClient.of_cluster(
            topology.read(cluster_file(layout), None, "f"),
            reactor=clock,
            pool=self.pool,
            rng=random.Random(1),
        )
        self.addCleanup(self.client.close)

    def wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Return what a coroutine returns, letting time pass."""
        found: T = self.cluster.finish(Deferred.fromCoroutine(coroutine))
        return found

    def serving(self) -> Host:
        """Return the only replica that the client is connected to."""
        ips = {e.host for e in self.cluster.network.ends if e.other_host == CLIENT}
        (host,) = (host for host in self.hosts.values() if host.ip in ips)
        return host


class WholeClusterTests(ClientCase):
    """Knowing the cluster file."""

    def test_interface(self) -> None:
        """It is an IBlobs, and knows names at once."""
        self.start([2, 1], [1])

        self.assertTrue(verifyObject(IBlobs, self.client))
        self.assertEqual("00100_test1", self.wait(self.client.encode("test1")))

    def test_round_trip(self) -> None:
        """What is put is kept by who is responsible, found, told of, and deleted."""
        self.start([1, 1], [1])
        began = int(self.cluster.clock.seconds())
        info = self.wait(
            self.client.put("ü?.jpg", b"hello", ttl_seconds=60, content_type="a/b")
        )
        keeper = self.hosts[f"c0b{info.buckets[0]}r0"]

        self.cluster.run(5)
        self.assertIn(info.name, keeper.rows())
        self.assertEqual(60, info.deleted - began)
        self.assertEqual((info, b"hello"), self.wait(self.client.get(info.name)))
        self.wait(self.client.delete(info.name))
        self.cluster.run(5)
        with self.assertRaises(NotFound):
            self.wait(self.client.get(info.name))

    def test_told_how_many(self) -> None:
        """Who took it, and how many have it, is told."""
        self.start([2])
        stored = self.wait(self.client.store("x", lambda: b"1", concern=Concern("all")))

        self.assertIn(stored.server, self.hosts)
        self.assertIn(stored.copies, ("2/2", ""))

    def test_required(self) -> None:
        """What a living server says counts more than a dead one's silence."""
        self.start([2])
        self.cluster.crash(self.hosts["c0b0r1"])
        for n in range(3):
            with self.assertRaises(Overloaded):
                self.wait(
                    self.client.store(
                        f"{n}", lambda: b"1", concern=Concern("all", require=True)
                    )
                )

    def test_dead_replicas(self) -> None:
        """As long as one replica of a bucket lives, nothing is noticed."""
        self.start([3])
        for name in ("c0b0r0", "c0b0r2"):
            self.cluster.crash(self.hosts[name])
        names = [self.wait(self.client.put(f"{n}", b"1")).name for n in range(9)]

        for name in names:
            self.assertEqual(b"1", self.wait(self.client.get(name))[1])

    def test_nobody(self) -> None:
        """When nobody can be reached, that is said, not that there is none."""
        self.start([2], [1])
        for host in self.hosts.values():
            self.cluster.crash(host)
        for call in (
            self.client.put("x", b"1"),
            self.client.get("00000_x"),
            self.client.delete("00000_x"),
        ):
            with self.assertRaises(OriginFailed):
                self.wait(call)

    def test_refusal(self) -> None:
        """What is refused is not tried elsewhere."""
        self.start([2])
        for name in ("_x", "a\nb", ""):
            with self.assertRaises(InvalidRequest):
                self.wait(self.client.put(name, b"1"))
        with self.assertRaises(InvalidRequest):
            self.wait(self.client.put("009_x", b"1", encoded=True))

    def test_only_one_has_it(self) -> None:
        """A 404 of one replica is not the last word: the next is asked."""
        self.start([3])
        only = self.hosts["c0b0r1"]
        for n in range(6):
            self.cluster.put(only, f"/{n}?replicate=replica&copies=1", b"%d" % n)

        for n in range(6):
            self.assertEqual(b"%d" % n, self.wait(self.client.get(f"000_{n}"))[1])


class HedgeTests(ClientCase):
    """Reads that take longer than nearly all do."""

    def setUp(self) -> None:
        self.start([3])
        self.names = [
            self.wait(self.client.put(f"{n}", b"%d" % n)).name for n in range(40)
        ]
        self.cluster.run(30)

    def read_all(self) -> list[float]:
        """Read every blob; return how long each took, seconds."""
        took = []
        for n, name in enumerate(self.names):
            began = self.cluster.clock.seconds()
            info, body = self.wait(self.client.get(name))
            took.append(self.cluster.clock.seconds() - began)
            self.assertEqual((name, b"%d" % n), (info.name, body))
        return took

    def test_hung(self) -> None:
        """One that hangs costs a few reads a moment, and soon none any."""
        self.read_all()
        self.cluster.network.cut(CLIENT, self.hosts["c0b0r1"].ip)
        took = self.read_all()
        self.assertLess(max(took), 3)
        self.assertLess(sum(took), 8)
        self.assertLess(max(self.read_all()[20:]), 3)

    def test_bounded(self) -> None:
        """When all are slow, few reads are sent twice."""
        asked: list[bytes] = []
        for host in self.hosts.values():
            assert host.service is not None
            inner = host.service.resource

            async def slowly(exchange: IExchange, inner: Any = inner) -> Response:
                asked.append(exchange.head.target)
                await deferLater(self.cluster.clock, self.slow.random())
                found: Response = await inner.respond(exchange)
                return found

            site = Site(Handled(slowly), reactor=self.cluster.clock, limits=LIMITS)
            self.cluster.network.listeners[Origin(host.ip, 80)] = cast(Factory, site)
        self.client.close()
        self.connect([[3]])
        for _ in range(5):
            self.read_all()
        # Each is two requests: the bytes and the info.
        self.assertLess(len(asked), 1.12 * 5 * 2 * len(self.names))
        self.assertGreater(len(asked), 5 * 2 * len(self.names))

    slow = random.Random(4)

    def test_writes_are_not_hedged(self) -> None:
        """A change goes to one server, however long that takes."""
        asked: list[str] = []
        for host in self.hosts.values():
            assert host.service is not None
            inner, name = host.service.resource, host.name

            async def slowly(
                exchange: IExchange, inner: Any = inner, name: str = name
            ) -> Response:
                if exchange.head.method == b"PUT" and b"replicate=all" in (
                    exchange.head.target
                ):
                    asked.append(name)
                    await deferLater(self.cluster.clock, 3.0)
                found: Response = await inner.respond(exchange)
                return found

            site = Site(Handled(slowly), reactor=self.cluster.clock, limits=LIMITS)
            self.cluster.network.listeners[Origin(host.ip, 80)] = cast(Factory, site)
        self.client.close()
        self.connect([[3]])
        self.wait(self.client.put("x", b"1"))
        self.assertEqual(1, len(asked))

    def test_given_up(self) -> None:
        """Who gives a read up asks nobody any more."""
        for host in self.hosts.values():
            self.cluster.network.cut(CLIENT, host.ip)
        reading = Deferred.fromCoroutine(self.client.get(self.names[0]))
        self.cluster.run(0.1)
        reading.cancel()
        self.failureResultOf(reading)
        self.assertEqual(
            [0], sorted({each["active"] for each in self.pool.report().values()} | {0})
        )


class UploadTests(ClientCase):
    """Streaming to a cluster."""

    def test_stream(self) -> None:
        """A long body arrives whole."""
        self.start([1])
        stored = self.wait(self.client.store("x", lambda: Pieces(BIG, lambda at: None)))

        self.assertEqual(hashlib.sha256(BIG).hexdigest(), stored.info.sha256)

    def test_fault_1(self) -> None:
        """A body is sent again from its beginning, never from where it was cut."""
        self.start([2])
        attempts: list[int] = []

        def crash(at: int) -> None:
            if at > 1 << 20 and len(attempts) == 1:
                attempts.append(at)
                self.cluster.crash(self.serving())

        def upload() -> Pieces:
            attempts[:] = attempts or [0]
            return Pieces(BIG, crash)

        stored = self.wait(self.client.store("x", upload))

        self.assertEqual(2, len(attempts))
        self.assertEqual(len(BIG), stored.info.size)
        self.assertEqual(hashlib.sha256(BIG).hexdigest(), stored.info.sha256)

    def test_too_large(self) -> None:
        """What is refused for its size says so."""
        self.start([2], max_blob_bytes=1000)
        with self.assertRaises(TooLarge):
            self.wait(self.client.put("x", BIG))


class DownloadTests(ClientCase):
    """Streaming from a cluster."""

    def setUp(self) -> None:
        self.start([2])
        self.wait(self.client.put("big.jpg", BIG))
        self.cluster.run(30)

    def test_stream(self) -> None:
        """What a download is, is told before its bytes come."""

        async def read() -> tuple[int | None, str, bytes]:
            async with await self.client.open("000_big.jpg") as download:
                told = download.length, download.content_type
                return (*told, await download.read_all(1 << 30))

        self.assertEqual((len(BIG), "image/jpeg", BIG), self.wait(read()))

    def test_goes_on_elsewhere(self) -> None:
        """When the server dies half-way, the rest comes from another."""
        crashed: list[str] = []

        async def read() -> bytes:
            pieces = []
            async with await self.client.open("000_big.jpg") as download:
                while piece := await download.read():
                    pieces.append(piece)
                    if not crashed:
                        host = self.serving()
                        crashed.append(host.name)
                        self.cluster.crash(host)
            return b"".join(pieces)

        self.client.close()
        self.connect([[2]])
        self.cluster.run(1)
        self.assertEqual(BIG, self.wait(read()))
        self.assertEqual(1, len(crashed))

    def test_too_long(self) -> None:
        """A body beyond what is wanted is given up."""

        async def read() -> bytes:
            async with await self.client.open("000_big.jpg") as download:
                return await download.read_all(1000)

        with self.assertRaises(OriginFailed):
            self.wait(read())


class OneServerTests(ClientCase):
    """Knowing one server only."""

    def setUp(self) -> None:
        self.start([1])
        clock = self.cluster.clock
        clock.callWhenRunning = lambda call: call()  # type: ignore[attr-defined]  # what a reactor has

    def listen(self, answer: Callable[[IExchange], Any]) -> None:
        """Take the server's place."""
        site = Site(Handled(answer), reactor=self.cluster.clock, limits=LIMITS)
        self.cluster.network.listeners[Origin("10.0.0.0", 80)] = cast(Factory, site)
        self.client = BlobClient(
            "http://10.0.0.0:80", reactor=self.cluster.clock, pool=self.pool
        )

    def test_damaged(self) -> None:
        """Bytes that do not match their digest are not passed off as the blob."""
        digest = b"sha-256=:" + b64encode(hashlib.sha256(b"good").digest()) + b":"

        async def answer(exchange: IExchange) -> Response:
            return Response(200, ((b"Repr-Digest", digest),), b"evil")

        self.listen(answer)
        with self.assertRaises(OriginFailed):
            self.wait(self.client.get("000_x"))

    def test_replaced_meanwhile(self) -> None:
        """Two versions are never put together to one."""

        async def answer(exchange: IExchange) -> Response | None:
            if exchange.head.get(b"range") is None:
                exchange.start(200, ((b"ETag", b'"one"'),), 8)
                exchange.write(b"half")
                await exchange.drained()
                self.cluster.clock.callLater(1, exchange.abort)
                return None
            return Response(200, ((b"ETag", b'"two"'),), b"whatever")

        self.listen(answer)
        with self.assertRaises(OriginFailed) as caught:
            self.wait(self.client.get("000_x"))
        self.assertIn("replaced", str(caught.exception))

    def test_listing(self) -> None:
        """A list that comes in parts is told whole, each blob once."""
        rows = [[f"000_{n}", 5 + n // 2, 0, 5] for n in range(7)]
        asked: list[bytes] = []

        async def answer(exchange: IExchange) -> Response:
            query = exchange.head.query
            asked.append(query)
            start = 0
            for pair in query.split(b"&"):
                if pair.startswith(b"modified_start="):
                    start = int(pair.split(b"=")[1])
            some = [row for row in rows if cast(int, row[1]) >= start][:3]
            return Response(200, (), json.dumps(some).encode())

        self.listen(answer)

        async def listed() -> list[str]:
            return [row.name async for row in self.client.listing(stop=99)]

        self.assertEqual([row[0] for row in rows], self.wait(listed()))
        self.assertIn(b"checksum=false&modified_stop=99", asked)

    def test_nonsense(self) -> None:
        """What is no answer is a failure, with the server's name."""

        async def answer(exchange: IExchange) -> Response:
            return Response(200, (), b"<html>")

        self.listen(answer)
        calls: list[Coroutine[Any, Any, Any]] = [
            self.client.info("000_x"),
            self.client.delete("000_x"),
            self.client.command("_status"),
            self.client.learn(),
        ]
        for call in calls:
            with self.assertRaises(OriginFailed):
                self.wait(call)

    def test_bad_urls(self) -> None:
        """What is no http URL is refused."""
        for url in (
            *("", "x", "https://x", "http://", "http://x:99999", "http://x:y"),
            *("http://x/a b", "http://x/ü", "http://x/\n"),
        ):
            with self.assertRaises(ConfigProblems):
                OneServer(url)


del ClientCase

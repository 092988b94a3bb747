"""The client library: blobs of another process, over HTTP.

A `BlobClient` speaks to one server, which finds the replicas it needs by itself, or to
all the servers of a cluster file: then it asks a replica that keeps the blob, and the
next when that one fails, as the original's clients do.  It is an `IBlobs`; besides,
bodies of any size can be streamed both ways.

No body is ever sent twice from the middle: what is uploaded is made anew, from its
beginning, for each attempt.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.blob import names, topology
from clinfra.blob.asking import MAX_ANSWER_BYTES, Asker, Upload
from clinfra.blob.download import READS, Download
from clinfra.blob.info import from_json
from clinfra.blob.peers import change_target
from clinfra.blob.servers import ClusterServers, OneServer, Servers
from clinfra.blob.stamps import Stamps
from clinfra.blob.sync import Listed
from clinfra.blob.topology import Placement, Topology
from clinfra.errors import (
    ConfigProblems,
    InvalidRequest,
    OriginFailed,
    Overloaded,
)
from clinfra.interfaces import BlobInfo, IBlobs
from clinfra.web.heads import Fields
from clinfra.web.pool import Pool
from clinfra.web.responses import OriginResponse


@frozen
class Concern:
    """How many durable copies a change wants; see `concern`.

    Attributes:
        copies: a number, "quorum" or "all"; "" leaves it to the server.
        clusters: how many clusters must have it.
        require: fail when that is not reached (the change stays all the same).
    """

    copies: str = ""
    clusters: int | None = None
    require: bool = False

    def query(self) -> str:
        """Return it as query parameters, each with "&" before it."""
        given = f"&copies={self.copies}" if self.copies else ""
        if self.clusters is not None:
            given += f"&clusters={self.clusters}"
        return given + ("&require" if self.require else "")


@frozen
class Stored:
    """A change that was taken.

    Attributes:
        info: the blob after it.
        copies, clusters: how many have it, of how many, e.g. "2/3"; "" from a server
            that does not tell.
        server: that took it.
    """

    info: BlobInfo
    copies: str
    clusters: str
    server: str


READING = frozenset(("_config", "_list", "_quarantine", "_status"))
"""Admin requests that change nothing."""

_NO_CONCERN = Concern()


@implementer(IBlobs)
@define(eq=False)
class BlobClient:
    """Blobs of the server at `url`, e.g. "http://10.0.0.5:8081".

    Args:
        reactor: Twisted's; its clock is unix time.
        pool: shared connections; one of its own when not given.
        max_blob_bytes: longest body `get` takes.
        servers: instead of the one at `url`; see `of_cluster`.
        stamps: for changes sent to a whole cluster.
    """

    log = Logger()

    _url: str
    _reactor: Any = field(kw_only=True)
    _pool: Pool = field(kw_only=True)
    _max_blob_bytes: int = field(kw_only=True, default=64 << 20)
    _servers: Servers = field(kw_only=True)
    _stamps: Stamps = field(kw_only=True)
    _asker: Asker = field(init=False)
    _learning: Deferred[Any] | None = field(init=False, default=None)

    @_pool.default
    def _make_pool(self) -> Pool:
        return Pool(self._reactor)

    @_servers.default
    def _one_server(self) -> Servers:
        return OneServer(self._url, "image.blob_url")

    @_stamps.default
    def _make_stamps(self) -> Stamps:
        rng = random.SystemRandom()
        return Stamps(self._now, lambda: rng.getrandbits(12), 0)

    def _now(self) -> float:
        seconds: float = self._reactor.seconds()
        return seconds

    @_asker.default
    def _make_asker(self) -> Asker:
        return Asker(self._pool, self._servers)

    def __attrs_post_init__(self) -> None:
        if self._servers.topology is None:
            self._reactor.callWhenRunning(self._learn_soon)

    @classmethod
    def of_cluster(
        cls,
        cluster: Topology,
        *,
        reactor: Any,
        pool: Pool | None = None,
        rng: random.Random | None = None,
    ) -> BlobClient:
        """Return a client of all the servers of a cluster file (`topology.read`)."""
        servers = ClusterServers(cluster, rng or random.SystemRandom(), reactor.seconds)
        return cls("", reactor=reactor, pool=pool or Pool(reactor), servers=servers)

    # Placement

    @property
    def topology(self) -> Topology:
        """The cluster.  Raises errors.Overloaded while it is not known."""
        known = self._servers.topology
        if known is None:
            self._learn_soon()
            raise Overloaded("The blob service was not reached yet.")
        return known

    async def encode(self, name: str) -> str:
        """Return the stored name of a plain name; this may ask for the cluster.

        Raises errors.Overloaded when the server does not tell it.
        """
        if self._servers.topology is None:
            await self._learned_once()
        return self.topology.place(name, encoded=False).stored

    async def learn(self) -> None:
        """Ask the server for its cluster."""
        answer = await self._asker.whole(b"GET", None, b"/_config")
        try:
            known = topology.read(answer.decode("utf-8"), None, self._url)
        except (UnicodeDecodeError, ConfigProblems) as error:
            raise OriginFailed(f"{self._url} told no cluster: {error}") from error
        self._servers.topology = known

    async def _learned_once(self) -> None:
        """Wait until the server has told its cluster, or has not."""
        self._learn_soon()
        if self._learning is not None:
            over: Deferred[None] = Deferred()
            self._learning.addCallback(over.callback)
            await over

    def _learn_soon(self) -> None:
        if self._learning is None:
            self._learning = Deferred.fromCoroutine(self.learn())
            self._learning.addErrback(
                lambda failure: self.log.warn(
                    "cannot reach the blob service: {error}", error=failure.value
                )
            )
            self._learning.addCallback(self._learned)

    def _learned(self, result: object) -> None:
        self._learning = None

    # Changes

    async def put(
        self,
        name: str,
        body: bytes,
        *,
        ttl_seconds: int | None = None,
        content_type: str | None = None,
        encoded: bool = False,
    ) -> BlobInfo:
        """Keep a body durably."""
        stored = await self.store(
            name,
            lambda: body,
            ttl_seconds=ttl_seconds,
            content_type=content_type,
            encoded=encoded,
        )
        return stored.info

    async def store(
        self,
        name: str,
        body: Upload,
        *,
        ttl_seconds: int | None = None,
        content_type: str | None = None,
        encoded: bool = False,
        concern: Concern = _NO_CONCERN,
    ) -> Stored:
        """Keep a body of any size durably.

        Raises:
            errors.Trouble: no server took it; the last one's reason.
            Exception: what reading the body raised.
        """
        names.check(name)
        fields: Fields = ()
        if content_type:
            fields = ((b"Content-Type", content_type.encode("latin-1")),)
        placement = self._place(name, encoded)
        if placement is None:
            given = f"ttl={ttl_seconds}" if ttl_seconds is not None else ""
            given += "&encoded=true" if encoded else ""
            query = (given + concern.query()).lstrip("&")
            target = names.to_path(name) + (b"?" + query.encode() if query else b"")
        else:
            stamp = self._stamps.next()
            ttl = self.topology.ttl if ttl_seconds is None else ttl_seconds
            target = change_target(
                names.to_path(placement.stored),
                modified=stamp,
                deleted=0 if ttl is None else int(self._now()) + int(ttl),
                modified_deleted=stamp,
                replicate="all",
                encoded=True,
            )
            target += concern.query().encode()
        return await self._change(b"PUT", placement, target, fields, body)

    async def delete(self, name: str) -> BlobInfo:
        """Delete at once."""
        return (await self.expire(name)).info

    async def expire(self, name: str, concern: Concern = _NO_CONCERN) -> Stored:
        """Delete at once, and tell how many know."""
        names.check(name)
        placement = self._place(name, True)
        target = names.to_path(name)
        if placement is None:
            query = concern.query().lstrip("&")
            target += b"?" + query.encode() if query else b""
        else:
            target = change_target(
                target,
                deleted=int(self._now()),
                modified_deleted=self._stamps.next(),
                replicate="all",
            )
            target += concern.query().encode()
        return await self._change(b"DELETE", placement, target, (), None)

    def _place(self, name: str, encoded: bool) -> Placement | None:
        """Return where a change belongs when that is for us to know."""
        if not self._servers.fixed_stamps:
            return None
        placement = self.topology.place(name, encoded=encoded)
        self.topology.check_writable(placement)
        return placement

    async def _change(
        self,
        method: bytes,
        placement: Placement | None,
        target: bytes,
        fields: Fields,
        body: Upload | None,
    ) -> Stored:
        server, response = await self._asker.respond(
            method, placement, target, fields, body
        )
        async with response:
            answer = await response.read_all(MAX_ANSWER_BYTES)
        return Stored(
            _info(answer),
            (response.head.get(b"x-clblob-copies") or b"").decode("latin-1"),
            (response.head.get(b"x-clblob-clusters") or b"").decode("latin-1"),
            server.name,
        )

    # Reads

    async def open(self, name: str) -> Download:
        """Begin to read a blob of any size.  Raises errors.NotFound."""
        placement = self._look_up(name)

        async def ask(fields: Fields) -> OriginResponse:
            target = names.to_path(name)
            _, response = await self._asker.respond(b"GET", placement, target, fields)
            return response

        return await Download.begin(ask)

    async def get(self, name: str) -> tuple[BlobInfo, bytes]:
        """Return a (small) blob whole."""
        for _ in range(READS):
            async with await self.open(name) as download:
                body = await download.read_all(self._max_blob_bytes)
            info = await self.info(name)
            if info.sha256 in (None, download.sha256):
                return info, body
        raise OriginFailed("The blob was replaced while it was being read.")

    async def info(self, name: str) -> BlobInfo:
        """Return what is known of a blob."""
        target = names.to_path(name) + b"?response=info"
        return _info(await self._asker.whole(b"GET", self._look_up(name), target))

    def _look_up(self, name: str) -> Placement | None:
        names.check(name)
        if not self._servers.fixed_stamps:
            return None
        return self.topology.place(name, encoded=True)

    # Administration

    async def command(
        self,
        command: str,
        replica: str = "",
        query: str = "",
        *,
        body: bytes | None = None,
    ) -> Any:
        """Return the JSON answer to an admin request of a replica, e.g. "_status".

        Args:
            replica: "" for the one server, or any.
        """
        if not query.isascii() or not query.isprintable() or " " in query:
            raise InvalidRequest(f"Cannot be asked for: {query}")
        server = self._servers.named(replica)
        path = f"/{command}"
        if replica and server is None:
            path += f"/{replica}"
        target = names.to_path(path.strip("/")) + (
            f"?{query}".encode() if query else b""
        )
        method = b"GET" if command in READING else b"POST"
        answer = await self._asker.whole(
            method, None, target, (lambda: body) if body is not None else None, server
        )
        try:
            return json.loads(answer)
        except ValueError:
            raise OriginFailed(f"The answer to {command} makes no sense") from None

    async def listing(
        self, replica: str = "", start: int | None = None, stop: int | None = None
    ) -> AsyncIterator[Listed]:
        """Yield a replica's blobs by the stamp of their data, start <= stamp < stop."""
        last: set[tuple[str, int]] = set()
        while True:
            query = "checksum=false"
            query += f"&modified_start={start}" if start is not None else ""
            query += f"&modified_stop={stop}" if stop is not None else ""
            rows = [Listed(*row) for row in await self.command("_list", replica, query)]
            fresh = [row for row in rows if (row.name, row.modified) not in last]
            for row in fresh:
                yield row
            if not fresh:
                return
            # Several blobs can have the last stamp: ask for it again.
            start = rows[-1].modified
            last = {(row.name, row.modified) for row in rows if row.modified == start}

    def close(self) -> Deferred[None]:
        """Close the connections."""
        if self._learning is not None:
            self._learning.cancel()
        return self._pool.close()


def _info(answer: bytes) -> BlobInfo:
    try:
        return from_json(answer)
    except ValueError as error:
        raise OriginFailed("The blob service's answer makes no sense") from error

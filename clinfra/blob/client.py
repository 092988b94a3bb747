"""`IBlobs` over HTTP: the blob store of another process or host.

Placement is in the names, so the client needs to know the cluster: it asks the server
for its `_config` once, when the reactor runs.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.blob import names, topology
from clinfra.blob.info import NOT_FOUND, from_json
from clinfra.blob.topology import Topology
from clinfra.errors import (
    ConfigProblems,
    InvalidRequest,
    NotFound,
    OriginFailed,
    Overloaded,
    StorageFull,
    TooLarge,
    Trouble,
)
from clinfra.interfaces import BlobInfo, IBlobs
from clinfra.web.heads import Fields
from clinfra.web.pool import Origin, Pool
from clinfra.web.responses import OriginResponse

MAX_ANSWER_BYTES = 1 << 20

_TROUBLE: dict[int, type[Trouble]] = {
    400: InvalidRequest,
    404: NotFound,
    413: TooLarge,
    503: Overloaded,
    507: StorageFull,
}


@implementer(IBlobs)
@define(eq=False)
class BlobClient:
    """Blobs of the server at `url`, e.g. "http://10.0.0.5:8081".

    Args:
        reactor: Twisted's.
        pool: shared connections; one of its own when not given.
        max_blob_bytes: longest body `get` takes.
    """

    log = Logger()

    _url: str
    _reactor: Any = field(kw_only=True)
    _pool: Pool = field(kw_only=True)
    _max_blob_bytes: int = field(kw_only=True, default=64 << 20)
    _origin: Origin = field(init=False)
    _prefix: bytes = field(init=False)
    _topology: Topology | None = field(init=False, default=None)
    _learning: Deferred[Any] | None = field(init=False, default=None)

    @_pool.default
    def _make_pool(self) -> Pool:
        return Pool(self._reactor)

    def __attrs_post_init__(self) -> None:
        parts = urlsplit(self._url)
        if parts.scheme != "http" or not parts.hostname:
            raise ConfigProblems([f"image.blob_url: not an http URL: {self._url}"])
        self._origin = Origin(parts.hostname, parts.port or 80)
        self._prefix = parts.path.rstrip("/").encode("ascii")
        self._reactor.callWhenRunning(self._learn_soon)

    def encode(self, name: str) -> str:
        """Return the stored name of a plain name.

        Raises errors.Overloaded while the server has not yet told its cluster.
        """
        if self._topology is None:
            self._learn_soon()
            raise Overloaded(f"The blob service at {self._url} was not reached yet")
        return self._topology.place(name, encoded=False).stored

    async def learn(self) -> None:
        """Ask the server for its cluster."""
        answer = await self._ask(b"GET", "_config", "")
        try:
            self._topology = topology.read(answer.decode("utf-8"), None, self._url)
        except (UnicodeDecodeError, ConfigProblems) as error:
            raise OriginFailed(f"{self._url} told no cluster: {error}") from error

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
        given = []
        if ttl_seconds is not None:
            given.append(f"ttl={ttl_seconds}")
        if encoded:
            given.append("encoded=true")
        fields: Fields = ()
        if content_type:
            fields = ((b"Content-Type", content_type.encode("latin-1")),)
        return _info(await self._ask(b"PUT", name, "&".join(given), body, fields))

    async def get(self, name: str) -> tuple[BlobInfo, bytes]:
        """Return a (small) blob whole."""
        body = await self._ask(b"GET", name, "", limit=self._max_blob_bytes)
        return await self.info(name), body

    async def info(self, name: str) -> BlobInfo:
        """Return what is known of a blob."""
        return _info(await self._ask(b"GET", name, "response=info"))

    async def delete(self, name: str) -> BlobInfo:
        """Delete at once."""
        return _info(await self._ask(b"DELETE", name, ""))

    def close(self) -> Deferred[None]:
        """Close the connections."""
        if self._learning is not None:
            self._learning.cancel()
        return self._pool.close()

    async def _ask(
        self,
        method: bytes,
        name: str,
        query: str,
        body: bytes | None = None,
        fields: Fields = (),
        limit: int = MAX_ANSWER_BYTES,
    ) -> bytes:
        if name != "_config":
            names.check(name)
        target = self._prefix + names.to_path(name)
        if query:
            target += b"?" + query.encode("ascii")
        response: OriginResponse
        async with await self._pool.request(
            self._origin, method, target, fields, body
        ) as response:
            answer = await response.read_all(limit)
        status = response.head.status
        if status == 200:
            return answer
        sentence = answer.decode("utf-8", "replace").strip() or f"status {status}"
        if status == 404:
            raise NotFound(NOT_FOUND)
        raise _TROUBLE.get(status, OriginFailed)(sentence)


def _info(answer: bytes) -> BlobInfo:
    try:
        return from_json(answer)
    except (ValueError, json.JSONDecodeError) as error:
        raise OriginFailed("The blob service's answer makes no sense") from error

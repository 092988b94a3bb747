"""The original's admin requests, ``/_COMMAND`` and ``/_COMMAND/REPLICA``.

Here are those that mean something for a single replica: `_config`, `_status`, `_list`
and `_purge`.  Any method is taken, as the original does; what changes something is
answered to this machine only.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any

from attrs import define, field

from clinfra.blob import parameters
from clinfra.blob.expire import Reaper
from clinfra.blob.info import NOT_FOUND
from clinfra.blob.local import LocalBlobs
from clinfra.blob.workers import Workers
from clinfra.config import BlobConfig
from clinfra.errors import Forbidden, InvalidRequest, NotFound
from clinfra.web.exchange import IExchange, Response

MAX_LISTED = 100_000
"""Most blobs or windows in one answer to `_list`."""


@define
class _Count:
    current: int = 0
    max: int = 0
    total: int = 0


@define(eq=False)
class Counters:
    """How many requests of each kind are being answered, were at most, and in all."""

    _counts: dict[str, _Count] = field(init=False, factory=dict)

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Count a request while it is answered."""
        count = self._counts.setdefault(kind, _Count())
        count.total += 1
        count.current += 1
        count.max = max(count.max, count.current)
        try:
            yield
        finally:
            count.current -= 1

    def once(self, kind: str) -> None:
        """Count a request that is answered at once."""
        count = self._counts.setdefault(kind, _Count())
        count.total += 1
        count.max = max(count.max, count.current + 1)

    def told(self) -> dict[str, dict[str, int]]:
        """Return the counts as `_status` tells them."""
        return {
            kind: {"current": count.current, "max": count.max, "total": count.total}
            for kind, count in sorted(self._counts.items())
        }


@define(eq=False)
class Admin:
    """Answers admin requests.

    Args:
        purge: asks for a purge; False when one is waiting already.
    """

    _blobs: LocalBlobs
    _config: BlobConfig
    _counters: Counters
    _reaper: Reaper
    _workers: Workers
    _waiting: Callable[[], int]
    _purge: Callable[[], bool]

    async def respond(self, exchange: IExchange, path: str) -> Response:
        """Answer the request for an admin path, "_COMMAND" or "_COMMAND/REPLICA"."""
        command, _, replica = path.partition("/")
        commands: Mapping[str, Callable[[IExchange], Awaitable[Any]]] = {
            "_config": self.config,
            "_status": self.status_answer,
            "_list": self.listing,
            "_purge": self.purge,
        }
        handler = commands.get(command)
        own = replica == self._blobs.topology.replica and command != "_config"
        if handler is None or (replica and not own):
            raise NotFound(NOT_FOUND)
        with self._counters.during(command[1:]):
            told = await handler(exchange)
        body = json.dumps(told, separators=(",", ":")).encode()
        return Response(200, ((b"Content-Type", b"application/json"),), body)

    async def config(self, exchange: IExchange) -> Mapping[str, Any]:
        """Return what we run with, under the original's keys."""
        topology, config = self._blobs.topology, self._config
        return {
            "clblob": {
                "client": {
                    "cluster": topology.cluster,
                    "clusters": [
                        [
                            {
                                "replicas": list(bucket.replicas),
                                "write_weight": bucket.write_weight,
                            }
                            for bucket in buckets
                        ]
                        for buckets in topology.clusters
                    ],
                    "encode_name": topology.encode_name,
                    "expiration_delay": config.expiration_delay,
                    "index_module": config.index,
                    "purge_interval": config.purge_interval,
                    "replica": topology.replica,
                    "replicas": {
                        peer.name: {
                            "ip": peer.ip,
                            "port": peer.port,
                            "read_weight": peer.read_weight,
                        }
                        for peer in topology.peers.values()
                    },
                    "store_module": config.store,
                    "ttl": self._blobs.default_ttl_seconds,
                }
            }
        }

    async def status_answer(self, exchange: IExchange) -> Mapping[str, Any]:
        """Return how we are."""
        replica = self._blobs.replica
        index = await self._workers.run(replica.index.facts)
        store = await self._workers.run(replica.store.facts)
        return self.status(index, store)

    def status(
        self, index: Mapping[str, object], store: Mapping[str, object]
    ) -> Mapping[str, Any]:
        """Return the status JSON: the original's keys, and ours after them."""
        topology, replica = self._blobs.topology, self._blobs.replica
        return {
            "cluster": topology.cluster,
            "bucket": topology.bucket,
            "replica": topology.replica,
            "events": self._counters.told(),
            "replicas": {},
            "clusters": {},
            "buffer_status": "buffered replica=0 cluster=0",
            "purge_status": self._reaper.status,
            "sync_status": "start delay",
            "logstatus_status": "start delay",
            "index_sqlite": {"queue_size": self._waiting(), **index},
            "store_disk": {"queue_size": self._waiting(), **store},
            "hot": {
                "blobs": len(replica.hot),
                "bytes": replica.hot.used_bytes,
                "hits": replica.hot.hits,
                "misses": replica.hot.misses,
            },
            "purged": self._reaper.purged,
        }

    async def listing(self, exchange: IExchange) -> Any:
        """Return the blobs between two stamps, or checksums of windows of them."""
        given = parameters.split(exchange.head.query)
        numbers: dict[str, int | None] = {
            key: parameters.integer(key, given[key]) if key in given else None
            for key in ("modified_start", "modified_stop", "checksum_modulo")
        }
        checksum = "checksum" not in given or parameters.boolean(
            "checksum", given["checksum"]
        )
        start, stop = numbers["modified_start"], numbers["modified_stop"]
        index = self._blobs.replica.index
        if checksum:
            modulo = numbers["checksum_modulo"]
            modulo = 86400 if modulo is None else modulo
            if not 0 < modulo < 1 << 31:
                raise InvalidRequest(f"Invalid int value for checksum_modulo: {modulo}")
            return await self._workers.run(
                index.windows, start, stop, modulo << 32, MAX_LISTED
            )
        rows = await self._workers.run(index.listing, start, stop, MAX_LISTED)
        return [
            (
                row.name,
                row.data.modified,
                row.expiry.deleted,
                row.expiry.modified_deleted,
            )
            for row in rows
            if row.data is not None
        ]

    async def purge(self, exchange: IExchange) -> Mapping[str, bool]:
        """Ask for a purge."""
        if not _is_local(exchange.client_ip):
            raise Forbidden("This is answered to requests from this machine only")
        return {"queued": self._purge()}


def _is_local(client_ip: str) -> bool:
    if not client_ip:
        return True
    try:
        return ip_address(client_ip).is_loopback
    except ValueError:
        return False

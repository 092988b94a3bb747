"""How this replica is, as `_status` tells it: the original's keys, and ours after."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred

from clinfra.blob.destinations import peers_of
from clinfra.blob.expire import Reaper
from clinfra.blob.peers import FEATURE, Peers
from clinfra.blob.replica import Replica
from clinfra.blob.replication import Replication
from clinfra.blob.sync import Puller
from clinfra.blob.topology import Topology

Counted = Mapping[str, Mapping[str, int]]
"""By the kind of request, by what is counted of it."""


@define
class _Count:
    """The requests of one kind; it is entered while one of them is answered."""

    current: int = 0
    max: int = 0
    total: int = 0

    def __enter__(self) -> None:
        self.total += 1
        self.current += 1
        self.max = max(self.max, self.current)

    def __exit__(self, *trouble: object) -> None:
        self.current -= 1


@define(eq=False)
class Counters:
    """How many requests of each kind are being answered, were at most, and in all.

    Attributes:
        elsewhere: returns what other processes that answer for us have counted.
    """

    elsewhere: Callable[[], Counted] = field(init=False, default=dict)
    _counts: dict[str, _Count] = field(init=False)

    @_counts.default
    def _started(self) -> dict[str, _Count]:
        return defaultdict(_Count, start=_Count(max=1, total=1))

    def during(self, kind: str) -> AbstractContextManager[None]:
        """Count a request while it is answered."""
        return self._counts[kind]

    def once(self, kind: str) -> None:
        """Count a request that is answered at once."""
        count = self._counts[kind]
        count.total += 1
        count.max = max(count.max, count.current + 1)

    def told(self) -> dict[str, dict[str, int]]:
        """Return the counts as `_status` tells them."""
        told = {
            kind: {"current": count.current, "max": count.max, "total": count.total}
            for kind, count in sorted(self._counts.items())
        }
        for kind, theirs in self.elsewhere().items():
            ours = told.setdefault(kind, dict.fromkeys(theirs, 0))
            told[kind] = {name: ours[name] + theirs.get(name, 0) for name in ours}
        return told


@define(eq=False)
class Status:
    """Collects what is told.

    Args:
        waiting: returns how many changes wait to be committed.
        replication: tells what waits for whom.
        scrub: returns what the scrubber found.
        repair: returns when whom was compared with.
        handoff: returns how many changes are kept for replicas that are away.
        rejoin: returns whether this replica is fenced.
        refill: returns how the filling of this replica goes.
        clock: returns what time it is here, and how far that is ahead of others.

    Attributes:
        logstatus: what the logging of the status is doing.
    """

    _topology: Topology
    _replica: Replica
    _counters: Counters
    _reaper: Reaper
    _puller: Puller
    _peers: Peers
    _waiting: Callable[[], int]
    _replication: Replication
    _scrub: Callable[[], Mapping[str, Any]] = dict
    _handoff: Callable[[], Mapping[str, Any]] = dict
    _repair: Callable[[], Mapping[str, Any]] = dict
    _rejoin: Callable[[], Mapping[str, Any]] = dict
    _refill: Callable[[], Mapping[str, Any]] = dict
    _clock: Callable[[], Mapping[str, Any]] = dict
    logstatus: str = field(init=False, default="start delay")

    def measure(self) -> Deferred[None]:
        """Look how much waits for whom."""
        return self._replication.measure()

    def told(
        self, index: Mapping[str, object], store: Mapping[str, object]
    ) -> dict[str, Any]:
        """Return the status.

        Args:
            index, store: their facts.
        """
        topology, replica = self._topology, self._replica
        deliveries = self._replication.report()
        replicas, clusters = self._replicas(deliveries), self._clusters(deliveries)
        return {
            "cluster": topology.cluster,
            "bucket": topology.bucket,
            "replica": topology.replica,
            "events": self._counters.told(),
            "replication": deliveries,
            "replicas": replicas,
            "clusters": clusters,
            "buffer_status": _buffered(replicas, clusters),
            "purge_status": self._reaper.status,
            "sync_status": self._puller.status,
            "logstatus_status": self.logstatus,
            "index_sqlite": {"queue_size": self._waiting(), **index},
            "store_disk": {"queue_size": self._waiting(), **store},
            "features": [FEATURE],
            "hot": {
                "blobs": len(replica.hot),
                "bytes": replica.hot.used_bytes,
                "hits": replica.hot.hits,
                "misses": replica.hot.misses,
            },
            "purged": self._reaper.purged,
            "scrub": self._scrub(),
            "handoff": self._handoff(),
            "repair": self._repair(),
            "rejoin": self._rejoin(),
            "refill": self._refill(),
            "clock": self._clock(),
        }

    def _replicas(
        self, deliveries: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Return what each peer of the bucket, and who failed lately, is about."""
        found: dict[str, dict[str, Any]] = {}
        for name in peers_of(self._topology):
            found[name] = _events(deliveries.get(f"peer:{name}", {}))
        for name in self._topology.peers:
            since = self._peers.health.seconds_since_failure(name)
            if since is not None:
                found.setdefault(name, _events({}))["last_failed"] = int(since)
        return found

    def _clusters(
        self, deliveries: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, dict[str, Any]]:
        """Return what each other cluster is about, all its buckets together."""
        found: dict[str, dict[str, Any]] = {}
        for cluster in range(len(self._topology.clusters)):
            if cluster == self._topology.cluster:
                continue
            total = _events({})
            for key, delivery in deliveries.items():
                if key.startswith(f"cluster:{cluster}:"):
                    total = _together(total, _events(delivery))
            found[str(cluster)] = total
        return found


def _events(delivery: Mapping[str, Any]) -> dict[str, Any]:
    """Return the original's numbers of a destination, and ours.

    Its events are all changes that somebody has not got, those put aside too.
    """
    ours = {key: delivery[key] for key in delivery.keys() - {"under_way", "cursor"}}
    return {
        "events": delivery.get("waiting", 0) + delivery.get("parked", 0),
        "buffer_events": delivery.get("under_way", 0),
        **dict(sorted(ours.items())),
    }


def _together(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return two destinations' numbers as one: the longest time, the sum of others."""
    together: dict[str, Any] = {}
    for key in {**one, **other}:
        both = one.get(key, 0), other.get(key, 0)
        worst = key.endswith("seconds") or isinstance(both[1], bool)
        together[key] = max(both) if worst else sum(both)
    return together


def _buffered(
    replicas: Mapping[str, Mapping[str, Any]], clusters: Mapping[str, Mapping[str, Any]]
) -> str:
    """Return how many changes are waiting, as the original's console reads it."""
    to_replicas = sum(each.get("waiting", 0) for each in replicas.values())
    to_clusters = sum(each.get("waiting", 0) for each in clusters.values())
    return f"buffered replica={to_replicas} cluster={to_clusters}"

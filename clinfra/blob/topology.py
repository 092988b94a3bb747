"""The cluster file: clusters of buckets of replicas, and which blob goes where.

The file is the original's: JSON in which lines beginning with "#" are comments, with
the keys `clusters`, `replicas`, `encode_name`, `cluster` and `ttl` under
``clblob.client`` (unknown keys are ignored).  Everything wrong with it is reported at
once.

Pure: reading the file from disk is `service`'s business.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from attrs import field, frozen

from clinfra.blob import names
from clinfra.errors import ConfigProblems, InvalidRequest


@frozen
class Bucket:
    """Replicas that hold the same blobs, and the bucket's share of new names."""

    replicas: tuple[str, ...]
    write_weight: int


@frozen
class Peer:
    """A replica's address, and its share of reads."""

    name: str
    ip: str
    port: int
    read_weight: int


@frozen
class Placement:
    """A stored name and where it belongs: cluster → bucket."""

    stored: str
    buckets: Mapping[int, int]


@frozen
class Topology:
    """Who keeps what.

    Attributes:
        clusters: index is the cluster's number; in it, index is the bucket's number.
        peers: every replica by name.
        encode_name: the placement is written in stored names.
        replica: this process; None when it keeps no blobs itself.
        cluster: of this replica.
        bucket: of this replica.
        ttl: default time to live, seconds.
        whole: the cluster file as read, with what else it says; None without one.
    """

    clusters: tuple[tuple[Bucket, ...], ...]
    peers: Mapping[str, Peer] = field(factory=dict)
    encode_name: bool = True
    replica: str | None = None
    cluster: int | None = None
    bucket: int | None = None
    ttl: int | None = None
    whole: Any = field(default=None, repr=False, eq=False)
    _wheels: tuple[tuple[int, ...], ...] = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        wheels = tuple(
            tuple(
                number
                for number, bucket in enumerate(buckets)
                for _ in range(bucket.write_weight)
            )
            for buckets in self.clusters
        )
        object.__setattr__(self, "_wheels", wheels)

    def place(self, name: str, *, encoded: bool) -> Placement:
        """Return where a name belongs.

        Args:
            name: plain, or stored when `encoded`.

        Raises:
            InvalidRequest: when it cannot be a name.
        """
        names.check(name)
        if encoded and self.encode_name:
            return Placement(name, names.decode(name))
        number = names.hash_of(name)
        buckets = [wheel[number % len(wheel)] for wheel in self._wheels]
        stored = names.encode(name, buckets) if self.encode_name else name
        return Placement(stored, dict(enumerate(buckets)))

    def replicas_of(self, placement: Placement) -> tuple[str, ...]:
        """Return the replicas responsible for a placement, as a client sees them.

        Those of this process's own cluster; of all clusters when it has none.

        Raises:
            InvalidRequest: when a bucket does not exist.
        """
        return tuple(
            replica
            for cluster, bucket in sorted(placement.buckets.items())
            if self.cluster is None or cluster == self.cluster
            for replica in self._bucket(placement.stored, cluster, bucket).replicas
        )

    def check_writable(self, placement: Placement) -> None:
        """Raise InvalidRequest for a placement that could never be delivered whole."""
        if not placement.buckets:
            raise InvalidRequest(f"Name bucket list corrupt: {placement.stored}")
        for cluster, bucket in placement.buckets.items():
            self._bucket(placement.stored, cluster, bucket)

    def is_here(self, placement: Placement) -> bool:
        """Return whether this replica keeps blobs of that placement."""
        return (
            self.cluster is not None
            and self.bucket is not None
            and placement.buckets.get(self.cluster) == self.bucket
        )

    def _bucket(self, stored: str, cluster: int, bucket: int) -> Bucket:
        if cluster >= len(self.clusters) or bucket >= len(self.clusters[cluster]):
            raise InvalidRequest(f"Name bucket out of range: {stored}")
        return self.clusters[cluster][bucket]


def single(replica: str = "blob") -> Topology:
    """Return the topology of a replica that is alone in the world."""
    return Topology(
        clusters=((Bucket((replica,), 1),),),
        peers={replica: Peer(replica, "127.0.0.1", 8081, 1)},
        replica=replica,
        cluster=0,
        bucket=0,
    )


def read(text: str, replica: str | None, source: str) -> Topology:
    """Return the topology that a cluster file describes, seen from `replica`.

    Args:
        text: the file's contents.
        source: what to call the file in problems.

    Raises:
        ConfigProblems: with everything that is wrong.
    """
    lines = text.splitlines()
    try:
        whole = json.loads(
            "\n".join("" if line.lstrip().startswith("#") else line for line in lines)
        )
    except ValueError as error:
        raise ConfigProblems([f"{source}: not JSON: {error}"]) from None
    reader = _Reader(source)
    topology = reader.topology(whole, replica)
    if reader.problems or topology is None:
        raise ConfigProblems(reader.problems)
    return topology


class _Reader:
    """Turns JSON into a Topology and collects what is wrong with it."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.problems: list[str] = []

    def wrong(self, key: str, sentence: str) -> None:
        self.problems.append(f"{self.source}: {key}: {sentence}")

    def topology(self, whole: Any, replica: str | None) -> Topology | None:
        client: Any = whole
        for key in ("clblob", "client"):
            client = client.get(key) if isinstance(client, dict) else None
        if not isinstance(client, dict):
            self.wrong("clblob.client", "missing")
            return None
        clusters = tuple(
            tuple(self.buckets(number, cluster))
            for number, cluster in enumerate(self.a_list(client, "clusters"))
        )
        if not clusters:
            self.wrong("clusters", "no clusters defined")
        peers = dict(self.peers(client.get("replicas", {})))
        places = self.places(clusters, peers)
        cluster = client.get("cluster")
        bucket = None
        if replica is not None:
            if replica in places:
                cluster, bucket = places[replica]
            else:
                self.wrong("replica", f"{replica} is not in any bucket")
        elif cluster is not None and (
            not _is_int(cluster) or not 0 <= cluster < len(clusters)
        ):
            self.wrong("cluster", f"out of range: {cluster}")
        ttl = client.get("ttl")
        if ttl is not None and not _is_int(ttl):
            self.wrong("ttl", f"not a whole number: {ttl}")
        encode_name = client.get("encode_name", True)
        if not isinstance(encode_name, bool):
            self.wrong("encode_name", f"not true or false: {encode_name}")
        if self.problems:
            return None
        return Topology(
            clusters, peers, encode_name, replica, cluster, bucket, ttl, whole
        )

    def buckets(self, cluster: int, found: Any) -> Iterator[Bucket]:
        where = f"clusters[{cluster}]"
        if not isinstance(found, list) or not found:
            self.wrong(where, "a cluster needs at least one bucket")
            return
        if len(found) > names.MAX_BUCKET + 1:
            self.wrong(where, f"more than {names.MAX_BUCKET + 1} buckets")
        total = 0
        for number, bucket in enumerate(found):
            key = f"{where}[{number}]"
            if not isinstance(bucket, dict):
                self.wrong(key, "not a table")
                continue
            replicas = bucket.get("replicas")
            if (
                not isinstance(replicas, list)
                or not replicas
                or not all(isinstance(name, str) for name in replicas)
            ):
                self.wrong(key, "replicas missing")
                replicas = []
            weight: Any = bucket.get("write_weight")
            if not _is_int(weight) or not 0 <= weight <= 10_000:
                self.wrong(key, "write_weight missing, or not from 0 to 10000")
                weight = 1
            total += weight
            yield Bucket(tuple(replicas), weight)
        if total == 0:
            self.wrong(where, "every write_weight is 0")

    def peers(self, found: Any) -> Iterator[tuple[str, Peer]]:
        if not isinstance(found, dict):
            self.wrong("replicas", "not a table")
            return
        for name, peer in found.items():
            key = f"replicas.{name}"
            if not isinstance(peer, dict):
                self.wrong(key, "not a table")
                continue
            if not isinstance(peer.get("ip"), str):
                self.wrong(key, "ip missing")
            if not _is_int(peer.get("port")) or not 0 < peer["port"] < 65536:
                self.wrong(key, "port missing, or not from 1 to 65535")
            if not _is_int(peer.get("read_weight")) or peer["read_weight"] < 0:
                self.wrong(key, "read_weight missing, or below 0")
            yield (
                name,
                Peer(
                    name,
                    peer.get("ip", ""),
                    peer.get("port", 0),
                    peer.get("read_weight", 0),
                ),
            )

    def places(
        self, clusters: tuple[tuple[Bucket, ...], ...], peers: Mapping[str, Peer]
    ) -> dict[str, tuple[int, int]]:
        places: dict[str, tuple[int, int]] = {}
        for cluster, buckets in enumerate(clusters):
            for number, bucket in enumerate(buckets):
                for name in bucket.replicas:
                    if name in places:
                        self.wrong(f"replicas.{name}", "in more than one bucket")
                    if name not in peers:
                        self.wrong(f"replicas.{name}", "not defined")
                    places[name] = cluster, number
        return places

    def a_list(self, table: Mapping[str, Any], key: str) -> list[Any]:
        found = table.get(key, [])
        if isinstance(found, list):
            return found
        self.wrong(key, "not a list")
        return []


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)

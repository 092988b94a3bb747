"""Whom our changes are sent to: the peers of our bucket, and other clusters' buckets.

Pure.
"""

from __future__ import annotations

from attrs import frozen

from clinfra.blob.records import CLUSTERS, PEERS, Row
from clinfra.blob.topology import Topology
from clinfra.errors import InvalidRequest


@frozen
class Destination:
    """Somewhere changes go.

    Attributes:
        key: names its cursor.
        bit: which changes it gets (`Row.fanout`).
        replicas: any one of them takes a change for all.
        replicate: what it is to do with a change then.
        place: (cluster, bucket) its names must have; None for every name.
    """

    key: str
    bit: int
    replicas: tuple[str, ...]
    replicate: str
    place: tuple[int, int] | None = None


def peers_of(topology: Topology) -> tuple[str, ...]:
    """Return the other replicas of our bucket."""
    if topology.cluster is None or topology.bucket is None:
        return ()
    bucket = topology.clusters[topology.cluster][topology.bucket]
    return tuple(name for name in bucket.replicas if name != topology.replica)


def destinations(topology: Topology) -> tuple[Destination, ...]:
    """Return every destination of this replica; none when it is alone."""
    if topology.replica is None:
        return ()
    found = [
        Destination(f"peer:{name}", PEERS, (name,), "replica")
        for name in peers_of(topology)
    ]
    for cluster, buckets in enumerate(topology.clusters):
        if cluster == topology.cluster:
            continue
        found += [
            Destination(
                f"cluster:{cluster}:{number}",
                CLUSTERS,
                bucket.replicas,
                "cluster",
                (cluster, number),
            )
            for number, bucket in enumerate(buckets)
        ]
    return tuple(found)


def wants(destination: Destination, topology: Topology, stored: str) -> bool:
    """Return whether a name belongs to a destination.  Raises InvalidRequest."""
    if destination.place is None:
        return True
    cluster, bucket = destination.place
    return topology.place(stored, encoded=True).buckets.get(cluster) == bucket


def is_for(destination: Destination, topology: Topology, row: Row) -> bool:
    """Return whether a change is to be sent to a destination."""
    if not row.fanout & destination.bit:
        return False
    try:
        return wants(destination, topology, row.name)
    except InvalidRequest:
        return False

"""What this process runs with, in the original's words: `_config`.

Pure.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from clinfra.blob.topology import Topology
from clinfra.config import BlobConfig

OWN = frozenset(
    (
        "client.expiration_delay",
        "client.index_module",
        "client.purge_interval",
        "client.replica",
        "client.store_module",
    )
)
"""Options that are set in our own configuration, not in the cluster file."""

_STORES = {"files": "disk"}
"""Our stores that are the original's by another name."""


def running_config(
    topology: Topology, config: BlobConfig, ttl: float | None
) -> dict[str, Any]:
    """Return the cluster file, with what is in force instead of what it says.

    Args:
        ttl: the default in force, seconds.
    """
    told: dict[str, Any] = copy.deepcopy(topology.whole) if topology.whole else {}
    client = told.setdefault("clblob", {}).setdefault("client", {})
    client.update(
        {
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
            "replicas": _replicas(topology, client.get("replicas", {})),
            "store_module": _STORES.get(config.store, config.store),
            "ttl": ttl,
        }
    )
    return told


def _replicas(
    topology: Topology, told: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    return {
        peer.name: {
            **told.get(peer.name, {}),
            "ip": peer.ip,
            "port": peer.port,
            "read_weight": peer.read_weight,
        }
        for peer in topology.peers.values()
    }

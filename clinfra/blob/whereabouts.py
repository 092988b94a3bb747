"""Where a stored blob is, for those who would rather ask there."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clinfra.blob.topology import Topology
from clinfra.errors import Trouble


def make_locate(topology: Topology) -> Callable[[str], Sequence[str]]:
    """Return what tells the proxy where a stored blob is: "host:port" of its replicas.

    It raises ValueError for what cannot be a stored name.
    """

    def locate(name: str) -> Sequence[str]:
        try:
            replicas = topology.replicas_of(topology.place(name, encoded=True))
        except Trouble as trouble:
            raise ValueError(trouble.sentence) from None
        peers = [topology.peers[replica] for replica in replicas]
        return [f"{peer.ip}:{peer.port}" for peer in peers]

    return locate

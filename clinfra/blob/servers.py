"""Where a client's requests can go: one server, or every replica of a cluster file."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

from attrs import define, field, frozen

from clinfra.blob.health import Health
from clinfra.blob.topology import Placement, Topology
from clinfra.errors import ConfigProblems
from clinfra.web.pool import Origin

OTHERS = 3
"""How many servers that do not keep a blob are asked when none of those that do can be
reached: each answers for any name, and takes changes on behalf of the others."""


@frozen
class Server:
    """A server, by its name in the cluster file, or its URL."""

    name: str
    origin: Origin
    prefix: bytes = b""


class Servers(Protocol):
    """Whom to ask, in which order."""

    topology: Topology | None
    """The cluster; None while that is not known."""

    fixed_stamps: bool
    """Changes carry stamps of the client's, so that any server can be asked again."""

    def order(self, placement: Placement | None, reading: bool) -> list[Server]:
        """Return those who keep a blob, or any when None, best first."""

    def others(self, asked: list[Server]) -> list[Server]:
        """Return a few more, when none of those asked could be reached."""

    def named(self, replica: str) -> Server | None:
        """Return a replica's own address, when it is known."""

    def answered(self, server: Server, well: bool) -> None:
        """A server did, or did not, do what it should."""

    def is_slow(self, server: Server) -> None:
        """A server takes longer than nearly all reads do."""


@define(eq=False)
class OneServer:
    """The server at a URL; it finds whom it needs by itself.

    Args:
        key: what to call the URL when it is wrong.
    """

    url: str
    key: str = "URL"
    topology: Topology | None = None
    fixed_stamps: bool = False
    server: Server = field(init=False)

    def __attrs_post_init__(self) -> None:
        parts = urlsplit(self.url)
        try:
            port = parts.port
        except ValueError:
            port = None
            parts = urlsplit("")
        plain = self.url.isascii() and self.url.isprintable() and " " not in self.url
        if parts.scheme != "http" or not parts.hostname or not plain:
            raise ConfigProblems([f"{self.key}: not an http URL: {self.url}"])
        self.server = Server(
            self.url,
            Origin(parts.hostname, port or 80),
            parts.path.rstrip("/").encode("ascii"),
        )

    def order(self, placement: Placement | None, reading: bool) -> list[Server]:
        """Return the server."""
        return [self.server]

    def others(self, asked: list[Server]) -> list[Server]:
        """There are none."""
        return []

    def named(self, replica: str) -> Server | None:
        """It knows; we need not."""
        return None

    def answered(self, server: Server, well: bool) -> None:
        """There is no choice to be made."""

    def is_slow(self, server: Server) -> None:
        """Nobody else could be asked."""


@define(eq=False)
class ClusterServers:
    """Every replica of a cluster file.

    Args:
        now: returns seconds.
    """

    topology: Topology | None
    _rng: random.Random
    _now: Callable[[], float]
    fixed_stamps: bool = True
    _health: Health = field(init=False)
    _servers: Mapping[str, Server] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._health = Health(self._now, self._rng)
        peers = self.topology.peers.values() if self.topology is not None else ()
        self._servers = {
            peer.name: Server(peer.name, Origin(peer.ip, peer.port)) for peer in peers
        }

    def order(self, placement: Placement | None, reading: bool) -> list[Server]:
        """Return replicas at random by weight, those that failed lately last."""
        topology = self.topology
        if topology is None:
            return []
        names = (
            topology.replicas_of(placement)
            if placement is not None
            else tuple(self._servers)
        )
        weighted = [
            (name, topology.peers[name].read_weight if reading else 1) for name in names
        ]
        return [self._servers[name] for name in self._health.order(weighted)]

    def others(self, asked: list[Server]) -> list[Server]:
        """Return a few of the rest."""
        names = self._servers.keys() - {server.name for server in asked}
        ordered = self._health.order((name, 1) for name in sorted(names))
        return [self._servers[name] for name in ordered[:OTHERS]]

    def named(self, replica: str) -> Server | None:
        """Return a replica of the cluster file."""
        return self._servers.get(replica)

    def answered(self, server: Server, well: bool) -> None:
        """Remember it for the next choice."""
        if well:
            self._health.succeeded(server.name)
        else:
            self._health.failed(server.name)

    def is_slow(self, server: Server) -> None:
        """Ask others first for a while."""
        self._health.is_slow(server.name)

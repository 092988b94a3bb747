"""BlobForwarder: asks the replicas that have a blob, by the placement in its name.

The last segment of a matching path is an encoded blob name; the replicas of its bucket
become the members of the request's pool.  A bad answer of one is tried on another.
Must stand before Forwarder.
"""

from __future__ import annotations

from attrs import frozen

from clinfra.config import Pattern, key
from clinfra.errors import ConfigProblems, NotFound
from clinfra.patterns import any_of
from clinfra.proxy.message import Request
from clinfra.proxy.rules import RuleModule, Surroundings


@frozen
class Options:
    """Options of BlobForwarder."""

    match: tuple[Pattern, ...] = key((), "Pages (host/path) that are blobs.")


class BlobForwarder(RuleModule):
    """Chooses replicas."""

    Config = Options
    head_only = True
    by_heads = True

    def __init__(self, config: Options) -> None:
        self._match = any_of(config.match)

    def attach(self, surroundings: Surroundings) -> None:
        """Learn how names are placed."""
        self._locate = surroundings.locate
        if self._match is not None and self._locate is None:
            raise ConfigProblems(
                ["match: the placement of blobs is known from blob.cluster_file only"]
            )

    def forward(self, request: Request) -> None:
        """Make the replicas the members to ask."""
        if self._match is None or self._locate is None:
            return
        if request.method not in (b"GET", b"HEAD"):
            return
        if not self._match(request.host_path):
            return
        name = request.path.rpartition("/")[2]
        try:
            members = tuple(self._locate(name))
        except ValueError:
            members = ()
        if not members:
            raise NotFound("There is no blob of that name.")
        request.members = members
        request.retry_bad_status = True

"""The seams of clinfra: what the products need from one another and from plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import field, frozen
from zope.interface import Attribute, Interface


@frozen
class BlobInfo:
    """What is known of a blob (the original's info JSON is made of this).

    Attributes:
        name: stored (encoded) name.
        modified: 64-bit stamp of the bytes; None when only a delete has been seen.
        deleted: unix seconds of its expiry; 0 never.
        modified_deleted: 64-bit stamp of the expiry.
        buckets: cluster id → bucket id.
        size: bytes; None without data.
        sha256: hex digest of the bytes; None without data.
        content_type: as stored, or guessed from the name.
    """

    name: str
    modified: int | None
    deleted: int
    modified_deleted: int
    buckets: Mapping[int, int] = field(factory=dict)
    size: int | None = None
    sha256: str | None = None
    content_type: str = "application/octet-stream"


class IBlobs(Interface):
    """Somewhere to keep blobs: a replica here or over HTTP, a directory, S3."""

    async def encode(name: str) -> str:
        """Return the stored name of a plain name (placement is in the name).

        Raises errors.Trouble while nobody knows of places.
        """

    async def put(
        name: str,
        body: bytes,
        *,
        ttl_seconds: int | None = None,
        content_type: str | None = None,
        encoded: bool = False,
    ) -> BlobInfo:
        """Keep `body` durably.  Raises errors.Trouble when that is not possible."""

    async def get(name: str) -> tuple[BlobInfo, bytes]:
        """Return a (small) blob whole.  Raises errors.NotFound."""

    async def info(name: str) -> BlobInfo:
        """Return what is known of a blob.  Raises errors.NotFound."""

    async def delete(name: str) -> BlobInfo:
        """Delete at once.  Deleting what is not there is not an error."""


class ILendsBlobs(IBlobs):
    """Blobs of which large ones are in files here, and can be read without a copy."""

    async def lend(name: str) -> tuple[BlobInfo, Any]:
        """Return a blob: its bytes, or, of a large one, a `web.exchange.FileBody`.

        The caller closes that.  Raises errors.NotFound.
        """


class IProduct(Interface):
    """One of blob, image and proxy, as `daemon` runs it (also a Twisted service)."""

    name = Attribute("blob, image or proxy")
    resource = Attribute("a twisted.web resource that answers every request")
    lane = Attribute("fast lane: Callable[[IExchange], bool], or None")

    def open() -> None:
        """Open files, data bases and directories, before the reactor runs.

        Raises errors.StartupFailed.
        """

    def report() -> Mapping[str, Any]:
        """Return what the admin pages show, as JSON-able values.

        "not_ready", when there, lists why it cannot serve now: /health/ready says 503.
        """


class IPurge(Interface):
    """A cache that can be told to forget."""

    async def purge(
        urls: Sequence[str],
        *,
        prefixes: Sequence[str] = (),
        tags: Sequence[str] = (),
        soft: bool = False,
    ) -> int:
        """Forget every variant of some pages, wherever they are kept.

        Args:
            urls: the pages' host_paths.
            prefixes: beginnings of host_paths, the whole host at least.
            tags: that origins gave them in Surrogate-Key or Cache-Tag.
            soft: they are stale from now on, not gone: used while they are fetched
                anew, or when that fails, as far as their origins let them be.

        Returns:
            How many of `urls` were known, and how many pages of this process' memory
            the others covered.
        """

    async def look_up(urls: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        """Return what is kept of pages, a JSON-able table for each answer.

        Args:
            urls: the pages' host_paths.
        """


class IClusterAdmin(Interface):
    """A blob store whose admin requests may be asked for from elsewhere."""

    def changes(command: str) -> bool:
        """Return whether a command ("_sync") sets something off."""

    async def administer(exchange: Any, path: str) -> Any:
        """Answer an exchange as the request for "_COMMAND" or "_COMMAND/REPLICA".

        Whoever calls this has looked whether it may be asked for.  Returns a
        `web.exchange.Response`; raises errors.Trouble.
        """


class IMaintenance(Interface):
    """A proxy whose origins can be kept from being asked."""

    async def maintain(pool: str, member: str, out: bool) -> None:
        """Take origins out, or back in: a member, a pool (no member), or all (no pool).

        It lasts until the process ends.  Raises errors.NotFound when there is no such.
        """

    async def maintained() -> Mapping[str, Any]:
        """Return what is out, as JSON-able values."""


Lane = Callable[[Any], bool]
"""Asked first with each `web.exchange.Exchange`; True when it has taken the request."""


class IRuleModule(Interface):
    """A rule module of the proxy: a class with any of the hooks below.

    Hooks are called in the life of a request, phase by phase, and within a phase in the
    order in which the modules are configured.  A hook may change the request
    (`proxy.message.Request`), and return

    * None: go on;
    * a `proxy.message.Reply`: that is the answer.  Before `forward` it goes straight to
      `deliver`; from `forward` on it takes the place of the answer there is;
    * an awaitable of one of these: the request waits, the others do not.  One that
      takes longer than 300 s is cancelled, and the answer is 500.

    It may raise errors.Trouble, which becomes the answer that its kind stands for;
    anything else that is raised is logged and answered 500.

    A class may have a `Config`, an attrs class made with config.key(): then it is
    called with one made of its table in the configuration file, else with nothing.
    `proxy.rules.RuleModule` is a base with all hooks doing nothing; those cost nothing.
    """

    head_only = Attribute(
        """True when what received, route and lookup do depends on nothing but the
        request's head, the port and the configuration: then repeated heads of cache
        hits need not be asked about again.  False (the default) is always right."""
    )
    by_heads = Attribute(
        """True when what pass_, forward, response, store and deliver do with a request
        that is passed depends on nothing but its head, the head of the origin's answer
        and the configuration: then a repeated pass with the same answer needs not be
        asked about for up to a second.  False (the default) is always right."""
    )
    ignores_hits = Attribute(
        """True when hit and deliver do nothing with a hit from the cache.  A module
        with one of these hooks that does not say so is asked about every hit."""
    )

    reloadable = Attribute(
        """True (the default) when another of the class can take its place while the
        proxy runs: see proxy.reloading."""
    )

    def attach(surroundings: Any) -> None:
        """Called once, before it is used, with a proxy.rules.Surroundings."""

    def start() -> None:
        """The reactor runs."""

    def stop() -> Any:
        """The proxy stops; may return a Deferred."""

    def received(request: Any) -> Any:
        """The head is in: redirect, rewrite, refuse, answer."""

    def route(request: Any) -> Any:
        """Choose the pool of origins (`request.pool`)."""

    def lookup(request: Any) -> Any:
        """Look for an answer at hand; sets `request.outcome`."""

    def hit(request: Any) -> Any:
        """There was one; it is `request.reply`."""

    def stale(request: Any) -> Any:
        """There was one, but the origin must be asked whether it still holds."""

    def miss(request: Any) -> Any:
        """There was none."""

    def pass_(request: Any) -> Any:
        """The cache has nothing to do with this request."""

    def forward(request: Any) -> Any:
        """Last changes to what the origin gets; the forwarder's own hook answers."""

    def response(request: Any) -> Any:
        """The head of an origin's answer is in `request.reply`: it may be changed."""

    def store(request: Any) -> Any:
        """Keep the answer, or add taps that see its body."""

    def deliver(request: Any) -> Any:
        """Any answer, just before it is sent."""

    def failed(request: Any, trouble: Any) -> Any:
        """Something went wrong (an errors.Trouble): return the page to show, if any."""

    def done(request: Any) -> None:
        """It is over, whole or not: log it.  Every module's is called."""

    def report() -> Mapping[str, Any]:
        """Return what the admin pages show of this module."""


class IRuleModuleMaker(Interface):
    """A Twisted plug-in under `clinfra.plugins` that names a rule module."""

    name = Attribute("what `use` says in the configuration")
    module = Attribute("dotted path of the class")

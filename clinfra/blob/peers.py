"""Asking other replicas over HTTP: changes, reads, and anything else.

Every answer, and every silence, teaches `health`.  Which replicas are of our own kind
is read from their `_status`: those understand more than the original's protocol.
"""

from __future__ import annotations

import json
import random
import re
from base64 import b64encode
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from clinfra.blob import names
from clinfra.blob.health import Health
from clinfra.blob.info import NOT_FOUND, from_json
from clinfra.blob.records import Expiry, State
from clinfra.blob.topology import Topology
from clinfra.errors import NotFound, OriginFailed, Overloaded
from clinfra.interfaces import BlobInfo
from clinfra.web.exchange import IBody
from clinfra.web.heads import Field, Fields
from clinfra.web.pool import Connect, Origin, Pool, PoolSettings
from clinfra.web.responses import OriginResponse

FEATURE = "clinfra-1"
"""What replicas of our kind list under "features" in their `_status`."""

HOP: Field = (b"X-Clblob-Hop", b"1")
"""Sent with what was forwarded: whoever gets it answers for itself."""

HELLO = b"X-Clblob-Replica"
"""Sent with a GET of `_status` by a replica: its name.  It is there (again)."""

KNOWN_GONE = b"X-Clblob-Gone"
"""Sent with a 404 by a replica that knows the name: it is deleted or has expired.

The value is the stamp of that word."""

FILLING: Field = (b"X-Clblob-Filling", b"1")
"""Sent by a replica that lacks much of what it should have: it was wiped, or is new."""

SETTINGS = PoolSettings(
    connect_timeout=2.0,
    response_timeout=10.0,
    read_timeout=10.0,
    idle_timeout=30.0,
    idle_connections=32,
    max_connections=256,
)

DURABLE_BYTES_PER_SECOND = 8 << 20
"""How slowly a replica may make a body durable, and send it to the next, at least."""

MAX_ANSWER_BYTES = 1 << 20
"""Longest answer read whole."""

HEARD_SECONDS = 1.0
"""How often a replica that says hello is looked at, at most."""

_PROBE_SECONDS = 3.0
"""How long a replica may take to say what it is."""

_FILE_NAME_BYTES = 255

_NEEDS_ESCAPING = re.compile(rb"[\x00-\x20\x7f%?#]")


class PeerFailed(OriginFailed):
    """A replica did not do what it was asked; later it may.

    Attributes:
        peer: its name.
        status: of its answer, 0 when there was none.
    """

    def __init__(self, peer: str, status: int, sentence: str) -> None:
        super().__init__(f"{peer}: {sentence}", replayable=True)
        self.peer = peer
        self.status = status


class PeerRefused(PeerFailed):
    """A replica answered 4xx: asking the same again would not help."""


def fits_original(stored: str) -> bool:
    """Return whether an original can keep a name: as the name of one file."""
    return "/" not in stored and len(stored.encode("utf-8")) <= _FILE_NAME_BYTES


def original_relays(stored: str) -> bool:
    """Return whether an original can send a name on: it escapes nothing.

    What it cannot send it tries for ever, and holds up all that comes behind.
    """
    return stored.isascii() and not _NEEDS_ESCAPING.search(stored.encode("utf-8"))


def change_target(
    path: bytes,
    *,
    modified: int | None = None,
    deleted: int | None = None,
    modified_deleted: int | None = None,
    replicate: str | None = None,
    encoded: bool | None = None,
) -> bytes:
    """Return the target of a PUT or DELETE: the original's parameters in its order."""
    given = (
        ("modified", modified),
        ("deleted", deleted),
        ("modified_deleted", modified_deleted),
        ("replicate", replicate),
        ("encoded", encoded),
    )
    query = "&".join(f"{key}={value}" for key, value in given if value is not None)
    return path + b"?" + query.encode("ascii") if query else path


class Peers:
    """The other replicas of the cluster file, by name.

    Args:
        reactor: connects and tells the time.
        now: returns seconds.
        rng: for orders and pauses.
        connect: how to connect; see `web.pool`.
        settings: time-outs and limits, for each replica.

    Attributes:
        health: what is known of who is well.
        came_back: told of a replica that had failed and answers again.
    """

    log = Logger()

    def __init__(
        self,
        topology: Topology,
        *,
        reactor: Any,
        now: Callable[[], float],
        rng: random.Random,
        connect: Connect | None = None,
        settings: PoolSettings = SETTINGS,
    ) -> None:
        self._topology = topology
        self._reactor = reactor
        self._pool = Pool(reactor, settings, connect)
        self._origins = {
            peer.name: Origin(peer.ip, peer.port) for peer in topology.peers.values()
        }
        self._kinds: dict[str, bool] = {}
        self._learning: dict[str, Deferred[None]] = {}
        self._heard: dict[str, float] = {}
        self.came_back: Callable[[str], object] = lambda peer: None
        own = topology.replica
        self._hello: Fields = ((HELLO, own.encode("utf-8")),) if own else ()
        self.health = Health(now, rng, self._health_changed)

    # Changes and reads

    async def put(
        self,
        peer: str,
        stored: str,
        state: State,
        body: bytes | IBody,
        replicate: str,
    ) -> BlobInfo:
        """Have a peer keep a blob; return what it then knows of it.

        Args:
            state: with data; its digest is sent along, so that damage on the way (or
                here) is refused there.
            body: of exactly the size in `state`; one made of `IBody` is read once.
            replicate: where the peer is to send it on to: "replica" nowhere, "cluster"
                to its own peers.

        Raises:
            PeerRefused: it answered 4xx.
            PeerFailed: no (useful) answer.
            Exception: what reading `body` raised.
        """
        data = state.data
        if data is None:
            raise ValueError("there is nothing to put without data")
        target = change_target(
            self.path(peer, stored),
            modified=data.modified,
            deleted=state.expiry.deleted,
            modified_deleted=state.expiry.modified_deleted,
            replicate=replicate,
            encoded=True,
        )
        digest = b"sha-256=:" + b64encode(data.sha256) + b":"
        fields: Fields = (HOP, (b"Content-Digest", digest))
        if data.content_type:
            fields += ((b"Content-Type", data.content_type.encode("latin-1")),)
        return self._info(peer, await self._whole(peer, b"PUT", target, fields, body))

    async def delete(
        self, peer: str, stored: str, expiry: Expiry, replicate: str
    ) -> BlobInfo:
        """Tell a peer when a blob ends.  Raises PeerRefused and PeerFailed."""
        target = change_target(
            self.path(peer, stored),
            deleted=expiry.deleted,
            modified_deleted=expiry.modified_deleted,
            replicate=replicate,
        )
        return self._info(peer, await self._whole(peer, b"DELETE", target, (HOP,)))

    async def info(self, peer: str, stored: str) -> BlobInfo:
        """Return what a peer itself knows of a blob.

        Raises errors.NotFound, PeerRefused and PeerFailed.
        """
        target = self.path(peer, stored) + b"?response=info"
        return self._info(peer, await self._whole(peer, b"GET", target, (HOP,)))

    async def get(self, peer: str, stored: str, fields: Fields = ()) -> OriginResponse:
        """Return a peer's own answer to a GET, of status 200, to be read or aborted.

        Raises errors.NotFound, PeerRefused and PeerFailed.
        """
        target = self.path(peer, stored) + b"?response=data"
        response = await self.call(peer, b"GET", target, (HOP, *fields))
        if response.head.status != 200:
            await self._raise(peer, response)
        return response

    async def call(
        self,
        peer: str,
        method: bytes,
        target: bytes,
        fields: Fields = (),
        body: bytes | IBody | None = None,
    ) -> OriginResponse:
        """Send any request to a peer; return its answer, whatever its status.

        The answer is to be read or aborted.  Only the peer's health is judged.

        Raises:
            PeerFailed: there is no answer.
            Exception: what reading `body` raised.
        """
        origin = self._origins.get(peer)
        if origin is None:
            raise NotFound(f"Unknown replica: {peer}")
        try:
            response = await self._pool.request(
                origin, method, target, fields, body, _patience(body)
            )
        except Overloaded as trouble:
            # Our own queue is full: that says nothing of the peer's health.
            raise PeerFailed(peer, 0, trouble.sentence) from trouble
        except OriginFailed as trouble:
            self.health.failed(peer)
            raise PeerFailed(peer, 0, trouble.sentence) from trouble
        if response.head.status >= 500 and response.head.status != 507:
            self.health.failed(peer)
        else:
            self.health.succeeded(peer)
        return response

    # Who they are

    def path(self, peer: str, stored: str) -> bytes:
        """Return the path of a stored name, as that peer understands it best."""
        if self._kinds.get(peer) is False:
            raw = stored.encode("utf-8")
            if not _NEEDS_ESCAPING.search(raw):
                return b"/" + raw
        return names.to_path(stored)

    def check_fits(self, peer: str, stored: str) -> None:
        """Raise PeerRefused for a name that would harm an original.

        It makes a file of each name; one that cannot be a file's leaves an upload
        behind that keeps it from starting the next time.
        """
        if self._kinds.get(peer) is False and not fits_original(stored):
            raise PeerRefused(peer, 0, "an original cannot keep such a name")

    def is_ours(self, peer: str) -> bool | None:
        """Return whether a peer understands more than the original's protocol.

        None while that is not known; it is being asked then.
        """
        known = self._kinds.get(peer)
        if known is None and self.health.is_up(peer):
            self._ask_status(peer)
        return known

    def forget_kind(self, peer: str) -> None:
        """Ask a peer anew what it is: it did not understand what it said it would."""
        self._kinds.pop(peer, None)

    def is_up(self, peer: str) -> bool:
        """Return whether a peer may be relied on; one that is down may be probed."""
        if self.health.is_up(peer):
            return True
        if self.health.wants_probe(peer):
            self._ask_status(peer)
        return False

    def say_hello(self) -> None:
        """Tell all others, soon, that we are there."""
        self._reactor.callLater(0, self._say_hello)

    def _say_hello(self) -> None:
        for peer in self._origins:
            if peer != self._topology.replica:
                self._ask_status(peer)

    def heard(self, hello: bytes) -> None:
        """A replica says that it is there: if we thought otherwise, see for ourselves.

        Whoever says so may not be who it says it is; it can make us ask no more than
        this.
        """
        peer = hello.decode("utf-8", "replace")
        if peer not in self._origins or not self.health.has_failed(peer):
            return
        now = self._reactor.seconds()
        if now - self._heard.get(peer, -HEARD_SECONDS) >= HEARD_SECONDS:
            self._heard[peer] = now
            self._ask_status(peer)

    def order(self, candidates: Iterable[tuple[str, int]]) -> list[str]:
        """Return peers in the order in which to ask them; see `Health.order`."""
        ordered = self.health.order(candidates)
        for peer in ordered:
            self.is_up(peer)
        return ordered

    def relaying(self, peers: Iterable[str], stored: str) -> list[str]:
        """Return peers, those first that can send that name on to others."""
        if original_relays(stored):
            return list(peers)
        return sorted(peers, key=lambda peer: self.is_ours(peer) is not True)

    def is_address(self, ip: str) -> bool:
        """Return whether any replica of the cluster file has this address."""
        return any(peer.ip == ip for peer in self._topology.peers.values())

    def may_ask(self, ip: str) -> bool:
        """Return whether a replica may be at this address; so may this machine."""
        if not ip or self.is_address(ip):
            return True
        try:
            return ip_address(ip).is_loopback
        except ValueError:
            return False

    def close(self) -> Deferred[None]:
        """Abort what is under way; fires when the last connection is gone."""
        for learning in list(self._learning.values()):
            learning.cancel()
        return self._pool.close()

    def _ask_status(self, peer: str) -> None:
        """Ask a peer what it is, which also shows whether it is alive."""
        if peer in self._learning or peer not in self._origins or self._pool.closed:
            self.health.probe_abandoned(peer)
            return

        def over(result: object) -> None:
            self._learning.pop(peer, None)
            self.health.probe_abandoned(peer)

        def answered(result: object) -> None:
            if had_failed:
                self.came_back(peer)

        had_failed = self.health.has_failed(peer)
        learning = Deferred.fromCoroutine(self.learn(peer))
        self._learning[peer] = learning
        learning.addTimeout(_PROBE_SECONDS, self._reactor)
        learning.addCallbacks(answered, lambda failure: None).addCallback(over)

    async def learn(self, peer: str) -> None:
        """Ask a peer what it is.  Raises PeerFailed."""
        try:
            told = json.loads(await self._whole(peer, b"GET", b"/_status", self._hello))
        except (ValueError, NotFound, PeerRefused):
            told = None
        features = told.get("features") if isinstance(told, dict) else None
        self._kinds[peer] = isinstance(features, list) and FEATURE in features

    def _health_changed(self, peer: str, up: bool) -> None:
        # It may come back as something else.
        self._kinds.pop(peer, None)
        if up:
            self.log.info("replica {peer} is back", peer=peer)
        else:
            self.log.warn("replica {peer} is down", peer=peer)

    # Answers read whole

    async def _whole(
        self,
        peer: str,
        method: bytes,
        target: bytes,
        fields: Fields = (),
        body: bytes | IBody | None = None,
    ) -> bytes:
        response = await self.call(peer, method, target, fields, body)
        if response.head.status != 200:
            await self._raise(peer, response)
        return await self._read(peer, response)

    async def _read(self, peer: str, response: OriginResponse) -> bytes:
        async with response:
            try:
                return await response.read_all(MAX_ANSWER_BYTES)
            except OriginFailed as trouble:
                self.health.failed(peer)
                raise PeerFailed(peer, 0, trouble.sentence) from trouble

    async def _raise(self, peer: str, response: OriginResponse) -> None:
        status = response.head.status
        said = (await self._read(peer, response))[:200].decode("utf-8", "replace")
        if status == 404:
            raise NotFound(NOT_FOUND)
        refused = 400 <= status < 500 and status not in (408, 429)
        kind = PeerRefused if refused else PeerFailed
        raise kind(peer, status, said.strip() or f"status {status}")

    def _info(self, peer: str, answer: bytes) -> BlobInfo:
        try:
            return from_json(answer)
        except ValueError as error:
            raise PeerFailed(peer, 200, "its answer makes no sense") from error


def _patience(body: bytes | IBody | None) -> float:
    """Return how much longer than usual the answer to a body may take, seconds."""
    size = len(body) if isinstance(body, bytes) else body.length if body else 0
    return (size or 0) / DURABLE_BYTES_PER_SECOND

"""The original's admin requests, ``/_COMMAND`` and ``/_COMMAND/REPLICA``.

============ ============================================== =======================
command      query parameters                               answer
============ ============================================== =======================
_config                                                     the configuration
_status                                                     see `status`
_list        modified_start, modified_stop, checksum        rows, or checksums of
             (true), checksum_modulo (seconds)              windows of stamps
_sync        source, modified_start, modified_stop          {"queued": …}
_purge                                                      {"queued": …}
_buffer                                                     {"queued": …}
_logstatus                                                  {"queued": …}
_scrub                                                      {"queued": …}
_quarantine                                                 what is kept of damaged
                                                            blobs, each with its "id"
_discard     id; all when it is not given                   {"discarded": how many}
_trust                                                      {"queued": was it fenced}
_configcheck brief, tolerance; body: a configuration        see `configcheck`
_console                                                    the page for browsers
============ ============================================== =======================

What is meant for another replica is sent on to it, once.  Any method is taken, as the
original does; but what changes something must be a POST, so that no link sets it off,
unless ``blob.compat_admin_get`` is on or this machine asks itself, by its address.
Nothing is answered through a proxy (a request with Via): that is open to the world.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from typing import Any
from urllib.parse import quote

from attrs import define, field
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.blob import parameters
from clinfra.blob.chores import Chore, Work
from clinfra.blob.configcheck import TOLERANCES, compare
from clinfra.blob.info import NOT_FOUND
from clinfra.blob.peers import HOP, Peers
from clinfra.blob.rejoin import Fence
from clinfra.blob.replica import Replica
from clinfra.blob.running_config import OWN
from clinfra.blob.scrub import Scrubber
from clinfra.blob.status import Counters, Status
from clinfra.blob.sync import Asked, Puller
from clinfra.blob.topology import Topology
from clinfra.blob.workers import Workers
from clinfra.config import BlobConfig
from clinfra.console.page import ConsolePage
from clinfra.errors import Forbidden, InvalidRequest, NotFound, TooLarge
from clinfra.interfaces import IClusterAdmin
from clinfra.web.exchange import IBody, IExchange, Response
from clinfra.web.foreign import is_own_host, refuse_foreign
from clinfra.web.heads import Fields, RequestHead

MAX_LISTED = 100_000
"""Most blobs or windows in one answer to `_list`."""

MAX_CONFIG_BYTES = 1 << 20
"""Longest configuration to check."""

COMMANDS = frozenset(
    (
        "_buffer",
        "_config",
        "_configcheck",
        "_discard",
        "_list",
        "_logstatus",
        "_purge",
        "_quarantine",
        "_scrub",
        "_status",
        "_sync",
        "_trust",
    )
)

CHANGING = frozenset(
    ("_buffer", "_discard", "_logstatus", "_purge", "_scrub", "_sync", "_trust")
)
"""Commands that set something off."""

_JSON: Fields = ((b"Content-Type", b"application/json"),)
_BYTES: Fields = ((b"Content-Type", b"application/octet-stream"),)


def make_console(config: BlobConfig) -> ConsolePage | None:
    """Return the page for browsers, if it is wanted."""
    if not config.console:
        return None
    settings = {"admin": False, "actions": True, "cluster": "/"}
    return ConsolePage("/_console", "/_console/", settings)


@implementer(IClusterAdmin)
@define(eq=False)
class Admin:
    """Answers admin requests, or sends them on.

    Args:
        own: answers what is meant for this replica; None when this process keeps no
            blobs.
        config: returns what we run with, as `_config` tells it.
        get_changes: any machine may set something off by GET.
        console: the page for browsers, if it is wanted.
    """

    _topology: Topology
    _peers: Peers
    _counters: Counters
    _own: ReplicaAdmin | None
    _config: Callable[[], Mapping[str, Any]]
    _get_changes: bool = False
    _console: ConsolePage | None = None

    async def respond(
        self, exchange: IExchange, path: str, *, allowed: bool = False
    ) -> Response:
        """Answer the request for an admin path, "_COMMAND" or "_COMMAND/REPLICA".

        Args:
            allowed: somebody else has looked whether it may be asked for.
        """
        command, _, replica = path.partition("/")
        if command == "_console" and not allowed:
            return self._show_console(exchange)
        if command not in COMMANDS or (replica and command == "_config"):
            raise NotFound(NOT_FOUND)
        if exchange.head.get(b"via") is not None and not allowed:
            # Through a proxy anybody would seem to be on this machine.
            raise Forbidden("This is not answered through a proxy")
        if command in CHANGING and not allowed:
            self._check_allowed(exchange)
        with self._counters.during(command[1:]):
            if replica and replica != self._topology.replica:
                return await self._send_on(exchange, command, replica)
            if command == "_config":
                return Response(200, _JSON, _encoded(self._config()))
            if command == "_configcheck":
                return await self._configcheck(exchange)
            if self._own is None:
                raise NotFound("This server keeps no blobs itself: name a replica")
            return Response(200, _JSON, await self._own.answer(command, exchange.head))

    def _show_console(self, exchange: IExchange) -> Response:
        """Answer with the page for browsers, or a file of it."""
        head = exchange.head
        answer = None
        if self._console is not None and head.get(b"via") is None:
            answer = self._console.respond(head.method, head.path)
        if answer is None:
            raise NotFound(NOT_FOUND)
        return answer

    def changes(self, command: str) -> bool:
        """Return whether a command sets something off."""
        return command in CHANGING

    async def administer(self, exchange: IExchange, path: str) -> Response:
        """Answer what the admin pages let through; see interfaces.IClusterAdmin."""
        return await self.respond(exchange, path, allowed=True)

    def _check_allowed(self, exchange: IExchange) -> None:
        """Raise Forbidden for what a stranger's page could have set off."""
        refuse_foreign(exchange)
        if self._get_changes or exchange.head.method.upper() == b"POST":
            return
        host = exchange.head.host
        # A name may be a stranger's, made to point here for a page of theirs.
        if not _is_local(exchange.client_ip) or (host and not is_own_host(host)):
            raise Forbidden(
                "From another machine, or asked by a name, this has to be a POST"
                " (blob.compat_admin_get)"
            )

    async def _send_on(
        self, exchange: IExchange, command: str, replica: str
    ) -> Response:
        """Have the replica that is meant answer."""
        head = exchange.head
        if replica not in self._topology.peers or head.get(HOP[0].lower()) is not None:
            raise NotFound(f"Unknown replica: {replica}")
        body = await _whole(exchange.body)
        method = b"POST" if command in CHANGING or body else b"GET"
        target = f"/{command}/{quote(replica)}".encode()
        if head.query:
            target += b"?" + head.query
        answer = await self._peers.call(replica, method, target, (HOP,), body or None)
        kind = answer.head.get(b"content-type") or b"application/octet-stream"
        return Response(
            answer.head.status,
            ((b"Content-Type", kind), (b"X-Content-Type-Options", b"nosniff")),
            answer,
            answer.head.content_length,
        )

    async def _configcheck(self, exchange: IExchange) -> Response:
        """Compare what is sent with what we run with."""
        given = parameters.split(exchange.head.query)
        brief = "brief" in given and parameters.boolean("brief", given["brief"])
        tolerance = given.get("tolerance")
        if "tolerance" in given and tolerance not in TOLERANCES:
            raise InvalidRequest(f"Unknown tolerance: {tolerance}")
        text = await _whole(exchange.body)
        if not text:
            raise InvalidRequest("400 Bad Request")
        try:
            lines = text.decode("utf-8").splitlines()
            new = json.loads(
                "\n".join(line for line in lines if not line.lstrip().startswith("#"))
            )
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"Not JSON: {error}") from None
        report = compare(self._config(), new, OWN)
        if brief:
            return Response(200, _BYTES, report.brief(tolerance).encode())
        return Response(200, _JSON, _encoded(report.told()))


@define(eq=False)
class ReplicaAdmin:
    """The commands that are about this replica.

    Args:
        purge: asks for a purge; False when one is waiting already.
        send: tries to send every change that rests or was put aside.
    """

    log = Logger()

    _replica: Replica
    _workers: Workers
    _status: Status
    _puller: Puller
    _purge: Callable[[], bool]
    _send: Work
    _scrubber: Scrubber
    _fence: Fence
    _syncing: Chore = field(init=False)
    _sending: Chore = field(init=False)
    _logging: Chore = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._syncing = Chore("syncing", self._puller.failed)
        self._sending = Chore("sending what rests")
        self._logging = Chore("logging the status")

    async def answer(self, command: str, head: RequestHead) -> bytes:
        """Return the answer to a command as JSON."""
        commands: Mapping[str, Callable[[RequestHead], Awaitable[bytes]]] = {
            "_status": self.status,
            "_list": self.listing,
            "_sync": self.sync,
            "_purge": self.purge,
            "_buffer": self.buffer,
            "_logstatus": self.logstatus,
            "_scrub": self.scrub,
            "_quarantine": self.quarantine,
            "_discard": self.discard,
            "_trust": self.trust,
        }
        return await commands[command](head)

    def stop(self) -> None:
        """Cancel what runs in the background."""
        self._syncing.stop()
        self._sending.stop()
        self._logging.stop()

    async def status(self, head: RequestHead) -> bytes:
        """Return how we are."""
        return _encoded(await self._measured())

    async def _measured(self) -> Mapping[str, Any]:
        index = await self._workers.run(self._replica.index.facts)
        store = await self._workers.run(self._replica.store.facts)
        await self._status.measure()
        return self._status.told(index, store)

    async def listing(self, head: RequestHead) -> bytes:
        """Return the blobs between two stamps, or checksums of windows of them."""
        self._fence.check()
        given = parameters.split(head.query)
        start, stop = _stamps(given)
        checksum = "checksum" not in given or parameters.boolean(
            "checksum", given["checksum"]
        )
        modulo = 86400
        if "checksum_modulo" in given:
            modulo = parameters.integer("checksum_modulo", given["checksum_modulo"])
        if checksum and not 0 < modulo < 1 << 31:
            raise InvalidRequest(f"Invalid int value for checksum_modulo: {modulo}")

        def look() -> bytes:
            # Long answers take long to write down, too: not in the reactor's thread.
            index = self._replica.index
            if checksum:
                return _encoded(index.windows(start, stop, modulo << 32, MAX_LISTED))
            return _encoded(
                [
                    (
                        row.name,
                        row.data.modified,
                        row.expiry.deleted,
                        row.expiry.modified_deleted,
                    )
                    for row in index.listing(start, stop, MAX_LISTED)
                    if row.data is not None
                ]
            )

        return await self._workers.run(look)

    async def sync(self, head: RequestHead) -> bytes:
        """Ask for a comparison with some peers, or with all."""
        given = parameters.split(head.query)
        start, stop = _stamps(given)
        names = (given.get("source") or "").split(",")
        asked = Asked(tuple(name for name in names if name), start, stop)
        return _queued(self._syncing.ask(lambda: self._puller.run(asked)))

    async def purge(self, head: RequestHead) -> bytes:
        """Ask for a purge."""
        return _queued(self._purge())

    async def buffer(self, head: RequestHead) -> bytes:
        """Ask for changes that rest, or were put aside, to be sent now."""
        return _queued(self._sending.ask(self._send))

    async def scrub(self, head: RequestHead) -> bytes:
        """Ask for all blobs to be checked now."""
        return _queued(self._scrubber.now())

    async def quarantine(self, head: RequestHead) -> bytes:
        """Return what is kept of damaged blobs."""
        told = self._scrubber.quarantine.told
        return await self._workers.run(lambda: _encoded(told()))

    async def discard(self, head: RequestHead) -> bytes:
        """Delete one entry of the quarantine, or all."""
        given = parameters.split(head.query)
        identity = given.get("id")
        if "id" in given and not identity:
            raise InvalidRequest(f"Invalid value for id: {identity}")
        discard = self._scrubber.quarantine.discard
        discarded = await self._workers.run(discard, identity)
        if identity is not None and not discarded:
            raise NotFound(f"Not in quarantine: {identity}")
        return _encoded({"discarded": discarded})

    async def trust(self, head: RequestHead) -> bytes:
        """Have this replica fenced no more, whatever it brings back."""
        fenced = self._fence.closed
        self._fence.open("it was told to be trusted")
        return _queued(fenced)

    async def logstatus(self, head: RequestHead) -> bytes:
        """Ask for the status to be logged."""
        return _queued(self._logging.ask(self._log_status))

    async def _log_status(self) -> None:
        told = await self._measured()
        self.log.info("status: {status}", status=json.dumps(told, sort_keys=True))
        self._status.logstatus = "logged"


def _stamps(given: Mapping[str, str | None]) -> tuple[int | None, int | None]:
    """Return modified_start and modified_stop.  Raises InvalidRequest."""
    start, stop = (
        parameters.integer(key, given[key]) if key in given else None
        for key in ("modified_start", "modified_stop")
    )
    return start, stop


async def _whole(body: IBody) -> bytes:
    """Return a body that cannot be long.  Raises TooLarge."""
    pieces: list[bytes] = []
    left = MAX_CONFIG_BYTES
    while piece := await body.read():
        pieces.append(piece)
        left -= len(piece)
        if left < 0:
            raise TooLarge(f"The body is over {MAX_CONFIG_BYTES} bytes")
    return b"".join(pieces)


def _queued(queued: bool) -> bytes:
    return _encoded({"queued": queued})


def _encoded(told: Any) -> bytes:
    return json.dumps(told, separators=(",", ":")).encode()


def _is_local(client_ip: str) -> bool:
    if not client_ip:
        return True
    try:
        return ip_address(client_ip).is_loopback
    except ValueError:
        return False

"""Asking one server after the other, until one answers well."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define

from clinfra.blob.info import NOT_FOUND
from clinfra.blob.servers import Server, Servers
from clinfra.blob.topology import Placement
from clinfra.errors import (
    Forbidden,
    InvalidRequest,
    NotFound,
    OriginFailed,
    Overloaded,
    StorageFull,
    TooLarge,
    Trouble,
)
from clinfra.web.exchange import IBody
from clinfra.web.heads import Fields
from clinfra.web.pool import Pool
from clinfra.web.responses import OriginResponse

MAX_ANSWER_BYTES = 64 << 20
"""Longest answer that is no blob."""

Upload = Callable[[], bytes | IBody]
"""Returns the body from its beginning; called for each attempt to send it."""

_TROUBLE: dict[int, type[Trouble]] = {
    400: InvalidRequest,
    403: Forbidden,
    404: NotFound,
    413: TooLarge,
    503: Overloaded,
    507: StorageFull,
}


@define(eq=False)
class Asker:
    """Sends requests to servers, and what they refuse back as errors.Trouble."""

    _pool: Pool
    _servers: Servers

    async def whole(
        self,
        method: bytes,
        placement: Placement | None,
        target: bytes,
        body: Upload | None = None,
        server: Server | None = None,
    ) -> bytes:
        """Return an answer that is no blob, whole; see `respond`."""
        _, response = await self.respond(method, placement, target, (), body, server)
        async with response:
            return await response.read_all(MAX_ANSWER_BYTES)

    async def respond(
        self,
        method: bytes,
        placement: Placement | None,
        target: bytes,
        fields: Fields = (),
        body: Upload | None = None,
        only: Server | None = None,
    ) -> tuple[Server, OriginResponse]:
        """Ask one server after the other; return the first that answers well.

        Those that keep the blob come first.  When each of them says that there is none,
        that is the answer; when some could not be asked, a few others are.
        """
        trouble: Trouble | None = None
        asked: list[Server] = []
        for choice in ("first", "others"):
            if only is not None:
                servers = [only] if choice == "first" else []
            elif choice == "first":
                servers = self._servers.order(placement, method == b"GET")
            else:
                servers = self._servers.others(asked)
            missing: Trouble | None = None
            for server in servers:
                asked.append(server)
                try:
                    return server, await self._ask(server, method, target, fields, body)
                except NotFound as error:
                    missing = error
                except (Overloaded, StorageFull) as error:
                    trouble = error
                except OriginFailed as error:
                    # What a server says is worth more than another's silence.
                    trouble = trouble or error
            if missing is not None and (trouble is None or choice == "others"):
                raise missing
        raise trouble or NotFound(NOT_FOUND)

    async def _ask(
        self,
        server: Server,
        method: bytes,
        target: bytes,
        fields: Fields,
        body: Upload | None,
    ) -> OriginResponse:
        """Return a server's answer of status 200 or 206.  Raises errors.Trouble."""
        try:
            response = await self._pool.request(
                server.origin,
                method,
                server.prefix + target,
                fields,
                body() if body is not None else None,
            )
            status = response.head.status
            self._servers.answered(server, status < 500 or status in (503, 507))
            if status in (200, 206):
                return response
            async with response:
                answer = await response.read_all(MAX_ANSWER_BYTES)
        except OriginFailed as error:
            self._servers.answered(server, False)
            raise type(error)(f"{server.name}: {error.sentence}") from error
        sentence = answer[:500].decode("utf-8", "replace").strip()
        raise _TROUBLE.get(status, OriginFailed)(sentence or f"status {status}")

"""Asking one server after the other, until one answers well."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from attrs import define, field

from clinfra.blob.health import Hedging
from clinfra.blob.info import NOT_FOUND
from clinfra.blob.race import Ask, Race
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
    hedging: Hedging = field(init=False, factory=Hedging)

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
        that is the answer; when some could not be asked, a few others are.  A read that
        takes longer than nearly all do is sent to the next one, too.
        """
        trouble: Trouble | None = None
        asked: list[Server] = []
        hedged = method == b"GET" and placement is not None
        for choice in ("first", "others"):
            if only is not None:
                servers = [only] if choice == "first" else []
            elif choice == "first":
                servers = self._servers.order(placement, method == b"GET")
            else:
                servers = self._servers.others(asked)
            asked += servers
            by_name = {server.name: server for server in servers}

            async def ask(
                name: str, by_name: Mapping[str, Server] = by_name
            ) -> OriginResponse:
                return await self._ask(by_name[name], method, target, fields, body)

            race = self._race(ask, by_name, hedged)
            try:
                found = await race.run(lambda response: True)
            except BaseException:
                race.cancel()
                raise
            finally:
                race.end()
            if found is not None:
                return by_name[found[0]], found[1]
            missing: Trouble | None = None
            for _, error in race.failed:
                if isinstance(error, NotFound):
                    missing = error
                elif isinstance(error, Overloaded | StorageFull):
                    trouble = error
                elif isinstance(error, OriginFailed):
                    # What a server says is worth more than another's silence.
                    trouble = trouble or error
            if missing is not None and (trouble is None or choice == "others"):
                raise missing
        raise trouble or NotFound(NOT_FOUND)

    def _race(self, ask: Ask, by_name: Mapping[str, Server], hedged: bool) -> Race:
        hedging = self.hedging
        race = Race(
            ask,
            deque(by_name),
            (NotFound, Overloaded, StorageFull, OriginFailed),
            self._pool.reactor,
            hedging.after_seconds if hedged else None,
            hedging.take,
            lambda name: self._servers.is_slow(by_name[name]),
        )
        if hedged:
            race.answered_after = hedging.took
        return race

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

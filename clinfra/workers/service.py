"""A product whose work is done by a crew of workers, as `daemon` runs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from zope.interface import implementer

from clinfra.errors import NotFound
from clinfra.interfaces import IMaintenance, IProduct, IPurge, Lane
from clinfra.workers.control import CallFailed
from clinfra.workers.crew import Crew


@implementer(IMaintenance, IProduct, IPurge)
class CrewService(Service):
    """Stands for the product in the main process.

    Args:
        make_crew: called when the reactor runs and everything is bound.
        name: of the product.
    """

    resource = None
    lane: Lane | None = None

    def __init__(self, name: str, make_crew: Callable[[], Crew]) -> None:
        self.name = name
        self._make_crew = make_crew
        self._out: dict[tuple[str, str], bool] = {}
        self.crew: Crew | None = None

    def open(self) -> None:
        """Nothing to open here: the workers do."""

    def start_workers(self) -> Deferred[None]:
        """Start the crew; fires when all its workers accept connections."""
        self.crew = self._make_crew()
        return self.crew.start()

    async def finish(self, grace_seconds: float) -> None:
        """Let the workers finish what they have."""
        crew, self.crew = self.crew, None
        if crew is not None:
            await crew.stop(grace_seconds)

    def report(self) -> Mapping[str, Any]:
        """Return what the workers tell, as one."""
        if self.crew is None:
            return {"not_ready": ["its workers do not run"]}
        return self.crew.report()

    def lasting(self) -> Sequence[tuple[str, Sequence[Any]]]:
        """Return the calls that workers to come must hear of as well."""
        return [("maintain", (*names, out)) for names, out in self._out.items()]

    async def maintain(self, pool: str, member: str, out: bool) -> None:
        """Take origins out, or back in, in every worker; see IMaintenance."""
        if self.crew is None:
            return
        try:
            await self.crew.ask_all("maintain", pool, member, out)
        except CallFailed as failed:
            if failed.kind == NotFound.__name__:
                raise NotFound(str(failed)) from None
            raise
        if not pool:
            self._out.clear()
        self._out[pool, member] = out

    async def maintained(self) -> Mapping[str, Any]:
        """Return what is out, as one of the workers knows it."""
        answers = await self.crew.ask_all("maintained") if self.crew else []
        return answers[0] if answers else {}

    async def purge(
        self,
        urls: Sequence[str],
        *,
        prefixes: Sequence[str] = (),
        tags: Sequence[str] = (),
        soft: bool = False,
    ) -> int:
        """Forget pages in every worker; return how many one of them knew.

        See IPurge.
        """
        if self.crew is None:
            return 0
        named = [list(each) for each in (urls, prefixes, tags)]
        return max(await self.crew.ask_all("purge", *named, soft), default=0)

    async def look_up(self, urls: Sequence[str]) -> Sequence[Mapping[str, Any]]:
        """Return what is kept of pages, in whose memory it is; see IPurge."""
        answers = await self.crew.ask_all("look_up", list(urls)) if self.crew else []
        told: dict[str, dict[str, Any]] = {}
        for number, answer in enumerate(answers, 1):
            for found in answer:
                shared = found.get("tier") != "memory"
                key = repr(found) if shared else f"{number} {found!r}"
                told[key] = found if shared else {**found, "worker": number}
        return list(told.values())

"""Connections passed between the main process and those of its workers that only read.

Each goes where its next request can be answered (see `web.moving`), as a descriptor on
the line between the two.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Protocol

from attrs import define, field

from clinfra.web.heads import RequestHead
from clinfra.web.moving import Mover
from clinfra.web.site import Site
from clinfra.workers.crew import Crew

TAKE = "take"
"""The call, with what was read from the connection."""


class _Line(Protocol):
    def hand(self, descriptor: int, name: str, *arguments: object) -> None: ...


@define(eq=False)
class ToMain:
    """In a worker: what is not for workers is for the main process."""

    _readable: Callable[[RequestHead], bool]
    line: _Line | None = None

    def takes_next(self) -> bool:
        """Nothing is accepted here."""
        return True

    def stays(self, head: RequestHead) -> bool:
        """Tell whether this could be answered here."""
        return self._readable(head)

    def move(self, descriptor: int, said: bytes) -> None:
        """Hand a connection over."""
        if self.line is None:
            os.close(descriptor)
            return
        self.line.hand(descriptor, TAKE, b64encode(said).decode("ascii"))


@define(eq=False)
class ToWorkers:
    """In the main process: each worker has its share of connections, and we have ours.

    Those that come back from a worker go to a worker again.
    """

    _readable: Callable[[RequestHead], bool]
    _crew: Callable[[], Crew | None]
    site: Site
    _turn: int = field(init=False, default=0)

    def takes_next(self) -> bool:
        """Tell whether it is a worker's turn."""
        crew = self._crew()
        self._turn += 1
        return crew is not None and self._turn % (crew.wanted + 1) != 0

    def stays(self, head: RequestHead) -> bool:
        """Tell whether this is not for workers, or there is none."""
        crew = self._crew()
        return not self._readable(head) or crew is None or not crew.any_ready

    def move(self, descriptor: int, said: bytes) -> None:
        """Hand a connection over."""
        crew = self._crew()
        worker = crew.next_ready() if crew is not None else None
        if worker is None:
            taking(self.site, self)(descriptor, b64encode(said).decode("ascii"))
        else:
            worker.hand(descriptor, TAKE, b64encode(said).decode("ascii"))


def taking(site: Site, mover: Mover) -> Callable[[int, str], None]:
    """Return what goes on with a connection that was handed over."""

    def take(descriptor: int, said: str) -> None:
        try:
            site.adopt(descriptor, b64decode(said), mover)
        finally:
            os.close(descriptor)

    return take

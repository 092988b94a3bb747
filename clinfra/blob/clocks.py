"""Whether our clock is so far ahead that nobody else would take what we stamp.

Stamps from the future are refused (see `stamps`).  So a server whose clock is ahead
would answer writes that it alone keeps, and that nobody whose clock is right can
replace for as long.  It asks the others what time it is: at the start, now and then,
and whenever one of them refuses something.  When most of those that tell find it too
far ahead, it gives no stamps, and writes are answered 503, until its clock is right.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from clinfra.blob.peers import MAX_ANSWER_BYTES, Peers
from clinfra.blob.stamps import Stamps
from clinfra.blob.topology import Topology
from clinfra.errors import Trouble

LOOK_SECONDS = 300.0
"""How often the others are asked."""

SOON_SECONDS = 10.0
"""How often they are while our clock is ahead."""

DOUBT_SECONDS = 1.0
"""How often they are at most, whoever refuses what."""


@define(eq=False)
class Clocks:
    """Compares our clock with the others'.

    Args:
        now: returns unix seconds.
        most_seconds: how far ahead stamps may be.

    Attributes:
        ahead: by how many seconds we are ahead of those who told last.
    """

    log = Logger()

    _topology: Topology
    _peers: Peers
    _stamps: Stamps
    _reactor: Any
    _now: Callable[[], float]
    _most_seconds: float
    ahead: dict[str, float] = field(init=False, factory=dict)
    _next: IDelayedCall | None = field(init=False, default=None)
    _looked_at: float = field(init=False, default=float("-inf"))
    _looking: Deferred[Any] | None = field(init=False, default=None)
    _stopped: bool = field(init=False, default=False)

    def start(self) -> None:
        """Ask, now and from time to time."""
        self._look()

    def stop(self) -> None:
        """Ask no more."""
        self._stopped = True
        self._cancel_next()
        if self._looking is not None:
            self._looking.cancel()

    def doubt(self) -> None:
        """Somebody refused something of ours: ask."""
        if self._looking is None and not self._stopped:
            passed = self._reactor.seconds() - self._looked_at
            self._look_in(max(0.0, DOUBT_SECONDS - passed))

    def not_ready(self) -> Sequence[str]:
        """Return why no writes are taken."""
        return (self._stamps.trouble,) if self._stamps.trouble else ()

    def report(self) -> Mapping[str, Any]:
        """Return what status pages show, and others compare with."""
        return {
            "now": round(self._now(), 3),
            "ahead_seconds": {
                peer: round(seconds, 1) for peer, seconds in sorted(self.ahead.items())
            },
            "trouble": self._stamps.trouble or None,
        }

    def _look_in(self, seconds: float) -> None:
        self._cancel_next()
        self._next = self._reactor.callLater(seconds, self._look)

    def _cancel_next(self) -> None:
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None

    def _look(self) -> None:
        if self._looking is not None or self._stopped:
            return
        self._cancel_next()
        self._looked_at = self._reactor.seconds()
        others = [
            peer
            for peer in self._topology.peers
            if peer != self._topology.replica and self._peers.health.is_up(peer)
        ]

        def over(result: object) -> None:
            self._looking = None
            if not self._stopped:
                self._judge()
                self._look_in(SOON_SECONDS if self._stamps.trouble else LOOK_SECONDS)

        self.ahead.clear()
        asking = [Deferred.fromCoroutine(self._ask(peer)) for peer in others]
        looking = gatherResults(asking, consumeErrors=True)
        self._looking = looking
        looking.addErrback(lambda failure: None).addCallback(over)

    async def _ask(self, peer: str) -> None:
        """Learn what time it is elsewhere; who does not tell does not count."""
        try:
            response = await self._peers.call(peer, b"GET", b"/_status")
            async with response:
                raw = await response.read_all(MAX_ANSWER_BYTES)
            # Half of the way there and back at most it is wrong by: next to nothing.
            self.ahead[peer] = self._now() - float(json.loads(raw)["clock"]["now"])
        except (Trouble, ValueError, TypeError, KeyError, RecursionError, OSError):
            return

    def _judge(self) -> None:
        late = sorted(s for s in self.ahead.values() if s > self._most_seconds)
        trouble = ""
        if 2 * len(late) > len(self.ahead):
            trouble = (
                f"The clock of this server is {late[0]:.0f} seconds ahead of others:"
                " nobody would take what it writes"
            )
        if trouble and not self._stamps.trouble:
            self.log.error("{trouble}; writes are refused", trouble=trouble)
        if trouble:
            self._stamps.trouble = trouble
        elif self._stamps.trouble:
            self.log.info("the clock is right again; writes are taken")
            self._stamps.set_back()

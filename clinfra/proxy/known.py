"""What a head led to before, when all that counts is in the head: a hit.

An equal head leads there again, and is answered on the spot (see `pipeline`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from clinfra.proxy.entry import Entry
from clinfra.proxy.message import Request
from clinfra.proxy.rule_hits import RuleHits
from clinfra.web.exchange import IExchange


class Known(NamedTuple):
    """A tuple, since the lane takes it apart for every hit.

    Attributes:
        key: of the entry.
        port, secure: of the connection.
        peer: address it must be from; empty when that does not matter.
        gates: who is still asked.
        varies: there are others of the page.
        counted: the hits of the rules that led there.
    """

    key: bytes
    port: int
    secure: bool
    peer: str
    gates: tuple[Callable[[IExchange], bool], ...]
    varies: bool
    counted: tuple[RuleHits, ...]

    @classmethod
    def of(cls, request: Request, entry: Entry, peer_matters: bool) -> Known:
        """Make one of a request that is a plain hit."""
        exchange = request.exchange
        return cls(
            entry.key,
            exchange.local_port,
            exchange.secure,
            exchange.client_ip if peer_matters else "",
            request.gates,
            entry.key != entry.primary,
            request.counted,
        )


Elsewhere = Callable[[IExchange, bytes, tuple[RuleHits, ...]], None]
"""Takes an exchange whose page is not in memory, with its key and who is counted."""


def send_hit(exchange: IExchange, entry: Entry, now: float) -> None:
    """Answer with what is kept, whole and unconditionally."""
    entry.used = True
    exchange.notes["cache"] = "hit"
    if entry.large:
        # Not copied: slow clients share the one body.
        exchange.respond(entry.status, entry.hit_fields(now), entry.body)
    else:
        exchange.send(entry.wire(now), entry.status, len(entry.body))

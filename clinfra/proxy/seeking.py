"""What the cache knows of a request while the origin is asked.

Pure.  `modules.direct_cache` decides; here is only what it remembers meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import define, field, frozen

from clinfra.proxy.entry import Entry
from clinfra.proxy.freshness import Verdict
from clinfra.proxy.key import Getter, variant_key


@define(eq=False)
class Seeking:
    """A request that the cache could not answer by itself.

    Attributes:
        primary: key of the page.
        get: the request's fields as they were when it was looked up.
        reason: Cache-Status's word for why it is forwarded.
        purges: how many purges there had been when it began.
        stale: the entry that is validated.
        unconditional: the client's conditions were taken off what is forwarded.
        verdict: on the origin's answer.
        waiter: how the flight it waits for calls it, while it waits.
        flight_key: of that flight.
        stored: the answer is being collected, and its collector ends the flight.
    """

    primary: bytes
    get: Getter
    reason: bytes
    purges: int
    stale: Entry | None = None
    unconditional: bool = False
    verdict: Verdict | None = None
    waiter: Callable[[Any], None] | None = None
    flight_key: bytes = b""
    stored: bool = False


@frozen
class Landing:
    """What a fetch brought: an entry, and for which requests it is right."""

    entry: Entry
    names: tuple[bytes, ...]
    get: Getter

    def answers(self, get: Getter) -> bool:
        """Whether a request with these fields may have it."""
        if not self.names:
            return True
        ours = variant_key(b"", b"", self.names, self.get)
        return variant_key(b"", b"", self.names, get) == ours


@define(eq=False)
class Collector:
    """A tap that keeps a copy of a body passing by, as long as it is not too large.

    Args:
        max_bytes: of the body.
        kept: called with a body that is complete.
        given_up: called when it was cut short or is too large.
    """

    max_bytes: int
    kept: Callable[[bytes], None]
    given_up: Callable[[], None]
    _pieces: list[bytes] | None = field(factory=list, init=False)
    _size: int = field(default=0, init=False)

    def data(self, data: bytes) -> None:
        """A piece of the body."""
        if self._pieces is None:
            return
        self._size += len(data)
        if self._size > self.max_bytes:
            self._pieces = None
            self.given_up()
            return
        self._pieces.append(data)

    def end(self, complete: bool) -> None:
        """The body is over."""
        pieces, self._pieces = self._pieces, None
        if pieces is None:
            return
        if complete:
            self.kept(b"".join(pieces))
        else:
            self.given_up()

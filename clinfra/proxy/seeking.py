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
from clinfra.proxy.message import Reply, drop_fields, index_fields
from clinfra.web.conditional import evaluate
from clinfra.web.headers import is_token, parse_etag, parse_http_date
from clinfra.web.heads import Fields, RequestHead

CONDITIONS = frozenset(
    (
        *(b"if-match", b"if-none-match", b"if-modified-since"),
        *(b"if-unmodified-since", b"if-range"),
    )
)
"""Fields that are evaluated here, not by an origin that is asked for the whole."""

_NOT_PLAIN = CONDITIONS | {b"range", b"cache-control", b"pragma"}
_NOT_IN_304 = frozenset(
    (b"content-type", b"content-encoding", b"content-language", b"content-range")
)


@define(eq=False)
class Seeking:
    """A request that the cache could not answer by itself.

    Attributes:
        primary: key of the page.
        get: the request's fields as they were when it was looked up.
        reason: Cache-Status's word for why it is forwarded.
        purges: how many purges there had been when it began.
        known: what is kept of the page, fresh or not.
        stale: the entry that is validated.
        unconditional: the client's conditions were taken off what is forwarded.
        verdict: on the origin's answer.
        judged: the answer's fields when the verdict was made.
        waiter: how the flight it waits for calls it, while it waits.
        flight_key: of that flight.
        stored: the answer is being collected, and its collector ends the flight.
    """

    primary: bytes
    get: Getter
    reason: bytes
    purges: int
    known: Entry | None = None
    stale: Entry | None = None
    unconditional: bool = False
    verdict: Verdict | None = None
    judged: Fields | None = None
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


def is_plain(head: RequestHead) -> bool:
    """Whether a request wants a page whole and without conditions."""
    return _NOT_PLAIN.isdisjoint(head.index)


def frozen_getter(fields: Fields) -> Getter:
    """Return a getter of fields as they are now, whatever rules change later."""
    return index_fields(fields).get


def apply_conditions(head: RequestHead, reply: Reply) -> None:
    """Turn a whole answer into the 304 or 412 that the client's conditions ask for."""
    if reply.status != 200 or CONDITIONS.isdisjoint(head.index):
        return
    etag, modified = reply.get(b"etag"), reply.get(b"last-modified")
    status = evaluate(
        head,
        parse_etag(etag) if etag is not None else None,
        parse_http_date(modified) if modified is not None else None,
    )
    if status is not None:
        reply.status = status
        reply.fields = drop_fields(reply.fields, _NOT_IN_304)
        reply.muted = True


def forward_status(reply: Reply, seeking: Seeking | None) -> bytes:
    """Return the Cache-Status of an origin's answer."""
    reason = seeking.reason if seeking is not None else b"method"
    status = b"clinfra; fwd=%b; fwd-status=%d" % (reason, reply.status)
    return status + b"; stored" if seeking is not None and seeking.stored else status


def made_status(reply: Reply) -> bytes:
    """Return the Cache-Status of an answer that a rule module made."""
    name = reply.served_by.encode("latin-1", "replace")
    return b"clinfra; detail=" + (name if is_token(name) else b"rule")

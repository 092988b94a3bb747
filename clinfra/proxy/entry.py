"""What is kept of an origin's answer, and what it answers.

Pure.  How it is written down for memcached is in `record`.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field, frozen

from clinfra.proxy.freshness import Verdict
from clinfra.proxy.message import drop_fields
from clinfra.web.answer_head import status_line
from clinfra.web.conditional import evaluate
from clinfra.web.headers import ETag, format_http_date, parse_etag, parse_http_date
from clinfra.web.heads import Field, Fields, RequestHead
from clinfra.web.ranges import (
    Unsatisfiable,
    content_range,
    lay_out_multipart,
    ranges_for,
    unsatisfied_content_range,
)

PREBUILT_BYTES = 65536
"""Entries up to this size keep their whole message ready to send."""

_OVERHEAD_BYTES = 1024
"""What an entry costs besides its fields and body, about."""

_FIELD_OVERHEAD_BYTES = 100
"""What a field costs besides its name and value, about."""

_NOT_KEPT = frozenset((b"age", b"content-length"))
_NOT_UPDATED = frozenset(
    (
        *(b"content-length", b"content-encoding", b"content-range", b"content-type"),
        *(b"age", b"via", b"cache-status"),
    )
)
_OF_304 = frozenset(
    (
        *(b"cache-control", b"content-location", b"date", b"etag", b"expires"),
        *(b"vary", b"last-modified", b"via", b"cache-status"),
    )
)

Answer = tuple[int, Fields, bytes]


@frozen
class Vary:
    """What a page's answers vary on.

    Attributes:
        generation: goes into the keys of the variants.
        names: lower-case field names, sorted.
    """

    generation: bytes
    names: tuple[bytes, ...]


@define(eq=False)
class Entry:
    """A stored answer.

    Attributes:
        key: it is kept under: the page's primary key or the variant's.
        primary: the page's primary key.
        fields: without Content-Length, Age and hop-by-hop fields; with Date.
        born: Unix seconds at which its age was 0.
        lifetime: seconds it is fresh from then on.
        always_validate, never_stale, refresh_window, error_window: see
            `freshness.Verdict`.
        name: of the page, as purges name it.
        tags: that its origin gave it.
        generations: of its scopes, see `scopes`.
        asked_at: Unix seconds when its origin was asked; bans since then cover it.
        hot_until: Unix seconds until which the hot tier uses it unasked.
        used: asked for since the hot tier last looked for something to evict.
        fresh_until: Unix seconds.
        large: too large to keep a second copy as a message that is ready to send.
    """

    key: bytes
    primary: bytes
    status: int
    fields: Fields
    body: bytes
    born: float
    lifetime: float
    always_validate: bool = False
    never_stale: bool = False
    refresh_window: float = 0.0
    error_window: float = 0.0
    name: str = ""
    tags: tuple[bytes, ...] = ()
    generations: tuple[bytes, ...] = ()
    asked_at: float = 0.0
    hot_until: float = 0.0
    used: bool = False
    fresh_until: float = field(init=False)
    large: bool = field(init=False)
    _wire: bytes = field(default=b"", init=False)
    _wire_second: int = field(default=-1, init=False)
    _size: int = field(default=0, init=False)
    _block: bytes = field(default=b"", init=False)

    def __attrs_post_init__(self) -> None:
        self.large = len(self.body) > PREBUILT_BYTES
        self.fresh_until = 0.0 if self.always_validate else self.born + self.lifetime

    @classmethod
    def of(
        cls,
        primary: bytes,
        status: int,
        fields: Fields,
        body: bytes,
        verdict: Verdict,
        now: float,
    ) -> Entry:
        """Make one of an answer that `freshness.judge` found storable.

        Its key is that of the page; storing it may give it a variant's.
        """
        kept = _dated(drop_fields(fields, _NOT_KEPT), now)
        return cls(
            primary,
            primary,
            status,
            kept,
            body,
            now - verdict.age,
            verdict.lifetime,
            verdict.always_validate,
            verdict.never_stale,
            verdict.refresh_window,
            verdict.error_window,
        )

    @property
    def etag(self) -> ETag | None:
        """The entity tag, if it has a readable one."""
        value = self.get(b"etag")
        return None if value is None else parse_etag(value)

    @property
    def last_modified(self) -> int | None:
        """Last-Modified in Unix seconds."""
        value = self.get(b"last-modified")
        return None if value is None else parse_http_date(value)

    @property
    def size(self) -> int:
        """Bytes of memory it is counted for in the hot tier."""
        if not self._size:
            text = sum([len(name) + len(value) + 4 for name, value in self.fields])
            fields = len(self.fields) * _FIELD_OVERHEAD_BYTES + text
            if self.large:
                self._size = _OVERHEAD_BYTES + fields + len(self.body)
            else:
                self._size = _OVERHEAD_BYTES + fields + 2 * (text + len(self.body))
        return self._size

    def get(self, name: bytes) -> bytes | None:
        """Return a stored field by its lower-case name."""
        for known, value in self.fields:
            if known.lower() == name:
                return value
        return None

    def age(self, now: float) -> float:
        """Return its age in seconds."""
        return max(0.0, now - self.born)

    def ttl(self, now: float) -> float:
        """Return how much longer it is fresh, in seconds; negative when stale."""
        return self.fresh_until - now if not self.always_validate else -1.0

    def serves_while_refreshed(self, now: float) -> bool:
        """Whether it may be used now, stale, while the origin is asked."""
        return not self.always_validate and now < self.fresh_until + self.refresh_window

    def serves_on_error(self, now: float) -> bool:
        """Whether it may be used now because the origin fails."""
        return not self.always_validate and now < self.fresh_until + self.error_window

    def expire(self, at: float) -> None:
        """Take it for stale from some moment on."""
        if self.born + self.lifetime > at:
            self.lifetime = max(0.0, at - self.born)
            if not self.always_validate:
                self.fresh_until = at

    def kept_for(self, now: float, grace_seconds: float) -> float:
        """Return how much longer it is of use, in seconds.

        Args:
            grace_seconds: how long stale answers are kept to be validated.
        """
        stale = max(grace_seconds, self.refresh_window, self.error_window)
        return self.born + self.lifetime + stale - now

    def wire(self, now: float) -> bytes:
        """Return the whole message of a plain hit; the same for the whole second.

        Not for what is large.
        """
        second = int(now)
        if second == self._wire_second:
            return self._wire
        self._wire = plain_hit(
            self.status, self.block, self.body, self.born, self.fresh_until, now
        )
        self._wire_second = second
        return self._wire

    @property
    def block(self) -> bytes:
        """Its fields as they go out, each with its line end."""
        if not self._block:
            self._block = b"".join([b"%b: %b\r\n" % pair for pair in self.fields])
        return self._block

    def hit_fields(self, now: float) -> Fields:
        """Return the fields of a hit: Age and Cache-Status added."""
        return (
            *self.fields,
            (b"Age", b"%d" % self.age(now)),
            (b"Cache-Status", b"clinfra; hit; ttl=%d" % self.ttl(now)),
        )

    def answer(
        self, head: RequestHead, extra: Fields, boundary: Callable[[], bytes]
    ) -> Answer:
        """Return status, fields and body for a request: whole, 206, 304, 412 or 416.

        Args:
            extra: Age and Cache-Status as they apply.
            boundary: makes one for an answer in several parts.
        """
        fields = (*self.fields, *extra)
        if self.status != 200:
            return self.status, fields, self.body
        etag, modified = self.etag, self.last_modified
        status = evaluate(head, etag, self._changed_at(head))
        if status == 304:
            some = tuple(pair for pair in self.fields if pair[0].lower() in _OF_304)
            return 304, (*some, *extra), b""
        if status == 412:
            return 412, ((b"Content-Type", b"text/plain"), *extra), b"It has changed.\n"
        size = len(self.body)
        try:
            parts = ranges_for(head, size, etag, modified)
        except Unsatisfiable:
            wanted: Field = (b"Content-Range", unsatisfied_content_range(size))
            return 416, (wanted, *extra), b""
        if parts is None:
            return 200, fields, self.body
        # A digest of the whole content is not one of a part.
        fields = drop_fields(fields, frozenset((b"content-digest",)))
        if len(parts) == 1:
            part = parts[0]
            wanted = (b"Content-Range", content_range(part, size))
            return 206, (*fields, wanted), self.body[part.start : part.stop]
        kind = self.get(b"content-type") or b"application/octet-stream"
        layout = lay_out_multipart(parts, size, kind, boundary())
        pieces = []
        for prologue, part in zip(layout.prologues, layout.ranges, strict=True):
            pieces += [prologue, self.body[part.start : part.stop]]
        fields = drop_fields(fields, frozenset((b"content-type",)))
        content_type: Field = (b"Content-Type", layout.content_type)
        return 206, (*fields, content_type), b"".join((*pieces, layout.epilogue))

    def _changed_at(self, head: RequestHead) -> int | None:
        """Return when it was changed last, at the latest.

        Without Last-Modified that is when it was sent, as far as If-Modified-Since is
        concerned (RFC 9111 §4.3.2).
        """
        modified = self.last_modified
        if modified is None and b"if-unmodified-since" not in head.index:
            date = self.get(b"date")
            return None if date is None else parse_http_date(date)
        return modified

    def conditions(self) -> Fields:
        """Return the fields that ask an origin whether this is still right."""
        conditions: list[Field] = []
        etag = self.get(b"etag")
        if etag is not None and self.etag is not None:
            conditions.append((b"If-None-Match", etag))
        modified = self.get(b"last-modified")
        if modified is not None and self.last_modified is not None:
            conditions.append((b"If-Modified-Since", modified))
        return tuple(conditions)

    def updated_fields(self, fields: Fields, now: float) -> Fields:
        """Return the stored fields brought up to date by those of a 304 from `now`."""
        news = _dated(drop_fields(fields, _NOT_UPDATED), now)
        named = frozenset(name.lower() for name, _ in news)
        return (*drop_fields(self.fields, named), *news)


def plain_hit(
    status: int, block: bytes, body: bytes, born: float, fresh_until: float, now: float
) -> bytes:
    """Return the whole message of a plain hit: status, fields, Age, Cache-Status, body.

    Args:
        block: the fields as they go out, each with its line end.
    """
    said = (now - born if now > born else 0, fresh_until - now)
    tail = _HIT % said
    if status != 204:
        tail = b"%bContent-Length: %d\r\n" % (tail, len(body))
    return b"".join((status_line(status), b"\r\n", block, tail, b"\r\n", body))


_HIT = b"Age: %d\r\nCache-Status: clinfra; hit; ttl=%d\r\n"


def _dated(fields: Fields, now: float) -> Fields:
    """Return fields with a Date; that of `now` if they have none."""
    if b"date" in [name.lower() for name, _ in fields]:
        return fields
    return (*fields, (b"Date", format_http_date(int(now))))

"""The fast lane: a plain GET of a small blob, answered from its target alone.

A target gets here once the resource has answered it (`remember`); from then on the
request line leads straight to the bytes, in memory or in the page cache, until the name
changes or falls out of the hot cache.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field

from clinfra.blob.answers import constant_fields, etag_of, last_modified_of, max_age
from clinfra.blob.digests import digest_value
from clinfra.blob.hot import Hot, HotCache
from clinfra.blob.info import content_type_of
from clinfra.blob.reading import HOT_BYTES, Reader
from clinfra.errors import StorageDamaged
from clinfra.web.exchange import IExchange
from clinfra.web.headers import format_http_date

_SLOW = frozenset(
    (
        b"range",
        b"if-none-match",
        b"if-modified-since",
        b"if-match",
        b"if-unmodified-since",
        b"transfer-encoding",
    )
)


@define(eq=False)
class BlobLane:
    """Answers what it can from memory; see `interfaces.Lane`.

    Args:
        now: returns unix seconds.
        count: called for each answer.
        max_age_seconds: longest time caches are told to keep a blob.
    """

    _reader: Reader
    _now: Callable[[], float]
    _count: Callable[[], object]
    _max_age_seconds: float
    _hot: HotCache = field(init=False)
    _targets: dict[bytes, Hot] = field(init=False)
    _second: int = field(init=False, default=0)
    _date: bytes = field(init=False, default=b"")

    def __attrs_post_init__(self) -> None:
        self._hot = self._reader.hot
        self._targets = self._hot.targets

    def __call__(self, exchange: IExchange) -> bool:
        """Answer the exchange and return True, or leave it alone and return False."""
        head = exchange.head
        hot = self._targets.get(head.target)
        if hot is None or head.method != b"GET" or head.content_length != 0:
            return False
        if not hot.valid:
            del self._targets[head.target]
            return False
        if not _SLOW.isdisjoint(head.index):
            return False
        now = self._now()
        second = int(now)
        if second != self._second:
            self._second = second
            self._date = b"\r\nDate: " + format_http_date(second) + b"\r\n"
        deleted = hot.row.expiry.deleted
        if deleted and deleted <= now:
            return False
        body = hot.body
        if body is None:
            try:
                body = self._reader.body_at_once(hot)
            except StorageDamaged:
                return False
            if body is None:
                return False
        prebuilt = b"%b%bCache-Control: max-age=%d\r\n\r\n%b" % (
            hot.head,
            self._date,
            max_age(hot.row, now, self._max_age_seconds),
            body,
        )
        self._hot.touch(hot)
        self._count()
        exchange.send(prebuilt, 200, len(body))
        return True

    def remember(self, target: bytes, hot: Hot) -> None:
        """Let a target be answered here from now on, if its blob is in memory."""
        data = hot.row.data
        if data is None or data.size > HOT_BYTES or not self._hot.has(hot):
            return
        if not hot.head:
            fields = (
                (b"Content-Type", content_type_of(hot.row).encode("latin-1")),
                (b"Content-Length", b"%d" % data.size),
                (b"ETag", bytes(etag_of(hot.row))),
                (
                    b"Last-Modified",
                    format_http_date(last_modified_of(hot.row, self._now())),
                ),
                (b"Accept-Ranges", b"bytes"),
                *constant_fields(data),
                (b"Content-Digest", digest_value(data.sha256)),
            )
            lines = b"".join(b"\r\n%b: %b" % each for each in fields)
            hot.head = b"HTTP/1.1 200 OK\r\nServer: clinfra" + lines
        self._hot.remember_target(target, hot)

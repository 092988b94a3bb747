"""Answering GET and HEAD for a blob: validators, ranges, conditions, freshness."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from clinfra.blob.digests import digest_value
from clinfra.blob.hot import Hot
from clinfra.blob.info import content_type_of
from clinfra.blob.reading import SMALL_BYTES, Reader
from clinfra.blob.records import Data, Row
from clinfra.blob.stamps import seconds_of
from clinfra.errors import PreconditionFailed
from clinfra.web.conditional import evaluate
from clinfra.web.entity import Entity, entity_response
from clinfra.web.exchange import FileBody, IExchange, Response
from clinfra.web.headers import ETag
from clinfra.web.heads import Fields, RequestHead
from clinfra.web.ranges import Range

_LAST_DATE = 253402300799
"""The last second of the year 9999, and of HTTP dates."""


def etag_of(row: Row) -> ETag:
    """Return the entity tag: the SHA-256 of the bytes."""
    return ETag(row.data.sha256.hex().encode()) if row.data is not None else ETag(b"")


def last_modified_of(row: Row, now: float) -> int:
    """Return when the bytes were written, unix seconds; never in the future."""
    modified = seconds_of(row.data.modified) if row.data is not None else 0
    return min(modified, int(now), _LAST_DATE)


def check_precondition(head: RequestHead, row: Row | None, now: float) -> None:
    """Raise PreconditionFailed when a PUT or DELETE must not go on."""
    exists = row is not None and row.data is not None and not row.expiry.passed(now)
    etag = etag_of(row) if exists and row is not None else None
    modified = last_modified_of(row, now) if exists and row is not None else None
    if evaluate(head, etag, modified, exists) is not None:
        raise PreconditionFailed("412 Precondition Failed")


def is_conditional(head: RequestHead) -> bool:
    """Return whether a change depends on what is there."""
    index = head.index
    return (
        b"if-match" in index
        or b"if-none-match" in index
        or b"if-unmodified-since" in index
    )


def max_age(row: Row, now: float, most_seconds: float) -> int:
    """Return for how long caches may keep a blob, seconds.

    Never beyond its end, and never for long: it can be replaced or deleted any time.
    """
    if not row.expiry.deleted:
        return int(most_seconds)
    return int(min(max(row.expiry.deleted - now, 0), most_seconds))


def constant_fields(data: Data) -> Fields:
    """Return what stays true of a blob's answers while its bytes do."""
    return (
        (b"Repr-Digest", digest_value(data.sha256)),
        (b"X-Content-Type-Options", b"nosniff"),
    )


async def answer_read(
    reader: Reader,
    exchange: IExchange,
    hot: Hot,
    now: float,
    max_age_seconds: float,
) -> Response:
    """Answer a GET or HEAD of a blob that is there."""
    size = hot.row.data.size if hot.row.data is not None else 0

    async def part(wanted: Range) -> FileBody | bytes:
        if size <= SMALL_BYTES:
            body = await reader.body(hot)
            return body[wanted.start : wanted.stop]
        return await reader.file(hot, wanted.start, wanted.length)

    return await answer_parts(exchange, hot.row, part, now, max_age_seconds)


async def answer_parts(
    exchange: IExchange,
    row: Row,
    part: Callable[[Range], Awaitable[FileBody | bytes]],
    now: float,
    max_age_seconds: float,
) -> Response:
    """Answer a GET or HEAD of a blob.

    Args:
        part: gives a piece of its bytes.
    """
    data = row.data
    if data is None:
        raise ValueError("a blob without bytes cannot be read")
    entity = Entity(
        length=data.size,
        content_type=content_type_of(row).encode("latin-1"),
        open=part,
        etag=etag_of(row),
        last_modified=last_modified_of(row, now),
        fields=(
            *constant_fields(data),
            (b"Cache-Control", b"max-age=%d" % max_age(row, now, max_age_seconds)),
        ),
        whole_fields=((b"Content-Digest", digest_value(data.sha256)),),
    )
    return await entity_response(exchange.head, entity, exchange.threads)

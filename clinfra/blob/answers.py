"""Answering GET and HEAD for a blob: validators, ranges, conditions, freshness."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterator

from clinfra.blob.digests import digest_value
from clinfra.blob.hot import Hot
from clinfra.blob.info import content_type_of
from clinfra.blob.records import Row
from clinfra.blob.replica import SMALL_BYTES, Replica
from clinfra.blob.stamps import seconds_of
from clinfra.errors import PreconditionFailed
from clinfra.web.conditional import evaluate
from clinfra.web.exchange import Response
from clinfra.web.headers import ETag, format_http_date
from clinfra.web.heads import Fields, RequestHead
from clinfra.web.ranges import (
    Multipart,
    Range,
    Unsatisfiable,
    content_range,
    lay_out_multipart,
    ranges_for,
    unsatisfied_content_range,
)

PIECE_BYTES = 1 << 18

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


def freshness(row: Row, now: float) -> Fields:
    """Return Cache-Control from the time the blob has left, if it ends at all."""
    if not row.expiry.deleted:
        return ()
    left = max(int(row.expiry.deleted - now), 0)
    return ((b"Cache-Control", b"max-age=%d" % left),)


def lasting_fields(row: Row, now: float) -> Fields:
    """Return the fields of a blob that stay true while its row does."""
    if row.data is None:
        return ()
    return (
        (b"ETag", bytes(etag_of(row))),
        (b"Last-Modified", format_http_date(last_modified_of(row, now))),
        (b"Accept-Ranges", b"bytes"),
        (b"Repr-Digest", digest_value(row.data.sha256)),
        (b"X-Content-Type-Options", b"nosniff"),
    )


async def answer_read(
    replica: Replica, head: RequestHead, hot: Hot, now: float
) -> Response:
    """Answer a GET or HEAD of a blob that is there."""
    row, data = hot.row, hot.row.data
    if data is None:
        raise ValueError("a blob without bytes cannot be read")
    etag, modified = etag_of(row), last_modified_of(row, now)
    fields = lasting_fields(row, now) + freshness(row, now)
    status = evaluate(head, etag, modified)
    if status == 304:
        return Response(304, fields)
    if status is not None:
        raise PreconditionFailed("412 Precondition Failed")
    content_type = content_type_of(row).encode("latin-1")
    try:
        ranges = ranges_for(head, data.size, etag, modified)
    except Unsatisfiable:
        return Response(
            416,
            (
                (b"Content-Type", b"text/plain; charset=utf-8"),
                (b"Content-Range", unsatisfied_content_range(data.size)),
                *fields,
            ),
            b"416 Range Not Satisfiable\n",
        )
    if ranges is None:
        fields = ((b"Content-Type", content_type), *fields)
        if head.method == b"HEAD":
            return Response(200, fields, _nothing(), data.size)
        fields += ((b"Content-Digest", digest_value(data.sha256)),)
        return await _part(replica, hot, 200, fields, Range(0, data.size))
    if len(ranges) == 1:
        fields = (
            (b"Content-Type", content_type),
            (b"Content-Range", content_range(ranges[0], data.size)),
            *fields,
        )
        return await _part(replica, hot, 206, fields, ranges[0])
    layout = lay_out_multipart(
        ranges, data.size, content_type, secrets.token_hex(16).encode()
    )
    fields = ((b"Content-Type", layout.content_type), *fields)
    return Response(206, fields, _multipart(replica, hot, layout), layout.length)


async def _part(
    replica: Replica, hot: Hot, status: int, fields: Fields, part: Range
) -> Response:
    data = hot.row.data
    if data is not None and data.size <= SMALL_BYTES:
        body = await replica.body(hot)
        return Response(status, fields, body[part.start : part.stop])
    file = await replica.file(hot, part.start, part.length)
    return Response(status, fields, file)


async def _nothing() -> AsyncIterator[bytes]:
    """Yield no piece: the body of an answer to HEAD, whose length is given."""
    return
    yield b""


async def _multipart(
    replica: Replica, hot: Hot, layout: Multipart
) -> AsyncIterator[bytes]:
    for prologue, part in zip(layout.prologues, layout.ranges, strict=True):
        yield prologue
        for piece in _pieces(part):
            yield await replica.piece(hot, piece.start, piece.length)
    yield layout.epilogue


def _pieces(part: Range) -> Iterator[Range]:
    for start in range(part.start, part.stop, PIECE_BYTES):
        yield Range(start, min(start + PIECE_BYTES, part.stop))

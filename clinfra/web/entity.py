"""An entity of known length and validators, served as RFC 9110 has it.

Whatever a product keeps, GET and HEAD of it are answered the same way: preconditions
first (304, 412), then ranges (206, 416, multipart/byteranges), else the whole.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable

from attrs import frozen

from clinfra.errors import PreconditionFailed
from clinfra.web.conditional import evaluate
from clinfra.web.exchange import FileBody, Response
from clinfra.web.headers import ETag, format_http_date
from clinfra.web.heads import Fields, RequestHead
from clinfra.web.ranges import (
    Range,
    Unsatisfiable,
    content_range,
    lay_out_multipart,
    ranges_for,
    unsatisfied_content_range,
)
from clinfra.web.streams import Threads, read_file

_ACCEPT_RANGES = (b"Accept-Ranges", b"bytes")


@frozen
class Entity:
    """What can be served.

    Attributes:
        length: bytes of the whole.
        content_type: its media type.
        open: gives a part of it, which is then sent and closed; may raise Trouble.
            Not called when no byte is wanted (HEAD, 304, 412, 416).
        etag: None when it has none.
        last_modified: Unix seconds; None when not known.
        fields: further ones for the answer, e.g. Cache-Control.
        whole_fields: those that are true of the whole only, e.g. Content-Digest.
    """

    length: int
    content_type: bytes
    open: Callable[[Range], Awaitable[FileBody | bytes]]
    etag: ETag | None = None
    last_modified: int | None = None
    fields: Fields = ()
    whole_fields: Fields = ()


async def entity_response(
    head: RequestHead, entity: Entity, threads: Threads | None = None
) -> Response:
    """Return the answer to a GET or HEAD of an entity.

    Args:
        threads: where to read parts of a file for multipart/byteranges.

    Raises:
        PreconditionFailed: an If-Match or If-Unmodified-Since does not hold.
    """
    size = entity.length
    validators: Fields = ()
    if entity.etag is not None:
        validators += ((b"ETag", bytes(entity.etag)),)
    if entity.last_modified is not None:
        validators += ((b"Last-Modified", format_http_date(entity.last_modified)),)

    verdict = evaluate(head, entity.etag, entity.last_modified)
    if verdict == 304:
        kept = tuple(
            field
            for field in entity.fields
            if not field[0].lower().startswith(b"content-")
        )
        return Response(304, validators + kept)
    if verdict is not None:
        raise PreconditionFailed("412 Precondition Failed")

    fields = (*validators, *entity.fields, _ACCEPT_RANGES)
    kind = (b"Content-Type", entity.content_type)
    try:
        ranges = ranges_for(head, size, entity.etag, entity.last_modified)
    except Unsatisfiable:
        return Response(
            416,
            (
                (b"Content-Type", b"text/plain; charset=utf-8"),
                (b"Content-Range", unsatisfied_content_range(size)),
                _ACCEPT_RANGES,
            ),
            b"No such range: there are %d bytes.\n" % size,
        )
    if head.method == b"HEAD":
        return Response(200, (kind, *fields, *entity.whole_fields), _nothing(), size)
    if ranges is None:
        whole = await entity.open(Range(0, size))
        return Response(200, (kind, *fields, *entity.whole_fields), whole)
    if len(ranges) == 1:
        (part,) = ranges
        return Response(
            206,
            (kind, (b"Content-Range", content_range(part, size)), *fields),
            await entity.open(part),
        )
    boundary = os.urandom(16).hex().encode()
    layout = lay_out_multipart(ranges, size, entity.content_type, boundary)

    async def parts() -> AsyncIterator[bytes]:
        for prologue, part in zip(layout.prologues, layout.ranges, strict=True):
            yield prologue
            body = await entity.open(part)
            if isinstance(body, bytes):
                yield body
                continue
            try:
                async for piece in read_file(body, threads):
                    yield piece
            finally:
                body.close()
        yield layout.epilogue

    return Response(
        206,
        ((b"Content-Type", layout.content_type), *fields),
        parts(),
        layout.length,
    )


async def _nothing() -> AsyncIterator[bytes]:
    """No bytes: the body of an answer to HEAD."""
    for piece in tuple[bytes, ...]():
        yield piece

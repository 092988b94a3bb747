"""Range requests: RFC 9110 §14, and the multipart/byteranges layout.

Pure.  A range is a half-open `(start, stop)` in bytes.  Only the unit `bytes` is known;
whatever cannot be read or asks for too much is ignored, as the RFC allows: then the
whole representation is sent.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import frozen

from clinfra.web.headers import ETag, parse_etag, parse_http_date
from clinfra.web.heads import RequestHead

MOST_RANGES = 16
"""A request for more is answered with the whole."""

_SPEC = re.compile(rb"[ \t]*(?:([0-9]{1,19})-([0-9]{1,19})?|-([0-9]{1,19}))[ \t]*")


class Unsatisfiable(Exception):
    """No range lies inside the representation: 416."""


@frozen
class Range:
    """Bytes from `start` up to, not including, `stop`."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Bytes in it."""
        return self.stop - self.start


def ranges_for(
    head: RequestHead, size: int, etag: ETag | None, last_modified: int | None
) -> list[Range] | None:
    """Return what parts of a representation a request asks for; None for all of it.

    Looks at the method, Range and If-Range; preconditions come first and are not looked
    at here.

    Args:
        size: of the representation, bytes.
        etag, last_modified: its validators, for If-Range.

    Raises:
        Unsatisfiable: answer 416 with `unsatisfied_content_range`.
    """
    values = head.index.get(b"range")
    if values is None or head.method != b"GET" or len(values) > 1:
        return None
    if not _if_range_holds(head, etag, last_modified):
        return None
    return parse_range(values[0], size)


def parse_range(value: bytes, size: int) -> list[Range] | None:
    """Return the ranges of a Range field, within `size`; None when it is to be ignored.

    Those beyond the end are dropped, those that overlap or touch are joined, which
    leaves them in ascending order; a request that needs no joining keeps its order.

    Raises:
        Unsatisfiable: all of them are beyond the end.
    """
    unit, equals, specs = value.partition(b"=")
    if not equals or unit.strip(b" \t").lower() != b"bytes":
        return None
    parts = specs.split(b",", 4 * MOST_RANGES)
    ranges: list[Range] = []
    asked = 0
    for part in parts:
        if not part.strip(b" \t"):
            continue  # RFC 9110 §5.6.1 lets a list have empty members.
        match = _SPEC.fullmatch(part)
        if match is None:
            return None
        asked += 1
        if match[3] is not None:
            start, stop = size - min(int(match[3]), size), size
        else:
            start, stop = int(match[1]), size
            if match[2] is not None:
                last = int(match[2])
                if last < start:
                    return None
                stop = min(last + 1, size)
        if start < stop:
            ranges.append(Range(start, stop))
    if not 0 < asked <= MOST_RANGES:
        return None
    if not ranges:
        raise Unsatisfiable
    return _joined(ranges)


def _joined(ranges: list[Range]) -> list[Range]:
    ascending = sorted(ranges, key=lambda each: each.start)
    joined = [ascending[0]]
    for each in ascending[1:]:
        if each.start <= joined[-1].stop:
            joined[-1] = Range(joined[-1].start, max(joined[-1].stop, each.stop))
        else:
            joined.append(each)
    return joined if len(joined) < len(ranges) else ranges


def _if_range_holds(
    head: RequestHead, etag: ETag | None, last_modified: int | None
) -> bool:
    """Evaluate If-Range: a strong tag, or exactly the date we sent."""
    values = head.index.get(b"if-range")
    if values is None:
        return True
    if len(values) > 1:
        return False
    tag = parse_etag(values[0])
    if tag is not None:
        return etag is not None and tag.matches_strongly(etag)
    date = parse_http_date(values[0])
    return date is not None and date == last_modified


def content_range(part: Range, size: int) -> bytes:
    """Return the Content-Range of a 206 with one part."""
    return b"bytes %d-%d/%d" % (part.start, part.stop - 1, size)


def unsatisfied_content_range(size: int) -> bytes:
    """Return the Content-Range of a 416."""
    return b"bytes */%d" % size


@frozen
class Multipart:
    """A multipart/byteranges body, laid out before any of it is read.

    Attributes:
        content_type: for the response's fields.
        prologues: what to send before the bytes of each range, in order.
        ranges: the parts themselves.
        epilogue: what to send after the last.
        length: of the whole body, bytes.
    """

    content_type: bytes
    prologues: tuple[bytes, ...]
    ranges: tuple[Range, ...]
    epilogue: bytes
    length: int


def lay_out_multipart(
    parts: Sequence[Range], size: int, content_type: bytes, boundary: bytes
) -> Multipart:
    """Lay out the body of a 206 with several parts.

    Args:
        size: of the representation, bytes.
        content_type: of the representation.
        boundary: must not occur in it; random hexadecimal digits will do.
    """
    prologues = tuple(
        b"%b--%b\r\nContent-Type: %b\r\nContent-Range: %b\r\n\r\n"
        % (
            b"\r\n" if number else b"",
            boundary,
            content_type,
            content_range(part, size),
        )
        for number, part in enumerate(parts)
    )
    epilogue = b"\r\n--%b--\r\n" % boundary
    length = sum(map(len, prologues)) + len(epilogue)
    return Multipart(
        b"multipart/byteranges; boundary=" + boundary,
        prologues,
        tuple(parts),
        epilogue,
        length + sum(part.length for part in parts),
    )

"""Conditional requests: RFC 9110 §13.

Pure: whether a request should be answered at all, from its head and what is known of
the representation.  `If-Range` is in `ranges`.
"""

from __future__ import annotations

from clinfra.web.headers import ETag, parse_etags, parse_http_date
from clinfra.web.heads import RequestHead


def evaluate(
    head: RequestHead,
    etag: ETag | None,
    last_modified: int | None,
    exists: bool = True,
) -> int | None:
    """Evaluate the preconditions in the order of RFC 9110 §13.2.2.

    Ask only when the answer without them would be a success.

    Args:
        etag: of the representation now; None when it has none.
        last_modified: of the representation now, Unix seconds; None when not known.
        exists: False before a PUT makes it: no tag matches, not even `*`.

    Returns:
        304 or 412 to answer with that, None to go on.
    """
    index = head.index
    if_match = head.get(b"if-match")
    if if_match is not None:
        if not _any_matches(if_match, etag, exists, weakly=False):
            return 412
    elif b"if-unmodified-since" in index:
        limit = _date(index[b"if-unmodified-since"])
        if limit is not None and last_modified is not None and last_modified > limit:
            return 412
    reading = head.method in (b"GET", b"HEAD")
    if_none_match = head.get(b"if-none-match")
    if if_none_match is not None:
        if _any_matches(if_none_match, etag, exists, weakly=True):
            return 304 if reading else 412
    elif reading and b"if-modified-since" in index:
        limit = _date(index[b"if-modified-since"])
        if limit is not None and last_modified is not None and last_modified <= limit:
            return 304
    return None


def _any_matches(value: bytes, etag: ETag | None, exists: bool, weakly: bool) -> bool:
    if value == b"*":
        return exists
    if etag is None or not exists or b'"%b"' % etag.opaque not in value:
        return False
    if weakly:
        return any(etag.matches_weakly(tag) for tag in parse_etags(value))
    return any(etag.matches_strongly(tag) for tag in parse_etags(value))


def _date(values: tuple[bytes, ...]) -> int | None:
    """Return the date of a field sent once; a list of them is not a date."""
    return parse_http_date(values[0]) if len(values) == 1 else None

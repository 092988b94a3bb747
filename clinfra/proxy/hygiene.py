"""What crosses the proxy, and what does not.

Pure.  Fields that belong to one connection stay on it, both ways (RFC 9110 §7.6.1).
An origin learns who the client is from X-Forwarded-* that we write; what a stranger
claims there is set aside as X-Forwarded-For-From-Client.
"""

from __future__ import annotations

from clinfra.errors import InvalidRequest
from clinfra.proxy.message import Request
from clinfra.web.headers import end_to_end
from clinfra.web.heads import Field, Fields, ResponseHead

_WRITTEN_ANEW = frozenset(
    (
        *(b"host", b"via", b"expect", b"content-length", b"x-forwarded-for"),
        *(b"x-forwarded-for-from-client", b"x-forwarded-proto", b"x-forwarded-host"),
    )
)
_FRAMING = frozenset((b"content-length", b"via"))

MAX_HOPS = 16
"""A request that came through this proxy so often goes in a circle."""


def request_fields(request: Request, peer: str, trusted: bool) -> Fields:
    """Return the fields to send to an origin.

    Args:
        peer: address of whoever connected to us.
        trusted: the peer is one of our proxies: what it forwards is believed.

    Raises:
        errors.InvalidRequest: the request goes in a circle.
    """
    head = request.head
    dropped = _WRITTEN_ANEW if trusted else _WRITTEN_ANEW | {b"forwarded"}
    fields: list[Field] = [(b"Host", request.authority)]
    for pair in end_to_end(request.fields, head.index):
        if pair[0].lower() not in dropped:
            fields.append(pair)
    address = peer.encode("latin-1") or b"unknown"
    claimed = request.get(b"x-forwarded-for")
    if claimed is not None and trusted:
        address = claimed + b", " + address
    elif claimed is not None:
        fields.append((b"X-Forwarded-For-From-Client", claimed))
    fields.append((b"X-Forwarded-For", address))
    fields.append((b"X-Forwarded-Proto", request.scheme.encode("latin-1")))
    host = request.get(b"x-forwarded-host") if trusted else None
    fields.append((b"X-Forwarded-Host", host or head.host or request.authority))
    fields.append((b"Via", _via(request.get(b"via"), head.http11)))
    return tuple(fields)


def response_fields(head: ResponseHead) -> Fields:
    """Return the fields of an origin's answer that go on, without its length."""
    fields = tuple(
        pair
        for pair in end_to_end(head.fields, head.index)
        if pair[0].lower() not in _FRAMING
    )
    via = head.get(b"via")
    ours = b"1.1 clinfra" if head.http11 else b"1.0 clinfra"
    return (*fields, (b"Via", via + b", " + ours if via else ours))


def _via(via: bytes | None, http11: bool) -> bytes:
    ours = b"1.1 clinfra" if http11 else b"1.0 clinfra"
    if not via:
        return ours
    if via.count(b" clinfra") >= MAX_HOPS:
        raise InvalidRequest("This request goes in a circle.")
    return via + b", " + ours

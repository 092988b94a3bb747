"""What crosses the proxy, and what does not.

Pure.  Fields that belong to one connection stay on it, both ways (RFC 9110 §7.6.1).
An origin learns who the client is from X-Forwarded-* that we write, and from Forwarded
where a trusted proxy has begun it; what a stranger claims there is dropped, or set
aside as X-Forwarded-For-From-Client.

Many origins cannot tell "_" from "-" in a field's name (CGI, WSGI).  So a field that
would be taken for one of those is dropped too, whoever sends it.
"""

from __future__ import annotations

from clinfra.errors import InvalidRequest, RuleFailed
from clinfra.proxy.clients import forwarded_element, hosts_of
from clinfra.proxy.message import Request, join_host_path
from clinfra.web.headers import HOP_BY_HOP, end_to_end
from clinfra.web.heads import Field, Fields, RequestHead, ResponseHead, is_authority

_WRITTEN_ANEW = frozenset(
    (
        *(b"host", b"via", b"expect", b"content-length", b"x-forwarded-for"),
        *(b"x-forwarded-for-from-client", b"x-forwarded-proto", b"x-forwarded-host"),
    )
)
_NOT_COPIED = _WRITTEN_ANEW | {b"forwarded", b"proxy"}
"""CGI makes HTTP_PROXY of Proxy, and many a library then asks that proxy."""

_CLAIMS = frozenset(
    (
        *(b"forwarded", b"x-real-ip", b"client-ip", b"x-client-ip", b"true-client-ip"),
        *(b"x-cluster-client-ip", b"x-original-url", b"x-rewrite-url"),
    )
)
"""Who the client is, or what it asks for, in the words of one proxy or another."""

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
        errors.RuleFailed: a rule made a host of what is none.
    """
    head = request.head
    if request.authority is not head.host and not is_authority(request.authority):
        raise RuleFailed("A rule asks for a host that is none.")
    fields: list[Field] = [(b"Host", request.authority)]
    for pair in end_to_end(request.fields, head.index):
        name = pair[0].lower()
        if name in _NOT_COPIED or (b"_" in name and _is_disguised(name)):
            continue
        # What a rule has set is no stranger's claim.
        if trusted or not _is_claim(name) or not _is_among(pair, head.fields):
            fields.append(pair)
    address = peer.encode("latin-1") or b"unknown"
    claimed = request.get(b"x-forwarded-for")
    if claimed is not None and trusted:
        address = claimed + b", " + address
    elif claimed is not None:
        fields.append((b"X-Forwarded-For-From-Client", claimed))
    fields.append((b"X-Forwarded-For", address))
    fields.append((b"X-Forwarded-Proto", request.scheme.encode("latin-1")))
    told_host = _told_host(request, trusted)
    fields.append((b"X-Forwarded-Host", told_host))
    hops = _forwarded(request, trusted)
    if hops is not None:
        ours = forwarded_element(peer, request.scheme, told_host)
        fields.append((b"Forwarded", hops + b", " + ours))
    fields.append((b"Via", _via(request.get(b"via"), head.http11)))
    return tuple(fields)


def ask_to_switch(head: bytes, protocol: bytes) -> bytes:
    """Return a request's head that asks to switch protocols as well.

    What is hop by hop comes from us, and is for the next hop only.
    """
    return b"%bConnection: Upgrade\r\nUpgrade: %b\r\n\r\n" % (head[:-2], protocol)


def unkeyed_names(request: Request, trusted: bool) -> tuple[bytes, ...]:
    """Return the fields that tell an origin more of the host than host_path does.

    An answer may repeat what it was told, a port or another host: kept for the page, it
    would be everybody's.  So such an answer is kept as if it varied on these fields.
    """
    usual = join_host_path(request.host, request.port, "").encode("latin-1")
    names = []
    if request.authority != usual or request.head.host not in (usual, b""):
        names.append(b"host")
    if trusted and request.get(b"x-forwarded-host") not in (usual, None):
        names.append(b"x-forwarded-host")
    forwarded = request.head.index.get(b"forwarded")
    if trusted and forwarded is not None and hosts_of(forwarded) - {usual}:
        names.append(b"forwarded")
    return tuple(names)


def _forwarded(request: Request, trusted: bool) -> bytes | None:
    """Return the Forwarded field that a trusted proxy, or a rule, has begun."""
    told = request.get(b"forwarded")
    if told is None or trusted:
        return told
    ours = [
        pair[1]
        for pair in request.fields
        if pair[0].lower() == b"forwarded" and not _is_among(pair, request.head.fields)
    ]
    return b", ".join(ours) or None


def _told_host(request: Request, trusted: bool) -> bytes:
    """Return the host that the client asked for."""
    told = request.get(b"x-forwarded-host") if trusted else None
    return told or request.head.host or request.authority


def has_claims(head: RequestHead) -> bool:
    """Whether a request came with fields that only proxies should write."""
    return any(_is_claim(name) for name in head.index)


def _is_claim(name: bytes) -> bool:
    """Whether a field is what proxies tell origins of clients."""
    return name.startswith(b"x-forwarded-") or name in _CLAIMS


def _is_among(pair: Field, received: Fields) -> bool:
    """Whether this very field came in, and not one that is equal."""
    return any(pair is each for each in received)


def _is_disguised(name: bytes) -> bool:
    """Whether a field would be taken for one that is ours to write."""
    plain = name.replace(b"_", b"-")
    return plain in _NOT_COPIED or plain in HOP_BY_HOP or _is_claim(plain)


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


def interim_fields(head: ResponseHead) -> Fields:
    """Return the fields of an interim answer that go on."""
    fields = end_to_end(head.fields, head.index)
    return tuple(pair for pair in fields if pair[0].lower() not in _FRAMING)


def _via(via: bytes | None, http11: bool) -> bytes:
    ours = b"1.1 clinfra" if http11 else b"1.0 clinfra"
    if not via:
        return ours
    if via.count(b" clinfra") >= MAX_HOPS:
        raise InvalidRequest("This request goes in a circle.")
    return via + b", " + ours

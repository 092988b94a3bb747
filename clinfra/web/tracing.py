"""One request's way through several processes, as W3C traceparent and X-Request-Id.

Whoever answers a request finds its ids in `IExchange.trace` (None when nobody asked for
tracing): those that a trusted client sent, or new ones.  What is asked of others while
it is answered carries them: coroutines that answer run with `current` set, and
`web.pool` adds its fields to what they send.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property, lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from random import Random

from attrs import define, field, frozen

from clinfra.web.heads import Fields, RequestHead

NAMES = frozenset((b"traceparent", b"tracestate", b"x-request-id"))
"""The fields, in lower case."""

_PARENT = re.compile(
    rb"(?!ff)[0-9a-f]{2}-(?P<trace>(?!0{32})[0-9a-f]{32})"
    rb"-(?!0{16})[0-9a-f]{16}-(?P<flags>[0-9a-f]{2})(?:-.*)?"
)
_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_LONGEST_STATE = 512


@frozen(slots=False)
class Trace:
    """What is known of one request's way.

    Attributes:
        trace_id: of the whole way, 32 hexadecimal digits.
        span_id: of this process's part of it, 16 of them.
        request_id: as the client called it, else the trace's.
        flags: as traceparent has them.
        state: tracestate, handed on as it came.
    """

    trace_id: str
    span_id: str
    request_id: str
    flags: str = "00"
    state: bytes = b""

    @cached_property
    def fields(self) -> Fields:
        """What to send with requests that are made for this one."""
        parent = f"00-{self.trace_id}-{self.span_id}-{self.flags}".encode()
        fields: Fields = (
            (b"traceparent", parent),
            (b"X-Request-Id", self.request_id.encode()),
        )
        return (*fields, (b"tracestate", self.state)) if self.state else fields

    def put_into(self, head: bytes) -> bytes:
        """Return a request's head with these fields at its end."""
        lines = b"".join(b"%b: %b\r\n" % pair for pair in self.fields)
        return b"%b%b\r\n" % (head[:-2], lines)


current: ContextVar[Trace | None] = ContextVar("clinfra_trace", default=None)
"""Of the request that is being answered."""


def carried() -> Fields:
    """Return what to send with a request that is made now."""
    trace = current.get()
    return () if trace is None else trace.fields


@contextmanager
def carrying(trace: Trace) -> Iterator[None]:
    """Have what is begun now belong to a request."""
    token = current.set(trace)
    try:
        yield
    finally:
        current.reset(token)


@define(eq=False)
class Tracing:
    """Finds or makes the ids of requests.

    Args:
        networks: of clients whose ids are taken; those on UNIX sockets always are.
        rng: makes new ones.
    """

    _networks: tuple[IPv4Network | IPv6Network, ...]
    _rng: Random = field(factory=Random)

    @classmethod
    def of(cls, networks: Iterable[str]) -> Tracing:
        """Make one of networks as they are configured.  Raises ValueError."""
        return cls(tuple(ip_network(text, strict=False) for text in networks))

    def trace_of(self, head: RequestHead, client_ip: str) -> Trace:
        """Return the ids of a request."""
        bits = self._rng.getrandbits
        span = f"{bits(64) | 1:016x}"
        if not head.index.keys() & NAMES or not _trusts(self._networks, client_ip):
            made = f"{bits(128) | 1:032x}"
            return Trace(made, span, made)
        parent = _PARENT.fullmatch(_only(head, b"traceparent"))
        state = b""
        if parent is None:
            trace_id, flags = f"{bits(128) | 1:032x}", "00"
        else:
            trace_id, flags = parent["trace"].decode(), parent["flags"].decode()
            state = head.get(b"tracestate") or b""
        named = _only(head, b"x-request-id")
        known = _REQUEST_ID.fullmatch(named)
        return Trace(
            trace_id,
            span,
            named.decode() if known else trace_id,
            flags,
            state if len(state) <= _LONGEST_STATE else b"",
        )


def _only(head: RequestHead, name: bytes) -> bytes:
    """Return the value of a field that is there once, else b""."""
    values = head.index.get(name, ())
    return values[0] if len(values) == 1 else b""


@lru_cache(maxsize=4096)
def _trusts(networks: tuple[IPv4Network | IPv6Network, ...], client_ip: str) -> bool:
    if not client_ip:
        return True
    try:
        address = ip_address(client_ip)
    except ValueError:
        return False
    plain = getattr(address, "ipv4_mapped", None) or address
    return any(plain in each for each in networks if each.version == plain.version)

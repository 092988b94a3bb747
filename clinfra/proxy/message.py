"""The request as rules see it, and the answer being built.

Pure.  A `Request` is made from the head that came in and may be changed by rule
modules on its way through `pipeline`; what is forwarded is always written anew from
it.  Rules match on `host_path`: the lower-case host without trailing dot, the port
of the listener unless that is the default one, then the target with its query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from attrs import define, field

from clinfra.proxy.rule_hits import RuleHits
from clinfra.web.headers import is_token, is_value
from clinfra.web.heads import Field, Fields, RequestHead

_NOTHING: Mapping[bytes, bytes] = {}


@define(eq=False)
class _Message:
    """What requests and answers have in common: fields that are asked for by name."""

    fields: Fields = ()
    _indexed: Fields = field(default=(), init=False)
    _index: Mapping[bytes, bytes] = field(default=_NOTHING, init=False)

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a field, repeats joined by a comma; None without it."""
        if self._indexed is not self.fields:
            self._index = index_fields(self.fields)
            self._indexed = self.fields
        return self._index.get(name)

    def set(self, name: bytes, value: bytes | None) -> None:
        """Replace a field, or drop it when the value is None."""
        self.fields = set_field(self.fields, name, value)


@define(eq=False)
class Reply(_Message):
    """An answer on its way to the client.

    Attributes:
        status: the status code.
        fields: without Content-Length, Connection, Server: those are added when it is
            sent.  Hop-by-hop fields are already gone.
        body: the whole body, or what there is of it when `stream` is set.
        stream: whoever sends the body in pieces (see IStream); None when `body` is
            all of it.
        length: of a streamed body, when it was announced.
        served_by: the module that made it, for the logs.
        taps: objects with data(bytes) and end(complete) that see a streamed body.
        coder: codes a streamed body on its way (an encoding.Coder), for taps as well.
        muted: the client gets no body, only the taps do.
    """

    status: int
    fields: Fields = ()
    body: bytes = b""
    stream: Any = None
    length: int | None = None
    served_by: str = ""
    taps: list[Any] = field(factory=list)
    coder: Any = None
    muted: bool = False


@define(eq=False)
class Request(_Message):
    """One request on its way through the pipeline.

    Attributes:
        exchange: the web.exchange.IExchange it came with.
        head: as it was received; never changes.
        method: b"GET" ...
        host: lower-case host, without port.
        port: port of the listener; 0 when it is the default one and left out.
        target: path and query, as sent.
        scheme: "http" or "https", as the client used it.
        authority: what is sent on as Host.
        fields: the header fields, Host included.
        client_ip: address of the client, trusted proxies seen through.
        upgrade: protocol that the client wants to switch to; b"" mostly.
        pool: name of the origin pool, once a rule or route chose it.
        members: origins to use instead of a pool's ("host:port").
        retry_bad_status: an answer of 4xx or 5xx is tried on another member.
        forward_target: what the origin is asked for; empty means `target`.
        cache_host_path: used instead of host_path for the cache key.
        outcome: "hit", "stale", "miss" or "pass", once looked up.
        why: Cache-Status words for a forward: "uri-miss", "vary-miss", "stale", ....
        stale: the entry to validate, when there is one.
        reply: the answer, once there is one.
        origin: "host:port" that was asked, for the logs.
        attempt: number of the present try at an origin; 0 before the first.
        asked_at, answered_at: reactor seconds of the origin's part.
        flight: the fetch others wait for, when this request is the one that fetches.
        cache_state: the cache module's own.
        origin_request: what is under way at an origin (a forward.Relay).
        intake: its body, a web.intake.Intake, when it was taken in.
        plan: the arrival.Plan it was made by, if it was.
        waiting, place, failing, over, rules: the pipeline's own.
        gates: asked with the exchange before an equal head is answered from memory or
            sent on without asking the rules; one that says False has them asked.
        counted: the hits of the rules that changed or answered it.
        annotations: whatever rules want to keep with the request.
    """

    exchange: Any
    head: RequestHead
    method: bytes
    host: str
    port: int
    target: str
    scheme: str
    authority: bytes
    fields: Fields
    client_ip: str
    pool: str = ""
    upgrade: bytes = b""
    members: tuple[str, ...] = ()
    retry_bad_status: bool = False
    forward_target: str = ""
    cache_host_path: str = ""
    outcome: str = ""
    why: bytes = b""
    stale: Any = None
    reply: Reply | None = None
    origin: str = ""
    attempt: int = 0
    asked_at: float = 0.0
    answered_at: float = 0.0
    flight: Any = None
    cache_state: Any = None
    origin_request: Any = None
    intake: Any = None
    plan: Any = None
    waiting: Any = None
    place: tuple[str, int] = ("received", 0)
    failing: bool = False
    over: bool = False
    rules: Any = None
    gates: tuple[Callable[[Any], bool], ...] = ()
    counted: tuple[RuleHits, ...] = ()
    _host_path: str = ""
    _cookies: Mapping[str, str] | None = None
    _annotations: dict[str, Any] | None = None

    @property
    def host_path(self) -> str:
        """What rules match: host[:port]/path?query."""
        if not self._host_path:
            self._host_path = join_host_path(self.host, self.port, self.target)
        return self._host_path

    @property
    def path(self) -> str:
        """The target up to the question mark."""
        return self.target.partition("?")[0]

    @property
    def decided_further(self) -> bool:
        """Rules decided more of it than host, target, fields and pool."""
        return bool(
            self.members
            or self.retry_bad_status
            or self.cache_host_path
            or self._annotations
        )

    @property
    def annotations(self) -> dict[str, Any]:
        """Room for rules to keep things in, made on first use."""
        if self._annotations is None:
            self._annotations = {}
        return self._annotations

    @property
    def cookies(self) -> Mapping[str, str]:
        """The cookies by name; the first of equal names wins."""
        if self._cookies is None:
            self._cookies = parse_cookies(self.get(b"cookie") or b"")
        return self._cookies

    def get(self, name: bytes) -> bytes | None:
        """Return the value of a field, repeats joined by a comma; None without it."""
        if self.fields is self.head.fields:
            return self.head.get(name)
        return super().get(name)

    def count(self, hits: RuleHits) -> None:
        """A rule has changed or answered it: count it, once, and equal heads to it."""
        if hits not in self.counted:
            hits.count += 1
            self.counted = (*self.counted, hits)

    def ask_every_time(self) -> None:
        """Have the rules asked about equal heads, too: chance or time decided here."""
        self.gates = (*self.gates, _never)

    def ask_for_others(self) -> None:
        """Have the rules asked about equal heads of others: who asks decided here."""
        peer = self.exchange.client_ip
        self.gates = (*self.gates, lambda exchange: exchange.client_ip == peer)

    def rewrite(self, host_path: str) -> None:
        """Change host, port and target to those of `host_path`.

        Host goes on to the origin as the client sent it unless the rule changed it.
        """
        authority, slash, rest = host_path.partition("/")
        if authority != self.host_path.partition("/")[0]:
            host, port = split_authority(authority)
            self.host, self.port = host, port
            self.authority = authority.encode("latin-1")
        self.target = slash + rest or "/"
        self._host_path = ""


def _never(exchange: Any) -> bool:
    return False


def join_host_path(host: str, port: int, target: str) -> str:
    """Return host[:port]target."""
    return f"{host}:{port}{target}" if port else host + target


@lru_cache(maxsize=4096)
def split_authority(authority: str) -> tuple[str, int]:
    """Return lower-case host without trailing dot, and port (0 when there is none)."""
    host, colon, port = authority.rpartition(":")
    if (
        not colon
        or not (port.isdigit() or not port)
        or host.count("[") > host.count("]")
    ):
        host, port = authority, ""
    host = host.lower()
    if host.endswith("."):
        host = host[:-1]
    return host, int(port) if port else 0


def index_fields(fields: Fields) -> dict[bytes, bytes]:
    """Return the values of fields by lower-case names, repeats joined by a comma."""
    index: dict[bytes, bytes] = {}
    for name, value in fields:
        lower = name.lower()
        index[lower] = index[lower] + b", " + value if lower in index else value
    return index


def set_field(fields: Fields, name: bytes, value: bytes | None) -> Fields:
    """Return fields with `name` replaced, or dropped when the value is None.

    Raises ValueError for what cannot be sent.
    """
    if value is not None and not (is_token(name) and is_value(value)):
        raise ValueError(f"{name!r}: {value!r} cannot be a field")
    lower = name.lower()
    kept: list[Field] = [item for item in fields if item[0].lower() != lower]
    if value is not None:
        kept.append((name, value))
    return tuple(kept)


def drop_fields(fields: Fields, names: frozenset[bytes]) -> Fields:
    """Return fields without those of `names` (lower-case)."""
    kept = tuple([item for item in fields if item[0].lower() not in names])
    return kept if len(kept) != len(fields) else fields


def parse_cookies(raw: bytes) -> dict[str, str]:
    """Return the cookies of a Cookie field; only the first "=" of a pair counts."""
    cookies: dict[str, str] = {}
    for pair in raw.decode("latin-1").split(";"):
        name, equals, value = pair.strip().partition("=")
        if equals and name:
            value = value.strip()
            if len(value) >= 2 and value[0] == value[-1] == '"':
                value = value[1:-1]
            cookies.setdefault(name.strip(), value)
    return cookies

"""Throttler: so many requests a second, by client, network, key or rule.

Each limit says which requests it counts, as all rules do (see `conditions`), and by
what:

    [[proxy.modules]]
    use = "Throttler"
    [[proxy.modules.limits]]
    name = "search"
    paths = ["/search*"]
    per = "client"
    rate = 5
    burst = 20
    [[proxy.modules.limits]]
    name = "downloads"
    match = '\\.iso$'
    per = "network"
    rate = 0.5
    slow = "64KiB"

A token bucket of `burst` gets `rate` tokens a second; every request takes one.  Without
a token left the answer is 429 with Retry-After; or the request is held back for up to
`wait`; or it is answered at once, but slowly (`slow` bytes a second).  With several
limits all must agree.  Hits from memory count as well.

`shared` limits are counted by all processes together, in memcached: each has buckets of
its own and takes from them, half a second later, what others have let through.  So no
request waits for memcached, and while it is away each process counts alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from math import ceil
from typing import Any

import attrs
from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from clinfra.config import Bytes, Seconds, key
from clinfra.errors import ConfigProblems, Throttled
from clinfra.proxy.buckets import Buckets
from clinfra.proxy.conditions import Condition, When, value_of
from clinfra.proxy.lists import Watch
from clinfra.proxy.message import Request
from clinfra.proxy.networks import Networks, network_of
from clinfra.proxy.pacing import pace
from clinfra.proxy.rule_index import RuleIndex
from clinfra.proxy.rules import RuleModule, Surroundings
from clinfra.web.exchange import IExchange

_SHARE_SECONDS = 0.5
_KINDS = ("header", "cookie", "query")
_PACED = "Throttler.slow"


@frozen
class Limit(When):
    """One limit: what it counts, and how many there may be."""

    name: str = key("", "For logs and reports; its number if not given.")
    per: str = key(
        "client",
        "What is counted by itself: client, network, header:NAME, cookie:NAME,"
        " query:NAME, host, pool, or rule (all together).",
    )
    rate: float = key(10.0, "Requests a second.", least=0.001)
    burst: int = key(0, "Most at once; 0 means rate, at least 1.")
    wait: Seconds = key(Seconds(0), "How long a request may be held back.", most=60)
    slow: Bytes = key(
        Bytes(0), "Answer at once, but with so many bytes a second; 0 refuses."
    )
    ipv4_bits: int = key(24, "Size of a network, IPv4.", least=8, most=32)
    ipv6_bits: int = key(
        64, "Size of a network, IPv6; a client counts as one.", least=16, most=128
    )
    except_networks: tuple[str, ...] = key((), "Networks that are not counted.")
    shared: bool = key(False, "Count with all processes on the same memcached.")


@frozen
class Options:
    """Options of Throttler."""

    limits: tuple[Limit, ...] = key((), "Limits; all that hold must agree.")


@define(eq=False)
class _Limit:
    """A limit at work."""

    limit: Limit
    name: str
    condition: Condition
    networks: Networks
    exempt: Networks
    buckets: Buckets
    counts: dict[str, int] = field(factory=dict)

    @property
    def by_client(self) -> bool:
        """Every client has a bucket of its own, or every network of clients."""
        return self.limit.per in ("client", "network")

    def counts_client(self, client: str) -> bool:
        """Whether a client is counted at all."""
        if len(self.networks) and self.networks.find(client) is None:
            return False
        return not len(self.exempt) or self.exempt.find(client) is None

    def key_of_client(self, client: str) -> str:
        """Return the bucket of a client."""
        alone = self.limit.per == "client"
        if alone and ":" not in client:
            return client
        # Whoever has one address of IPv6 has a whole network of them.
        ipv4_bits = 32 if alone else self.limit.ipv4_bits
        return network_of(client, ipv4_bits, self.limit.ipv6_bits)

    def key_of_request(self, request: Request) -> str | None:
        """Return the bucket of a request, whoever sends it; None for none."""
        per = self.limit.per
        if per == "rule":
            return ""
        if per == "host":
            return request.host
        if per == "pool":
            return request.pool
        kind, _, name = per.partition(":")
        return value_of(request, kind, name.lower() if kind == "header" else name)

    def count(self, what: str) -> None:
        """Count what became of a request."""
        self.counts[what] = self.counts.get(what, 0) + 1


_Keyed = tuple[_Limit, str | None]
"""A limit, and its bucket unless that depends on the client."""


class _Group:
    """Limits that are asked in the same phase."""

    def __init__(self, limits: Sequence[_Limit]) -> None:
        self.limits = tuple(limits)
        self._index = RuleIndex([limit.condition for limit in limits])

    def of(self, request: Request) -> list[_Limit]:
        """Return those that count a request, as far as its head goes."""
        return [self.limits[number] for number in self._index.matching(request)]


class Throttler(RuleModule):
    """Limits how often things are asked for."""

    Config = Options
    head_only = True
    ignores_hits = True
    by_heads = False

    def __init__(self, config: Options) -> None:
        problems: list[str] = []
        limits: list[_Limit] = []
        for number, limit in enumerate(config.limits):
            try:
                limits.append(_made(limit, limit.name or str(number)))
            except ValueError as error:
                problems.append(f"limits[{number}]: {error}")
        if problems:
            raise ConfigProblems(problems)
        # Pools are known only after `route`.
        self._early = _Group([each for each in limits if each.limit.per != "pool"])
        self._late = _Group([each for each in limits if each.limit.per == "pool"])
        self._limits = limits
        for group, hook in ((self._early, "received"), (self._late, "lookup")):
            if not group.limits:
                setattr(self, hook, None)
        if not any(limit.slow for limit in config.limits):
            self.deliver = None  # type: ignore[method-assign,assignment] # costs nothing
        self._sharing: Watch | None = None

    def attach(self, surroundings: Surroundings) -> None:
        """Take what is needed.  Raises ConfigProblems."""
        self._reactor = surroundings.reactor
        self._now = surroundings.reactor.seconds
        self._client_of = surroundings.client_of
        self._memcached = surroundings.cache.memcached
        if self._memcached is None and any(each.limit.shared for each in self._limits):
            raise ConfigProblems(["limits: shared ones need proxy.cache.memcached"])

    def start(self) -> None:
        """Begin to share."""
        if any(each.limit.shared for each in self._limits):
            self._sharing = Watch(self._reactor, self._share, _SHARE_SECONDS)
            self._sharing.start()

    def stop(self) -> None:
        """Share no more."""
        if self._sharing is not None:
            self._sharing.stop()

    def received(self, request: Request) -> Deferred[None] | None:
        """Count a request; refuse it, hold it back, or have it answered slowly."""
        return self._limit(request, self._early)

    def lookup(self, request: Request) -> Deferred[None] | None:
        """Count by pool."""
        return self._limit(request, self._late)

    def deliver(self, request: Request) -> None:
        """Have an answer sent slowly."""
        rate = request.annotations.get(_PACED)
        if rate is not None and request.reply is not None:
            pace(request.reply, rate, self._reactor)

    def report(self) -> Mapping[str, Any]:
        """Return what became of requests, limit by limit."""
        return {
            each.name: {
                **each.counts,
                "counted": len(each.buckets),
                "forgotten": each.buckets.forgotten,
            }
            for each in self._limits
        }

    def _limit(self, request: Request, group: _Group) -> Deferred[None] | None:
        limits = group.of(request)
        if not limits:
            return None
        now = self._now()
        keyed = [
            (each, None if each.by_client else each.key_of_request(request))
            for each in limits
        ]
        keyed = [
            (each, key) for each, key in keyed if each.by_client or key is not None
        ]
        counted = _counted(keyed, request.client_ip)
        request.gates = (*request.gates, self._gate(keyed))
        longest = 0.0
        for each, bucket in counted:
            wait = each.buckets.wait(bucket, now)
            if wait <= 0:
                continue
            if each.limit.slow:
                each.count("slowed")
                request.exchange.notes["throttled"] = each.name
                request.annotations[_PACED] = min(
                    each.limit.slow, request.annotations.get(_PACED, each.limit.slow)
                )
            elif wait > each.limit.wait:
                each.count("refused")
                request.exchange.notes["throttled"] = each.name
                raise Throttled(
                    "There were too many requests; please try again later.",
                    ceil(wait),
                )
            else:
                longest = max(longest, wait)
        for each, bucket in counted:
            if not each.limit.slow or each.buckets.wait(bucket, now) <= 0:
                each.buckets.take(bucket, now)
            each.count("passed")
        if not longest:
            return None
        for each, _ in counted:
            each.count("delayed")
        return _pause(self._reactor, longest)

    def _gate(self, keyed: Sequence[_Keyed]) -> Callable[[IExchange], bool]:
        """Return what counts an equal head that needs not be asked about."""

        def gate(exchange: IExchange) -> bool:
            now = self._now()
            counted = _counted(keyed, self._client_of(exchange))
            for each, bucket in counted:
                if each.buckets.wait(bucket, now) > 0:
                    return False
            for each, bucket in counted:
                each.buckets.take(bucket, now)
                each.count("passed")
            return True

        return gate

    def _share(self) -> None:
        """Tell others what was taken here, and learn what they took."""
        assert self._memcached is not None
        for each in self._limits:
            if each.limit.shared:
                for bucket, taken in each.buckets.drain().items():
                    self._share_bucket(each, bucket, taken)

    def _share_bucket(self, limit: _Limit, bucket: str, taken: int) -> None:
        """Fetch a bucket as others left it, and leave it as it is now.

        When two do so in the same millisecond, what one has taken is forgotten.
        """
        memcached = self._memcached
        assert memcached is not None
        told = f"{limit.limit}\0{bucket}".encode()  # other limits have other buckets
        key = b"throttle:" + sha256(told).hexdigest()[:32].encode()
        buckets = limit.buckets

        def found(shared: bytes | None) -> None:
            state = buckets.share(bucket, taken, shared, self._now())
            memcached.set(key, state, buckets.burst / buckets.rate + 60)

        memcached.get(key, found)


def _counted(keyed: Sequence[_Keyed], client: str) -> list[tuple[_Limit, str]]:
    """Return the limits that count a client, with their buckets."""
    return [
        (each, each.key_of_client(client) if key is None else key)
        for each, key in keyed
        if each.counts_client(client)
    ]


def _made(limit: Limit, name: str) -> _Limit:
    """Return a limit at work.  Raises ValueError."""
    kind, _, value = limit.per.partition(":")
    alone = ("client", "network", "rule", "host", "pool")
    if limit.per not in alone and not (kind in _KINDS and value):
        raise ValueError(f'per: "{limit.per}" is not what can be counted')
    if limit.slow and limit.wait:
        raise ValueError("either wait or slow")
    burst = limit.burst or max(1, round(limit.rate))
    return _Limit(
        limit,
        name,
        Condition(attrs.evolve(limit, networks=())),
        Networks(limit.networks),
        Networks(limit.except_networks),
        Buckets(limit.rate, burst),
    )


def _pause(reactor: IReactorTime, seconds: float) -> Deferred[None]:
    """Return a Deferred that fires later; the wait ends when it is cancelled."""
    waiting: Deferred[None] = Deferred(lambda _: timer.cancel())
    timer = reactor.callLater(seconds, waiting.callback, None)
    return waiting

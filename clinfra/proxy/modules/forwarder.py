"""Forwarder: sends a request to a member of its pool, and to another if that fails.

A request is tried again only when that does no harm: nothing of it reached the origin,
or its method is idempotent and its body can still be sent whole; and only as long as
the pool's `attempts`, `retry_time` and `retry_budget` allow it.  Then the answer is
503; 502 when an origin broke off in the middle of something that cannot be repeated;
504 when it did not answer in time.  A full queue is no fault of its member: another is
asked, and that is not counted as a try.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred

from clinfra.config import PoolConfig
from clinfra.errors import (
    Forbidden,
    Maintenance,
    NotFound,
    OriginFailed,
    OriginsDown,
    OriginTimeout,
    Overloaded,
)
from clinfra.proxy.arrival import Plan
from clinfra.proxy.connections import origin_of
from clinfra.proxy.hygiene import (
    ask_to_switch,
    has_claims,
    request_fields,
    response_fields,
)
from clinfra.proxy.member import Member
from clinfra.proxy.message import Reply, Request, drop_fields
from clinfra.proxy.origin_pool import OriginPool
from clinfra.proxy.passage import Way
from clinfra.proxy.pipeline import PENDING
from clinfra.proxy.relay import Relay
from clinfra.proxy.routes import Routes
from clinfra.proxy.rules import RuleModule, Surroundings
from clinfra.web import tracing
from clinfra.web.heads import Fields, ResponseHead, format_request_line
from clinfra.web.intake import Intake
from clinfra.web.pool import Origin, OriginRequest, Pool, make_request_head

UNABLE = "Unable to process request, please try again."
AT_WORK = "Server maintenance underway, please try again later."

_RETRY_SECONDS = 5
_MAINTENANCE_RETRY_SECONDS = 60

_MEMO_ENTRIES = 2048
_MEMO_HEAD_BYTES = 2048
_HOST = frozenset((b"host",))
_REPEATABLE = frozenset((b"GET", b"HEAD"))
_IDEMPOTENT = _REPEATABLE | {b"PUT", b"DELETE", b"OPTIONS"}


class Forwarder(RuleModule):
    """Sends requests to origins.

    Attributes:
        spool: for what slow clients are sent.
    """

    head_only = True
    reloadable = False
    by_heads = True

    def attach(self, surroundings: Surroundings) -> None:
        """Take the pools, the routes and the ways to connect."""
        self._surroundings = surroundings
        config = surroundings.config
        self._routes = Routes.of(config.routes, config.default_pool)
        self._origins = surroundings.origins
        self._connections = surroundings.connections
        self._heads: dict[Any, bytes] = {}
        self._answers: dict[ResponseHead, Fields] = {}
        self._now = surroundings.reactor.seconds
        self._resume = surroundings.pipeline.resume
        self._fail = surroundings.pipeline.fail
        self._retries = 0
        self._tunnels = 0
        self.spool = surroundings.spool
        self._open_tunnels = 0

    def route(self, request: Request) -> None:
        """Choose the pool, unless a rule did."""
        if not request.pool and not request.members:
            self._routes.choose(request)

    def forward(self, request: Request) -> object:
        """Try an origin."""
        if request.method == b"TRACE":
            raise Forbidden("TRACE is not passed on.")
        if request.method == b"OPTIONS":
            answer = self._max_forwards(request)
            if answer is not None:
                return answer
        request.attempt = 0
        request.asked_at = self._now()
        pool = self._pool(request)
        if request.head.content_length != 0 and pool.config.spool_uploads:
            self._take_in(request, pool)
        else:
            self._try(request, pool, ())
        return PENDING

    def head_received(self, relay: Relay, head: ResponseHead) -> None:
        """An origin answers."""
        request: Request = relay.request
        member: Member = relay.member
        if head.status >= 400 and self._is_bad(request, member, head.status):
            pool = self._pool(request)
            tried = (*request.annotations.get("tried", ()), member)
            if (
                request.method in _REPEATABLE
                and pool.has_other(tried)
                and self._may_try_again(request, pool, free=head.status == 404)
            ):
                relay.abort()
                self._try_later(request, pool, tried)
                return
        elif member.troubled:
            member.succeeded()
        request.answered_at = self._now()
        fields = self._answers.get(head)
        if fields is None:
            fields = response_fields(head)
            if len(self._answers) >= _MEMO_ENTRIES:
                self._answers.clear()
            self._answers[head] = fields
        length = head.content_length
        if head.status == 101:
            fields, length = (*fields, (b"Upgrade", request.upgrade)), None
            self._count_tunnel(request)
        elif request.method == b"HEAD" and head.status not in (204, 304):
            said = head.get(b"content-length")
            length = int(said) if said is not None else None
        reply = Reply(head.status, fields, b"", relay, length, "Forwarder")
        self._resume(request, reply)
        relay.hold()
        if request.plan is not None and request.reply is reply and relay.plain:
            self._learn(request, head)

    def no_answer(self, relay: Relay, reason: Exception) -> None:
        """An origin failed before it answered."""
        request: Request = relay.request
        waited = isinstance(reason, Overloaded)
        words = _words(reason)
        if isinstance(reason, OriginFailed):
            relay.member.failed(words)
        elif not waited:
            self._fail(request, reason)
            return
        request.exchange.notes["trouble"] = f"{relay.member.name}: {words}"
        pool = self._pool(request)
        tried = (*request.annotations.get("tried", ()), relay.member)
        unwanted = request.over and not (
            request.flight is not None and request.flight.waiters
        )
        harmless = not unwanted and (waited or _replayable(request, reason))
        # Waiting once more for the same member would not help.
        others = not waited or pool.has_other(tried)
        if harmless and others and self._may_try_again(request, pool):
            self._try_later(request, pool, tried)
            return
        if harmless and not isinstance(reason, OriginTimeout):
            reason = OriginsDown(UNABLE, _RETRY_SECONDS)
        self._fail(request, reason)

    def _take_in(self, request: Request, pool: OriginPool) -> None:
        """Have all of the body here before an origin is asked."""
        exchange = request.exchange
        intake = request.intake = Intake(self._surroundings.spool.file())
        exchange.on_done(lambda whole: intake.close())

        def taken(result: None) -> None:
            if not request.over:
                request.asked_at = self._now()
                self._try(request, pool, ())

        taking = Deferred.fromCoroutine(intake.take(exchange.body))
        taking.addCallback(taken)
        taking.addErrback(lambda failure: self._fail(request, failure.value))

    def tunnel_seconds(self, relay: Relay) -> float:
        """Return how long a tunnel may be silent."""
        return self._pool(relay.request).config.tunnel_timeout

    def backlog_bytes(self, relay: Relay) -> int:
        """Return how much of an answer may wait on disk for its client."""
        if not self._pool(relay.request).config.spool_answers:
            return 0
        return self._surroundings.config.spool.answer_bytes

    def _count_tunnel(self, request: Request) -> None:
        self._tunnels += 1
        self._open_tunnels += 1
        request.exchange.notes["upgrade"] = request.upgrade.decode("latin-1")

        def closed(whole: bool) -> None:
            self._open_tunnels -= 1

        request.exchange.on_done(closed)

    def adopt(
        self, request: Request, member: Member, origin_request: OriginRequest
    ) -> Relay:
        """Go on with what was sent by the short way; see `passage`."""
        self._surroundings.pipeline.adopt(request)
        request.attempt = 1
        request.origin = member.name
        request.asked_at = request.exchange.started_at
        relay = Relay(self, request, member)
        request.origin_request = relay
        relay.origin_request = origin_request
        origin_request.receiver = relay
        return relay

    def asking(
        self, request: Request, pool: OriginPool, member: Member
    ) -> tuple[Pool, Origin, bytes]:
        """Return where to send a request without a body, and what to send."""
        client: Pool = pool.client or self._connections.client(pool)
        origin = member.origin or origin_of(member)
        return client, origin, self._head(request, pool, origin, None)

    def _learn(self, request: Request, head: ResponseHead) -> None:
        """Let requests like this one take the short way, with answers like this one."""
        if not request.rules.repeatable or request.decided_further:
            return
        if (
            head.status >= 500
            or head.status in self._pool(request).config.retry_statuses
        ):
            # What it says of the member is judged each time.
            return
        plan, way = request.plan, request.plan.way
        if way is None:
            sent = Plan.of(request, plan.holds, plan.state)
            pool = self._pool(request)
            key = b"" if pool.key_of is None else pool.key_of(request)
            counted = request.origin_request.counted
            way = plan.way = Way(self, request.rules, sent, pool, counted, key)
            sent.way = way
        member: Member = request.origin_request.member
        if member not in way.asking:
            way.asking[member] = self.asking(request, way.pool, member)
        assert request.reply is not None
        way.learn(head, request.reply, request)

    def report(self) -> Mapping[str, Any]:
        """Return pools with their members, and connections."""
        return {
            "maintenance": self._origins.maintenance,
            "pools": self._origins.report(),
            **self._connections.report(),
            "retries": self._retries,
            "tunnels": {"open": self._open_tunnels, "opened": self._tunnels},
        }

    def _is_bad(self, request: Request, member: Member, status: int) -> bool:
        """Whether another member may have a better answer than this, from 400 on.

        What counts against the member is only what is its fault: a name that is
        nowhere is not.
        """
        failed = status in self._pool(request).config.retry_statuses or (
            request.retry_bad_status and status >= 500
        )
        if failed:
            member.failed(f"it answered {status}")
        elif member.troubled:
            member.succeeded()
        return failed or request.retry_bad_status

    def _may_try_again(
        self, request: Request, pool: OriginPool, free: bool = False
    ) -> bool:
        """Whether one more try is allowed; takes it from the budget.

        Args:
            free: nothing failed: to look elsewhere costs no budget.
        """
        config = pool.config
        now = self._now()
        return (
            request.attempt < config.attempts
            and now - request.asked_at <= config.retry_time
            and (free or pool.may_retry(now))
        )

    def _pool(self, request: Request) -> OriginPool:
        origins = self._origins
        if request.members:
            config = self._surroundings.config.pools.get(request.pool, PoolConfig())
            return origins.ad_hoc(request.members, config)
        if not request.pool:
            raise NotFound("There is nothing here.")
        pool = origins.pool(request.pool)
        if pool is None or not pool.members:
            raise OriginsDown(UNABLE, _RETRY_SECONDS)
        return pool

    def _try_later(
        self, request: Request, pool: OriginPool, tried: tuple[Member, ...]
    ) -> None:
        self._retries += 1
        request.annotations["tried"] = tried
        try:
            self._try(request, pool, tried)
        except Exception as error:
            self._fail(request, error)

    def _try(
        self, request: Request, pool: OriginPool, tried: tuple[Member, ...]
    ) -> None:
        client = pool.client or self._connections.client(pool)
        key = b"" if pool.key_of is None else pool.key_of(request)
        member = pool.choose(tried, key, request.method in _REPEATABLE)
        if member is None:
            if pool.under_maintenance:
                raise Maintenance(AT_WORK, _MAINTENANCE_RETRY_SECONDS)
            raise OriginsDown(UNABLE, _RETRY_SECONDS)
        request.attempt += 1
        request.origin = member.name
        notes = request.exchange.notes
        notes["origin"] = member.name
        if request.attempt > 1:
            notes["tries"] = request.attempt
        origin = member.origin or origin_of(member)
        exchange = request.exchange
        body = None
        if request.intake is not None:
            body = request.intake.body()
        elif request.head.content_length != 0:
            body = exchange.body
        head = self._head(request, pool, origin, body)
        relay = Relay(self, request, member)
        request.origin_request = relay
        if exchange.trace is not None:
            head = exchange.trace.put_into(head)
        try:
            relay.origin_request = client.start(
                origin, request.method, head, body, relay
            )
        except Overloaded:
            request.attempt -= 1
            tried = (*tried, member)
            if not pool.has_other(tried):
                raise
            request.annotations["tried"] = tried
            self._try(request, pool, tried)

    def _head(
        self, request: Request, pool: OriginPool, origin: Origin, body: Any
    ) -> bytes:
        """Return the head to send; what follows its first line is made once.

        Unless rules have changed fields that came with claims: who made a claim shows
        by which field it is, not by what is in it.
        """
        peer: str = request.exchange.client_ip
        head = request.head
        method = request.method
        target = (request.forward_target or request.target).encode("latin-1")
        line = format_request_line(method, target)
        trusted = self._surroundings.trusted.trusts(peer)
        changed = request.fields is not head.fields
        usual = (
            body is None
            and not request.upgrade
            and (not changed or trusted or not has_claims(head))
        )
        key = (
            *(method, request.fields if changed else None, head.fields, head.host),
            *(head.http11, request.authority, pool.authority, request.scheme, peer),
            origin,
        )
        if usual:
            known = self._heads.get(key)
            if known is not None:
                return line + known
        fields = request_fields(request, peer, trusted)
        if request.exchange.trace is not None:
            # Its own are put in as it is sent: the rest may be another request's.
            fields = drop_fields(fields, tracing.NAMES)
        if pool.authority:
            fields = ((b"Host", pool.authority), *drop_fields(fields, _HOST))
        made = make_request_head(origin, method, target, fields, body)
        if request.upgrade:
            made = ask_to_switch(made, request.upgrade)
        if usual and len(head.raw) <= _MEMO_HEAD_BYTES:
            if len(self._heads) >= _MEMO_ENTRIES:
                self._heads.clear()
            self._heads[key] = made[len(line) :]
        return made

    def _max_forwards(self, request: Request) -> Reply | None:
        """Answer an OPTIONS that is meant for us, or count it down."""
        said = request.get(b"max-forwards")
        if said is None or not said.isdigit() or len(said) > 9:
            return None
        if int(said) == 0:
            return Reply(204, ((b"Allow", b"GET, HEAD, POST, PUT, DELETE, OPTIONS"),))
        request.set(b"Max-Forwards", b"%d" % (int(said) - 1))
        return None


def _words(reason: Exception) -> str:
    """Return what went wrong, for the admin pages."""
    cause = reason.__cause__
    return f"{reason} ({cause})" if cause is not None and str(cause) else str(reason)


def _replayable(request: Request, reason: Exception) -> bool:
    """Whether a request that failed so may be sent to another member."""
    if getattr(reason, "replayable", False):
        return True
    # The pool knows of what it was given only; here is all of the body.
    intake = request.intake
    return intake is not None and intake.whole and request.method in _IDEMPOTENT

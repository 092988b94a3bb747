"""The short way of a pass: what equal heads led to a moment ago, done again.

A page that is not kept is asked of its origin for everybody anew, and mostly by the
same few heads.  When a request's head is known to be passed (`arrival.Plan`), and the
head of the origin's answer is known as well, no module has anything new to say: the
answer goes on as it did for the last such request, through none of the phases.

Whatever is out of the common (an answer with another head, an origin that fails) makes
a `Request` of the passage, and takes the long way from there.  So do all once in a
second: nothing here is older.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from zope.interface import implementer

from clinfra.errors import Overloaded
from clinfra.proxy.arrival import Plan
from clinfra.proxy.member import Member
from clinfra.proxy.message import Reply, Request
from clinfra.proxy.origin_pool import OriginPool
from clinfra.proxy.phases import ActiveRules
from clinfra.proxy.relay import Relay, hint
from clinfra.proxy.rule_hits import RuleHits
from clinfra.web.exchange import IExchange
from clinfra.web.heads import Fields, ResponseHead
from clinfra.web.pool import Origin, OriginRequest, Pool

if TYPE_CHECKING:
    from clinfra.proxy.modules.forwarder import Forwarder

log = Logger()

_KNOWN_SECONDS = 1.0
_MOST_ANSWERS = 16
_MOST_MEMBERS = 256
_OF_ONE_REQUEST = frozenset(("origin", "tries", "trouble"))
"""Notes that the next such request has of its own."""


@frozen
class Known:
    """What became of an answer: status and fields as sent, and words for the log.

    Attributes:
        counted: the hits of the rules that made that of it.
    """

    status: int
    fields: Fields
    length: int | None
    notes: dict[str, Any]
    counted: tuple[RuleHits, ...]


@define(eq=False)
class Way:
    """How requests with one head go, from just before the origin is asked.

    Attributes:
        forwarder: takes those that are out of the common.
        rules: that decided it, and that those on it count for.
        plan: makes requests as they are when they are sent.
        pool: whom to ask.
        asking: where to send what, by member; filled as they are drawn.
        key: what decides who is asked, for pools that go by it.
        answers: by the heads of origins' answers.
        counted: the hits of the rules that made them what they are when they are sent.
        until: reactor seconds at which the answers are forgotten.
    """

    forwarder: Forwarder
    rules: ActiveRules
    plan: Plan
    pool: OriginPool
    counted: tuple[RuleHits, ...]
    key: bytes = b""
    asking: dict[Member, tuple[Pool, Origin, bytes]] = field(factory=dict)
    answers: dict[ResponseHead, Known] = field(factory=dict)
    until: float = 0.0

    def learn(self, head: ResponseHead, reply: Reply, request: Request) -> None:
        """An answer has gone the long way: an equal one may follow it."""
        exchange = request.exchange
        if exchange.status != reply.status or len(self.answers) >= _MOST_ANSWERS:
            return
        if not self.answers:
            self.until = exchange.started_at + _KNOWN_SECONDS
        notes = {
            name: value
            for name, value in exchange.notes.items()
            if name not in _OF_ONE_REQUEST
        }
        counted = request.counted[len(request.origin_request.counted) :]
        self.answers[head] = Known(
            reply.status, reply.fields, reply.length, notes, counted
        )

    def take(self, exchange: IExchange) -> bool:
        """Send a request this way; False when it must take the long one."""
        if exchange.started_at >= self.until:
            self.answers.clear()
            return False
        member = self.pool.choose((), self.key, trial=False)
        if member is None:
            return False
        asking = self.asking.get(member)
        if asking is None:
            if len(self.asking) >= _MOST_MEMBERS:
                self.asking.clear()
            request = self.plan.request(exchange)
            asking = self.forwarder.asking(request, self.pool, member)
            self.asking[member] = asking
        client, origin, head = asking
        if exchange.trace is not None:
            head = exchange.trace.put_into(head)
        passage = Passage(self, exchange, member)
        try:
            passage.asked = client.start(origin, b"GET", head, None, passage)
        except Overloaded:
            return False
        for rule in self.counted:
            rule.count += 1
        exchange.notes["origin"] = member.name
        exchange.registerProducer(passage, True)
        self.rules.begin(passage)
        return True


@implementer(IPushProducer)
class Passage:
    """One request on the short way: hears of its answer, and hands it on."""

    __slots__ = ("_exchange", "_member", "_way", "asked")

    asked: OriginRequest

    def __init__(self, way: Way, exchange: IExchange, member: Member) -> None:
        self._way = way
        self._exchange = exchange
        self._member = member

    # What the pool tells.

    def response_started(self, head: ResponseHead) -> None:
        """The head is in."""
        known = self._way.answers.get(head)
        if known is None:
            relay = self._leave()
            relay.answer_started = True
            self._way.forwarder.head_received(relay, head)
            return
        if self._member.troubled:
            self._member.succeeded()
        exchange = self._exchange
        for rule in known.counted:
            rule.count += 1
        if known.notes:
            exchange.notes.update(known.notes)
        exchange.start(known.status, known.fields, known.length)

    def interim_received(self, head: ResponseHead) -> None:
        """The origin says something before it answers."""
        hint(self._exchange, head)

    def body_received(self, data: bytes) -> None:
        """A piece of the body is in."""
        self._exchange.write(data)

    def response_finished(self) -> None:
        """The response is complete."""
        self._way.rules.over(self)
        exchange = self._exchange
        exchange.unregisterProducer()
        exchange.finish()

    def response_failed(self, reason: Exception) -> None:
        """There is no answer, or it was cut short: cut the client's too."""
        exchange = self._exchange
        if not exchange.status:
            relay = self._leave()
            relay.response_failed(reason)
            return
        self._way.rules.over(self)
        self._member.failed(str(reason))
        log.warn(
            "{origin} cut its answer short: {reason}",
            origin=self._member.name,
            reason=str(reason),
        )
        exchange.unregisterProducer()
        exchange.abort()

    # What the exchange asks.

    def pauseProducing(self) -> None:
        """The client takes no more for now: whoever is slow goes the long way."""
        if self._exchange.status and self._way.pool.config.spool_answers:
            self._leave().go_on(self._exchange)
        else:
            self.asked.pauseProducing()

    def resumeProducing(self) -> None:
        """The client takes more."""
        self.asked.resumeProducing()

    def stopProducing(self) -> None:
        """The client is gone."""
        self._way.rules.over(self)
        self.asked.abort()

    def request(self) -> Request:
        """Return the request that it would be on the long way."""
        request: Request = self._way.plan.request(self._exchange)
        request.rules = self._way.rules
        request.place = ("forward", 0)
        request.origin = self._member.name
        return request

    def _leave(self) -> Relay:
        """Take the long way from here: the modules must be asked."""
        way = self._way
        self._exchange.unregisterProducer()
        relay = way.forwarder.adopt(self.request(), self._member, self.asked)
        way.rules.over(self)
        return relay

"""The life of a request, as one list of phases.

    received → route → lookup → (hit | stale | miss | pass) → forward → response
             → store → deliver → done

An answer made before `forward` goes straight to `deliver`; trouble anywhere goes
through `failed` to `deliver`; `done` comes exactly once, when the client has it all or
is gone.  Hooks that answer at once are called in a plain loop: only a request that has
to wait costs a Deferred.  The hooks of each phase are listed once, so that a phase
nobody has a hook for costs nothing.

There is a shorter way still: when every module that could have a say decides by the
head alone, what a head led to is remembered: the cache key of a hit (`remember`), or
where a page that is not kept is forwarded to (`remember_pass`).  An equal head goes
there without asking the modules again (`lane`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from clinfra.errors import ClientGone, RuleFailed, Trouble
from clinfra.patterns import PatternTooSlow
from clinfra.proxy.arrival import Arrivals, Plan
from clinfra.proxy.entry import Entry
from clinfra.proxy.known import Elsewhere, Known, send_hit
from clinfra.proxy.message import Reply, Request
from clinfra.proxy.phases import AFTER_ANSWER, NEXT, OUTCOMES, ActiveRules
from clinfra.web.exchange import IExchange
from clinfra.web.heads import RequestHead
from clinfra.web.memo import Memo
from clinfra.web.resource import trouble_response

log = Logger()

PENDING = object()
"""Returned by a hook that will call `Pipeline.resume` or `Pipeline.fail` later."""

HOOK_TIMEOUT_SECONDS = 300.0
"""A hook that a request has to wait for longer than this has failed."""

_MEMO_ENTRIES = 8192
_MEMO_BYTES = 4 << 20
_MEMO_HEAD_BYTES = 2048


class Pipeline:
    """Runs requests through the rule modules.

    Args:
        modules: in their configured order.
        reactor: tells the time, and wakes requests whose hooks hang.
        arrivals: makes requests of exchanges.

    Attributes:
        hot: the hot tier's entries by key; set by the cache module.
        elsewhere: answers an exchange from outside of the hot tier, or has `begin` do
            so; set by the cache module.
        requests: how many went through the phases.
        hits: how many were answered by the lane.
        passes: how many took the short way of a pass.
        rules: the modules in use.
    """

    def __init__(
        self,
        modules: Sequence[object],
        *,
        reactor: IReactorTime,
        arrivals: Arrivals,
    ) -> None:
        self._numbers = count(1)
        self.rules = ActiveRules(modules, self._numbers)
        self._retiring: list[ActiveRules] = []
        self._reactor = reactor
        self._now = reactor.seconds
        self._arrivals = arrivals
        self._memo: Memo[RequestHead, Known] = Memo(_MEMO_ENTRIES, _MEMO_BYTES)
        self.hot: dict[bytes, Entry] = {}
        self.elsewhere: Elsewhere | None = None
        self._plans: Memo[RequestHead, Plan] = Memo(_MEMO_ENTRIES, _MEMO_BYTES)
        self.requests = 0
        self.hits = 0
        self.passes = 0
        self._released: tuple[Callable[[Request], None], ...] = ()

    @property
    def modules(self) -> tuple[Any, ...]:
        """The rule modules in use, in order."""
        return self.rules.modules

    @property
    def active(self) -> int:
        """How many requests are under way."""
        return sum(len(rules.under_way) for rules in (self.rules, *self._retiring))

    def under_way(self) -> Iterator[tuple[int, Request]]:
        """Yield the requests under way, and their numbers."""
        for rules in (*self._retiring, self.rules):
            for each, number in list(rules.under_way.items()):
                yield number, each if isinstance(each, Request) else each.request()

    def reports(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield what each module reports, by its name; a second of it is "NAME 2"."""
        seen: dict[str, int] = {}
        for module in self.modules:
            name = type(module).__name__
            seen[name] = seen.get(name, 0) + 1
            report = getattr(module, "report", None)
            if report is not None:
                shown = name if seen[name] == 1 else f"{name} {seen[name]}"
                yield shown, dict(report())

    def use(self, modules: Sequence[object]) -> ActiveRules:
        """Have requests from now on go by these modules; return what they replace.

        Requests under way end by the rules they began with.
        """
        replaced, self.rules = self.rules, ActiveRules(modules, self._numbers)
        self.forget()
        self._retiring = [rules for rules in self._retiring if rules.under_way]
        self._retiring.append(replaced)
        return replaced

    def forget(self) -> None:
        """Rules have changed their mind: what heads led to is not so any more."""
        self._memo.clear()
        self._plans.clear()

    def lane(self, exchange: IExchange) -> bool:
        """Answer a request; see web.site.Site."""
        head = exchange.head
        known = self._memo.get(head) or self._memo.recall(head, len(head.raw))
        if known is not None:
            key, port, secure, peer, gates, varies, counted = known
            entry = self.hot.get(key)
            if entry is None:
                if (
                    self.elsewhere is not None
                    and not varies
                    and exchange.local_port == port
                    and exchange.secure == secure
                    and (not peer or exchange.client_ip == peer)
                    and (not gates or all(gate(exchange) for gate in gates))
                ):
                    self.elsewhere(exchange, key, counted)
                    return True
            else:
                now = self._now()
                if (
                    now < entry.fresh_until
                    and now < entry.hot_until
                    and exchange.local_port == port
                    and exchange.secure == secure
                    and (not peer or exchange.client_ip == peer)
                    and (not gates or all(gate(exchange) for gate in gates))
                ):
                    self.hits += 1
                    for rule in counted:
                        rule.count += 1
                    send_hit(exchange, entry, now)
                    return True
        plan = self._plans.get(head) or self._plans.recall(head, len(head.raw))
        if plan is not None and plan.applies(exchange):
            for rule in plan.counted:
                rule.count += 1
            way = plan.way
            if way is not None and way.take(exchange):
                self.passes += 1
            else:
                self._take(plan.request(exchange), "pass_")
        else:
            self.begin(exchange)
        return True

    def remember(self, request: Request, entry: Entry) -> None:
        """A plain hit: an equal head will find the same entry, as long as it is hot."""
        head = request.head
        rules = self.rules
        if (
            not rules.memoable
            or request.rules is not rules
            or len(head.raw) > _MEMO_HEAD_BYTES
        ):
            return
        known = Known.of(request, entry, self._arrivals.peer_matters(head))
        self._memo.keep(head, known, len(head.raw))

    def remember_pass(
        self, request: Request, holds: Callable[[], bool], state: Callable[[], Any]
    ) -> None:
        """A pass: an equal head will pass as well, as long as `holds` says so.

        Args:
            state: makes the cache_state of such a request.
        """
        head = request.head
        if (
            not self.rules.plannable
            or request.rules is not self.rules
            or len(head.raw) > _MEMO_HEAD_BYTES
            or request.decided_further
        ):
            return
        self._plans.keep(head, Plan.of(request, holds, state), len(head.raw))

    def begin(self, exchange: IExchange) -> None:
        """Take a request in."""
        self._take(self._arrivals.request(exchange), "received")

    def adopt(self, request: Request) -> None:
        """Go on with a request that an origin was asked by the short way.

        See `passage`: the request has its rules.
        """
        request.place = ("forward", 0)
        request.rules.begin(request)
        request.exchange.on_done(partial(self._over, request))

    def _take(self, request: Request, phase: str) -> None:
        self.requests += 1
        rules = request.rules = self.rules
        rules.begin(request)
        request.exchange.on_done(partial(self._over, request))
        self._advance(request, phase, 0)

    def launch(self, request: Request) -> None:
        """Ask an origin for a request that was looked up, but came from no client."""
        request.rules.begin(request)
        request.exchange.on_done(partial(self._over, request))
        self._advance(request, OUTCOMES[request.outcome], 0)

    def resume(self, request: Request, result: Reply | None) -> None:
        """Go on with a request whose hook returned PENDING.

        Args:
            result: what the hook would have returned.
        """
        phase, position = request.place
        if result is not None:
            _answer(request, result)
            if phase in AFTER_ANSWER:
                phase, position = AFTER_ANSWER[phase], 0
        self._advance(request, phase, position)

    def retry(self, request: Request) -> None:
        """Ask an origin again: back to `forward`."""
        self._advance(request, "forward", 0)

    def fail(self, request: Request, error: BaseException) -> None:
        """Answer trouble: with a module's page, or with its plain sentence."""
        if isinstance(error, ClientGone) or (
            request.over and isinstance(error, CancelledError)
        ):
            return
        if not isinstance(error, Trouble):
            log.failure(
                "A rule module failed for {host_path}.",
                failure=Failure(error),
                host_path=request.host_path,
            )
            error = RuleFailed("Something went wrong here.")
        elif isinstance(error, PatternTooSlow):
            log.warn(
                "The pattern {pattern!r} takes too long on {host_path}.",
                pattern=error.pattern,
                host_path=request.host_path,
            )
        if request.exchange.status:
            request.exchange.abort()
        response = trouble_response(error)
        assert isinstance(response.body, bytes)
        reply = Reply(response.status, response.fields, response.body)
        if request.failing:
            # A hook failed over the error page: it goes out as it is.
            _answer(request, reply)
            self._deliver(request)
            return
        request.failing = True
        for hook in request.rules.hooks["failed"]:
            try:
                page = hook(request, error)
            except Exception:
                log.failure("A rule module failed to answer trouble.")
                continue
            if isinstance(page, Reply):
                reply = page
                break
        _answer(request, reply)
        self._advance(request, "deliver", 0)

    def _advance(self, request: Request, phase: str, position: int) -> None:
        """Run hooks from here on until one has to wait or the answer is sent."""
        all_hooks = request.rules.hooks
        while True:
            answered = False
            hooks = all_hooks[phase]
            while position < len(hooks):
                hook = hooks[position]
                position += 1
                # Where the request goes on, should the hook have to wait.
                request.place = (phase, position)
                try:
                    result = hook(request)
                except Exception as error:
                    self.fail(request, error)
                    return
                if result is None:
                    continue
                if result is PENDING:
                    return
                if type(result) is not Reply:
                    self._await(request, result)
                    return
                _answer(request, result)
                if phase in AFTER_ANSWER:
                    answered = True
                    break
            if phase == "deliver":
                self._deliver(request)
                return
            if answered:
                phase = AFTER_ANSWER[phase]
            elif phase == "lookup":
                phase = OUTCOMES[request.outcome]
            elif phase == "forward":
                self.fail(request, RuleFailed("Nothing here answers this request."))
                return
            else:
                phase = NEXT[phase]
            position = 0

    def _await(self, request: Request, result: Any) -> None:
        waiting = Deferred.fromCoroutine(_answer_of(result))
        waiting.addTimeout(HOOK_TIMEOUT_SECONDS, self._reactor)
        request.waiting = waiting

        def arrived(result: Any) -> None:
            request.waiting = None
            self.resume(request, result)

        def broke(failure: Failure) -> None:
            request.waiting = None
            assert failure.value is not None
            self.fail(request, failure.value)

        waiting.addCallback(arrived).addErrback(broke)

    def _deliver(self, request: Request) -> None:
        exchange = request.exchange
        reply = request.reply
        assert reply is not None
        stream = reply.stream
        if exchange.finished:
            if stream is not None:
                stream.deliver(None)
            return
        try:
            if reply.status == 101:
                stream.switch(exchange, reply.fields)
            elif stream is None or reply.muted:
                exchange.respond(reply.status, reply.fields, reply.body)
            else:
                exchange.start(reply.status, reply.fields, reply.length)
        except Exception as error:
            if not request.failing:
                self.fail(request, error)
                return
            log.failure("An error page could not be sent.")
            if stream is not None:
                stream.abort()
            if exchange.status:
                exchange.abort()
            else:
                exchange.respond(500)
            return
        if stream is not None:
            stream.deliver(None if reply.muted else exchange)

    def _over(self, request: Request, whole: bool) -> None:
        """The client has its answer, or is gone."""
        request.over = True
        if not whole:
            request.exchange.notes["client"] = "gone"
        rules = request.rules
        for hook in rules.hooks["done"]:
            try:
                hook(request)
            except Exception:
                log.failure("A rule module failed when a request was done.")
        for hook in self._released:
            hook(request)
        rules.over(request)
        if not whole:
            wanted = request.flight is not None and request.flight.waiters
            if request.waiting is not None and not wanted:
                request.waiting.cancel()
            origin_request = request.origin_request
            if origin_request is not None:
                origin_request.client_gone()

    def on_over(self, callback: Callable[[Request], None]) -> None:
        """Have a built-in module release what it holds for a request that is over.

        Unlike `done`, which logs, this does not keep hits from the lane: it is called
        for requests that went through the phases only.
        """
        self._released = (*self._released, callback)


def _answer(request: Request, reply: Reply) -> None:
    """Make `reply` the answer; an origin whose answer it replaces is let go."""
    replaced = request.reply
    if replaced is not None and replaced.stream not in (None, reply.stream):
        replaced.stream.abort()
    request.reply = reply


async def _answer_of(result: Any) -> Reply | None:
    """Wait for what a hook returned.  Raises TypeError when it makes no sense."""
    answer = await result
    if answer is not None and not isinstance(answer, Reply):
        raise TypeError(f"a hook returned {type(answer).__name__}, not a Reply or None")
    return answer

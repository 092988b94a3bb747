"""Redirector: redirects, moves, rewrites and removals by regular expression.

Rules are lists: `[match, search, replacement]`.  `match` is searched in host/path (or
in the field the table is named for); `search` is what is replaced, once.  Without a
replacement the answer is 404.  A replacement is literal text, but for `\\1` and
`\\g<name>`: those stand for groups of `search`.  A redirect to where the request is
already is skipped.  The tables are gone through in the order of `Options`.  Which rule
answered is in the access log, `rule=moves[3]`; how many requests each has answered or
changed is in the report.

`rules` are this product's own, gone through before the tables: each says when it holds
(see `conditions`) and what is done, e.g.

    [[proxy.modules.rules]]
    match = '^shop\\.example\\.com/item/(\\d+)'
    methods = ["GET", "HEAD"]
    redirect = '/thing?id=\\1'
    status = 308
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from attrs import frozen

from clinfra.config import key
from clinfra.errors import ConfigProblems, NotFound
from clinfra.patterns import (
    Compiled,
    PatternSet,
    check_template,
    compile_pattern,
    expand,
)
from clinfra.proxy.conditions import Condition, When
from clinfra.proxy.message import Reply, Request
from clinfra.proxy.rule_hits import RuleHits, told
from clinfra.proxy.rule_index import RuleIndex
from clinfra.proxy.rules import RuleModule

Table = tuple[tuple[str, ...], ...]

_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_STATUSES = {True: (301, 302, 303, 307, 308), False: range(400, 500)}
_URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"


@frozen
class Step(When):
    """One rule: when it holds, and what is done then."""

    redirect: str = key(
        "", "Where to send the client: a path, host/path or URL; groups of `match`."
    )
    rewrite: str = key(
        "", "What the request goes on as: a path or host/path; groups of `match`."
    )
    pool: str = key("", "Pool of origins that it goes to.")
    status: int = key(
        0, "Of the answer: 302 if not given; 4xx needs no redirect.", most=499
    )


@frozen
class Options:
    """Options of Redirector."""

    rules: tuple[Step, ...] = key(
        (), "Rules; those that do not answer are all applied."
    )
    cookie_redirects: Mapping[str, Table] = key(
        (), "Cookie name to [match, search]: 302, `search` becomes the cookie's value."
    )
    cookie_rewrites: Mapping[str, Table] = key(
        (),
        "Cookie name to [match, search, replacement]: a rewrite in which the first"
        " COOKIE of the result becomes the cookie's value.",
    )
    referer_redirects: Table = key(
        (), "[match in Referer, search, replacement]: 302, or 404 without replacement."
    )
    referer_referer_redirects: Table = key(
        (), "[match, search in Referer, replacement]: 302 to the changed Referer."
    )
    agent_redirects: Table = key(
        (), "[match in User-Agent, search, replacement]: 302, or 404."
    )
    moves: Table = key((), "[match, search, replacement]: 301.")
    redirects: Table = key((), "[match, search, replacement]: 302, or 404.")
    rewrites: Table = key(
        (), "[match, search, replacement]: the request goes on under another name."
    )


@frozen
class Rule:
    """One line of a table."""

    match: Compiled
    search: Compiled
    replacement: str | None
    hits: RuleHits

    def applied(self, text: str, replacement: str | None = None) -> str | None:
        """Return `text` with the first match of `search` replaced.

        None when `search` is not found.
        """
        found = self.search.search(text)
        if found is None:
            return None
        new = replacement
        if new is None:
            new = expand(self.replacement or "", found)
        return text[: found.start()] + new + text[found.end() :]


class Rules:
    """A table of rules; one combined search says when none can match."""

    def __init__(self, table: Iterable[Rule]) -> None:
        self._rules = tuple(table)
        self._set = PatternSet([rule.match.text for rule in self._rules])

    def __bool__(self) -> bool:
        return bool(self._rules)

    @property
    def hits(self) -> list[RuleHits]:
        """Those of each rule."""
        return [rule.hits for rule in self._rules]

    def matching(self, text: str) -> Iterator[Rule]:
        """Yield the rules whose `match` is found."""
        for number in self._set.matching(text):
            yield self._rules[number]

    def rewritten(self, request: Request) -> str:
        """Apply the rules in turn, each to what those before it made."""
        number, host_path = -1, request.host_path
        while True:
            after = (n for n in self._set.matching(host_path) if n > number)
            number = next(after, -1)
            if number < 0:
                return host_path
            rule = self._rules[number]
            result = rule.applied(host_path)
            if result is not None:
                request.count(rule.hits)
                host_path = _cleaned(result)


class Redirector(RuleModule):
    """Redirects and rewrites."""

    Config = Options
    head_only = True

    def __init__(self, config: Options) -> None:
        problems: list[str] = []

        def rules(
            name: str, table: Table, shortest: int = 2, longest: int = 3
        ) -> Rules:
            return Rules(_compiled(name, table, shortest, longest, problems))

        self._cookie_redirects = {
            cookie: rules(f"cookie_redirects.{cookie}", table, longest=2)
            for cookie, table in dict(config.cookie_redirects).items()
        }
        self._cookie_rewrites = {
            cookie: rules(f"cookie_rewrites.{cookie}", table, shortest=3)
            for cookie, table in dict(config.cookie_rewrites).items()
        }
        self._referer = rules("referer_redirects", config.referer_redirects)
        self._referer_referer = rules(
            "referer_referer_redirects", config.referer_referer_redirects
        )
        self._agent = rules("agent_redirects", config.agent_redirects)
        self._moves = rules("moves", config.moves, shortest=3)
        self._redirects = rules("redirects", config.redirects)
        self._rewrites = rules("rewrites", config.rewrites, shortest=3)
        self._own = tuple(_steps(config.rules, problems))
        if problems:
            raise ConfigProblems(problems)
        self._index = RuleIndex([condition for condition, _, _ in self._own])
        steps: list[tuple[object, Callable[[Request], Reply | None]]] = [
            (self._own, self._by_rules),
            (self._cookie_redirects, self._by_cookie),
            (self._cookie_rewrites, self._rewrite_by_cookie),
            (self._referer, self._by_referer),
            (self._referer_referer, self._to_referer),
            (self._agent, self._by_agent),
            (self._moves, self._move),
            (self._redirects, self._redirect),
            (self._rewrites, self._rewrite),
        ]
        self._steps = tuple(step for rules_, step in steps if rules_)
        tables = (
            *self._cookie_redirects.values(),
            *self._cookie_rewrites.values(),
            *(self._referer, self._referer_referer, self._agent),
            *(self._moves, self._redirects, self._rewrites),
        )
        self._hits = [hits for _, _, hits in self._own]
        self._hits += (hits for table in tables for hits in table.hits)

    def received(self, request: Request) -> Reply | None:
        """Go through the tables; the first redirect ends it."""
        if self._index.by_client:
            request.ask_for_others()
        for step in self._steps:
            reply = step(request)
            if reply is not None:
                return reply
        return None

    def report(self) -> Mapping[str, Any]:
        """Return how many requests each rule has answered or changed."""
        return {"rules": told(self._hits)}

    def _by_rules(self, request: Request) -> Reply | None:
        first = 0
        while True:
            number = next(self._index.matching(request, first), None)
            if number is None:
                return None
            reply = self._take(request, *self._own[number])
            if reply is not None:
                return reply
            first = number + 1

    def _take(
        self,
        request: Request,
        condition: Condition,
        step: Step,
        hits: RuleHits,
    ) -> Reply | None:
        """Do what a rule says."""
        match = condition.match
        found = None if match is None else match.search(request.host_path)
        if step.pool or step.rewrite:
            request.count(hits)
        if step.pool:
            request.pool = step.pool
        if step.rewrite:
            request.rewrite(_cleaned(_absolute(request, expand(step.rewrite, found))))
        if step.redirect:
            result = _absolute(request, expand(step.redirect, found))
            return _redirect(request, result, hits, step.status or 302)
        if step.status:
            _note(request, hits)
            text = HTTPStatus(step.status).phrase.encode("ascii")
            fields = ((b"Content-Type", b"text/plain"),)
            return Reply(step.status, fields, text + b"\n", served_by="Redirector")
        return None

    def _by_cookie(self, request: Request) -> Reply | None:
        for cookie, rules in self._cookie_redirects.items():
            value = request.cookies.get(cookie)
            if value is None:
                continue
            for rule in rules.matching(request.host_path):
                result = rule.applied(request.host_path, value)
                reply = _redirect(request, result, rule.hits)
                if reply is not None:
                    return reply
        return None

    def _rewrite_by_cookie(self, request: Request) -> None:
        for cookie, rules in self._cookie_rewrites.items():
            value = request.cookies.get(cookie)
            if value is None:
                continue
            for rule in rules.matching(request.host_path):
                result = rule.applied(request.host_path)
                if result is not None:
                    request.count(rule.hits)
                    request.rewrite(_cleaned(result.replace("COOKIE", value, 1)))

    def _by_referer(self, request: Request) -> Reply | None:
        return self._by_field(request, b"referer", self._referer)

    def _by_agent(self, request: Request) -> Reply | None:
        return self._by_field(request, b"user-agent", self._agent)

    def _by_field(self, request: Request, name: bytes, rules: Rules) -> Reply | None:
        value = request.get(name)
        if value is None:
            return None
        for rule in rules.matching(value.decode("latin-1")):
            reply = _outcome(request, rule, rule.applied(request.host_path), 302)
            if reply is not None:
                return reply
        return None

    def _to_referer(self, request: Request) -> Reply | None:
        value = request.get(b"referer")
        if value is None:
            return None
        referer = value.decode("latin-1")
        scheme = _SCHEME.match(referer)
        bare = referer[scheme.end() :] if scheme else referer
        for rule in self._referer_referer.matching(request.host_path):
            if rule.search.search(referer) is None:
                continue
            if rule.replacement is None:
                raise _gone(request, rule)
            result = rule.applied(bare)
            if result is not None and result != request.host_path:
                # Back by the scheme the client came by.
                result = scheme[0] + result if scheme else result
            reply = _redirect(request, result, rule.hits)
            if reply is not None:
                return reply
        return None

    def _move(self, request: Request) -> Reply | None:
        for rule in self._moves.matching(request.host_path):
            result = rule.applied(request.host_path)
            reply = _redirect(request, result, rule.hits, 301)
            if reply is not None:
                return reply
        return None

    def _redirect(self, request: Request) -> Reply | None:
        for rule in self._redirects.matching(request.host_path):
            reply = _outcome(request, rule, rule.applied(request.host_path), 302)
            if reply is not None:
                return reply
        return None

    def _rewrite(self, request: Request) -> None:
        result = self._rewrites.rewritten(request)
        if result != request.host_path:
            request.rewrite(result)


def _absolute(request: Request, result: str) -> str:
    """Return host/path or a URL of what may be a path alone."""
    if not result.startswith("/"):
        return result
    return request.host_path.partition("/")[0] + result


def _outcome(
    request: Request, rule: Rule, result: str | None, status: int
) -> Reply | None:
    """Redirect, or 404 for a rule without replacement whose `search` is found."""
    if result is None:
        return None
    if rule.replacement is None:
        raise _gone(request, rule)
    return _redirect(request, result, rule.hits, status)


def _gone(request: Request, rule: Rule) -> NotFound:
    _note(request, rule.hits)
    return NotFound("There is nothing of that name.")


def _note(request: Request, hits: RuleHits) -> None:
    """A rule answers a request: tell the access log, and count it."""
    request.exchange.notes["rule"] = hits.where
    request.count(hits)


def _redirect(
    request: Request,
    result: str | None,
    hits: RuleHits,
    status: int = 302,
) -> Reply | None:
    """Return the redirect to host/path `result`; None when it leads nowhere new."""
    if result is None or result == request.host_path:
        return None
    _note(request, hits)
    url = result if _SCHEME.match(result) else f"{request.scheme}://{result}"
    location = _cleaned(url).encode("ascii")
    return Reply(
        status,
        ((b"Location", location), (b"Content-Type", b"text/plain")),
        b"Go to " + location + b"\n",
        served_by="Redirector",
    )


def _cleaned(text: str) -> str:
    """Return a URL or a piece of one without what must not be in one."""
    return quote(text.encode("latin-1", "replace"), safe=_URL_CHARACTERS)


def _compiled(
    name: str, table: Table, shortest: int, longest: int, problems: list[str]
) -> Iterator[Rule]:
    for number, line in enumerate(table):
        where = f"{name}[{number}]"
        if not shortest <= len(line) <= longest:
            number_of = f"{shortest} to {longest}" if shortest < longest else longest
            problems.append(f"{where}: {number_of} texts are needed")
            continue
        try:
            match, search = compile_pattern(line[0]), compile_pattern(line[1])
            replacement = line[2] if len(line) > 2 else None
            check_template(replacement or "", search)
        except ValueError as error:
            problems.append(f"{where}: {error}")
            continue
        outcome = replacement
        if outcome is None:
            outcome = "its value" if longest == 2 else "404"
        shown = f"{line[0]}: {line[1]} → {outcome}"
        yield Rule(match, search, replacement, RuleHits(where, shown))


def _steps(
    steps: Sequence[Step], problems: list[str]
) -> Iterator[tuple[Condition, Step, RuleHits]]:
    for number, step in enumerate(steps):
        try:
            condition = Condition(step)
            if step.redirect and step.rewrite:
                raise ValueError("either redirect or rewrite")
            if not (step.redirect or step.rewrite or step.pool or step.status):
                raise ValueError("redirect, rewrite, pool or status is needed")
            if step.status and step.status not in _STATUSES[bool(step.redirect)]:
                raise ValueError(f"{step.status} is not a status for this")
            check_template(step.redirect + step.rewrite, condition.match)
        except ValueError as error:
            problems.append(f"rules[{number}]: {error}")
            continue
        done = " ".join(filter(None, (step.redirect, step.rewrite, step.pool)))
        shown = f"{step.described()} → {done or step.status}"
        yield condition, step, RuleHits(f"rules[{number}]", shown)

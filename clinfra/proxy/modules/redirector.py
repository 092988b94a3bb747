"""Redirector: redirects, moves, rewrites and removals by regular expression.

Rules are lists: `[match, search, replacement]`.  `match` is searched in host/path (or
in the field the table is named for); `search` is what is replaced, once.  Without a
replacement the answer is 404.  A replacement is literal text, but for `\\1` and
`\\g<name>`: those stand for groups of `search`.  A redirect to where the request is
already is skipped.  The tables are gone through in the order of `Options`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from urllib.parse import quote

from attrs import frozen

from clinfra.config import key
from clinfra.errors import ConfigProblems, NotFound
from clinfra.proxy.message import Reply, Request
from clinfra.proxy.routes import any_of
from clinfra.proxy.rules import RuleModule

Table = tuple[tuple[str, ...], ...]

_GROUP = re.compile(r"\\(?:\d|g<)")
_SCHEME = re.compile(r"https?://", re.IGNORECASE)
_URL_CHARACTERS = "!#$%&'()*+,/:;=?@[]~"


@frozen
class Options:
    """Options of Redirector."""

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

    match: re.Pattern[str]
    search: re.Pattern[str]
    replacement: str | None

    def applied(self, text: str, replacement: str | None = None) -> str | None:
        """Return `text` with the first match of `search` replaced.

        None when `search` is not found.
        """
        found = self.search.search(text)
        if found is None:
            return None
        new = replacement
        if new is None:
            new = self.replacement or ""
            if _GROUP.search(new):
                new = found.expand(new)
        return text[: found.start()] + new + text[found.end() :]


class Rules:
    """A table of rules; one combined search says when none can match."""

    def __init__(self, table: Iterable[Rule]) -> None:
        self._rules = tuple(table)
        self._any = any_of([rule.match.pattern for rule in self._rules])

    def __bool__(self) -> bool:
        return bool(self._rules)

    def matching(self, text: str) -> Iterator[Rule]:
        """Yield the rules whose `match` is found."""
        if self._any is not None and self._any(text):
            for rule in self._rules:
                if rule.match.search(text):
                    yield rule


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
        if problems:
            raise ConfigProblems(problems)
        steps: list[tuple[object, Callable[[Request], Reply | None]]] = [
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

    def received(self, request: Request) -> Reply | None:
        """Go through the tables; the first redirect ends it."""
        for step in self._steps:
            reply = step(request)
            if reply is not None:
                return reply
        return None

    def _by_cookie(self, request: Request) -> Reply | None:
        for cookie, rules in self._cookie_redirects.items():
            value = request.cookies.get(cookie)
            if value is None:
                continue
            for rule in rules.matching(request.host_path):
                reply = _redirect(request, rule.applied(request.host_path, value))
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
        bare = _SCHEME.sub("", referer, count=1)
        for rule in self._referer_referer.matching(request.host_path):
            if rule.search.search(referer) is None:
                continue
            if rule.replacement is None:
                raise NotFound("There is nothing of that name.")
            reply = _redirect(request, rule.applied(bare))
            if reply is not None:
                return reply
        return None

    def _move(self, request: Request) -> Reply | None:
        for rule in self._moves.matching(request.host_path):
            reply = _redirect(request, rule.applied(request.host_path), 301)
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
        # A rewrite may make a later rule match, so each is asked in turn.
        for rule in self._rewrites._rules:
            if rule.match.search(request.host_path):
                result = rule.applied(request.host_path)
                if result is not None:
                    request.rewrite(_cleaned(result))


def _outcome(
    request: Request, rule: Rule, result: str | None, status: int
) -> Reply | None:
    """Redirect, or 404 for a rule without replacement whose `search` is found."""
    if result is None:
        return None
    if rule.replacement is None:
        raise NotFound("There is nothing of that name.")
    return _redirect(request, result, status)


def _redirect(request: Request, result: str | None, status: int = 302) -> Reply | None:
    """Return the redirect to host/path `result`; None when it leads nowhere new."""
    if result is None or result == request.host_path:
        return None
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
            problems.append(f"{where}: {shortest} to {longest} texts are needed")
            continue
        try:
            match, search = re.compile(line[0]), re.compile(line[1])
        except re.error as error:
            problems.append(f"{where}: {error}")
            continue
        replacement = line[2] if len(line) > 2 else None
        if replacement and _GROUP.search(replacement):
            try:
                search.sub(replacement, "")  # refuses groups there are none of
            except (re.error, IndexError) as error:
                problems.append(f"{where}: {error}")
                continue
        yield Rule(match, search, replacement)
